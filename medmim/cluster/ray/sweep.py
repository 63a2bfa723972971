"""What is left when nobody watches: Ray jobs whose step or run is gone.

The driver on the head stops by itself when its Lease runs out; the sweep removes what is too broken to do so, and what
a cancelled run left. Made to run every two minutes; twice at once does no harm.
"""

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from medmim.cluster.kube import MINE, Kube, Object
from medmim.cluster.ray import manifest
from medmim.cluster.ray.archive import keep
from medmim.errors import UserError

_GRACE = 60.0  # s beyond a Lease's time, in which the driver ends by itself and leaves its logs
_ENDED = ("Failed", "Error", "Succeeded")


@dataclass(frozen=True)
class Left:
    """A Ray job that nobody wants any more."""

    name: str
    why: str


def sweep(kube: Kube, dry_run: bool = False) -> list[Left]:
    """Remove Ray jobs of medmim that nobody watches; their logs and Events go to the store first.

    Args:
        kube: The cluster.
        dry_run: Only tell.

    Returns:
        What was (or would be) removed.

    Raises:
        UserError: The namespace is not there, or the account may not look.
    """
    kube.check_namespace()
    now = kube.now()
    leases = {lease["metadata"]["name"]: lease for lease in kube.list("leases", MINE)}
    left = []
    for job in kube.list("rayjobs", MINE):
        meta = job["metadata"]
        why = _unwanted(kube, job, leases.get(meta["name"]), now)
        if not why or meta.get("deletionTimestamp"):
            continue
        left.append(Left(meta["name"], why))
        if not dry_run:
            uri = meta.get("annotations", {}).get(manifest.ORDER)
            with suppress(UserError):  # a store that is away must not let GPUs burn
                if uri:
                    keep(kube, job, uri)
            kube.delete("rayjobs", meta["name"], meta["uid"])
    return left


def _unwanted(kube: Kube, job: Object, lease: Object | None, now: datetime) -> str:
    """Why nobody wants a job; empty if somebody does."""
    ended = _run_ended(kube, job)
    if ended:
        return ended
    if lease is not None:
        return "its step has not renewed the Lease" if _stale(lease, now) else ""
    age = (now - _time(job["metadata"]["creationTimestamp"])).total_seconds()
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
    return (now - _time(spec["renewTime"])).total_seconds() > lasts + _GRACE


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
