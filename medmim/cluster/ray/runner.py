"""`platform.ray: rayjob`: a stage runs in the pods of a RayJob, which this process starts, watches and removes.

The job is named after its request, so a step pod that replaces a lost one adopts the job that still runs.
"""

import os
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime

from medmim import progress, ray_nodes
from medmim.cluster import pod_templates
from medmim.cluster.kube import Kube, Object, connect
from medmim.cluster.pod_templates import PodTemplates
from medmim.cluster.ray import lease, manifest, workflow
from medmim.cluster.ray.archive import archive
from medmim.cluster.ray.diagnose import Diagnosis, diagnose, unpulled, waiting_for
from medmim.cluster.ray.log import Log
from medmim.cluster.ray.request import Request, delete_request, read_result, write_request
from medmim.cluster.ray.state import (
    State,
    cluster_of,
    events_of,
    has_ended,
    head_of,
    is_ready,
    is_submitter,
    pod_count,
    pods_of,
    ray_pods,
    suspended,
)
from medmim.errors import Unavailable, UserError, within
from medmim.recipe.schema import Platform

_EVERY = 2.0  # s between two looks for the driver's result, in the store
_SEEN_EVERY = 10.0  # s between two looks at job, pods and log: thirty jobs ask the API server 20 times a second at most
_EVENTS_EVERY = 30.0  # s between two looks at the Events of a job that waits
_ASKED_ABOUT = 4  # pods whose Events are read: those of one job wait for the same
_DELETION = 105.0  # s that a deleted job may take to disappear, beside the grace period of its pods
_ARCHIVE = 30.0  # s that a job may be kept for its logs
_LOOK = 30.0  # s that a server may take in one poll
_ON_SIGTERM = 20.0  # s of the 30 that a step's pod has


def run(request: Request, platform: Platform, store: str) -> str:
    """Serve a request by a RayJob and wait for its end.

    Args:
        request: The stage and what it needs.
        platform: The recipe's section.
        store: The artifact store, which the pods reach too.

    Returns:
        The URI of the stage's artifact.

    Raises:
        UserError: What the driver raised, or how the job ended; the last lines of its log are in it.
        Unavailable: The head was lost more often than `platform.pods.attempts`.
    """
    with ray_nodes.sigterm():
        return _run(connect(platform.pods.namespace), request, platform, store)


def _run(kube: Kube, request: Request, platform: Platform, store: str) -> str:
    image = manifest.image(request, platform)
    identity = manifest.identity(request, image)
    templates, owners = pod_templates.of_namespace(kube), workflow.of_this_pod(kube)
    attempt, last = 1, None
    for _ in range(platform.pods.attempts):
        attempt, job = _adopt_or_start(kube, request, platform, templates, store, image, identity, attempt, owners)
        uri, lasts = _request_of(job), platform.pods.lease_seconds
        with (
            _cleaned_up(kube, job, uri, owners, _DELETION + platform.pods.grace_seconds),
            lease.hold(lease.in_cluster(kube, job, lasts), lease.in_store(uri, lasts)),
        ):
            last = _follow(kube, job, platform, uri)
        result = read_result(uri)
        if result is not None:
            return result.uri_or_raise()
        if last.kind != "lost":
            raise last.error
        progress.say(f"{last.error.fact} ({last.error.reason or 'no reason given'}); starting a new attempt")
        attempt += 1
    assert last is not None  # noqa: S101  attempts > 0
    raise Unavailable(
        f"{last.error.fact}, {platform.pods.attempts} times", last.error.reason, last.error.fix, last.error.problems
    )


def _adopt_or_start(
    kube: Kube,
    request: Request,
    platform: Platform,
    templates: PodTemplates,
    store: str,
    image: str,
    identity: str,
    attempt: int,
    owners: list[Object],
) -> tuple[int, Object]:
    """The job that runs or succeeded, else a new one under the next free attempt.

    Whether a job exists is only known from a job: an answer that is lost, or the refusal of a second try, says nothing
    of the first. So a request is deleted only where no job is seen to have it, and stays where nobody can look.
    """
    uri = ""  # of a request that no job is seen to have
    while True:
        name = manifest.name(request.stage, identity, attempt)
        found = kube.get("rayjobs", name)
        if found is None:
            uri = uri or write_request(store, request, name)
            body = manifest.rayjob(request, uri, platform, templates, image, identity, attempt)
            body["metadata"]["ownerReferences"] = owners
            try:
                kube.create("rayjobs", body)
            except Unavailable:
                raise
            except UserError:
                if _request_of(kube.get("rayjobs", name)) != uri:
                    _withdraw(uri)
                    raise
            continue
        ours = bool(uri) and _request_of(found) == uri
        if _adoptable(found, identity):
            if ours:
                progress.say(f"started the Ray job {name} in namespace {kube.namespace}")
            else:
                _withdraw(uri)  # another step pod was first
                progress.say(f"adopted the Ray job {name}, started {found['metadata']['creationTimestamp']}")
            return attempt, found
        uri = "" if ours else uri
        attempt += 1


