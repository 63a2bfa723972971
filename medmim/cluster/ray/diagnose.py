"""Why a Ray job ended, or what it waits for: one message for each way, from the job's state."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from medmim import progress
from medmim.cluster.kube import Object, parse_time
from medmim.cluster.ray.state import (
    State,
    container_statuses,
    head_of,
    is_leaving,
    is_lost,
    is_ready,
    pod_count,
    ray_pods,
    suspended,
)
from medmim.errors import BAD_INPUT, TRY_AGAIN, UserError

# why a container waits for its image: kubelet's pkg/kubelet/images/types.go
UNPULLED = (
    "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError",
    "RegistryUnavailable",
)  # fmt: skip
_NEVER = ("InvalidImageName", "ErrImageNeverPull")
# A registry's answer that no waiting changes, in the words of containerd, CRI-O and the registries themselves. Not that
# the image is there and a part of it does not come; nor `permission denied`, which is an operating system's.
_REFUSED = re.compile(
    r"not found|(manifest|name|repository) unknown|unauthori[sz]ed|authorization failed|authentication required"
    r"|no basic auth credentials|(?<!permission )denied|forbidden",
    re.IGNORECASE,
)
_IN_PART = re.compile(r"httpReadSeeker|content (digest|descriptor)|/blobs/|snapshot|layer|image configuration", re.I)
_ADDRESS = re.compile(r"\S*/\S*")  # an image or a URL may be called anything
_SETTLE = 20.0  # s that a secret just made by the operator may take to reach the node
_TAIL = 12  # lines of a job's log in a message
_RESUME = "run the step again: it resumes from the newest checkpoint"


@dataclass(frozen=True)
class Diagnosis:
    """How a job ended.

    Attributes:
        kind: `done`; `lost`: the head or the submitter is gone and a new attempt resumes from the checkpoint;
            `failed`: a new attempt would end the same way.
        error: The message for the user.
    """

    kind: Literal["done", "lost", "failed"]
    error: UserError


def diagnose(state: State, pending: float, deadline: float) -> Diagnosis | None:
    """How a job ended, or None while it waits or runs.

    Args:
        state: The job now.
        pending: Seconds that pods may wait for a node, for quota or for a registry.
        deadline: Minutes after which the job is stopped, for the message.
    """
    if state.job is None:
        return _deleted()
    status = state.job.get("status", {})
    phase, reason = status.get("jobDeploymentStatus", ""), status.get("reason", "")
    message = _plain(status.get("message", ""))
    if phase == "Complete" and status.get("jobStatus") == "SUCCEEDED":
        return Diagnosis("done", _error("the Ray job ended without a result of its driver", code=TRY_AGAIN))
    if state.job["metadata"].get("deletionTimestamp"):  # KubeRay stops the driver first, as if it had failed
        return _deleted()
    if phase == "ValidationFailed":
        return _failed("KubeRay refuses the Ray job", message, "check platform.pods")
    if phase == "Failed" and reason in ("DeadlineExceeded", "PreRunningDeadlineExceeded"):
        return _failed(
            f"the Ray job was stopped at its deadline of {deadline:g} minutes",
            message,
            "raise platform.pods.deadline_minutes and run again: it resumes from the newest checkpoint",
            tail=state.tail,
        )
    blocked = _unpulled(state, pending) or _blocked_pod(state) or _blocked_by_event(state)
    if blocked:
        return blocked
    if suspended(state.job):
        return None  # for as long as the queue likes; a job that it preempts loses its pods and gets new ones
    head = head_of(state.pods)
    if head and is_leaving(head, state.now):
        return None  # its training saves: to delete the job now would stop that
    # KubeRay makes no second head for a job that runs: without one it would try until the deadline.
    head_lost = len(state.heads) > 1 or (is_lost(head) if head else state.heads or phase == "Running")
    if phase in ("Failed", "Complete") or head_lost:
        return _died(state, head, message)
    return (
        _operator_idle(state.job, state.now, pending)
        or _unschedulable(state.job, state, pending)
        or _pods_missing(state.job, state, pending)
    )


def waiting_for(state: State) -> str:
    """What the job waits for, as one line for people; empty once it runs."""
    if state.job is None:
        return ""
    if suspended(state.job):
        return "waiting in the queue"
    head = head_of(state.pods)
    if head and is_leaving(head, state.now):
        return "waiting for the end of the head: its pod is being deleted"
    for pod in state.pods:
        for condition in pod.get("status", {}).get("conditions", []):
            if condition.get("reason") == "Unschedulable":
                return f"waiting for a node: {condition.get('message', '')}"
    for pod, container in unpulled(state.pods):
        return f"waiting for the image of {pod['metadata']['name']}: {_plain(_why_unpulled(state, pod, container))}"
    pods, count = ray_pods(state.pods), pod_count(state.job)
    refusal = _refusal(state) if len(pods) < count else ""
    if refusal:
        return f"waiting for {'quota' if 'exceeded quota' in refusal else 'the cluster'}: {refusal}"
    ready = sum(is_ready(pod) for pod in pods)
    return "" if ready >= count else f"waiting for pods: {ready} of {count} are ready"


def _deleted() -> Diagnosis:
    return _failed("the Ray job was deleted while it ran", "a person or the sweep removed it", _RESUME, TRY_AGAIN)


def unpulled(pods: Sequence[Object]) -> list[tuple[Object, Object]]:
    """The pods with a container that waits for an image that could not be pulled, each with that container's status."""
    return [
        (pod, container)
        for pod in pods
        for container in container_statuses(pod)
        if container.get("state", {}).get("waiting", {}).get("reason") in UNPULLED
    ]


