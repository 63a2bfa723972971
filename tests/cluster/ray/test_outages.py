"""A step and its Ray job while answers are lost, the API server or the store is away, and the step's pod is ended."""

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from medmim import errors, store
from medmim.cluster.kube import Kube
from medmim.cluster.ray import manifest, runner
from medmim.cluster.ray.request import Result, read_request, write_result
from medmim.errors import Unavailable, UserError
from tests.support import workflows
from tests.support.kube_server import Cluster, connected
from tests.support.ray_jobs import Step, a_request, platform
from tests.support.waiting import until

Object = dict[str, Any]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Cluster, Kube]]:
    monkeypatch.setattr(runner, "_EVERY", 0.05)
    monkeypatch.setattr(runner, "_SEEN_EVERY", 0.05)
    monkeypatch.setattr(errors, "MIN_TRIES", 2)
    with connected(tmp_path, monkeypatch) as found:
        yield found


def folders(where: Path) -> list[str]:
    return [key for key in store.open_store(str(where)).list() if key.endswith("order.json")]


def request_of(job: Object) -> str:
    return str(job["metadata"]["annotations"][manifest.REQUEST])


def is_start(method: str, path: str) -> bool:
    return method == "POST" and path.endswith("/rayjobs")


def lost_once(cluster: Cluster) -> list[bool]:
    """The answer to the first start of a job is lost."""
    lost: list[bool] = []

    def first(method: str, path: str) -> bool:
        if is_start(method, path) and not lost:
            lost.append(True)
            return True
        return False

    cluster.lost = first
    return lost


def test_a_lost_answer_to_the_start_leaves_the_job_its_request(cluster: tuple[Cluster, Kube], tmp_path: Path) -> None:
    server, kube = cluster
    lost = lost_once(server)
    step = Step(a_request(), platform(kube), tmp_path / "store")
    (job,) = until(lambda: server.of("rayjobs"))
    until(lambda: sum(is_start(*one) for one in server.seen) == 2)
    assert lost and read_request(request_of(job)) == a_request()
    write_result(request_of(job), Result(uri="s3://b/model/1"))
    step.join(30)
    assert (step.error, step.uri) == (None, "s3://b/model/1")
    assert len(folders(tmp_path / "store")) == 1


