"""The log of a step: of its pod while it runs, and afterwards; where there is none, why."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from medmim.cluster.kfp import client, logs, runs, submit
from medmim.errors import UserError
from medmim.store import open_store
from tests.cluster.ray.test_bad_cluster import kubeconfig_of
from tests.support.kfp_world import World
from tests.support.kube_pods import Pods, kube_pods, waits
from tests.support.waiting import until


@pytest.fixture(autouse=True)
def _asked_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "POLL", 0.05)


@pytest.fixture
def pods(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pods]:
    """A cluster that KUBECONFIG leads to, in which the run's pods are."""
    with kube_pods() as (found, address):
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig_of(tmp_path, address)))
        yield found


@pytest.fixture
def run(world: World) -> dict[str, Any]:
    submit.start(submit.plan("train", world.recipe, "demo-1", access=lambda: world.access, image=world.image))
    return world.kfp.run("demo-1")


def of_step(world: World, name: str = "data") -> str:
    api = client.connect(world.access)
    found = runs.find(api, "demo-1")
    step = next(one for one in found.steps if one.name == name)
    return logs.of_step(api, found, step, logs.reach(api, found))


def followed(world: World, course: Callable[[], None]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Steps and lines as they came while `course` changes the world in a thread, and what could not be had."""
    api, untold = client.connect(world.access), []
    thread = threading.Thread(target=course, daemon=True)
    thread.start()
    found = list(logs.follow(api, runs.find(api, "demo-1"), None, lambda name, why: untold.append((name, why))))
    thread.join(30)
    return [(name, line) for name, lines in found for line in lines], untold


def test_the_log_of_a_step_that_ended_is_kfps_with_events_as_text(world: World, run: dict[str, Any]) -> None:
    event = json.dumps({"kind": "line", "time": 1.0, "stage": "data", "text": "1,500 patients"})
    world.kfp.begin(run, "data", log=f"starting\n{event}\n", state="SUCCEEDED")
    assert logs.readable(of_step(world)) == "starting\n1,500 patients"


def test_a_truncated_log_is_shown_as_far_as_it_goes(world: World, run: dict[str, Any]) -> None:
    error = '{"error_message":"InternalServerError: stream","error_details":"..."}'
    world.kfp.begin(run, "data", log=f"one\ntwo\n{error}", state="SUCCEEDED")
    assert of_step(world) == "one\ntwo\n"


def test_a_log_that_holds_json_like_an_error_is_a_log(world: World, run: dict[str, Any]) -> None:
    world.kfp.begin(run, "data", log='saw {"error_message": and went on\n', state="SUCCEEDED")
    assert of_step(world) == 'saw {"error_message": and went on\n'


def test_logs_of_rays_pods_are_read_from_the_store(world: World, run: dict[str, Any]) -> None:
    world.kfp.begin(run, "finetune", state="SUCCEEDED")
    open_store(world.store).write("runs/demo-1/jobs/finetune-1/logs/head/ray-head.log", b"loss 0.1\n")
    open_store(world.store).write("runs/demo-1/jobs/finetune-1/order.json", b"{}")
    with pytest.raises(UserError, match="no log of run demo-1, step finetune"):
        of_step(world, "finetune")
    found = runs.find(client.connect(world.access), "demo-1")
    assert list(logs.of_ray(found)) == [("jobs/finetune-1/logs/head/ray-head.log", "loss 0.1\n")]


@pytest.mark.parametrize("stock", [True, False])
def test_kfp_for_many_users_gives_the_log_of_a_pod_that_runs(world: World, run: dict[str, Any], stock: bool) -> None:
    world.kfp.state.multi_user, world.kfp.state.stock = True, stock
    run["_namespace"] = "team-a"
    world.kfp.begin(run, "data", log="found\n", state="SUCCEEDED")
    world.kfp.begin(run, "finetune", log="loss 0.3\n")
    assert of_step(world, "finetune") == "loss 0.3\n"


def test_where_kfp_serves_one_user_the_log_is_from_kubernetes(world: World, run: dict[str, Any], pods: Pods) -> None:
    """The newest try's, with its earlier ones before it; not the driver's, nor another step's or run's."""
    world.kfp.begin(run, "data", log="kfp has it\n")
    node = world.kfp.node(run, "data")
    first, again = node, node.replace("executor(0)", "executor(1)")
    pods.add("d", f"{node.rpartition('(0).executor')[0]}-driver(0)", run["run_id"])
    for number, (name, of) in enumerate((("a", first), ("b", again))):
        pods.add(name, of, run["run_id"])
        pods.write(name, f"try {number}")
    pods.add("x", first, "another-run")
    pods.add("e", world.kfp.node(run, "audit"), run["run_id"])
    pods.write("d", "driver")
    pods.write("x", "of another run")
    pods.write("e", "of another step")
    assert of_step(world) == "try 0\ntry 1\n"


def test_where_kfp_has_no_archive_the_pod_still_has_the_log(world: World, run: dict[str, Any], pods: Pods) -> None:
    world.kfp.begin(run, "data", state="FAILED")
    pods.add("a", world.kfp.node(run, "data"), run["run_id"], {"phase": "Failed"})
    pods.write("a", "the end")
    assert of_step(world) == "the end\n"


def test_why_there_is_no_log_while_a_step_runs(world: World, run: dict[str, Any]) -> None:
    world.kfp.begin(run, "data", log="hidden\n")
    with pytest.raises(UserError) as raised:
        of_step(world)
    assert "one user gives no log of a pod that runs" in raised.value.reason
    assert "no-kubeconfig cannot be used" in raised.value.reason


@pytest.mark.parametrize("status", [403, 503])
def test_a_cluster_that_refuses_is_the_reason(world: World, run: dict[str, Any], pods: Pods, status: int) -> None:
    pods.status = status
    world.kfp.begin(run, "data")
    with pytest.raises(UserError) as raised:
        of_step(world)
    assert "cannot be asked" in raised.value.reason and ("may not read" in raised.value.reason) == (status == 403)


def test_a_pod_that_has_not_started_is_the_reason(world: World, run: dict[str, Any], pods: Pods) -> None:
    world.kfp.begin(run, "data", state="PENDING")
    pods.add("a", world.kfp.node(run, "data"), run["run_id"], waits("ErrImagePull", "manifest unknown"))
    with pytest.raises(UserError) as raised:
        of_step(world)
    assert raised.value.reason == "its pod has not started: ErrImagePull: manifest unknown"


def test_lines_come_while_a_step_runs_each_once_and_to_the_end(world: World, run: dict[str, Any], pods: Pods) -> None:
    seen: list[str] = []
    world.kfp.begin(run, "data")
    name = world.kfp.pod(run, "data")
    pods.add(name, world.kfp.node(run, "data"), run["run_id"])

    def course() -> None:
        pods.write(name, "one", "two")
        until(lambda: "two" in seen)
        pods.write(name, "three")
        until(lambda: "three" in seen)
        del pods.pods[name]  # the last line is in KFP's archive only
        world.kfp.begin(run, "data", log="one\ntwo\nthree\nfour\n", state="SUCCEEDED")
        world.kfp.end(run, "SUCCEEDED")

    threading.Thread(target=course, daemon=True).start()
    api = client.connect(world.access)
    for _, lines in logs.follow(api, runs.find(api, "demo-1"), None, lambda *_: None):
        seen += lines
    assert seen == ["one", "two", "three", "four"]


def test_what_cannot_be_followed_is_said_once_and_printed_at_the_end(world: World, run: dict[str, Any]) -> None:
    def polled_twice() -> bool:
        asked = [one.endswith("/log") for one in world.kfp.front.requests]
        return True in asked and False in asked[asked.index(True) :]

    def course() -> None:
        until(polled_twice)
        world.kfp.begin(run, "data", log="one\ntwo\n", state="SUCCEEDED")
        world.kfp.end(run, "SUCCEEDED")

    world.kfp.begin(run, "data")
    lines, untold = followed(world, course)
    assert lines == [("data", "one"), ("data", "two")]
    ((name, why),) = untold
    assert name == "data" and "gives no log of a pod that runs" in why and "cannot be asked" in why