def _unpulled(state: State, pending: float) -> Diagnosis | None:
    """An image that will never be pulled, or that could not be for too long."""
    waited = state.unpulled > pending
    for pod, container in unpulled(state.pods):
        reason, why = container["state"]["waiting"]["reason"], _why_unpulled(state, pod, container)
        final = reason in _NEVER or (_REFUSED.search(_ADDRESS.sub("", why)) and not _IN_PART.search(why))
        if final or waited:
            return _failed(
                f"the image {container.get('image') or '?'} of pod {pod['metadata']['name']} cannot be pulled"
                + ("" if final else f", after {pending / 60:g} minutes"),
                f"{reason}: {why}",
                "check platform.pods.image (or MEDMIM_IMAGE) and the chart's imagePullSecrets; the node must reach the "
                "registry",
                BAD_INPUT if final else TRY_AGAIN,
            )
    return None


def _why_unpulled(state: State, pod: Object, container: Object) -> str:
    """What the registry said. While kubelet waits for its next try, older ones say so only in an Event."""
    message = str(container["state"]["waiting"].get("message", ""))
    if not re.fullmatch(r"Back-off pulling image \S*", message):
        return message
    name = pod["metadata"]["name"]
    said = [
        str(event.get("message", ""))
        for event in state.events
        if event.get("involvedObject", {}).get("name") == name
        and "failed to pull image" in str(event.get("message", "")).lower()
    ]
    return said[-1] if said else message


def _blocked_pod(state: State) -> Diagnosis | None:
    """A container that no waiting starts: a secret is missing."""
    for pod in state.pods:
        name = pod["metadata"]["name"]
        for container in container_statuses(pod):
            waiting = container.get("state", {}).get("waiting", {})
            reason, message = waiting.get("reason", ""), waiting.get("message", "")
            settled = _age(pod["metadata"]["creationTimestamp"], state.now) > _SETTLE
            if reason == "CreateContainerConfigError" and settled:
                return _failed(
                    f"pod {name} cannot start: {message or reason}",
                    "its configuration names something that the namespace does not have",
                    "make the secret with that key; with workload identity, the chart's store.existingSecret is empty",
                )
    return None


def _blocked_by_event(state: State) -> Diagnosis | None:
    """A pod that no waiting starts, of which only an Event says so: refused by Pod Security, or without its volume."""
    for event in reversed(state.events):
        message = event.get("message", "")
        if "violates PodSecurity" in message:
            return _failed(
                "the namespace's Pod Security level refuses the job's pods",
                message,
                "every pod of medmim passes `restricted`: check whether an admission webhook changes them",
            )
        if event.get("reason") == "FailedMount" and "configmap" in message.lower() and "not found" in message:
            return _failed(
                f"a volume of pod {event['involvedObject'].get('name')} is missing",
                message,
                "make the ConfigMap, or correct the chart's runPods.volumes",
            )
    return None


