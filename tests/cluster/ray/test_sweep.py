"""Orphaned Ray jobs are removed; jobs that a step waits for stay."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any

import pytest

from medmim import store
from medmim.cluster import pod_templates
from medmim.cluster.kube import Kube, parse_time
from medmim.cluster.ray import lease, manifest
from medmim.cluster.ray import sweep as sweep_module
from medmim.cluster.ray.request import write_request
from medmim.cluster.ray.sweep import sweep
from medmim.errors import UserError
from medmim.run.stage import stage
from medmim.run.workspace import Workspace
from tests.support import workflows
from tests.support.kube_server import Cluster, Object, connected
from tests.support.ray_jobs import Step, a_request, driver_succeeds, job_of, nothing_left, on_simulated, platform


@pytest.fixture(autouse=True)
def _the_second_look_comes_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_module, "_SECOND_LOOK", 0.2)


def request_of(job: Object) -> str:
    return str(job["metadata"]["annotations"][manifest.REQUEST])


def a_job(
    cluster: Kube, where: Path, owners: list[dict[str, Any]], renewed: float, recipe: str = "name: r"
) -> dict[str, Any]:
    """A job whose step is gone, and whose Lease was renewed so many seconds ago."""
    settings, request = platform(cluster), replace(a_request(), recipe=recipe)
    uri = write_request(str(where), request, "job")
    body = manifest.rayjob(
        request, uri, settings, pod_templates.parse(on_simulated()), "image", manifest.identity(request, "image"), 1
    )
    body["metadata"]["ownerReferences"] = owners
    made = cluster.create("rayjobs", body)
    assert made is not None
    with lease.hold(lease.in_cluster(cluster, made, 60)):
        pass
    then = cluster.now() - timedelta(seconds=renewed)
    cluster.patch("leases", made["metadata"]["name"], {"spec": {"renewTime": then.strftime("%Y-%m-%dT%H:%M:%S.%fZ")}})
    return made


@pytest.mark.cluster
def test_a_job_that_a_step_waits_for_stays(cluster: Kube, tmp_path: Path) -> None:
    step = Step(a_request(), platform(cluster), tmp_path)
    job = job_of(cluster, "Running")
    assert sweep(cluster) == []
    driver_succeeds(job)
    step.join(90)
    assert step.error is None


@pytest.mark.cluster
def test_a_job_whose_step_is_gone_is_removed_and_archived(cluster: Kube, tmp_path: Path) -> None:
    with nothing_left(cluster):
        job = a_job(cluster, tmp_path, [], renewed=600)
        job_of(cluster, "Running")
        name = job["metadata"]["name"]
        assert [one.name for one in sweep(cluster, dry_run=True)] == [name]
        assert cluster.list("rayjobs"), "a dry run removes nothing"
        orphans = sweep(cluster)
        assert [one.name for one in orphans] == [name]
        assert "has not renewed the Lease" in orphans[0].why
        assert store.open_store(job["metadata"]["annotations"][manifest.REQUEST]).exists("events.json")
        assert sweep(cluster) == [], "twice is once"


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"spec": {"activeDeadlineSeconds": 0}}, "was terminated"),
        ({"spec": {"shutdown": "Terminate"}}, "was terminated"),
        ({"status": {"phase": "Succeeded"}}, "has ended as Succeeded"),
        # Argo keeps it when the Workflow has ended
        ({"status": {"phase": "Failed"}, "spec": {"activeDeadlineSeconds": 0}}, "was terminated"),
        (None, ""),
    ],
)
def test_a_job_of_a_run_that_has_ended_is_removed_at_once(
    cluster: Kube, workflow: dict[str, Any], tmp_path: Path, change: dict[str, Any] | None, why: str
) -> None:
    a_job(cluster, tmp_path, [workflow], renewed=0)
    if change is None:
        assert sweep(cluster) == [], "its run is still active"
        return
    cluster.patch("workflows", "run", change)
    with nothing_left(cluster):
        orphans = sweep(cluster)
        assert why in orphans[0].why


@pytest.mark.cluster
def test_a_lease_is_renewed_by_the_clock_of_the_api_server(cluster: Kube, tmp_path: Path) -> None:
    job = a_job(cluster, tmp_path, [], renewed=600)
    with lease.hold(lease.in_cluster(cluster, job, 60)):
        spec = cluster.list("leases")[0]["spec"]
        assert spec["leaseDurationSeconds"] == 60
        assert abs((cluster.now() - parse_time(spec["renewTime"])).total_seconds()) < 5


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Cluster, Kube]]:
    with connected(tmp_path, monkeypatch) as found:
        found[0].put("workflows", workflows.workflow("run"))
        yield found


def owner(server: Cluster) -> list[Object]:
    uid = server.objects["workflows", "run"]["metadata"]["uid"]
    return [{"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "run", "uid": uid}]


def test_a_job_whose_step_left_no_record_is_kept_until_its_lease_expires(
    server: tuple[Cluster, Kube], tmp_path: Path
) -> None:
    """Its pod was evicted and its run has failed: the retry of the run adopts the job."""
    cluster, kube = server
    a_job(kube, tmp_path, owner(cluster), renewed=0)
    kube.patch("workflows", "run", {"status": {"phase": "Failed"}})
    assert sweep(kube) == []
    past = (kube.now() - timedelta(seconds=200)).strftime("%Y-%m-%dT%H:%M:%SZ")
    (name,) = [one["metadata"]["name"] for one in cluster.of("rayjobs")]
    kube.patch("leases", name, {"spec": {"renewTime": past}})
    assert "has not renewed" in sweep(kube)[0].why and cluster.of("rayjobs") == []


@pytest.mark.parametrize(
    ("what", "goes"),
    [
        ("record", True), ("ended job", True), ("clocks that differ by an hour", True),
        ("record of an earlier try", False), ("record of SIGTERM", False), ("half a record", False),
        ("store away", False),
    ],
)  # fmt: skip
def test_a_job_of_a_failed_run_is_removed_once_its_step_or_it_has_ended(
    server: tuple[Cluster, Kube], tmp_path: Path, what: str, goes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, kube = server
    job = a_job(kube, tmp_path, owner(cluster), renewed=0)
    record = tmp_path / "runs" / "r1" / "finetune.json"
    ends = SystemExit(143) if what == "record of SIGTERM" else UserError("no such column")
    with suppress(SystemExit, UserError), stage(Workspace(Path(), str(tmp_path), "", "r1"), "finetune"):
        raise ends
    if what == "ended job":
        record.unlink()
        kube.patch("rayjobs", job["metadata"]["name"], {"status": {"jobDeploymentStatus": "Failed"}})
    elif what == "clocks that differ by an hour":
        ahead = (kube.now() + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        kube.patch("rayjobs", job["metadata"]["name"], {"metadata": {"creationTimestamp": ahead}})
    elif what == "record of an earlier try":
        os.utime(record, (1, 1))
    elif what == "half a record":
        record.write_text(record.read_text()[:20])
    elif what == "store away":
        away(kube, job, tmp_path, monkeypatch, "http://127.0.0.1:1")
        monkeypatch.setattr(sweep_module, "_STORE", 0.5)
    kube.patch("workflows", "run", {"status": {"phase": "Failed"}})
    removed = [one.why for one in sweep(kube)]
    assert removed == (["its run run has ended as Failed"] if goes else [])
    assert len(cluster.of("rayjobs")) == 1 - len(removed)


def away(kube: Kube, job: Object, store_of: Path, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """From now on the request of a job is in a store at an address where none is."""
    uri = request_of(job).replace(str(store_of), "s3://away")
    kube.patch("rayjobs", job["metadata"]["name"], {"metadata": {"annotations": {manifest.REQUEST: uri}}})
    for key, value in {
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_ENDPOINT_URL": address,
    }.items():
        monkeypatch.setenv(key, value)


def test_a_store_that_is_away_holds_up_a_sweep_once_not_for_each_job(
    server: tuple[Cluster, Kube], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, kube = server
    kube.patch("workflows", "run", {"status": {"phase": "Failed"}})
    asked: list[int] = []

    class Silent(StreamRequestHandler):
        def handle(self) -> None:
            asked.append(1)
            time.sleep(0.6)

    monkeypatch.setattr(sweep_module, "_STORE", 0.5)
    with ThreadingTCPServer(("127.0.0.1", 0), Silent) as silent:
        threading.Thread(target=silent.serve_forever, args=(0.01,), daemon=True).start()
        for number in range(30):
            job = a_job(kube, tmp_path, owner(cluster), renewed=0, recipe=f"number: {number}")
            away(kube, job, tmp_path, monkeypatch, f"http://127.0.0.1:{silent.server_address[1]}")
        assert sweep(kube) == [] and len(cluster.of("rayjobs")) == 30
        silent.shutdown()
    assert len(asked) <= 1


def test_leases_that_an_outage_made_old_are_looked_at_twice(
    server: tuple[Cluster, Kube], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API server was away for longer than a Lease lasts: the first sweep must not remove what is renewed again."""
    cluster, kube = server
    job = a_job(kube, tmp_path, [], renewed=3600)
    with monkeypatch.context() as patched:
        renew, _ = lease.in_cluster(kube, job, 60)
        patched.setattr(sweep_module.time, "sleep", lambda seconds: renew())
        assert sweep(kube) == [] and len(cluster.of("rayjobs")) == 1
    past = (kube.now() - timedelta(seconds=3600)).strftime("%Y-%m-%dT%H:%M:%SZ")
    kube.patch("leases", job["metadata"]["name"], {"spec": {"renewTime": past}})
    assert len(sweep(kube)) == 1


