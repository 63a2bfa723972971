"""What a removed Ray job leaves in its folder of the store, and that `medmim runs logs` reads it."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from medmim import store
from medmim.cluster.kfp import logs
from medmim.cluster.kfp.runs import Run
from medmim.cluster.ray import archive as archive_module
from medmim.cluster.ray.archive import archive
from medmim.errors import Unavailable

Object = dict[str, Any]

JOB: Object = {"metadata": {"name": "finetune-1"}, "status": {"rayClusterName": "cluster-1", "jobStatus": "FAILED"}}


def pod(name: str, *containers: str) -> Object:
    return {"metadata": {"name": name}, "spec": {"containers": [{"name": one} for one in containers]}}


def event(about: str, time: str, reason: str) -> Object:
    meta = {"creationTimestamp": "2026-11-25T12:00:00Z"}
    return {"metadata": meta, "lastTimestamp": time, "reason": reason, "involvedObject": {"kind": "Pod", "name": about}}


PODS = [pod("submitter", "submit"), pod("head", "ray-head", "sidecar"), pod("worker", "ray-worker")]


class FakeKube:
    """The Events and logs of one job, and an Event of another."""

    def __init__(self) -> None:
        self.events = [
            event("head", "2026-11-25T12:00:02Z", "Killing"),
            event("another", "2026-11-25T12:00:01Z", "Started"),
            event("worker", "2026-11-25T12:00:01Z", "Started"),
        ]
        self.logs = {
            ("submitter", "submit"): "loss 0.1\n",
            ("head", "ray-head"): "x" * (1 << 20) + "the end\n",
            ("head", "sidecar"): "ready\n",
            ("worker", "ray-worker"): "",
        }

    def list(self, kind: str, fields: str) -> list[Object]:
        assert kind == "events"
        return [one for one in self.events if f"involvedObject.name={one['involvedObject']['name']}" == fields]

    def log(self, pod: str, container: str, last_lines: int) -> str:
        return "".join(self.logs[pod, container].splitlines(keepends=True)[-last_lines:])


def test_status_events_and_the_end_of_each_log_are_archived(tmp_path: Path) -> None:
    folder = store.open_store(f"{tmp_path}/runs/r/jobs/finetune-1-abcd")
    archive(FakeKube(), JOB, PODS, folder.uri, 30)  # type: ignore[arg-type]
    files = ["events.json", "logs/head/ray-head.log", "logs/head/sidecar.log", "logs/submitter/submit.log"]
    assert sorted(folder.list()) == [*files, "status.json"], "no file for a container without a log"
    assert json.loads(folder.read("status.json")) == JOB["status"]
    assert [(e["object"], e["reason"], e["time"]) for e in json.loads(folder.read("events.json"))] == [
        ("Pod/worker", "Started", "2026-11-25T12:00:01Z"),
        ("Pod/head", "Killing", "2026-11-25T12:00:02Z"),
    ]
    log = folder.read("logs/head/ray-head.log")
    assert len(log) == 1 << 20 and log.endswith(b"xthe end\n")


def test_what_is_uploaded_of_many_pods_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, at the end of a job: 1 MB of each container, and no more than a limit of them all."""
    monkeypatch.setattr(archive_module, "_LOGS", 3 << 20)
    kube = FakeKube()
    kube.logs = {(f"worker-{i}", "ray"): "x" * (2 << 20) for i in range(9)}
    pods = [pod(f"worker-{i}", "ray") for i in range(9)]
    archive(kube, JOB, pods, str(tmp_path), 30)  # type: ignore[arg-type]
    assert sum(path.stat().st_size for path in (tmp_path / "logs").rglob("*.log")) == 3 << 20
    assert (tmp_path / "events.json").exists(), "these are small, and first"


def test_runs_logs_reads_the_archive(tmp_path: Path) -> None:
    archive(FakeKube(), JOB, PODS, f"{tmp_path}/runs/r/jobs/finetune-1-abcd", 30)  # type: ignore[arg-type]
    now = datetime.now(UTC)
    run = Run("r", "an-id", "FAILED", now, now, "demo", link="", uri=f"{tmp_path}/runs/r/recipe.json")
    assert dict(logs.of_ray(run))["jobs/finetune-1-abcd/logs/submitter/submit.log"] == "loss 0.1\n"


def test_a_store_that_does_not_answer_is_reported_and_forgiven(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def unavailable(uri: str) -> None:
        raise Unavailable("S3 does not answer", "timed out")

    monkeypatch.delenv("MEDMIM_EVENTS", raising=False)
    monkeypatch.setattr(store, "open_store", unavailable)
    archive(FakeKube(), JOB, PODS, "s3://b/runs/r/jobs/finetune-1-abcd", 30)  # type: ignore[arg-type]
    assert "logs and Events are not archived: S3 does not answer (timed out)" in capfd.readouterr().err
