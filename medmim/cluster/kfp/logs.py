"""The logs of a run: of each step's pod from Kubernetes or KFP, and of Ray's pods those archived in the store.

KFP 2.17 for one user gives the log of no pod that runs: it asks for pods in namespace "".
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from medmim.cluster.kfp import compiled, pods, runs
from medmim.cluster.kfp.client import Api
from medmim.cluster.kfp.runs import Run
from medmim.cluster.kfp.steps import Step
from medmim.cluster.kube import Kube
from medmim.cluster.ray.log import Log
from medmim.errors import UserError
from medmim.progress import parse, render
from medmim.store import open_store

POLL = 3.0  # s between two looks for new lines
_ERROR = '{"error_message":'  # begins what KFP answers, with status 200, in place of a log
_CONTAINER = "main"  # Argo's name of a pod's own


@dataclass(frozen=True)
class Cluster:
    """The cluster with the run's pods; None and the reason where it cannot be asked."""

    kube: Kube | None
    unasked: str = ""


def reach(api: Api, run: Run) -> Cluster:
    """Look whether Kubernetes can be asked for the run's pods; with seconds to answer."""
    try:
        pods.ask(api, lambda kube: pods.of_run(kube, run.run_id))
        return Cluster(pods.reach(api).kube)
    except UserError as error:
        return Cluster(None, f"the cluster cannot be asked: {error.fact}")


def of_step(api: Api, run: Run, step: Step, cluster: Cluster) -> str:
    """The log of a step's pods: while it runs from Kubernetes, else from KFP, or where that has none from the other.

    Raises:
        UserError: There is none; the reason says why.
    """
    text = None if _going(run, step) else _of_kfp(api, run, step)[1]
    if text is None and cluster.kube:
        text = "".join(f"{line}\n" for line in _live(cluster.kube, run, step).new_lines()) or None
    if text is None and _going(run, step):
        text = _of_kfp(api, run, step)[1]
    if text is None:
        raise _none(api, run, step, cluster)
    return text


def follow(
    api: Api, run: Run, wanted: str | None, untold: Callable[[str, str], None]
) -> Iterator[tuple[str, list[str]]]:
    """Steps and their new lines, until the run has ended.

    Args:
        api: The server.
        run: The run.
        wanted: Of this step only; None: of all.
        untold: Called with a step and why it has no lines for now, once for each reason.

    Raises:
        UserError: KFP does not answer.
    """
    cluster = Cluster(None)
    live: dict[str, Log] = {}  # of each step
    shown: dict[str, int] = {}  # mark of a pod -> lines
    spoken: set[str] = set()  # steps that had lines
    whole: set[str] = set()  # steps that ended, with all of their log
    told: set[tuple[str, str]] = set()
    while True:
        ended = run.ended  # before the logs are read, so that the last lines are too
        cluster = cluster if cluster.kube else reach(api, run)
        for step in run.steps:
            if wanted not in (None, step.name) or step.name in whole or step.state in ("", "SKIPPED"):
                continue
            if cluster.kube and step.name not in live:
                live[step.name] = _live(cluster.kube, run, step)
            lines = _new_lines(api, run, step, live.get(step.name), shown)
            why = "" if lines or step.name in spoken else _none(api, run, step, cluster).reason
            if why and (step.name, why) not in told:
                told.add((step.name, why))
                untold(step.name, why)
            if not _going(run, step):
                whole.add(step.name)
            if lines:
                spoken.add(step.name)
                yield step.name, lines
        if ended:
            return
        time.sleep(POLL)
        run = runs.refresh(api, run)
        whole -= {step.name for step in run.steps if _going(run, step)}  # the run was retried


def _new_lines(api: Api, run: Run, step: Step, live: Log | None, shown: dict[str, int]) -> list[str]:
    """What was not shown yet: from Kubernetes, which has it by time; else from KFP, which has all or nothing."""
    if live:
        try:
            lines = live.new_lines()
        except UserError:  # for a while, or its right was taken away: KFP has the rest when the step has ended
            lines = []
        shown.update({_mark(pod): count for pod, count in live.lines.items()})
        if lines or live.lines and _going(run, step):
            return lines
    node, text = _of_kfp(api, run, step)
    if text is None:
        return []
    whole = text.split("\n")
    last = whole.pop()
    if last and not _going(run, step):  # else the rest of that line is to come
        whole.append(last)
    before = shown.get(_mark(node), 0)
    shown[_mark(node)] = max(before, len(whole))
    return whole[before:]


def _mark(name: str) -> str:
    """What the names of a node and of its pod have in common."""
    return name.rpartition("-")[2]


def _going(run: Run, step: Step) -> bool:
    return step.state in ("PENDING", "RUNNING") and not run.ended


def _none(api: Api, run: Run, step: Step, cluster: Cluster) -> UserError:
    """The error that a step has no log, with the reason."""
    if step.waiting:
        reason = f"its pod has not started: {step.waiting}"
    else:
        if not _going(run, step):
            kfp = "KFP's archive has none"
        elif api.multi_user:
            kfp = "KFP has none of it yet"
        else:
            kfp = "KFP for one user gives no log of a pod that runs"
        reason = f"{kfp}, and {cluster.unasked or 'Kubernetes has no pod of it that has started'}"
    return UserError(f"there is no log of run {run.name}, step {step.name}", reason=reason)


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


def _live(kube: Kube, run: Run, step: Step) -> Log:
    """The log of a step's pods, those of earlier tries first."""
    return Log(kube, lambda: pods.of_step(pods.of_run(kube, run.run_id), step.name), _CONTAINER)


def _of_kfp(api: Api, run: Run, step: Step) -> tuple[str, str | None]:
    """The node that KFP has a log of, and that log: a running pod's where KFP serves many users, else the archive's."""
    for node in step.nodes[:1] if _going(run, step) else step.nodes:
        for pod in _names(node):
            text = _read(api, run.run_id, pod)
            if text is not None:
                return node, text
    return "", None


def _names(node: str) -> tuple[str, ...]:
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
