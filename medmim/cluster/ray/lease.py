"""How the driver of a Ray job knows that a step still waits for it: the step renews, else the driver stops.

Terminating a pipeline run kills its pods and leaves the Workflow, and with it every object that it owns; without this,
the job of a terminated run would keep its GPUs until its deadline.

The step renews in two places, a Lease of the cluster and an object beside its request in the store. Neither an outage
of the API server nor one of the store ends a training then; a driver on a node that the cluster has given up, whose
request another attempt has replaced, still learns that nobody waits for it.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from medmim import store
from medmim.cluster.kube import Kube, Object, connect
from medmim.errors import Unavailable, UserError, within

_FILE = "held.json"
_RENEWALS = 8  # in the time that it lasts
_CALL = 10.0  # s that one renewal, or one look, may be repeated

Renewal = tuple[Callable[[], None], float]  # and the seconds until the next
Look = Callable[[], tuple[str, float]]  # what a renewal changes, and the seconds that one lasts


def in_cluster(kube: Kube, job: Object, seconds: int) -> Renewal:
    """Renew a Lease that has the name of a RayJob and is deleted with it."""
    name = job["metadata"]["name"]
    owner = {"apiVersion": job["apiVersion"], "kind": job["kind"], "name": name, "uid": job["metadata"]["uid"]}
    metadata = {
        "name": name,
        "labels": {"app.kubernetes.io/managed-by": "medmim"},
        "ownerReferences": [{**owner, "blockOwnerDeletion": False}],
    }

    def renew() -> None:
        spec = {
            "holderIdentity": _holder(),
            "leaseDurationSeconds": seconds,
            # by the API server's clock, which the sweep compares it with: this pod's may be wrong
            "renewTime": kube.now().strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }
        lease = {"metadata": metadata, "spec": spec}  # the owner too: it may still be an earlier job of that name
        if kube.patch("leases", name, lease) is None:
            kube.create("leases", {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", **lease})

    return renew, min(15.0, seconds / _RENEWALS)


def in_store(uri: str, seconds: int) -> Renewal:
    """Renew an object in the folder of a request."""

    def renew() -> None:
        content = {"holder": _holder(), "seconds": seconds, "renewed": time.time()}
        store.open_store(uri).write(_FILE, json.dumps(content).encode())

    return renew, seconds / _RENEWALS


@contextmanager
def hold(*renewals: Renewal) -> Iterator[None]:
    """Renew at once, then from threads; at the end let it expire by itself.

    Raises:
        UserError: The first renewal is refused. One that is not answered is repeated later.
    """
    end = threading.Event()

    def keep(renew: Callable[[], None], every: float) -> None:
        while not end.wait(every):
            try:
                with within(_CALL):
                    renew()
            except UserError:  # the next one may succeed; if none does, the driver stops, as it should
                continue

    with ExitStack() as undo:
        undo.callback(end.set)
        for renew, every in renewals:
            try:
                with within(_CALL):
                    renew()
            except Unavailable:
                pass
            thread = threading.Thread(target=keep, args=(renew, every), daemon=True)
            thread.start()
        yield


def look_in_cluster(name: str) -> Look:
    """Look at a Lease in this pod's namespace."""
    kube = connect()

    def look() -> tuple[str, float]:
        spec = (kube.get("leases", name) or {}).get("spec", {})
        return str(spec.get("renewTime", "")), float(spec.get("leaseDurationSeconds", 0))

    return look


def look_in_store(uri: str) -> Look:
    """Look at the object in the folder of a request."""

    def look() -> tuple[str, float]:
        try:
            text = store.open_store(uri).read(_FILE).decode()
        except FileNotFoundError:
            return "", 0.0
        return text, float(json.loads(text)["seconds"])

    return look


@contextmanager
def watched(looks: Sequence[Look], expired: Callable[[str], None], lasts: float) -> Iterator[None]:
    """Meanwhile call `expired` with a reason, from a thread, once no step waits any more: see `wait_for_end`."""
    over = threading.Event()

    def wait() -> None:
        longest = wait_for_end(looks, lasts, over.wait)
        if longest is not None:
            expired(f"no step has waited for this job for {longest:.0f} s (platform.pods.lease_seconds): it stops")

    threading.Thread(target=wait, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def wait_for_end(looks: Sequence[Look], lasts: float, over: Callable[[float], bool]) -> float | None:
    """Return once nothing was renewed for as long as it lasts.

    What counts is when a renewal was last *seen*, by this machine's own clock: clocks of two machines are never
    compared. Time in which no place answers does not count: it says nothing about the step.

    Args:
        looks: At each place.
        lasts: Seconds, until a renewal says how long it lasts.
        over: Waits for so many seconds; whether there is nothing to watch any more.

    Returns:
        How long it lasted; None where there is nothing to watch any more.
    """
    seen, unrenewed, before = dict[Look, str](), 0.0, time.monotonic()
    while unrenewed <= lasts:
        if over(min(30.0, lasts / _RENEWALS)):
            return None
        answered = renewed = False
        for look in looks:
            try:
                with within(_CALL):
                    mark, seconds = look()
            except UserError:
                continue
            answered, lasts = True, seconds or lasts
            renewed |= bool(mark) and mark != seen.get(look)
            seen[look] = mark
        now = time.monotonic()
        unrenewed = 0.0 if renewed else unrenewed + (now - before if answered else 0.0)
        before = now
    return lasts


def _holder() -> str:
    return os.environ.get("KFP_POD_NAME") or os.environ.get("HOSTNAME") or "medmim"