def test_a_look_at_a_job_that_runs_asks_for_its_pods_itself_and_its_log_alone(
    cluster: tuple[Cluster, Kube], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thirty jobs are looked at every ten seconds, so each further request is three a second."""
    monkeypatch.setattr(runner, "_SEEN_EVERY", 0.5)
    server, kube = cluster
    step = Step(a_request(), platform(kube), tmp_path / "store")
    (job,) = until(lambda: server.of("rayjobs"))
    server.serve("PATCH", f"/namespaces/x/rayjobs/{job['metadata']['name']}", {}, {"status": {"rayClusterName": "c"}})
    ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    spec = {"containers": [{"name": "main"}]}
    for name, labels in (
        ("head", {"ray.io/cluster": "c", "ray.io/node-type": "head"}),
        ("worker", {"ray.io/cluster": "c", "ray.io/node-type": "worker"}),
        ("submitter", {"batch.kubernetes.io/job-name": job["metadata"]["name"]}),
    ):
        server.put("pods", {"metadata": {"name": name, "labels": labels}, "spec": spec, "status": ready})
    until(lambda: any(path.endswith("submitter/log") for _, path in server.seen))
    server.seen.clear()
    until(lambda: sum(path.endswith("/log") for _, path in server.seen) == 3)
    asked = Counter(path.rstrip("/").split("/")[-1] for _, path in server.seen if "/leases/" not in path)
    assert asked == {"pods": 6, job["metadata"]["name"]: 3, "log": 3}
    write_result(request_of(job), Result(uri="s3://b/model/1"))
    step.join(30)
    assert step.uri == "s3://b/model/1"


def test_a_second_try_that_a_quota_refuses_leaves_the_job_its_request(
    cluster: tuple[Cluster, Kube], tmp_path: Path
) -> None:
    """Admission comes before the look whether the name is taken: the quota of one job is used up, by this very job."""
    server, kube = cluster
    lost = lost_once(server)
    server.refused = lambda method, path: (
        (403, 'rayjobs "x" is forbidden: exceeded quota: one') if lost and is_start(method, path) else None
    )
    step = Step(a_request(), platform(kube), tmp_path / "store")
    (job,) = until(lambda: server.of("rayjobs"))
    write_result(request_of(job), Result(uri="s3://b/model/1"))
    step.join(30)
    assert (step.error, step.uri) == (None, "s3://b/model/1")


def test_a_start_of_which_nothing_is_known_leaves_its_request(cluster: tuple[Cluster, Kube], tmp_path: Path) -> None:
    """The API server makes the job and is gone: its driver will find the request."""
    server, kube = cluster

    def gone_after_it(method: str, path: str) -> bool:
        if is_start(method, path):
            server.away.set()
        return is_start(method, path)

    server.lost = gone_after_it
    step = Step(a_request(), platform(kube), tmp_path / "store")
    step.join(60)
    assert isinstance(step.error, UserError) and step.error.exit_code == 75
    (job,) = server.of("rayjobs")
    assert read_request(request_of(job)) == a_request()


def test_a_start_that_is_refused_leaves_nothing(cluster: tuple[Cluster, Kube], tmp_path: Path) -> None:
    server, kube = cluster
    server.refused = lambda method, path: (422, "no such field") if is_start(method, path) else None
    step = Step(a_request(), platform(kube), tmp_path / "store")
    step.join(30)
    assert isinstance(step.error, UserError) and "no such field" in step.error.reason
    assert folders(tmp_path / "store") == []


def test_a_job_of_ours_that_has_ended_at_once_shares_its_request_with_no_other(
    cluster: tuple[Cluster, Kube], tmp_path: Path
) -> None:
    """The result of an attempt must never be taken for that of the next."""
    server, kube = cluster

    def ended(method: str, made: Object) -> None:
        if method == "POST" and made["metadata"]["name"].endswith("-1"):
            made["status"] = {"jobDeploymentStatus": "Failed"}

    server.changed = ended
    step = Step(a_request(), platform(kube), tmp_path / "store")
    first, second = until(lambda: (jobs := server.of("rayjobs")) and len(jobs) == 2 and jobs)
    assert request_of(first) != request_of(second)
    write_result(request_of(second), Result(uri="s3://b/model/1"))
    step.join(30)
    assert (step.error, step.uri) == (None, "s3://b/model/1")
    assert json.loads((Path(request_of(first)) / "order.json").read_text())["stage"] == "finetune"


def heads_are(server: Cluster, state: Object) -> None:
    """Each job gets a head, whose container is in that state, and a worker that runs."""

    def start(method: str, made: Object) -> None:
        if method == "POST" and made.get("kind") == "RayJob":
            made["status"] = {"jobDeploymentStatus": "Initializing", "rayClusterName": "rc"}
            for kind, its in (("head", state), ("worker", {"running": {}})):
                labels = {"ray.io/cluster": "rc", "ray.io/node-type": kind}
                pod = {"metadata": {"name": kind, "labels": labels}, "spec": {"containers": [{"name": "ray"}]}}
                status = {"containerStatuses": [{"name": "ray", "image": "x:1", "state": its}]}
                server.put("pods", pod | {"status": status})

    server.changed = start


def test_a_job_that_runs_is_not_asked_for_events(cluster: tuple[Cluster, Kube], tmp_path: Path) -> None:
    """A list of Events has all of the namespace: of many jobs at once, megabytes in each poll of each step."""
    server, kube = cluster
    heads_are(server, {"running": {}})
    step = Step(a_request(), platform(kube), tmp_path / "store")
    (job,) = until(lambda: server.of("rayjobs"))
    asked = until(lambda: [one for one in server.seen if one[1].endswith("/events")])
    for pod in server.of("pods"):
        kube.patch("pods", pod["metadata"]["name"], {"status": {"conditions": [{"type": "Ready", "status": "True"}]}})
    until(lambda: server.seen[-12:] and not any(path.endswith("/events") for _, path in server.seen[-24:]))
    assert asked and step.is_alive()
    write_result(request_of(job), Result(uri="s3://b/model/1"))
    step.join(30)
    assert (step.error, step.uri) == (None, "s3://b/model/1")


QPS = {"waiting": {"reason": "ErrImagePull", "message": "pull QPS exceeded"}}


def test_an_image_that_may_still_come_ends_nothing(cluster: tuple[Cluster, Kube], tmp_path: Path) -> None:
    server, kube = cluster
    heads_are(server, QPS)
    step = Step(a_request(), platform(kube), tmp_path / "store")
    (job,) = until(lambda: server.of("rayjobs"))
    polls = len(server.seen)
    until(lambda: len(server.seen) > polls + 20)
    assert step.is_alive()
    write_result(request_of(job), Result(uri="s3://b/model/1"))
    step.join(30)
    assert (step.error, step.uri) == (None, "s3://b/model/1")


def test_an_image_that_does_not_come_in_time_is_tried_again_later(
    cluster: tuple[Cluster, Kube], tmp_path: Path
) -> None:
    server, kube = cluster
    heads_are(server, QPS)
    step = Step(a_request(), platform(kube, pending_minutes=0.01), tmp_path / "store")
    step.join(30)
    assert isinstance(step.error, UserError) and step.error.exit_code == 75
    assert "pull QPS exceeded" in step.error.reason and server.of("rayjobs") == []


def in_a_pipeline_s_pod(server: Cluster, monkeypatch: pytest.MonkeyPatch) -> Object:
    """This process is the pod of a step; returns the Workflow of its run."""
    made = server.put("workflows", workflows.workflow("run"))
    owner = {key: made[key] for key in ("apiVersion", "kind")} | {"name": "run", "uid": made["metadata"]["uid"]}
    server.put("pods", {"metadata": {"name": "the-step", "ownerReferences": [owner]}, "spec": {"containers": []}})
    monkeypatch.setenv("KFP_POD_NAME", "the-step")
    return made


def sigterm_once_there_is_a_job(server: Cluster, before: Callable[[], object]) -> threading.Thread:
    def send() -> None:
        default = signal.SIG_DFL  # would end the tests
        until(lambda: server.of("rayjobs") and server.of("leases") and signal.getsignal(signal.SIGTERM) != default)
        before()
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("change", "left"),
    [
        ({"spec": {"activeDeadlineSeconds": 0}}, False),  # as KFP terminates a run
        ({"spec": {"shutdown": "Terminate"}}, False),  # as Argo does
        ("deleted", False),
        ("another of its name", False),
        ({"status": {"phase": "Running"}}, True),  # its node is drained
        ("API server away", True),
    ],
    ids=str,
)
def test_sigterm_ends_the_job_of_a_run_that_was_terminated_and_no_other(
    cluster: tuple[Cluster, Kube], tmp_path: Path, change: Object | str, left: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, kube = cluster
    in_a_pipeline_s_pod(server, monkeypatch)
    monkeypatch.setattr(runner, "_ON_SIGTERM", 1.0 if change == "API server away" else 30.0)

    def happen() -> None:
        if change == "deleted":
            del server.objects["workflows", "run"]
        elif change == "another of its name":
            server.put("workflows", workflows.workflow("run"))
        elif change == "API server away":
            server.away.set()
        else:
            kube.patch("workflows", "run", change)  # type: ignore[arg-type]

    thread = sigterm_once_there_is_a_job(server, happen)
    with pytest.raises(SystemExit, match="143"):
        runner.run(a_request(), platform(kube), str(tmp_path / "store"))
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, "as before"
    assert [request_of(job) for job in server.of("rayjobs")] == [
        str(tmp_path / "store" / key.rpartition("/")[0]) for key in folders(tmp_path / "store") if left
    ]
    archived = [path.name for path in (tmp_path / "store").rglob("status.json")]
    assert archived == ([] if left else ["status.json"])


def test_a_pod_that_replaces_one_that_was_drained_adopts_its_job(
    cluster: tuple[Cluster, Kube], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, kube = cluster
    in_a_pipeline_s_pod(server, monkeypatch)
    thread = sigterm_once_there_is_a_job(server, lambda: None)
    with pytest.raises(SystemExit):
        runner.run(a_request(), platform(kube), str(tmp_path / "store"))
    thread.join()
    (job,) = server.of("rayjobs")
    write_result(request_of(job), Result(uri="s3://b/model/1"))
    assert runner.run(a_request(), platform(kube), str(tmp_path / "store")) == "s3://b/model/1"
    assert server.of("rayjobs") == []


def test_an_api_server_that_is_away_for_longer_than_the_patience_ends_no_step(
    cluster: tuple[Cluster, Kube], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The patience is 0 here; the result is in the store, and is not lost because the job cannot be removed."""
    server, kube = cluster
    monkeypatch.setattr(runner, "_LOOK", 0.1)
    step = Step(a_request(), platform(kube, lease_seconds=30), tmp_path / "store")
    (job,) = until(lambda: server.of("rayjobs"))
    server.away.set()
    polls = len(server.seen)
    until(lambda: len(server.seen) > polls + 6)
    assert step.is_alive()
    write_result(request_of(job), Result(uri="s3://b/model/1"))
    step.join(30)
    assert (step.error, step.uri) == (None, "s3://b/model/1")


def test_a_store_that_is_away_ends_no_step(
    cluster: tuple[Cluster, Kube], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, kube = cluster
    away = [4]

    def read(uri: str) -> Result | None:
        if away:
            away[0] -= 1
            if not away[0]:
                away.clear()
            raise Unavailable("the store does not answer")
        return Result(uri="s3://b/model/1")

    monkeypatch.setattr(runner, "read_result", read)
    assert runner.run(a_request(), platform(kube), str(tmp_path / "store")) == "s3://b/model/1"
    assert away == [] and server.of("rayjobs") == []
