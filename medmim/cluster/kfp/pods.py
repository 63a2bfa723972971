"""The pods of a run: which of Argo's nodes they are, as KFP shows them, and what Kubernetes knows of them.

KFP shows a node's display name and the ids of its children, but neither its own id nor a pod; with KFP's own settings
of Argo a step is Retry > DAG > Retry > Pod. An id is the 32-bit FNV-1a of the node's name, which goes on from its
parent's.
"""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar
from urllib.parse import urlsplit

from medmim.cluster.doctor.api import Unchecked, items, read
from medmim.cluster.kfp.client import Api
from medmim.cluster.kube import API, Kube, Object, connect
from medmim.cluster.ray import workflow
from medmim.cluster.ray.state import container_statuses
from medmim.errors import UserError
from medmim.recipe import names

T = TypeVar("T")

_RUN = "pipeline/runid"  # label of each pod of a run: LabelKeyWorkflowRunId in backend/src/common/util/consts.go of KFP
_LABEL = _RUN.replace("/", "%2F")
_NODE = "workflows.argoproj.io/node-name"  # annotation: AnnotationKeyNodeName in workflow/common/common.go of Argo
_EXECUTOR, _DRIVER = "executor", "-driver"  # KFP's tasks: argocompiler/container.go
_STARTING = ("PodInitializing", "ContainerCreating")  # why a container waits where nothing is wrong, or only Events say


def nodes(children: Sequence[str], known: Collection[str]) -> tuple[str, ...]:
    """The ids of a step's pods, the newest first.

    Args:
        children: Ids of the step's own children, oldest first.
        known: Ids of all nodes of the run.
    """
    found: list[str] = []
    for child in children:
        below = _extended(child, f".{_EXECUTOR}")
        executor = below if below in known else child  # without KFP's settings the child is the executor itself
        tries: list[str] = []
        while (again := _extended(executor, f"({len(tries)})")) in known:
            tries.append(again)
        found += tries or [executor]
    return tuple(reversed(found))


def _extended(node: str, suffix: str) -> str:
    """Id of the node whose name is that of another and a suffix: NodeID in Argo's workflow_types.go."""
    workflow, _, mark = node.rpartition("-")
    if not mark.isdecimal():
        return ""
    found = int(mark)
    for byte in suffix.encode():
        found = (found ^ byte) * 0x01000193 % 2**32
    return f"{workflow}-{found}"


@dataclass(frozen=True)
class Reached:
    """A cluster in which a KFP runs pods.

    Attributes:
        kube: The cluster, in the namespace of the runs' pods.
        known: Whether it is known that this is KFP's cluster, and the namespace of its pods.
    """

    kube: Kube
    known: bool


@lru_cache(maxsize=8)  # a run is polled for hours
def reach(api: Api) -> Reached:
    """The cluster, if KUBECONFIG or this pod's account leads to one; reached once for each server.

    Raises:
        UserError: Neither does, or it does not answer.
    """
    kube = connect(api.namespace or api.access.namespace or names.KFP_NAMESPACE)
    if api.multi_user:
        return Reached(kube, True)
    own = namespace_of_server(api.access.host, kube)
    return Reached(replace(kube, namespace=own or kube.namespace), bool(own))


def ask(api: Api, question: Callable[[Kube], T]) -> T:
    """The answer of the cluster; after an error it is reached anew, since a kubeconfig may have got a new login.

    Raises:
        UserError: As `reach`, and what the question raises.
    """
    try:
        return question(reach(api).kube)
    except UserError:
        reach.cache_clear()
        raise


def namespace_of_server(host: str, kube: Kube | None) -> str:
    """Where a KFP for one user runs all pods, whatever namespace is given: that of its own Service; empty if unknown.

    Args:
        host: KFP's address, which may be a Service's.
        kube: The cluster, in a namespace where that Service may be; or in `names.KFP_NAMESPACE`.

    Raises:
        UserError: The cluster does not answer.
    """
    service, _, rest = (urlsplit(host).hostname or "").partition(".")
    if service == names.KFP_SERVICE and rest:
        return rest.partition(".")[0]
    if kube is None:
        return ""
    for space in dict.fromkeys((kube.namespace, names.KFP_NAMESPACE)):
        with suppress(Unchecked):
            if read(kube, f"/api/v1/namespaces/{space}/services/{names.KFP_SERVICE}") is not None:
                return space
    return ""


def has_no_workflow(api: Api, run_id: str) -> bool:
    """Whether a run's Workflow is gone, so that KFP will never hear of its end; False where nobody can tell."""
    if _workflows(api, f"{_LABEL}%3D{run_id}") != []:
        return False
    return all(_is_known(api, one["metadata"]["labels"][_RUN]) for one in _workflows(api, _LABEL, "&limit=1") or ())


