"""What a run's steps said: the log of each pod by KFP, and of Ray's pods what lies in the store."""

import json
from collections.abc import Iterator
from functools import partial

from medmim.cluster.kfp import compiled
from medmim.cluster.kfp.client import Api
from medmim.cluster.kfp.runs import Run, Step
from medmim.errors import UserError
from medmim.progress import parse, render
from medmim.store import open_store

_ERROR = '{"error_message":'


def of_step(api: Api, run: Run, step: Step) -> str | None:
    """The log of a step's pod; None where KFP has none of it (any more)."""
    for node in step.nodes:
        for pod in _pods(node):
            text = _ask(api, run.run_id, pod)
            if text is not None:
                return text
    return None


def readable(text: str) -> str:
    """A log with medmim's own events as people read them."""
    lines = ((parse(line), line) for line in text.splitlines())
    return "\n".join(render(event) if event else line for event, line in lines)


def of_ray(run: Run) -> Iterator[tuple[str, str]]:
    """Name and text of each log that Ray jobs of this run left in the store.

    Raises:
        UserError: The store does not answer, or the run's recipe lies in none.
    """
    if not run.place:
        raise UserError(f"run {run.name} names no store", fix="its logs are in KFP only, as long as its pods are there")
    store = open_store(run.place)
    for key in store.list("jobs/"):
        if "/logs/" in key and key.endswith(".log"):
            yield key, store.read(key).decode("utf-8", "replace")


def _pods(node: str) -> tuple[str, ...]:
    """The names that the pod of a node may have: Argo's own, which hold the template's name, and the node's.

    KFP 2.17 names the template by the number of annotations and labels: addContainerExecutorTemplate in
    backend/src/v2/compiler/argocompiler/container.go; the pod after it: RetrievePodName in
    backend/src/common/util/workflow.go.
    """
    workflow, _, mark = node.rpartition("-")
    counts = sorted(compiled.metadata_counts())
    return (*(f"{workflow}-metadata-{a}-{b}-system-container-impl-{mark}" for a, b in counts), node)


def _ask(api: Api, run_id: str, pod: str) -> str | None:
    """KFP answers 200 always; that it has no log is JSON at the end of what it has."""
    ask = partial(
        api.transport.call_api, "/apis/v1alpha1/runs/{run}/nodes/{node}/log", "GET", {"run": run_id, "node": pod}, [],
        {"Accept": "text/plain"}, auth_settings=["Bearer"], _return_http_data_only=True,
    )  # fmt: skip
    answer = api.call("reading a log", ask, _preload_content=False)
    text: str = answer.data.decode("utf-8", "replace")
    whole, mark, rest_of_it = text.rpartition(_ERROR)
    if not mark:
        return text
    try:
        json.loads(mark + rest_of_it)
    except ValueError:
        return text
    return whole or None
