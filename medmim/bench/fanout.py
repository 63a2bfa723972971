"""The questions of a benchmark asked on the nodes of a running Ray cluster, a task for each model and probe.

The answers land in the store under their keys, where the benchmark then finds them as if it had asked before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from medmim import progress, ray_nodes, shards, store
from medmim.bench import answers, tasks
from medmim.bench.engines import OPENAI, Engine, engine
from medmim.errors import Unavailable, UserError, wrap_os_errors
from medmim.lvlm import checkpoint
from medmim.recipe.loading import from_dump
from medmim.recipe.schema import Bench, Recipe
from medmim.run.workspace import Workspace
from medmim.store import Artifact

_RETRIES = 2  # lost nodes that a task survives


def collect(
    ws: Workspace,
    data: Artifact,
    engines: Mapping[str, Engine],
    probes: Sequence[str],
    settings: Bench,
    recipe: Recipe,
) -> None:
    """Have every answer that is not there yet given by the cluster's nodes; without one missing, no Ray is looked for.

    Args:
        ws: The workspace; its store is all that the nodes share with it.
        data: The data set.
        engines: Role -> whom to ask.
        probes: How to ask.
        settings: The bench section.
        recipe: Its platform says where Ray is, and how large a worker is.

    Raises:
        UserError: What a task raised.
        Unavailable: Nodes were lost more often than is mended, none came, or the cluster does not answer.
    """
    missing = [
        (role, who, probe)
        for role, who in engines.items()
        for probe in probes
        if not answers.there(ws, who.digest, data.digest, probe, settings)
    ]
    if not missing:
        return
    refs = {
        role: who.ref if who.ref.startswith(OPENAI) else checkpoint.upload_if_local(who.ref, ws)
        for role, who, _ in missing
    }
    orders = [
        {
            "role": role,
            "ref": refs[role],
            "digest": who.digest,
            "probe": probe,
            "data": data.uri,
            "store": ws.store,
            "settings": settings.model_dump_json(),
            "recipe": recipe.dump(),
        }
        for role, who, probe in missing
    ]
    platform = recipe.platform
    cpus = platform.threads or 1
    with ray_nodes.joined(platform.ray):
        gpu = ray_nodes.wait_for_workers(min(platform.workers, len(orders)), cpus)
        progress.say(f"asking on the Ray cluster: {len(orders)} sets of answers")
        _ask_all(orders, cpus, gpu)


def _ask_all(orders: list[dict[str, Any]], cpus: int, gpu: bool) -> None:
    import ray
    from ray.exceptions import RayError, RayTaskError

    task = ray.remote(
        num_cpus=cpus,
        num_gpus=int(gpu),
        max_retries=_RETRIES,
        scheduling_strategy="SPREAD",
        runtime_env={"env_vars": ray_nodes.worker_environment(cpus)},
    )(_ask)
    waiting = [task.remote(order) for order in orders]
    while waiting:
        done, waiting = ray.wait(waiting)
        try:
            error = ray.get(done[0])
        except RayTaskError:  # a fault of ours, with its traceback
            raise
        except RayError as lost:
            raise Unavailable(
                "the benchmark lost its nodes",
                reason=str(lost).strip().splitlines()[-1][:300],
                fix="run the same command again: the answers that are whole are kept",
            ) from None
        if error is not None:
            raise error


def _ask(order: Mapping[str, Any]) -> UserError | None:
    """One task. A UserError is its result: raised, it would come wrapped in Ray's own words."""
    settings = Bench.model_validate_json(order["settings"])
    recipe = from_dump(order["recipe"])
    try:
        with wrap_os_errors(f"asking {order['role']}"):
            ws = ray_nodes.node_workspace(order["store"])
            who = _engine(order["ref"], order["digest"], ws)
            data = store.get(order["data"])
            raw = store.fetch(data, ws.cache)
            items = tasks.select(raw, settings.tasks, settings.limit, settings.split)
            images = shards.Images(raw)
            answers.collect(ws, order["role"], who, items, images, data.digest, order["probe"], settings, recipe)
    except UserError as error:
        return error
    return None


@lru_cache(maxsize=1)
def _engine(ref: str, digest: str, ws: Workspace) -> Engine:
    """One for all tasks of a model that this process runs: it is loaded once. The digest is of what the user named."""
    return replace(engine(ref, ws), digest=digest)
