"""The logs of a run: of each step's pod from KFP, and of Ray's pods those archived in the store."""

import json
from collections.abc import Iterator
from functools import partial

from medmim.cluster.kfp import compiled
from medmim.cluster.kfp.client import Api
from medmim.cluster.kfp.runs import Run, Step
from medmim.errors import UserError
from medmim.progress import parse, render
from medmim.store import open_store

_ERROR = '{"error_message":'  # begins what KFP answers, with status 200, in place of a log


def of_step(api: Api, run: Run, step: Step) -> str | None:
    """The log of a step's pod; None where KFP has none."""
    for node in step.nodes:
        for pod in _pods(node):
            text = _read(api, run.run_id, pod)
            if text is not None:
                return text
    return None


def readable(text: str) -> str:
    """A log with medmim's own events rendered as text."""
    lines = ((parse(line), line) for line in text.splitlines())
    return "\n".join(render(event) if event else line for event, line in lines)


def of_ray(run: Run) -> Iterator[tuple[str, str]]:
    """Key and text of each log that was archived of this run's Ray jobs.

    Raises:
        UserError: The store does not answer, or the run names none.
    """
    if not run.folder:
        raise UserError(f"run {run.name} names no store", fix="its logs are in KFP only")
    store = open_store(run.folder)
    for key in store.list("jobs/"):
        if "/logs/" in key and key.endswith(".log"):
            yield key, store.read(key).decode("utf-8", "replace")


def _pods(node: str) -> tuple[str, ...]:
    """The names that the pod of a node may have: Argo's, which contain the template's name, and the node's.

    KFP 2.17 names the template by the number of annotations and labels: addContainerExecutorTemplate in
    backend/src/v2/compiler/argocompiler/container.go; the pod after it: RetrievePodName in
    backend/src/common/util/workflow.go.
    """
    workflow, _, mark = node.rpartition("-")
    counts = sorted(compiled.metadata_counts())
    return (*(f"{workflow}-metadata-{a}-{b}-system-container-impl-{mark}" for a, b in counts), node)


def _read(api: Api, run_id: str, pod: str) -> str | None:
    """KFP always answers 200; that it has no log, or no more of it, is JSON at the end of the text."""
    function = partial(
        api.transport.call_api,
        "/apis/v1alpha1/runs/{run}/nodes/{node}/log",
        "GET",
        path_params={"run": run_id, "node": pod},
        header_params={"Accept": "text/plain"},
        auth_settings=["Bearer"],
        _return_http_data_only=True,
    )
    answer = api.call("reading a log", function, _preload_content=False)
    text: str = answer.data.decode("utf-8", "replace")
    log, mark, error = text.rpartition(_ERROR)
    if not mark:
        return text
    try:
        json.loads(mark + error)
    except ValueError:
        return text
    return log or None
