"""Inference for a benchmark on the nodes of a running Ray cluster, one Ray task for each set of answers.

What a node has, such as its kind of GPU, is part of the key of its answers, and the driver may have another or none. So
each task looks for its answers under the key of the node that it runs on, asks where there are none, and returns them.
Under a key without what the node decides, the driver remembers which they were: a benchmark all of whose answers are
remembered needs no cluster. As soon as one is missing, the nodes are asked about all, so that none is compared with
those of other machines.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from medmim import progress, ray_nodes, store
from medmim.bench import answers
from medmim.bench.engines import OPENAI, Engine, engine
from medmim.bench.likelihood import PROTOCOLS
from medmim.errors import UserError, wrap_os_errors
from medmim.lvlm import checkpoint
from medmim.recipe.loading import from_dump
from medmim.recipe.schema import Bench, Recipe
from medmim.run.cache import finished, remember
from medmim.run.workspace import Workspace
from medmim.store import Artifact

Set = tuple[str, str, str]  # role, protocol, probe
_REMEMBERED = "answers-of-nodes"


def collect(
    ws: Workspace,
    data: Artifact,
    engines: Mapping[str, Engine],
    probes: Sequence[str],
    settings: Bench,
    recipe: Recipe,
) -> dict[Set, Artifact]:
    """The answers of all models, from the nodes of the cluster; connects only if any are missing.

    Args:
        ws: The workspace; its store is all that the nodes share with it.
        data: The data set.
        engines: Role -> model.
        probes: Probes to ask.
        settings: The bench section.
        recipe: Its section `platform` gives the address of Ray and the size of a worker.

    Returns:
        (role, protocol, probe) -> answers.

    Raises:
        UserError: A task raised it.
        Unavailable: Nodes were lost too often, none joined, or the cluster does not answer.
    """
    keys = {
        (role, protocol, probe): answers.on_any_machine(model, data.digest, probe, settings, protocol)
        for role, model in engines.items()
        for protocol in PROTOCOLS[settings.protocol]
        for probe in probes
    }
    known = {one: finished(ws, _REMEMBERED, key, "answers") for one, key in keys.items()}
    found = {one: artifact for one, artifact in known.items() if artifact is not None}
    if len(found) == len(keys):
        return found
    refs = {
        role: model.ref if model.ref.startswith(OPENAI) else checkpoint.upload_if_local(model.ref, ws)
        for role, model in engines.items()
    }
    requests = {
        (role, protocol, probe): {
            "role": role,
            "ref": refs[role],
            "digest": engines[role].digest,
            "probe": probe,
            "protocol": protocol,
            "data": data.uri,
            "store": ws.store,
            "settings": settings.model_dump_json(),
            "recipe": recipe.dump(),
        }
        for role, protocol, probe in keys
    }
    platform = recipe.platform
    cpus = platform.threads or 1
    with ray_nodes.joined(platform.ray):
        gpu = ray_nodes.wait_for_workers(min(platform.workers, len(keys) - len(found)), cpus)
        progress.say(f"inference on the Ray cluster: {len(requests)} sets of answers, {len(found)} of them known")
        for one, uri in _run_tasks(requests, cpus, gpu):
            artifact = store.get(uri)
            remember(ws, _REMEMBERED, keys[one], artifact)
            found[one] = artifact
    return {one: found[one] for one in keys}  # whatever was done first


def _run_tasks(requests: Mapping[Set, dict[str, Any]], cpus: int, gpu: bool) -> Iterator[tuple[Set, str]]:
    """The sets and the URIs of their answers, as they are done."""
    import ray

    task = ray_nodes.task(_collect, cpus, int(gpu))
    pending = {task.remote(request): one for one, request in requests.items()}
    while pending:
        (done, *_), _ = ray.wait(list(pending))
        found = ray_nodes.result(
            done,
            "the benchmark lost its nodes",
            fix="run the same command again: finished sets of answers are kept",
        )
        if isinstance(found, UserError):
            raise found
        yield pending.pop(done), found


def _collect(request: Mapping[str, Any]) -> "str | UserError":
    """One Ray task. A UserError is returned: if it were raised, Ray would wrap it in an error of its own."""
    settings = Bench.model_validate_json(request["settings"])
    recipe = from_dump(request["recipe"])
    try:
        with wrap_os_errors(f"collecting the answers of {request['role']}"):
            ws = ray_nodes.node_workspace(request["store"])
            model = _cached_engine(request["ref"], request["digest"], ws)
            data = store.get(request["data"])
            role, probe, protocol = request["role"], request["probe"], request["protocol"]
            return answers.find_or_ask(ws, role, model, data, [(protocol, probe)], settings, recipe)[
                protocol, probe
            ].uri
    except UserError as error:
        return error


_held: dict[tuple[str, str, Workspace], Engine] = {}  # at most one


def _cached_engine(ref: str, digest: str, ws: Workspace) -> Engine:
    """One engine for all tasks of a model in this process, so that it is loaded once; that of another is released.

    The digest is that of the reference that the user gave, not that of the copy in the store.
    """
    if (ref, digest, ws) not in _held:
        for other in _held.values():
            other.release()
        _held.clear()
        _held[ref, digest, ws] = replace(engine(ref, ws), digest=digest)
    return _held[ref, digest, ws]
