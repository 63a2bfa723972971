"""Removes orphaned Ray jobs: those whose step or run is gone.

The driver on the head stops by itself when its Lease expires, and a step that is ended with its run removes its job:
the sweep removes what is too broken to do so. Made to run every ten minutes; two sweeps at once do no harm.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from medmim import store
from medmim.cluster.kube import MANAGED_BY_MEDMIM, Kube, Object, parse_time
from medmim.cluster.ray import manifest, workflow
from medmim.cluster.ray.archive import archive
from medmim.cluster.ray.state import has_ended, pods_of
from medmim.errors import UserError, time_left, within
from medmim.run.stage import parse_record

_GRACE = 60.0  # s after a Lease expired, in which the driver ends by itself
_SECOND_LOOK = 60.0  # s: after an outage of the API server all Leases seem to have expired until they are renewed
_ARCHIVE = 120.0  # s for the logs of all that was removed
_STORE = 20.0  # s in which the store must say which steps left a record; the Leases decide on the others


@dataclass(frozen=True)
class Orphan:
    """A Ray job without a step or a run that waits for it.

    Attributes:
        name: Of the RayJob.
        why: What is gone.
    """

    name: str
    why: str


def sweep(kube: Kube, dry_run: bool = False) -> list[Orphan]:
    """Remove medmim's orphaned Ray jobs. GPUs are freed first, then logs and Events go to the store.

    Args:
        kube: The cluster.
        dry_run: Remove nothing.

    Returns:
        What was (or would be) removed.

    Raises:
        UserError: The namespace does not exist, or the account may not list what is in it.
    """
    kube.check_namespace()
    jobs = [one for one in kube.list("rayjobs", MANAGED_BY_MEDMIM) if not one["metadata"].get("deletionTimestamp")]
    until = time.monotonic() + _STORE
    found = {_name(job): (job, why) for job in jobs if (why := _run_over(kube, job, until))}
    expired = _expired(kube, [job for job in jobs if _name(job) not in found])
    removed = _remove(kube, found, dry_run)
    if expired and not dry_run:
        time.sleep(_SECOND_LOOK)
        expired = _expired(kube, [job for job, _ in expired.values()])
    removed |= _remove(kube, expired, dry_run)
    end = time.monotonic() + _ARCHIVE
    for job, pods in removed.values():
        uri = job["metadata"].get("annotations", {}).get(manifest.REQUEST)
        if uri:
            archive(kube, job, pods, uri, max(0.0, end - time.monotonic()))
    return [Orphan(name, why) for name, (_, why) in {**found, **expired}.items()]


def _name(job: Object) -> str:
    return str(job["metadata"]["name"])


def _remove(
    kube: Kube, found: Mapping[str, tuple[Object, str]], dry_run: bool
) -> dict[str, tuple[Object, list[Object]]]:
    """Delete jobs; returns them with the pods that they had, which still have their grace period."""
    removed = {}
    for name, (job, _) in found.items() if not dry_run else ():
        pods = pods_of(kube, job)
        kube.delete("rayjobs", name, job["metadata"]["uid"])
        removed[name] = job, pods
    return removed


def _run_over(kube: Kube, job: Object, until: float) -> str:
    """Why no step will come back for a job, whatever its Lease says; empty where one may."""
    owners = job["metadata"].get("ownerReferences", [])
    why = workflow.terminated(kube, owners)
    phase = workflow.ended_as(kube, owners) if not why else ""
    if not phase:
        return why
    ended = f"its run {owners[0]['name']} has ended as {phase}"
    # A step that was evicted or drained ended for no reason of its own, and its run fails. KFP's retry of the run
    # starts it again, and it adopts the job, which stays for that until the Lease expires.
    return ended if phase == "Succeeded" or has_ended(job) or _left_a_record(job, until) else ""


def _left_a_record(job: Object, until: float) -> bool:
    """Whether the step of a job has ended by itself: a record in the store that is newer than the job's request.

    Both are the store's own times: its clock and the cluster's are never compared.
    """
    meta = job["metadata"]
    folder, _, request = str(meta.get("annotations", {}).get(manifest.REQUEST, "")).rpartition("/jobs/")
    stage = str(meta.get("labels", {}).get(manifest.STAGE))
    try:
        with within(max(0.0, until - time.monotonic())):
            if not folder or not time_left():
                return False
            run = store.open_store(folder)
            record, asked = run.ages(f"{stage}.json"), run.ages(f"jobs/{request}/")
            if not record or not asked or max(record.values()) < min(asked.values()):
                return False
            return not parse_record(run.read(f"{stage}.json"), stage, folder).terminated
    except (UserError, FileNotFoundError):  # not known: the Lease decides
        return False


def _expired(kube: Kube, jobs: list[Object]) -> dict[str, tuple[Object, str]]:
    """The jobs whose Lease has expired, each with why it is an orphan."""
    now = kube.now()
    leases = {_name(lease): lease for lease in kube.list("leases", MANAGED_BY_MEDMIM)}
    whys = ((job, _stale(job, leases.get(_name(job)), now)) for job in jobs)
    return {_name(job): (job, why) for job, why in whys if why}


def _stale(job: Object, lease: Object | None, now: datetime) -> str:
    def age(moment: str) -> float:
        return (now - parse_time(moment)).total_seconds()

    if lease is None:
        return "it has no Lease" if age(job["metadata"]["creationTimestamp"]) > _GRACE else ""
    renewed = lease["spec"].get("renewTime")
    lasts = float(lease["spec"].get("leaseDurationSeconds", 0))
    return "" if renewed and age(renewed) <= lasts + _GRACE else "its step has not renewed the Lease"
