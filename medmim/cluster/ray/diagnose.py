"""How a Ray job stands, read from the RayJob, its pods and its Events: one message for each way it can end."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from medmim import progress
from medmim.errors import BAD_INPUT, TRY_AGAIN, UserError

Object = dict[str, Any]

# why a container waits for an image that will not come
UNPULLED = (
    "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError",
    "RegistryUnavailable",
)  # fmt: skip
_SETTLE = 20.0  # s that a secret just made by the operator may take to reach the node
_TAIL = 12  # lines of a pod's log in a message


@dataclass(frozen=True)
class Seen:
    """A job at one moment.

    Attributes:
        job: The RayJob; None when it is gone.
        pods: Of its cluster and submitter.
        events: About the job, its cluster and its pods.
        now: The API server's clock.
        heads: UIDs of all the head pods that the job has had since a queue let it run.
        lacking: Seconds that it has had fewer pods than it asks for.
        tail: The last lines that the job said.
    """

    job: Object | None
    pods: Sequence[Object]
    events: Sequence[Object]
    now: datetime
    heads: frozenset[str] = frozenset()
    lacking: float = 0.0
    tail: Sequence[str] = ()


@dataclass(frozen=True)
class Ending:
    """How it ended.

    Attributes:
        kind: `done`; `lost`: the head or the submitter is gone and a new attempt goes on from the checkpoint;
            `failed`: a new attempt would end the same way.
        error: What people are told.
    """

    kind: Literal["done", "lost", "failed"]
    error: UserError


def ending(seen: Seen, pending: float, deadline: float) -> Ending | None:
    """The end of a job, or None while it goes on.

    Args:
        seen: The job now.
        pending: Seconds that pods may wait for a node or for quota.
        deadline: Minutes after which the job is stopped, for the message.
    """
    if seen.job is None:
        return _deleted()
    status = seen.job.get("status", {})
    where, reason = status.get("jobDeploymentStatus", ""), status.get("reason", "")
    said = _plain(status.get("message", ""))
    if where == "Complete" and status.get("jobStatus") == "SUCCEEDED":
        return Ending("done", _error("the Ray job ended without an answer of its driver", code=TRY_AGAIN))
    if seen.job["metadata"].get("deletionTimestamp"):  # KubeRay stops the driver first, as if it had failed
        return _deleted()
    if where == "ValidationFailed":
        return Ending("failed", _error("KubeRay refuses the Ray job", said, "check platform.pods"))
    if where == "Failed" and reason in ("DeadlineExceeded", "PreRunningDeadlineExceeded"):
        return Ending(
            "failed",
            _error(
                f"the Ray job was stopped at its deadline of {deadline:g} minutes",
                said,
                "raise platform.pods.deadline_minutes and run again: it goes on from the newest checkpoint",
                tail=seen.tail,
            ),
        )
    blocked = _blocked(seen)
    if blocked:
        return Ending("failed", blocked)
    if held(seen.job):
        return None  # for as long as the queue likes; a job that it preempts loses its pods and gets new ones
    head = head_of(seen.pods)
    # KubeRay makes no second head for a job that runs: without one it would try until the deadline.
    lost = len(seen.heads) > 1 or (_ended(head) if head else seen.heads or where == "Running")
    if where in ("Failed", "Complete") or lost:
        return _died(seen, head, said)
    return _waiting_too_long(seen, pending)


def _deleted() -> Ending:
    return Ending(
        "failed",
        _error(
            "the Ray job was deleted while it ran",
            "a person or the sweep removed it",
            "run the step again: it goes on from the newest checkpoint",
            TRY_AGAIN,
        ),
    )


def _blocked(seen: Seen) -> UserError | None:
    """What no waiting mends: an image that cannot be pulled, a secret that is not there, a refused pod."""
    for pod in seen.pods:
        for container in _containers(pod):
            waiting = container.get("state", {}).get("waiting", {})
            why, said = waiting.get("reason", ""), waiting.get("message", "")
            name = pod["metadata"]["name"]
            if why in UNPULLED:
                return _error(
                    f"the image {container.get('image') or '?'} of pod {name} cannot be pulled",
                    f"{why}: {said}",
                    "check platform.pods.image (or MEDMIM_IMAGE), pull_secrets and "
                    "pull_policy; the node must reach the registry",
                )
            if why == "CreateContainerConfigError" and _age(pod["metadata"]["creationTimestamp"], seen.now) > _SETTLE:
                return _error(
                    f"pod {name} cannot start: {said or why}",
                    "its configuration names something that the namespace does not have",
                    "make the secret with that key, or name another one in "
                    "platform.pods.s3_secret, tracking_secret or ca_config_map",
                )
    for event in reversed(seen.events):
        said = event.get("message", "")
        if "violates PodSecurity" in said:
            return _error(
                "the namespace's Pod Security level refuses the job's pods",
                said,
                "every pod of medmim passes `restricted`: a webhook of yours may change them",
            )
        if event.get("reason") == "FailedMount" and "configmap" in said.lower() and "not found" in said:
            return _error(
                f"a volume of pod {event['involvedObject'].get('name')} is not there",
                said,
                "make the ConfigMap with the key ca.crt, or leave platform.pods.ca_config_map out",
            )
    return None


def _died(seen: Seen, head: Object | None, said: str) -> Ending:
    """The job ended without an answer of its driver."""
    again = "run the step again: it goes on from the newest checkpoint"
    for container in _containers(head or {}):
        state = container.get("state", {}).get("terminated") or container.get("lastState", {}).get("terminated")
        if head and state and state.get("reason") == "OOMKilled":
            return Ending(
                "failed",
                _error(
                    "the head of the Ray job ran out of memory",
                    f"pod {head['metadata']['name']} was killed at its limit",
                    "raise platform.pods.head_memory; training needs none there, preparing and publishing do",
                    tail=seen.tail,
                ),
            )
    if head is None or _ended(head) or len(seen.heads) > 1:
        status = (head or {}).get("status", {})
        evicted = status.get("reason") == "Evicted"
        fact = "the head of the Ray job was evicted" if evicted else "the head of the Ray job was lost"
        return Ending("lost", _error(fact, status.get("message", "") or said, again, TRY_AGAIN, seen.tail))
    if seen.job and seen.job.get("status", {}).get("jobStatus") in ("FAILED", "STOPPED"):
        killed = re.search(r"(exit code|signal)[^\d-]*(-?9|137|-?15|143)\b", said)
        why = "killed: most likely the head's memory ran out (platform.pods.head_memory)" if killed else said
        return Ending(
            "failed", _error("the driver of the Ray job died without a word", why, again, TRY_AGAIN, seen.tail)
        )
    return Ending("lost", _error("the submitter of the Ray job was lost", said, again, TRY_AGAIN, seen.tail))


def _waiting_too_long(seen: Seen, pending: float) -> Ending | None:
    """Pods that no node takes, or that the quota does not let in."""
    if seen.job is None:
        return None
    begun = seen.job.get("status", {}).get("startTime") or seen.job["metadata"]["creationTimestamp"]
    if not seen.job.get("status", {}).get("jobDeploymentStatus") and _age(begun, seen.now) > pending:
        return Ending(
            "failed",
            _error(
                "nobody acts on the Ray job",
                "its status stays empty: is the KubeRay operator running, and does it watch this namespace?",
                "ask who runs it",
            ),
        )
    for pod in seen.pods:
        for condition in pod.get("status", {}).get("conditions", []):
            late = _age(condition.get("lastTransitionTime") or begun, seen.now) > pending
            if condition.get("reason") == "Unschedulable" and late:
                return Ending(
                    "failed",
                    _error(
                        f"no node takes pod {pod['metadata']['name']}, after {pending / 60:g} minutes",
                        condition.get("message", ""),
                        "ask for less in platform.pods (cpus, memory, gpus, accelerator, "
                        "node_selector), tolerate the nodes' taints, or add nodes",
                    ),
                )
    if seen.lacking <= pending:
        return None
    refused, after = _refused(seen), f"after {pending / 60:g} minutes"
    if "exceeded quota" in refused:
        fact = f"the namespace's quota does not let the job's pods in, {after}"
        fix = "ask for less in platform.pods, end other jobs, or have the ResourceQuota raised"
    elif refused:
        fact = f"the cluster refuses to make the job's pods, {after}"
        fix = "mend what it names; platform.pods holds most of it (service_account, priority, memory, node_selector)"
    else:
        fact = f"KubeRay has made {len(of_ray(seen.pods))} of the job's {pods_asked(seen.job)} pods, {after}"
        refused, fix = "no Event says why", "ask who runs the KubeRay operator"
    return Ending("failed", _error(fact, refused, fix))


def _refused(seen: Seen) -> str:
    """What the API server last said when the operator wanted to make a pod; empty where it refused none."""
    said = [e.get("message", "") for e in seen.events if "FailedToCreate" in e.get("reason", "")]
    return str(said[-1]) if said else ""


def standing(seen: Seen) -> str:
    """One line for people: what the job waits for; empty once it runs."""
    if seen.job is None:
        return ""
    if held(seen.job):
        return "waiting in the queue"
    for pod in seen.pods:
        for condition in pod.get("status", {}).get("conditions", []):
            if condition.get("reason") == "Unschedulable":
                return f"waiting for a node: {condition.get('message', '')}"
    mine, asked = of_ray(seen.pods), pods_asked(seen.job)
    refused = _refused(seen) if len(mine) < asked else ""
    if refused:
        return f"waiting for {'quota' if 'exceeded quota' in refused else 'the cluster'}: {refused}"
    ready = sum(_ready(pod) for pod in mine)
    return "" if ready >= asked else f"waiting for pods: {ready} of {asked} are ready"


def pods_asked(job: Object) -> int:
    """How many pods of Ray a job asks for."""
    groups = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    return 1 + sum(int(group["replicas"]) for group in groups)


def held(job: Object) -> bool:
    """Whether a queue keeps it from running, at first or again."""
    status = job.get("status", {}).get("jobDeploymentStatus")
    return bool(job.get("spec", {}).get("suspend")) or status in ("Suspended", "Suspending")


def _ready(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)


def _containers(pod: Object) -> list[Object]:
    status = pod.get("status", {})
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def of_ray(pods: Sequence[Object]) -> list[Object]:
    """All but the submitter."""
    return [pod for pod in pods if _kind(pod)]


def head_of(pods: Sequence[Object]) -> Object | None:
    """The newest head pod."""
    heads = [pod for pod in pods if _kind(pod) == "head"]
    return max(heads, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), default=None)


def _kind(pod: Object) -> str:
    return str(pod["metadata"].get("labels", {}).get("ray.io/node-type", ""))


def _ended(pod: Object) -> bool:
    """Gone, going, or started anew: whatever it is now, it does not know the job any more."""
    restarted = any(container.get("restartCount", 0) > 0 for container in _containers(pod))
    leaving = pod["metadata"].get("deletionTimestamp") is not None
    return restarted or leaving or pod.get("status", {}).get("phase") in ("Failed", "Succeeded")


def _age(then: str, now: datetime) -> float:
    return (now - datetime.fromisoformat(then.replace("Z", "+00:00"))).total_seconds()


def _plain(text: str) -> str:
    return progress.strip_ansi(text).strip()[:600]


def _error(fact: str, reason: str = "", fix: str = "", code: int = BAD_INPUT, tail: Sequence[str] = ()) -> UserError:
    return UserError(fact, reason=reason, fix=fix, problems=[_plain(line) for line in tail][-_TAIL:], exit_code=code)
