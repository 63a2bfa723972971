"""Removes orphaned Ray jobs: those whose step or run is gone.

The driver on the head stops by itself when its Lease expires; the sweep removes what is too broken to do so, and what
a cancelled run left. Made to run every two minutes; two sweeps at once do no harm.
"""

from dataclasses import dataclass
from datetime import datetime

from medmim.cluster.kube import MANAGED_BY_MEDMIM, Kube, Object, parse_time
from medmim.cluster.ray import manifest
from medmim.cluster.ray.archive import archive

_GRACE = 60.0  # s after a Lease expired, in which the driver ends by itself
_ENDED = ("Failed", "Error", "Succeeded")


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
    """Remove medmim's orphaned Ray jobs; their logs and Events go to the store first.

    Args:
        kube: The cluster.
        dry_run: Remove nothing.

    Returns:
        What was (or would be) removed.

    Raises:
        UserError: The namespace does not exist, or the account may not list what is in it.
    """
    kube.check_namespace()
    now = kube.now()
    leases = {lease["metadata"]["name"]: lease for lease in kube.list("leases", MANAGED_BY_MEDMIM)}
    orphans = []
    for job in kube.list("rayjobs", MANAGED_BY_MEDMIM):
        meta = job["metadata"]
        why = _orphaned(kube, job, leases.get(meta["name"]), now)
        if not why or meta.get("deletionTimestamp"):
            continue
        orphans.append(Orphan(meta["name"], why))
        if not dry_run:
            uri = meta.get("annotations", {}).get(manifest.REQUEST)
            if uri:
                archive(kube, job, uri)
            kube.delete("rayjobs", meta["name"], meta["uid"])
    return orphans


def _orphaned(kube: Kube, job: Object, lease: Object | None, now: datetime) -> str:
    """Why a job is an orphan; empty if it is none."""
    ended = _run_ended(kube, job)
    if ended:
        return ended
    if lease is not None:
        return "its step has not renewed the Lease" if _stale(lease, now) else ""
    age = (now - parse_time(job["metadata"]["creationTimestamp"])).total_seconds()
    return "it has no Lease" if age > _GRACE else ""


def _run_ended(kube: Kube, job: Object) -> str:
    for owner in job["metadata"].get("ownerReferences", []):
        if owner["kind"] != "Workflow":
            continue
        workflow = kube.get("workflows", owner["name"])
        if workflow is None or workflow["metadata"]["uid"] != owner["uid"]:
            return f"its run {owner['name']} is gone"
        if workflow.get("status", {}).get("phase") in _ENDED:
            return f"its run {owner['name']} has ended as {workflow['status']['phase']}"
        if workflow.get("spec", {}).get("activeDeadlineSeconds") == 0 or workflow.get("spec", {}).get("shutdown"):
            return f"its run {owner['name']} was terminated"
    return ""


def _stale(lease: Object, now: datetime) -> bool:
    spec = lease["spec"]
    if not spec.get("renewTime"):
        return True
    lasts = float(spec.get("leaseDurationSeconds", 0))
    return (now - parse_time(spec["renewTime"])).total_seconds() > lasts + _GRACE
