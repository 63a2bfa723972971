"""The state of a Ray job, read from the RayJob, its pods and its Events."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from medmim.cluster.kube import Kube, Object, parse_time


@dataclass(frozen=True)
class State:
    """A job at one moment.

    Attributes:
        job: The RayJob; None when it was deleted.
        pods: Of its cluster and its submitter.
        events: About the job, its cluster and its pods.
        now: The API server's clock.
        heads: UIDs of all the head pods that the job has had since the queue last admitted it.
        missing: Seconds that it has had fewer pods than it asks for.
        unpulled: Seconds that an image of its pods could not be pulled.
        tail: The last lines of the job's log that are no events.
    """

    job: Object | None
    pods: Sequence[Object]
    events: Sequence[Object]
    now: datetime
    heads: frozenset[str] = frozenset()
    missing: float = 0.0
    unpulled: float = 0.0
    tail: Sequence[str] = ()


def pods_of(kube: Kube, job: Object) -> list[Object]:
    """The pods of a job: submitter, head and workers."""
    pods = kube.list("pods", f"batch.kubernetes.io/job-name={job['metadata']['name']}")
    cluster = cluster_of(job)
    return pods + (kube.list("pods", f"ray.io/cluster={cluster}") if cluster else [])


def events_of(kube: Kube, job: Object, pods: Sequence[Object]) -> list[Object]:
    """Events about a job, its cluster, its submitter and these pods, oldest first; each is asked for by its name."""
    names = {job["metadata"]["name"], cluster_of(job), *(pod["metadata"]["name"] for pod in pods)} - {""}
    found = [event for name in sorted(names) for event in kube.list("events", fields=f"involvedObject.name={name}")]
    return sorted(found, key=event_time)


def event_time(event: Object) -> str:
    """When an Event was last seen, as Kubernetes writes it."""
    return str(event.get("lastTimestamp") or event["metadata"]["creationTimestamp"])


def cluster_of(job: Object) -> str:
    """Name of a job's RayCluster, which is a new one each time that a queue admits the job; empty before."""
    return str(job.get("status", {}).get("rayClusterName", ""))


def has_ended(job: Object) -> bool:
    """Whether a job has ended, in whatever way."""
    return job.get("status", {}).get("jobDeploymentStatus") in ("Complete", "Failed", "ValidationFailed")


def suspended(job: Object) -> bool:
    """Whether a queue keeps a job from running, at first or again."""
    status = job.get("status", {}).get("jobDeploymentStatus")
    return bool(job.get("spec", {}).get("suspend")) or status in ("Suspended", "Suspending")


def pod_count(job: Object) -> int:
    """How many pods a job's Ray cluster has, the head included."""
    groups = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    return 1 + sum(int(group["replicas"]) for group in groups)


def ray_pods(pods: Sequence[Object]) -> list[Object]:
    """Head and workers: all but the submitter."""
    return [pod for pod in pods if _node_type(pod)]


def is_submitter(pod: Object) -> bool:
    """Whether a pod is of the Kubernetes Job that submits the entrypoint."""
    return "batch.kubernetes.io/job-name" in pod["metadata"].get("labels", {})


def head_of(pods: Sequence[Object]) -> Object | None:
    """The newest head pod."""
    heads = [pod for pod in pods if _node_type(pod) == "head"]
    return max(heads, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), default=None)


def container_statuses(pod: Object) -> list[Object]:
    """The status of each container of a pod, init containers first."""
    status = pod.get("status", {})
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def is_ready(pod: Object) -> bool:
    """Whether a pod's condition Ready is true."""
    conditions = pod.get("status", {}).get("conditions", [])
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)


def is_lost(pod: Object) -> bool:
    """Whether a pod ended, is being deleted or was restarted: Ray's state in it is gone."""
    restarted = any(container.get("restartCount", 0) > 0 for container in container_statuses(pod))
    deleted = pod["metadata"].get("deletionTimestamp") is not None
    return restarted or deleted or pod.get("status", {}).get("phase") in ("Failed", "Succeeded")


def is_leaving(pod: Object, now: datetime) -> bool:
    """Whether a pod is being deleted, and still has some of its grace period."""
    until = pod["metadata"].get("deletionTimestamp")  # when it is over
    ended = any("terminated" in container.get("state", {}) for container in container_statuses(pod))
    running = pod.get("status", {}).get("phase") == "Running" and not ended
    return until is not None and running and parse_time(until) > now


def _node_type(pod: Object) -> str:
    return str(pod["metadata"].get("labels", {}).get("ray.io/node-type", ""))
