"""The driver ends itself once no step waits for it, and not because a server is away."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from medmim.cluster.kube import Kube
from medmim.cluster.ray import lease
from medmim.errors import Unavailable, UserError
from tests.support.kube_server import Cluster, Object, connected
from tests.support.waiting import until

LASTS = 1800.0  # s


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Cluster, Kube]]:
    with connected(tmp_path, monkeypatch) as found:
        yield found


def a_job(server: Cluster) -> Object:
    return server.put("rayjobs", {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {"name": "job"}})


class Over(Exception):
    """The time of a test."""


class Clock:
    """Time that passes while the test waits."""

    def __init__(self, end: float) -> None:
        self.now, self.end = 0.0, end

    def monotonic(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        if self.now > self.end:
            raise Over
        return False


def stopped_at(
    monkeypatch: pytest.MonkeyPatch,
    in_cluster: Callable[[float], str | None],
    in_store: Callable[[float], str | None],
) -> float | None:
    """When a driver stops itself; None where it does not.

    Args:
        in_cluster: Time -> what is found there; None while the server is away.
        in_store: The same.
    """
    clock = Clock(6000)

    def look(found: Callable[[float], str | None]) -> lease.Look:
        def at() -> tuple[str, float]:
            mark = found(clock.now)
            if mark is None:
                raise Unavailable("no answer")
            return mark, LASTS

        return at

    monkeypatch.setattr(lease, "time", clock)
    try:
        lease.wait_for_end([look(in_cluster), look(in_store)], LASTS, clock.wait)
    except Over:
        return None
    return clock.now


def every_minute(now: float) -> str:
    return str(int(now / 60) + 1)


def until_1000(now: float) -> str:
    return every_minute(min(now, 1000))


def away(now: float) -> None:
    return None


def never(now: float) -> str:
    return ""


@pytest.mark.parametrize(
    ("in_cluster", "in_store"),
    [(until_1000, until_1000), (until_1000, away), (away, until_1000), (until_1000, never), (never, until_1000)],
)
def test_a_driver_that_nobody_waits_for_any_more_stops(
    in_cluster: Callable[[float], str | None],
    in_store: Callable[[float], str | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stopped = stopped_at(monkeypatch, in_cluster, in_store)
    assert stopped is not None and 960 + LASTS <= stopped <= 1000 + LASTS + 20


def test_a_stage_that_has_ended_is_watched_no_more() -> None:
    """Else the watcher would end a process that still writes its result, or the tests' own."""
    stopped, looked, before = list[str](), threading.Event(), set(threading.enumerate())

    def look() -> tuple[str, float]:
        looked.set()
        return "", 0.0

    with lease.watched([look], stopped.append, 0.2):
        assert looked.wait(10)
        until(lambda: stopped, 10)
    with lease.watched([look], stopped.append, 600.0):
        pass
    until(lambda: not set(threading.enumerate()) - before, 5)
    assert len(stopped) == 1


def test_a_driver_that_nobody_ever_waited_for_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    assert stopped_at(monkeypatch, never, never) == pytest.approx(LASTS, abs=40)


@pytest.mark.parametrize(
    ("in_cluster", "in_store"),
    [
        (every_minute, away),
        (away, every_minute),
        (every_minute, until_1000),  # as of an earlier version
        (until_1000, every_minute),  # of an API server that answers with what it had
        (away, away),
        (lambda now: None if 500 < now < 4500 else every_minute(now), away),  # longer than a Lease lasts
    ],
)
def test_a_driver_goes_on_while_a_step_renews_somewhere_and_while_nothing_answers(
    in_cluster: Callable[[float], str | None],
    in_store: Callable[[float], str | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert stopped_at(monkeypatch, in_cluster, in_store) is None


def test_a_driver_whose_node_the_cluster_has_given_up_stops_by_what_the_store_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another attempt has another request: nobody renews this one."""
    stopped = stopped_at(monkeypatch, lambda now: every_minute(now) if now < 1000 else None, until_1000)
    assert stopped is not None and stopped <= 1000 + LASTS + 20


def test_what_a_step_renews_is_what_its_driver_looks_at(cluster: tuple[Cluster, Kube], tmp_path: Path) -> None:
    server, kube = cluster
    looks = lease.look_in_cluster("job"), lease.look_in_store(str(tmp_path))
    assert [look() for look in looks] == [("", 0.0)] * 2
    renewals = lease.in_cluster(kube, a_job(server), 60), lease.in_store(str(tmp_path), 60)
    with lease.hold(*renewals):
        first = [look() for look in looks]
    assert [seconds for _, seconds in first] == [60, 60]

    def renewed() -> bool:  # the API server's clock has whole seconds
        for renew, _ in renewals:
            renew()
        return all(mark and mark != look()[0] for (mark, _), look in zip(first, looks, strict=True))

    assert until(renewed)


def test_a_first_renewal_that_is_refused_is_an_error_and_one_that_is_not_answered_is_none(
    cluster: tuple[Cluster, Kube], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, kube = cluster
    renewal = lease.in_cluster(kube, a_job(server), 60)
    server.refused = lambda method, path: (403, "you cannot patch leases") if method == "PATCH" else None
    with pytest.raises(UserError, match="may not patch leases"), lease.hold(renewal):
        pass
    server.refused = lambda method, path: None
    server.away.set()
    monkeypatch.setattr(lease, "_CALL", 0.05)
    with lease.hold(renewal):
        pass
