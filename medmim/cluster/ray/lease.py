"""The Lease between a step and its Ray job: the step renews it, the driver on the head stops once it expires.

Terminating a pipeline run kills its pods and leaves the Workflow, and with it every object that it owns; without the
Lease, the job of a terminated run would keep its GPUs until its deadline.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from medmim.cluster.kube import Kube, Object, connect
from medmim.errors import UserError

_RENEWALS = 8  # in the time that a Lease lasts


@contextmanager
def hold(kube: Kube, job: Object, seconds: int) -> Iterator[None]:
    """Acquire the Lease, renew it from a thread, and let it expire by itself at the end.

    Args:
        kube: The cluster.
        job: The RayJob; the Lease has its name and is deleted with it.
        seconds: How long it lasts without renewal.
    """
    _renew(kube, job, seconds)
    end = threading.Event()

    def renew() -> None:
        while not end.wait(min(15.0, seconds / _RENEWALS)):
            try:
                _renew(kube, job, seconds)
            except UserError:  # the next one may succeed; if none does, the driver stops, as it should
                continue

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join(5)


def _renew(kube: Kube, job: Object, seconds: int) -> None:
    name = job["metadata"]["name"]
    owner = {"apiVersion": job["apiVersion"], "kind": job["kind"], "name": name, "uid": job["metadata"]["uid"]}
    metadata = {
        "name": name,
        "labels": {"app.kubernetes.io/managed-by": "medmim"},
        "ownerReferences": [{**owner, "blockOwnerDeletion": False}],
    }
    spec = {
        "holderIdentity": os.environ.get("KFP_POD_NAME") or os.environ.get("HOSTNAME") or "medmim",
        "leaseDurationSeconds": seconds,
        # by the API server's clock, which the sweep compares it with: this pod's may be wrong
        "renewTime": kube.now().strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    }
    lease = {"metadata": metadata, "spec": spec}  # the owner too: it may still be an earlier job of that name
    if kube.patch("leases", name, lease) is None:
        kube.create("leases", {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", **lease})


def watch(name: str, expired: Callable[[str], None]) -> None:
    """Call `expired` with a reason, from a thread, once the Lease was not renewed for as long as it lasts.

    What counts is when a renewal was last *seen*, by this machine's own clock: clocks of two machines are never
    compared. An API server that does not answer counts as no renewal.

    Args:
        name: The Lease, in this pod's namespace.
        expired: Ends the driver.
    """
    kube = connect()

    def poll() -> None:
        renewed, seen, lasts = "", time.monotonic(), 600.0
        while True:
            try:
                spec = (kube.get("leases", name) or {}).get("spec", {})
            except UserError:
                spec = {}
            if spec.get("renewTime", renewed) != renewed:
                renewed, seen = spec["renewTime"], time.monotonic()
            lasts = float(spec.get("leaseDurationSeconds", lasts))
            if time.monotonic() - seen > lasts:
                expired(f"the step has not renewed its Lease {name} for {lasts:.0f} s: the driver stops")
                return
            time.sleep(min(10.0, lasts / _RENEWALS))

    threading.Thread(target=poll, daemon=True).start()
