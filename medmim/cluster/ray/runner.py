"""`platform.ray: rayjob`: a stage runs in the pods of a RayJob, and this process watches over it.

The job is named after its order, so a step pod that replaces a lost one adopts the job that goes on without it.
"""

import os
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from medmim import progress
from medmim.cluster.kube import Kube, Object, connect
from medmim.cluster.ray import lease, manifest, request
from medmim.cluster.ray.archive import events_of, keep, pods_of
from medmim.cluster.ray.diagnose import Ending, Seen, ending, head_of, held, of_ray, pods_asked, standing
from medmim.cluster.ray.log import Log
from medmim.cluster.ray.request import Order
from medmim.errors import Unavailable, UserError
from medmim.recipe.schema import Platform

_EVERY = 2.0  # s between two looks
_GONE = 120.0  # s that a deleted job may take to go
_TERMINAL = ("Complete", "Failed", "ValidationFailed")


def run(wanted: Order, platform: Platform, store: str) -> str:
    """Run an order in a RayJob and wait for its end.

    Args:
        wanted: The stage and what it needs.
        platform: The recipe's section.
        store: The artifact store, which the pods reach too.

    Returns:
        The URI of the stage's artifact.

    Raises:
        UserError: What the driver raised, or how the job ended; its last lines are in it.
        Unavailable: The head was lost more often than `platform.pods.attempts`.
    """
    kube = connect(platform.pods.namespace)
    image = manifest.image(platform, os.environ.get("MEDMIM_IMAGE"))
    job = manifest.identity(wanted, image)
    owners = _workflow_of_this_pod(kube)
    attempt, last = 1, None
    for _ in range(platform.pods.attempts):
        attempt, started = _adopt_or_start(kube, wanted, platform, store, image, job, attempt, owners)
        uri = started["metadata"]["annotations"][manifest.ORDER]
        with _cleaned_up(kube, started, uri), lease.held(kube, started, platform.pods.lease_seconds):
            last = _follow(kube, started, platform, uri)
        result = request.answered(uri)
        if result is not None:
            return result.uri_or_raise()
        if last.kind != "lost":
            raise last.error
        progress.say(f"{last.error.fact} ({last.error.reason or 'no reason given'}); a new attempt goes on")
        attempt += 1
    assert last is not None  # noqa: S101  attempts > 0
    raise Unavailable(
        f"{last.error.fact}, {platform.pods.attempts} times", last.error.reason, last.error.fix, last.error.problems
    )


def _workflow_of_this_pod(kube: Kube) -> list[Object]:
    """The Workflow as owner, so that what we make goes with it. Not this pod: a lost step must not take its job along.

    Empty outside a pipeline's pod.
    """
    name = os.environ.get("KFP_POD_NAME")
    pod = kube.get("pods", name) if name else None
    owners = (pod or {}).get("metadata", {}).get("ownerReferences", [])
    return [
        {**{key: owner[key] for key in ("apiVersion", "kind", "name", "uid")}, "blockOwnerDeletion": False}
        for owner in owners
        if owner["kind"] == "Workflow"
    ][:1]


def _adopt_or_start(
    kube: Kube, wanted: Order, platform: Platform, store: str, image: str, job: str, attempt: int, owners: list[Object]
) -> tuple[int, Object]:
    """The job that is there already, going on or done, else a new one under the next free attempt."""
    uri = ""
    try:
        while True:
            name = manifest.name(wanted.stage, job, attempt)
            found = kube.get("rayjobs", name)
            if found is None:
                uri = uri or request.place(store, wanted, name)
                body = manifest.manifest(wanted, uri, platform, image, job, attempt)
                body["metadata"]["ownerReferences"] = owners
                made = kube.create("rayjobs", body)
                if made is None:  # another step pod was first: look at its job
                    continue
                uri = ""
                progress.say(f"started the Ray job {name} in namespace {kube.namespace}")
                return attempt, made
            if _usable(found, job):
                progress.say(f"adopted the Ray job {name}, begun {found['metadata']['creationTimestamp']}")
                return attempt, found
            attempt += 1
    finally:
        if uri:
            request.withdraw(uri)


