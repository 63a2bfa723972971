"""One message for each way that a Ray job can end, from objects as the API server gives them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from medmim.cluster.ray.diagnose import diagnose, waiting_for
from medmim.cluster.ray.state import State
from medmim.errors import BAD_INPUT, TRY_AGAIN

NOW = datetime(2026, 11, 25, 12, 0, 0, tzinfo=UTC)
PENDING, DEADLINE = 60.0, 90


def ago(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def job(phase: str = "Running", reason: str = "", status: str = "", message: str = "", **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "finetune-1", "uid": "u", "creationTimestamp": ago(300)},
        "spec": {"rayClusterSpec": {"workerGroupSpecs": [{"replicas": 1}]}, **spec},
        "status": {
            "jobDeploymentStatus": phase,
            "reason": reason,
            "jobStatus": status,
            "message": message,
            "startTime": ago(300),
        },
    }


def pod(name: str = "head", phase: str = "Running", age: float = 300, **status: Any) -> dict[str, Any]:
    meta = {"name": name, "uid": name, "creationTimestamp": ago(age), "labels": {"ray.io/node-type": name}}
    return {"metadata": meta, "spec": {"containers": [{"name": "ray"}]}, "status": {"phase": phase, **status}}


def deleted(until: float, **changes: Any) -> dict[str, Any]:
    """A head that has until then, in seconds from now, to end."""
    made = pod(**{**READY, **changes})
    return {**made, "metadata": {**made["metadata"], "deletionTimestamp": ago(-until)}}


def waiting(reason: str, message: str) -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    return {"containerStatuses": [{"name": "ray", "image": "x:1", "state": state}]}


def killed(reason: str, code: int) -> dict[str, Any]:
    state = {"terminated": {"reason": reason, "exitCode": code}}
    return {"containerStatuses": [{"name": "ray", "image": "x:1", "state": state, "restartCount": 0}]}


def unschedulable(seconds: float) -> dict[str, Any]:
    message = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return {"conditions": [{**condition, "lastTransitionTime": ago(seconds)}]}


def event(message: str, reason: str = "Failed", about: str = "head") -> dict[str, Any]:
    return {"reason": reason, "message": message, "involvedObject": {"name": about}}


READY = {"conditions": [{"type": "Ready", "status": "True"}]}
NO_KEY = waiting("CreateContainerConfigError", "couldn't find key K in Secret n/s")
NO_CA = event('MountVolume.SetUp failed for volume "ca" : configmap "c" not found', "FailedMount")
QUOTA = event('pods "x" is forbidden: exceeded quota: small, requested: limits.cpu=1', "FailedToCreateHeadPod")
REFUSED = event('pods "x" is forbidden: no PriorityClass with name p was found', "FailedToCreateWorkerPod")
SECURITY = event('pods "x" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true')
CASES = {
    "done": (State(job("Complete", status="SUCCEEDED"), [pod()], [], NOW), "done", "", TRY_AGAIN),
    "runs": (State(job(), [pod(**READY)], [], NOW), None, "", 0),
    "deleted": (State(None, [], [], NOW), "failed", "was deleted while it ran", TRY_AGAIN),
    "being deleted": (
        State({**job("Failed"), "metadata": {**job()["metadata"], "deletionTimestamp": ago(1)}}, [], [], NOW),
        "failed",
        "was deleted while it ran",
        TRY_AGAIN,
    ),
    "no head": (State(job("Running"), [], [], NOW), "lost", "the head of the Ray job was lost", TRY_AGAIN),
    "preempted": (State(job("Suspending"), [], [], NOW, frozenset("a")), None, "", 0),
    "deadline": (State(job("Failed", "DeadlineExceeded"), [], [], NOW), "failed", "deadline of 90 minutes", BAD_INPUT),
    "invalid": (State(job("ValidationFailed", message="bad"), [], [], NOW), "failed", "KubeRay refuses", BAD_INPUT),
    "no image": (
        State(job("Initializing"), [pod(phase="Pending", **waiting("ErrImagePull", "not found"))], [], NOW),
        "failed",
        "x:1 of pod head cannot be pulled",
        BAD_INPUT,
    ),
    "no secret": (
        State(job(), [pod(phase="Pending", **NO_KEY)], [], NOW),
        "failed",
        "couldn't find key K in Secret n/s",
        BAD_INPUT,
    ),
    "a secret that is being made": (
        State(job(), [pod(phase="Pending", age=5, **NO_KEY)], [], NOW),
        None,
        "",
        0,
    ),
    "no CA": (
        State(job(), [pod()], [NO_CA], NOW),
        "failed",
        "a volume of pod head is missing",
        BAD_INPUT,
    ),
    "pod security": (State(job("Initializing"), [], [SECURITY], NOW), "failed", "Pod Security level", BAD_INPUT),
    "no node": (
        State(job("Initializing"), [pod(phase="Pending", **unschedulable(90))], [], NOW),
        "failed",
        "pod head is unschedulable",
        BAD_INPUT,
    ),
    "no node yet": (State(job("Initializing"), [pod(phase="Pending", **unschedulable(30))], [], NOW), None, "", 0),
    "quota": (
        State(job("Initializing"), [pod()], [QUOTA], NOW, missing=90),
        "failed",
        "quota does not admit",
        BAD_INPUT,
    ),
    "quota for a moment": (State(job("Initializing"), [pod()], [QUOTA], NOW, missing=30), None, "", 0),
    "refused": (
        State(job("Initializing"), [pod()], [REFUSED], NOW, missing=90),
        "failed",
        "refuses to make",
        BAD_INPUT,
    ),
    "not made": (
        State(job("Initializing"), [pod()], [], NOW, missing=90),
        "failed",
        "made 1 of the job's 2",
        BAD_INPUT,
    ),
    "quota that let it in": (State(job(), [pod(), pod("worker")], [QUOTA], NOW), None, "", 0),
    "in the queue": (State(job("Suspended", suspend=True), [], [QUOTA], NOW), None, "", 0),
    "no operator": (State({**job(), "status": {}}, [], [], NOW), "failed", "no operator acts on", BAD_INPUT),
    "head out of memory": (
        State(job("Failed", "AppFailed"), [pod(phase="Failed", **killed("OOMKilled", 137))], [], NOW),
        "failed",
        "head of the Ray job ran out of memory",
        BAD_INPUT,
    ),
    "head evicted": (
        State(job(), [pod(phase="Failed", reason="Evicted", message="The node was low on resource: memory.")], [], NOW),
        "lost",
        "was evicted",
        TRY_AGAIN,
    ),
    "head gone": (
        State(job("Failed", "SubmissionFailed"), [], [], NOW),
        "lost",
        "head of the Ray job was lost",
        TRY_AGAIN,
    ),
    "head gone before KubeRay knows": (
        State(job(), [pod("worker")], [], NOW, frozenset("a")),
        "lost",
        "head of the Ray job was lost",
        TRY_AGAIN,
    ),
    "head in its grace period": (State(job("Failed", "AppFailed", "FAILED"), [deleted(20)], [], NOW), None, "", 0),
    **{
        f"head {why}": (State(job(), [pod], [], NOW), "lost", "head of the Ray job was lost", TRY_AGAIN)
        for why, pod in {
            "after its grace period": deleted(-1),
            "that has ended within its grace period": deleted(20, phase="Failed"),
            "whose container has": deleted(20, **killed("Completed", 0)),
        }.items()
    },
    "another head": (
        State(job(), [pod()], [], NOW, frozenset({"a", "b"})),
        "lost",
        "head of the Ray job was lost",
        TRY_AGAIN,
    ),
    "driver killed": (
        State(
            job("Failed", "AppFailed", "FAILED", "Job entrypoint command failed with exit code -9"), [pod()], [], NOW
        ),
        "failed",
        "died without a result",
        TRY_AGAIN,
    ),
    "submitter gone": (
        State(job("Failed", "SubmissionFailed", "RUNNING"), [pod()], [], NOW),
        "lost",
        "submitter",
        TRY_AGAIN,
    ),
}


@pytest.mark.parametrize(("state", "kind", "fact", "code"), CASES.values(), ids=CASES)
def test_each_end_has_its_message(state: State, kind: str | None, fact: str, code: int) -> None:
    found = diagnose(state, PENDING, DEADLINE)
    if kind is None:
        assert found is None
        return
    assert found is not None
    assert found.kind == kind
    assert fact in found.error.fact
    assert found.error.exit_code == code
    assert kind == "done" or found.error.fix, "every failure names a fix"


PULL_ERRORS = yaml.safe_load(Path(__file__).with_name("pull_errors.yaml").read_text())


@pytest.mark.parametrize(("reason", "message"), PULL_ERRORS["final"], ids=str)
def test_an_image_that_no_waiting_brings_ends_the_job_at_once(reason: str, message: str) -> None:
    found = diagnose(State(job(), [pod(phase="Pending", **waiting(reason, message))], [], NOW), PENDING, DEADLINE)
    assert found is not None and found.kind == "failed" and found.error.exit_code == BAD_INPUT
    assert message[:80] in found.error.reason


@pytest.mark.parametrize(("reason", "message"), PULL_ERRORS["passing"], ids=str)
def test_an_image_that_does_not_come_now_is_waited_for_and_is_no_bad_input(reason: str, message: str) -> None:
    pods = [pod(phase="Pending", **waiting(reason, message))]
    assert diagnose(State(job(), pods, [], NOW, unpulled=PENDING), PENDING, DEADLINE) is None
    assert message[:80] in waiting_for(State(job(), pods, [], NOW))
    found = diagnose(State(job(), pods, [], NOW, unpulled=PENDING + 1), PENDING, DEADLINE)
    assert found is not None and found.kind == "failed" and found.error.exit_code == TRY_AGAIN
    assert "after 1 minutes" in found.error.fact


def test_why_an_image_does_not_come_is_found_in_an_event_where_the_pod_only_says_that_kubelet_waits() -> None:
    why = event('Failed to pull image "x:1": failed to resolve reference "x:1": x:1: not found')
    other = event('Failed to pull image "y:1": i/o timeout', about="worker")
    pods = [pod(phase="Pending", **waiting("ImagePullBackOff", 'Back-off pulling image "x:1"'))]
    found = diagnose(State(job(), pods, [why, other], NOW), PENDING, DEADLINE)
    assert found is not None and found.error.exit_code == BAD_INPUT


def test_an_image_that_is_refused_counts_although_another_may_still_come() -> None:
    pods = [
        pod("worker", phase="Pending", **waiting("ErrImagePull", "pull QPS exceeded")),
        pod(phase="Pending", **waiting("ErrImagePull", "unauthorized: authentication required")),
    ]
    found = diagnose(State(job(), pods, [], NOW), PENDING, DEADLINE)
    assert found is not None and "pod head" in found.error.fact and found.error.exit_code == BAD_INPUT


def test_the_last_lines_are_in_the_message_without_colours() -> None:
    state = State(
        job("Failed", "AppFailed", "FAILED"), [pod()], [], NOW, tail=[f"\x1b[31mline {i}\x1b[0m" for i in range(30)]
    )
    found = diagnose(state, PENDING, DEADLINE)
    assert found is not None
    assert "line 29" in str(found.error) and "line 2\n" not in str(found.error)
    assert "\x1b" not in str(found.error)


def test_what_a_job_waits_for_is_one_line() -> None:
    assert waiting_for(State(job("Suspended"), [], [], NOW)) == "waiting in the queue"
    assert "Insufficient nvidia.com/gpu" in waiting_for(State(job(), [pod(**unschedulable(1))], [], NOW))
    assert "exceeded quota" in waiting_for(State(job(), [pod(**READY)], [QUOTA], NOW))
    assert "pod is being deleted" in waiting_for(State(job(), [deleted(20)], [], NOW))
    assert waiting_for(State(job(), [pod(**READY)], [], NOW)) == "waiting for pods: 1 of 2 are ready"
    assert waiting_for(State(job(), [pod(**READY), pod("worker", **READY)], [], NOW)) == ""