def _request_of(job: Object | None) -> str:
    """The folder of a job's request; empty where it names none."""
    return str((job or {}).get("metadata", {}).get("annotations", {}).get(manifest.REQUEST, ""))


def _withdraw(uri: str) -> None:
    with suppress(UserError):  # one that is left does no harm
        if uri:
            delete_request(uri)


def _adoptable(job: Object, identity: str) -> bool:
    """Of the same request, and running or succeeded."""
    meta = job["metadata"]
    failed = has_ended(job) and job["status"].get("jobStatus") != "SUCCEEDED"
    annotations = meta.get("annotations", {})
    same = annotations.get(manifest.SPEC) == identity and manifest.REQUEST in annotations
    return same and not failed and meta.get("deletionTimestamp") is None


@dataclass
class _History:
    """What is remembered from one poll to the next."""

    log: Log
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=50))
    pods: list[Object] = field(default_factory=list)
    events: list[Object] = field(default_factory=list)
    events_read: float = 0.0  # by this machine's clock
    cluster: str = ""
    heads: set[str] = field(default_factory=set)  # of this cluster
    missing_since: datetime | None = None  # when there began to be fewer pods than the job asks for
    unpulled_since: datetime | None = None  # when an image began not to be pulled
    shown: str = ""  # what the job was last printed to wait for

    def asked_about(self) -> list[Object]:
        """The pods whose Events say what the job waits for."""
        return [pod for pod in self.pods if not is_ready(pod)][:_ASKED_ABOUT]


def _follow(kube: Kube, job: Object, platform: Platform, uri: str) -> Diagnosis:
    """Print the job's events until it ends.

    An API server or a store that is away says nothing about the job: it goes on, and so does the wait for it, for as
    long as the job itself may last.
    """
    history = _History(Log(kube, lambda: [pod for pod in history.pods if is_submitter(pod)]))
    answered, deadline, due = time.monotonic(), platform.pods.deadline_minutes * 60, 0.0
    state: State | None = None
    unseen: Unavailable | None = None
    while True:
        if time.monotonic() >= due:
            state = unseen = None
            try:
                with within(_LOOK):
                    state = _poll(kube, job, history)
                    _print_events(history)
            except Unavailable as error:
                unseen = error
                history.missing_since = history.unpulled_since = None  # nobody could make or pull anything meanwhile
            due = time.monotonic() + _SEEN_EVERY
        away = unseen
        try:
            with within(_LOOK):
                if read_result(uri):  # the driver's result counts, whatever status KubeRay gives the job
                    with suppress(Unavailable):
                        _print_events(history)
                    return Diagnosis("done", UserError("the driver has written its result"))
        except Unavailable as error:
            away = error
        pending = platform.pods.pending_minutes * 60
        found = state and diagnose(state, pending, platform.pods.deadline_minutes)
        if found and state and state.job and history.events_read:  # it waits: its Events say why, of by now
            with suppress(Unavailable), within(_LOOK):
                state = replace(state, events=events_of(kube, state.job, history.asked_about()))
                found = diagnose(state, pending, platform.pods.deadline_minutes)
        if found:
            if not away:
                _print_events(history)
            return found
        if away and time.monotonic() - answered > deadline:
            raise away
        answered = answered if away else time.monotonic()
        waiting = f"{away.fact}: the Ray job goes on" if away else waiting_for(state) if state else ""
        if waiting != history.shown:
            history.shown = waiting
            progress.say(waiting or "all pods of the Ray job are ready")
        time.sleep(_EVERY)