def _is_known(api: Api, run_id: str) -> bool:
    """Whether KFP has that run: KUBECONFIG may lead to another cluster, whose Workflows are those of another KFP."""
    try:
        api.call("getting a run", api.client.runs.run_service_get_run, run_id=run_id)
    except UserError:
        return False
    return True


def was_terminated(api: Api, run_id: str) -> bool:
    """Whether a run's Workflow was ended by somebody; False where nobody can tell.

    KFP forgets that it cancelled a run where its persistence agent saw the Workflow only when that had ended.
    """
    return any(map(workflow.was_terminated, _workflows(api, f"{_LABEL}%3D{run_id}") or ()))


def _workflows(api: Api, selector: str, more: str = "") -> list[Object] | None:
    """The Workflows with those labels; None where the cluster cannot be asked, or is not known to be KFP's."""

    def listed(kube: Kube) -> Object | None:
        return read(kube, f"{API['workflows']}/namespaces/{kube.namespace}/workflows?labelSelector={selector}{more}")

    try:
        found = ask(api, listed)
        return list(found.get("items", [])) if found is not None and reach(api).known else None
    except UserError:
        return None


def of_run(kube: Kube, run_id: str) -> list[Object]:
    """The pods of a run, oldest first; asked once, with seconds to answer.

    Raises:
        UserError: The cluster cannot be asked, or this account may not list pods.
    """
    found = items(kube, f"/api/v1/namespaces/{kube.namespace}/pods?labelSelector={_LABEL}%3D{run_id}")
    return sorted(found, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))


def of_step(pods: Sequence[Object], step: str) -> list[Object]:
    """Those pods that do a step's work, not its driver's."""
    return [pod for pod in pods if _task(pod) == (step, False)]


def waiting(api: Api, run_id: str) -> dict[str, str]:
    """Why the newest pod of each step, or of its driver, has not started; "" is the step of other pods of the run.

    Raises:
        UserError: As `ask` and `of_run`.
    """

    def reasons(kube: Kube) -> dict[str, str]:
        newest = {_task(pod)[0]: pod for pod in of_run(kube, run_id)}
        return {step: why for step, pod in newest.items() if (why := _reason(kube, pod))}

    return ask(api, reasons)


def failures(api: Api, run_id: str) -> dict[str, str]:
    """Why the newest pod of each step failed, such as `Evicted: ...`, as long as the pod is there.

    Raises:
        UserError: As `ask` and `of_run`.
    """
    newest = {_task(pod)[0]: pod for pod in ask(api, lambda kube: of_run(kube, run_id))}
    return {step: _failure(pod) for step, pod in newest.items() if pod.get("status", {}).get("phase") == "Failed"}


def _failure(pod: Object) -> str:
    status = pod["status"]
    ended = [
        f"{one['name']}: {end.get('reason', '')} (exit code {end['exitCode']})"
        for one in container_statuses(pod)
        if (end := one.get("state", {}).get("terminated")) and end.get("exitCode")
    ]
    own = ": ".join(status[key] for key in ("reason", "message") if status.get(key))
    return "; ".join([own, *ended] if own else ended)[:400]


def _task(pod: Object) -> tuple[str, bool]:
    """The step that a pod belongs to (empty for those of the graph itself), and whether it is the step's driver."""
    name = str(pod["metadata"].get("annotations", {}).get(_NODE, ""))
    path = [re.sub(r"\(\d+\)$", "", part) for part in name.split(".")]
    if path[-1].endswith(_DRIVER):
        step = path[-1].removesuffix(_DRIVER)
        return ("" if step == "root" or step.startswith("exit-handler-") else step), True
    return (path[-2] if path[-1] == _EXECUTOR and len(path) > 1 else ""), False


def _reason(kube: Kube, pod: Object) -> str:
    if pod.get("status", {}).get("phase") != "Pending":
        return ""
    return next(_reasons(kube, pod), "")[:400]


def _reasons(kube: Kube, pod: Object) -> Iterator[str]:
    for container in container_statuses(pod):
        waits = container.get("state", {}).get("waiting", {})
        if waits.get("reason") and waits["reason"] not in _STARTING:
            yield ": ".join(part for part in (waits["reason"], waits.get("message", "")) if part)
    for condition in pod["status"].get("conditions", []):
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            yield f"{condition.get('reason', 'Unschedulable')}: {condition.get('message', '')}"
    selector = f"involvedObject.uid%3D{pod['metadata']['uid']},type%3DWarning"
    try:
        events = items(kube, f"/api/v1/namespaces/{kube.namespace}/events?fieldSelector={selector}")
    except Unchecked:
        return
    for event in reversed(sorted(events, key=lambda one: str(one.get("lastTimestamp") or one.get("eventTime") or ""))):
        yield f"{event.get('reason', '')}: {event.get('message', '')}"  # a volume without its Secret, for instance