def _died(state: State, head: Object | None, message: str) -> Diagnosis:
    """Why the job ended without a result of its driver."""
    for container in container_statuses(head or {}):
        ended = container.get("state", {}).get("terminated") or container.get("lastState", {}).get("terminated")
        if head and ended and ended.get("reason") == "OOMKilled":
            return _failed(
                "the head of the Ray job ran out of memory",
                f"pod {head['metadata']['name']} was killed at its limit",
                "raise platform.pods.head_memory; training needs none there, preparing and publishing do",
                tail=state.tail,
            )
    if head is None or is_lost(head) or len(state.heads) > 1:
        status = (head or {}).get("status", {})
        evicted = status.get("reason") == "Evicted"
        fact = "the head of the Ray job was evicted" if evicted else "the head of the Ray job was lost"
        return _lost(fact, status.get("message", "") or message, state)
    if state.job and state.job.get("status", {}).get("jobStatus") in ("FAILED", "STOPPED"):
        killed = re.search(r"(exit code|signal)[^\d-]*(-?9|137|-?15|143)\b", message)
        reason = "killed: most likely the head's memory ran out (platform.pods.head_memory)" if killed else message
        return _failed("the driver of the Ray job died without a result", reason, _RESUME, TRY_AGAIN, state.tail)
    return _lost("the submitter of the Ray job was lost", message, state)


def _operator_idle(job: Object, now: datetime, pending: float) -> Diagnosis | None:
    if job.get("status", {}).get("jobDeploymentStatus") or _age(_begin(job), now) <= pending:
        return None
    return _failed(
        "no operator acts on the Ray job",
        "its status stays empty: is the KubeRay operator running, and does it watch this namespace?",
        "ask the cluster's administrator",
    )


def _unschedulable(job: Object, state: State, pending: float) -> Diagnosis | None:
    for pod in state.pods:
        for condition in pod.get("status", {}).get("conditions", []):
            since = condition.get("lastTransitionTime") or _begin(job)
            if condition.get("reason") == "Unschedulable" and _age(since, state.now) > pending:
                return _failed(
                    f"pod {pod['metadata']['name']} is unschedulable, after {pending / 60:g} minutes",
                    condition.get("message", ""),
                    "ask for less in platform.pods (cpus, memory, gpus, accelerator), add nodes, or have their taints "
                    "tolerated (the chart's runPods.tolerations, nodeSelector)",
                )
    return None


def _pods_missing(job: Object, state: State, pending: float) -> Diagnosis | None:
    if state.missing <= pending:
        return None
    refusal, after = _refusal(state), f"after {pending / 60:g} minutes"
    if "exceeded quota" in refusal:
        fact = f"the namespace's quota does not admit the job's pods, {after}"
        fix = "ask for less in platform.pods, end other jobs, or have the ResourceQuota raised"
    elif refusal:
        fact = f"the cluster refuses to make the job's pods, {after}"
        fix = "fix what it names: sizes are in platform.pods, all else of pods in the chart's runPods"
    else:
        fact = f"KubeRay has made {len(ray_pods(state.pods))} of the job's {pod_count(job)} pods, {after}"
        refusal, fix = "no Event says why", "ask the administrator of the KubeRay operator"
    return _failed(fact, refusal, fix)


def _refusal(state: State) -> str:
    """The API server's last answer to the operator that it may not make a pod; empty where it refused none."""
    messages = [e.get("message", "") for e in state.events if "FailedToCreate" in e.get("reason", "")]
    return str(messages[-1]) if messages else ""


def _begin(job: Object) -> str:
    return str(job.get("status", {}).get("startTime") or job["metadata"]["creationTimestamp"])


def _age(then: str, now: datetime) -> float:
    return (now - parse_time(then)).total_seconds()


def _failed(fact: str, reason: str, fix: str, code: int = BAD_INPUT, tail: Sequence[str] = ()) -> Diagnosis:
    return Diagnosis("failed", _error(fact, reason, fix, code, tail))


def _lost(fact: str, reason: str, state: State) -> Diagnosis:
    return Diagnosis("lost", _error(fact, reason, _RESUME, TRY_AGAIN, state.tail))


def _error(fact: str, reason: str = "", fix: str = "", code: int = BAD_INPUT, tail: Sequence[str] = ()) -> UserError:
    return UserError(fact, reason=reason, fix=fix, problems=[_plain(line) for line in tail][-_TAIL:], exit_code=code)


def _plain(text: str) -> str:
    return progress.strip_ansi(text).strip()[:600]
