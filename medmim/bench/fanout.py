"""Inference for a benchmark on the nodes of a running Ray cluster, one Ray task for each model and probe.

The answers are published to the store under their cache keys, where the benchmark then finds them.
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
from medmim.run.provenance import terms_of
from medmim.run.workspace import Workspace
from medmim.store import Artifact

_RETRIES = 2  # lost nodes after which a task is retried


def collect(
    ws: Workspace,
    data: Artifact,
    engines: Mapping[str, Engine],
    probes: Sequence[str],
    settings: Bench,
    recipe: Recipe,
) -> None:
    """Collect, on the nodes of the cluster, the answers that are not in the cache; connects only if any are missing.

    Args:
        ws: The workspace; its store is all that the nodes share with it.
        data: The data set.
        engines: Role -> model.
        probes: Probes to ask.
        settings: The bench section.
        recipe: Its section `platform` gives the address of Ray and the size of a worker.

    Raises:
        UserError: A task raised it.
        Unavailable: Nodes were lost too often, none joined, or the cluster does not answer.
    """
    missing = [
        (role, model, probe)
        for role, model in engines.items()
        for probe in probes
        if not answers.exist(ws, model, data.digest, probe, settings)
    ]
    if not missing:
        return
    refs = {
        role: model.ref if model.ref.startswith(OPENAI) else checkpoint.upload_if_local(model.ref, ws)
        for role, model, _ in missing
    }
    requests = [
        {
            "role": role,
            "ref": refs[role],
            "digest": model.digest,
            "probe": probe,
            "data": data.uri,
            "store": ws.store,
            "settings": settings.model_dump_json(),
            "recipe": recipe.dump(),
        }
        for role, model, probe in missing
    ]
    platform = recipe.platform
    cpus = platform.threads or 1
    with ray_nodes.joined(platform.ray):
        gpu = ray_nodes.wait_for_workers(min(platform.workers, len(requests)), cpus)
        progress.say(f"inference on the Ray cluster: {len(requests)} sets of answers")
        _run_tasks(requests, cpus, gpu)


def _run_tasks(requests: list[dict[str, Any]], cpus: int, gpu: bool) -> None:
    import ray
    from ray.exceptions import RayError, RayTaskError

    task = ray.remote(
        num_cpus=cpus,
        num_gpus=int(gpu),
        max_retries=_RETRIES,
        scheduling_strategy="SPREAD",
        runtime_env={"env_vars": ray_nodes.worker_environment(cpus)},
    )(_collect)
    pending = [task.remote(request) for request in requests]
    while pending:
        done, pending = ray.wait(pending)
        try:
            error = ray.get(done[0])
        except RayTaskError:  # a bug, with its traceback
            raise
        except RayError as lost:
            raise Unavailable(
                "the benchmark lost its nodes",
                reason=str(lost).strip().splitlines()[-1][:300],
                fix="run the same command again: finished sets of answers are kept",
            ) from None
        if error is not None:
            raise error


def _collect(request: Mapping[str, Any]) -> UserError | None:
    """One Ray task. A UserError is returned: if it were raised, Ray would wrap it in an error of its own."""
    settings = Bench.model_validate_json(request["settings"])
    recipe = from_dump(request["recipe"])
    try:
        with wrap_os_errors(f"collecting the answers of {request['role']}"):
            ws = ray_nodes.node_workspace(request["store"])
            model = _cached_engine(request["ref"], request["digest"], ws)
            data = store.get(request["data"])
            folder = store.fetch(data, ws.cache)
            items = tasks.select(folder, settings.tasks, settings.limit, settings.split)
            images = shards.Images(folder)
            role, probe = request["role"], request["probe"]
            answers.collect(ws, role, model, items, images, data.digest, probe, settings, recipe, terms_of(data))
    except UserError as error:
        return error
    return None


@lru_cache(maxsize=1)
def _cached_engine(ref: str, digest: str, ws: Workspace) -> Engine:
    """One engine for all tasks of a model in this process, so that it is loaded once.

    The digest is that of the reference that the user gave, not that of the copy in the store.
    """
    return replace(engine(ref, ws), digest=digest)
