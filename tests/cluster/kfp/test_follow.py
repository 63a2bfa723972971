"""A run followed to every kind of end, through restarts of KFP."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from medmim.cluster.kfp import client, end, follow, runs
from medmim.errors import Unavailable
from tests.support.kfp_world import World
from tests.support.waiting import until


def followed(world: World, api: client.Api, course: Callable[[], None]) -> tuple[runs.Run, list[tuple[str, str]]]:
    """The run `demo-1` at its end, and the reported states of its steps, while `course` changes them in a thread."""
    states: list[tuple[str, str]] = []
    begun = runs.find(api, "demo-1")
    thread = threading.Thread(target=course, daemon=True)
    thread.start()
    run = follow.follow(api, begun, lambda step: states.append((step.name, step.state)), lambda _: None)
    thread.join(30)
    return run, states


def test_a_run_that_succeeds_ends_the_waiting_with_0(world: World, api: client.Api) -> None:
    run = world.start()

    def course() -> None:
        for step in ("data", "audit"):
            world.kfp.begin(run, step)
            time.sleep(0.3)
            world.kfp.begin(run, step, state="SUCCEEDED")
            world.record("demo-1", step)
        world.kfp.end(run, "SUCCEEDED")

    found, states = followed(world, api, course)
    assert (found.state, found.exit_code) == ("SUCCEEDED", 0)
    assert states == [
        ("data", "RUNNING"), ("data", "SUCCEEDED"), ("audit", "RUNNING"), ("audit", "SUCCEEDED"),
    ] or set(states) >= {("data", "SUCCEEDED"), ("audit", "SUCCEEDED")}  # fmt: skip


@pytest.mark.parametrize(
    ("record", "code"),
    [
        ({"status": "refused", "exit_code": 1, "message": "the gate says no"}, 1),
        ({"status": "failed", "exit_code": 2, "message": "no such base"}, 2),
        ({"status": "failed", "exit_code": 75, "message": "S3 does not answer"}, 75),
        (None, 75),
    ],
)
def test_a_run_that_fails_ends_with_the_code_of_its_stage(
    world: World, api: client.Api, record: dict[str, Any] | None, code: int
) -> None:
    run = world.start()

    def course() -> None:
        world.kfp.begin(run, "gate", state="FAILED")
        if record:
            world.record("demo-1", "gate", **record)
        world.kfp.end(run, "FAILED")

    found, _ = followed(world, api, course)
    assert (found.state, found.exit_code) == ("FAILED", code)


@pytest.mark.parametrize("reported", ["while polled", "in the history", "by name"])
def test_a_cancelled_run_ends_the_waiting(world: World, api: client.Api, reported: str) -> None:
    """KFP calls it FAILED in the end, and CANCELING on the way; a later version may say CANCELED."""
    run = world.start()

    def course() -> None:
        if reported == "while polled":
            assert end.cancel(api, runs.find(api, "demo-1"))
            time.sleep(1)
        elif reported == "in the history":
            world.kfp.report_canceling(run)
        world.kfp.end(run, "CANCELED" if reported == "by name" else "FAILED")

    found, _ = followed(world, api, course)
    assert (found.state, found.exit_code) == ("CANCELED", 75)


def test_a_skipped_run_ends_the_waiting(world: World, api: client.Api) -> None:
    run = world.start()
    found, _ = followed(world, api, lambda: world.kfp.end(run, "SKIPPED"))
    assert found.ended and found.exit_code == 75


def test_following_outlasts_a_server_that_restarts(world: World, api: client.Api) -> None:
    run = world.start()

    def course() -> None:
        world.kfp.front.fail += [("GET .*/runs/", 503)] * 6
        until(lambda: not world.kfp.front.fail)
        world.kfp.end(run, "SUCCEEDED")

    assert followed(world, api, course)[0].state == "SUCCEEDED"


def test_a_server_that_stays_down_ends_the_waiting(
    world: World, api: client.Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.start()
    monkeypatch.setattr(follow, "_OUTAGE", 1.0)
    run = runs.find(api, "demo-1")
    world.kfp.front.fail += [("GET .*/runs/", 503)] * 200
    with pytest.raises(Unavailable, match="answers 503"):
        follow.follow(api, run, lambda _: None, lambda _: None)


def test_a_run_that_is_deleted_ends_the_waiting(world: World, api: client.Api) -> None:
    world.start()
    with pytest.raises(runs.Deleted, match="demo-1 was deleted in KFP") as raised:
        follow.follow(api, runs.find(api, "demo-1"), lambda _: None, lambda _: world.kfp.state.runs.clear())
    assert raised.value.exit_code == 75


def test_a_run_that_argo_has_not_taken_up_is_pending(world: World, api: client.Api) -> None:
    """KFP then leaves its state out: it has not ended, is waited for and can be cancelled."""
    run = world.start()
    world.kfp.report_unspecified(run)
    found = runs.find(api, "demo-1")
    assert (found.state, found.ended, found.result) == ("PENDING", False, "pending")

    def course() -> None:
        time.sleep(0.3)
        world.kfp.begin(run, "data", state="SUCCEEDED")
        world.kfp.end(run, "SUCCEEDED")

    assert followed(world, api, course)[0].state == "SUCCEEDED"
    world.kfp.report_unspecified(run)
    assert end.cancel(api, runs.find(api, "demo-1")) and run["state"] == "CANCELING"
