"""Orphaned Ray jobs are removed; jobs that a step waits for stay."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from medmim import store
from medmim.cluster.kube import Kube, parse_time
from medmim.cluster.ray import lease, manifest
from medmim.cluster.ray.request import write_request
from medmim.cluster.ray.sweep import sweep
from tests.support.ray_jobs import Step, a_request, driver_succeeds, job_of, nothing_left, platform

pytestmark = pytest.mark.cluster


def a_job(cluster: Kube, where: Path, owners: list[dict[str, Any]], renewed: float) -> dict[str, Any]:
    """A job whose step is gone, and whose Lease was renewed so many seconds ago."""
    settings, request = platform(cluster), a_request()
    uri = write_request(str(where), request, "job")
    body = manifest.rayjob(request, uri, settings, "image", manifest.identity(request, "image"), 1)
    body["metadata"]["ownerReferences"] = owners
    made = cluster.create("rayjobs", body)
    assert made is not None
    with lease.hold(cluster, made, 60):
        pass
    then = cluster.now() - timedelta(seconds=renewed)
    cluster.patch("leases", made["metadata"]["name"], {"spec": {"renewTime": then.strftime("%Y-%m-%dT%H:%M:%S.%fZ")}})
    return made


def test_a_job_that_a_step_waits_for_stays(cluster: Kube, tmp_path: Path) -> None:
    step = Step(a_request(), platform(cluster), tmp_path)
    job = job_of(cluster, "Running")
    assert sweep(cluster) == []
    driver_succeeds(job)
    step.join(90)
    assert step.error is None


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


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"spec": {"activeDeadlineSeconds": 0}}, "was terminated"),
        ({"spec": {"shutdown": "Terminate"}}, "was terminated"),
        ({"status": {"phase": "Failed"}}, "has ended as Failed"),
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


def test_a_lease_is_renewed_by_the_clock_of_the_api_server(cluster: Kube, tmp_path: Path) -> None:
    job = a_job(cluster, tmp_path, [], renewed=600)
    with lease.hold(cluster, job, 60):
        spec = cluster.list("leases")[0]["spec"]
        assert spec["leaseDurationSeconds"] == 60
        assert abs((cluster.now() - parse_time(spec["renewTime"])).total_seconds()) < 5