def _usable(found: Object, job: str) -> bool:
    """Of the same spec, and active or succeeded."""
    meta, status = found["metadata"], found.get("status", {})
    ended = status.get("jobDeploymentStatus") in _TERMINAL and status.get("jobStatus") != "SUCCEEDED"
    same = meta.get("annotations", {}).get(manifest.SPEC) == job and manifest.ORDER in meta.get("annotations", {})
    return same and not ended and meta.get("deletionTimestamp") is None


@dataclass
class _Watched:
    """What is remembered between two looks."""

    log: Log
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=50))
    cluster: str = ""
    heads: set[str] = field(default_factory=set)  # of this cluster
    short: datetime | None = None  # since when there are fewer pods than the job asks for
    standing: str = ""


def _follow(kube: Kube, job: Object, platform: Platform, uri: str) -> Ending:
    """Show what the job says until it ends."""
    watched = _Watched(Log(kube, job["metadata"]["name"]))
    while True:
        seen = _look(kube, job, watched)
        _show(watched)
        if request.answered(uri):  # the driver's word counts, whatever KubeRay will make of it
            return Ending("done", UserError("the driver answered"))
        found = ending(seen, platform.pods.pending_minutes * 60, platform.pods.deadline_minutes)
        if found is not None:
            _show(watched)
            return found
        now = standing(seen)
        if now != watched.standing:
            watched.standing = now
            progress.say(now or "all pods of the Ray job are ready")
        time.sleep(_EVERY)


def _look(kube: Kube, job: Object, watched: _Watched) -> Seen:
    current = _same(kube, job)
    pods = pods_of(kube, current) if current else []
    # A queue suspends a job before its pods go. So look again: no head is lost by a suspension that came in between.
    after = _same(kube, job)
    if current and (after is None or held(after) or _cluster(after) != _cluster(current)):
        current, pods = after, []
    head = head_of(pods)
    if current and (held(current) or _cluster(current) != watched.cluster):
        watched.heads.clear()
        watched.cluster, watched.short = _cluster(current), None
    if head is not None:
        watched.heads.add(head["metadata"]["uid"])
    events = events_of(kube, current, pods) if current else []
    now = kube.now()
    lacks = current and not held(current) and len(of_ray(pods)) < pods_asked(current)
    watched.short = (watched.short or now) if lacks else None
    lacking = (now - watched.short).total_seconds() if watched.short else 0.0
    return Seen(current, pods, events, now, frozenset(watched.heads), lacking, tuple(watched.tail))


def _same(kube: Kube, job: Object) -> Object | None:
    """The job now; None once it is gone, whatever else bears its name."""
    found = kube.get("rayjobs", job["metadata"]["name"])
    return found if found and found["metadata"]["uid"] == job["metadata"]["uid"] else None


def _cluster(job: Object) -> str:
    """Its RayCluster's name: another one each time that a queue lets it run."""
    return str(job.get("status", {}).get("rayClusterName", ""))


def _show(watched: _Watched) -> None:
    for line in watched.log.new():
        event = progress.parse(line)
        if event is None:
            watched.tail.append(line)
        else:
            stage = os.environ.get("MEDMIM_STAGE")
            progress.forward(event if stage is None else {**event, "stage": stage})


@contextmanager
def _cleaned_up(kube: Kube, job: Object, uri: str) -> Iterator[None]:
    """Copy logs and Events, then remove the job, on every way out but the death of this process."""
    try:
        yield
    finally:
        current = _same(kube, job)
        if current is not None:
            keep(kube, current, uri)
            _remove(kube, current)


def _remove(kube: Kube, job: Object) -> None:
    """Delete a job and wait until it and its pods are gone."""
    meta = job["metadata"]
    cluster = job.get("status", {}).get("rayClusterName")
    kube.delete("rayjobs", meta["name"], meta["uid"])
    last = time.monotonic() + _GONE
    while time.monotonic() < last:
        if _same(kube, job) is None and not (cluster and kube.list("pods", f"ray.io/cluster={cluster}")):
            return
        time.sleep(1)
    progress.say(f"the pods of the Ray job {meta['name']} take long to go")