def _poll(kube: Kube, job: Object, history: _History) -> State:
    known = {**job, "status": {**job.get("status", {}), "rayClusterName": history.cluster or cluster_of(job)}}
    pods = pods_of(kube, known)
    # A queue suspends a job before its pods go. So the job is read after them: no head is lost by a suspension.
    current = _current(kube, job)
    if current is None or suspended(current):
        pods = []
    elif cluster_of(current) != cluster_of(known):  # whose pods were not asked for
        pods = pods_of(kube, current)
        after = _current(kube, job)
        if after is None or suspended(after) or cluster_of(after) != cluster_of(current):
            current, pods = after, []
    history.pods = pods
    head = head_of(pods)
    if current and (suspended(current) or cluster_of(current) != history.cluster):
        history.heads.clear()
        history.cluster, history.missing_since = cluster_of(current), None
    if head is not None:
        history.heads.add(head["metadata"]["uid"])
    incomplete = current is not None and len(ray_pods(pods)) < pod_count(current)
    unready = [pod for pod in pods if not is_ready(pod)]
    if not current or not (incomplete or unready):
        history.events, history.events_read = [], 0.0
    elif time.monotonic() - history.events_read > _EVENTS_EVERY or not history.events_read:  # why pods do not start
        history.events = events_of(kube, current, history.asked_about())
        history.events_read = time.monotonic()
    events, now = history.events, kube.now()
    history.missing_since = (
        (history.missing_since or now) if current and incomplete and not suspended(current) else None
    )
    history.unpulled_since = (history.unpulled_since or now) if unpulled(pods) else None
    missing, waited = (
        (now - since).total_seconds() if since else 0.0 for since in (history.missing_since, history.unpulled_since)
    )
    return State(current, pods, events, now, frozenset(history.heads), missing, waited, tuple(history.tail))


def _current(kube: Kube, job: Object) -> Object | None:
    """The job now; None once it was deleted, even where another one has its name."""
    found = kube.get("rayjobs", job["metadata"]["name"])
    return found if found and found["metadata"]["uid"] == job["metadata"]["uid"] else None


def _print_events(history: _History) -> None:
    for line in history.log.new_lines():
        event = progress.parse(line)
        if event is None:
            history.tail.append(line)
        else:
            stage = os.environ.get("MEDMIM_STAGE")
            progress.forward(event if stage is None else {**event, "stage": stage})


@contextmanager
def _cleaned_up(kube: Kube, job: Object, uri: str, owners: list[Object], patience: float) -> Iterator[None]:
    """Archive logs and Events, then remove the job, on every way out but two.

    The death of this process is one, SIGTERM to the pod of a run that goes on (its node is drained) the other: the pod
    that replaces this one adopts the job.
    """
    name = job["metadata"]["name"]
    try:
        yield
    except SystemExit:
        if not owners:  # not in a pipeline's pod
            _end(kube, job, uri, patience)
        else:
            with within(_ON_SIGTERM), _reported(name):
                _end_if_terminated(kube, job, uri, owners)
        raise
    except BaseException:
        _end(kube, job, uri, patience)
        raise
    else:
        _end(kube, job, uri, patience)


@contextmanager
def _reported(name: str) -> Iterator[None]:
    """What hinders the removal of a job is printed: how the job ended counts more, and its Lease frees its GPUs too."""
    try:
        yield
    except UserError as error:
        progress.say(f"the Ray job {name} is not removed: {error.fact}; it ends when its Lease expires")


def _end(kube: Kube, job: Object, uri: str, patience: float) -> None:
    with _reported(job["metadata"]["name"]):
        current = _current(kube, job)
        if current is not None:
            archive(kube, current, pods_of(kube, current), uri, _ARCHIVE)
            _remove(kube, current, patience)


def _end_if_terminated(kube: Kube, job: Object, uri: str, owners: list[Object]) -> None:
    """End the job of a run that was terminated: there is no time to wait for its end, nor to archive first."""
    name = job["metadata"]["name"]
    why = workflow.terminated(kube, owners)
    if not why:
        progress.say(f"SIGTERM: the Ray job {name} goes on, for the pod that replaces this one")
        return
    current = _current(kube, job)
    if current is not None:
        pods = pods_of(kube, current)
        kube.delete("rayjobs", name, current["metadata"]["uid"])
        progress.say(f"SIGTERM: the Ray job {name} is deleted, for {why}")
        archive(kube, current, pods, uri, _ON_SIGTERM)


def _remove(kube: Kube, job: Object, patience: float) -> None:
    """Delete a job and wait until it and its pods are gone."""
    meta, cluster = job["metadata"], cluster_of(job)
    kube.delete("rayjobs", meta["name"], meta["uid"])
    last = time.monotonic() + patience
    while time.monotonic() < last:
        if _current(kube, job) is None and not (cluster and kube.list("pods", f"ray.io/cluster={cluster}")):
            return
        time.sleep(1)
    progress.say(f"the pods of the Ray job {meta['name']} are not gone after {patience:.0f} s")