def test_gpus_are_freed_before_a_store_that_is_away_is_written_to(
    server: tuple[Cluster, Kube], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, kube = server
    job = a_job(kube, tmp_path, owner(cluster), renewed=0)
    uri = request_of(job).replace(str(tmp_path), "s3://silent")
    kube.patch("rayjobs", job["metadata"]["name"], {"metadata": {"annotations": {manifest.REQUEST: uri}}})
    kube.patch("workflows", "run", {"spec": {"activeDeadlineSeconds": 0}})
    connections: list[int] = []
    with socket.socket() as silent:  # takes connections, and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)

        def look(method: str, made: Object) -> None:
            if method == "DELETE":
                silent.setblocking(False)
                with suppress(BlockingIOError):
                    connections.append(silent.accept()[0].fileno())
                silent.close()  # from now on the store refuses, and the test is soon over

        cluster.changed = look
        for key, value in {
            "AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none", "MEDMIM_PATIENCE": "300",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{silent.getsockname()[1]}",
        }.items():  # fmt: skip
            monkeypatch.setenv(key, value)
        monkeypatch.setattr(sweep_module, "_ARCHIVE", 1.0)
        begun = time.monotonic()
        assert [one.why for one in sweep(kube)] == ["its run run was terminated"]
    assert cluster.of("rayjobs") == [] and connections == []
    assert time.monotonic() - begun < 60, "MEDMIM_PATIENCE is 300 s"
