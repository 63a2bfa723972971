"""Runs as KFP and the store have them: found, followed to every kind of end, cancelled, their logs."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from medmim.cluster.kfp import client, compiled, runs, submit
from medmim.errors import Unavailable, UserError
from medmim.store import open_store
from tests.cluster.ray.test_bad_cluster import kubeconfig_of
from tests.support.kfp_world import World, a_world
from tests.support.kube_pods import kube_pods
from tests.support.waiting import until


@pytest.fixture
def world(tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(runs, "POLL", 0.05)
    with a_world(tmp_path, f"{bucket}/store", monkeypatch) as found:
        yield found


@pytest.fixture
def api(world: World) -> client.Api:
    return client.connect(world.access)


def start(world: World, name: str = "demo-1", recipe: str = "demo") -> dict[str, Any]:
    changed = world.recipe.model_copy(update={"name": recipe})
    submit.start(submit.plan("train", changed, name, access=lambda: world.access, image=world.image))
    return world.kfp.run(name)


def followed(world: World, api: client.Api, course: Callable[[], None]) -> tuple[runs.Run, list[tuple[str, str]]]:
    """The run `demo-1` at its end, and the reported states of its steps, while `course` changes them in a thread."""
    states: list[tuple[str, str]] = []
    begun = runs.find(api, "demo-1")
    thread = threading.Thread(target=course, daemon=True)
    thread.start()
    run = runs.follow(api, begun, lambda step: states.append((step.name, step.state)), lambda _: None)
    thread.join(30)
    return run, states


def test_runs_are_listed_newest_first_page_by_page(world: World, api: client.Api) -> None:
    for number in range(5):
        start(world, f"r-{number}", f"recipe-{number}")
    names: list[str] = []
    page, token = runs.page(api, 2)
    while True:
        names += [run.name for run in page]
        if not token:
            break
        page, token = runs.page(api, 2, token)
    assert names == ["r-4", "r-3", "r-2", "r-1", "r-0"]


def test_a_list_has_medmims_runs_only(world: World, api: client.Api) -> None:
    run = start(world)
    world.kfp.state.runs["other"] = {**run, "run_id": "other", "display_name": "other", "description": "of others"}
    assert [(one.name, one.recipe, one.state) for one in runs.page(api)[0]] == [("demo-1", "demo", "PENDING")]


def test_a_run_is_found_by_name_and_by_id(world: World, api: client.Api) -> None:
    run = start(world)
    assert runs.find(api, "demo-1").run_id == run["run_id"] == runs.find(api, run["run_id"]).run_id
    assert runs.find(api, run["run_id"].upper()).name == "demo-1"


@pytest.mark.parametrize("named", ["demo-2", "demo", "11111111-2222-3333-4444-555555555555"])
def test_an_unknown_run_is_reported_with_similar_names(world: World, api: client.Api, named: str) -> None:
    start(world)
    with pytest.raises(UserError, match=f"has no run '{named}") as raised:
        runs.find(api, named)
    near = "the nearest names are" if named.startswith("demo") else "no name is like it; the newest are"
    assert raised.value.reason == f"{near} demo-1" and "medmim runs list" in raised.value.fix


def test_an_invalid_page_token_is_reported(world: World, api: client.Api) -> None:
    start(world)
    with pytest.raises(UserError, match="no page 'garbage'") as raised:
        runs.page(api, token="garbage")
    assert "Invalid page token" in raised.value.reason and "without --page" in raised.value.fix


def test_two_runs_of_one_name_are_reported_with_their_ids(world: World, api: client.Api) -> None:
    run = start(world)
    twin = {**run, "run_id": "11111111-2222-3333-4444-555555555555"}
    world.kfp.state.runs[twin["run_id"]] = twin
    with pytest.raises(UserError, match="2 runs are called demo-1") as raised:
        runs.find(api, "demo-1")
    assert sorted(problem.split(",")[0] for problem in raised.value.problems) == sorted(world.kfp.state.runs)


def test_a_run_has_its_steps_with_their_records(world: World, api: client.Api) -> None:
    run = start(world)
    world.kfp.begin(run, "data", state="SUCCEEDED")
    world.record("demo-1", "data", uri="s3://bucket/data/1", seconds=7.0)
    world.kfp.begin(run, "audit")
    data, audit = runs.find(api, "demo-1").steps
    assert (data.name, data.state, data.record and data.record.uri) == ("data", "SUCCEEDED", "s3://bucket/data/1")
    assert (audit.name, audit.state, audit.record) == ("audit", "RUNNING", None)
    assert data.seconds is not None and audit.seconds is not None and 0 <= audit.seconds < 60


def test_a_step_that_never_began_took_no_time(world: World, api: client.Api) -> None:
    run = start(world)
    world.kfp.begin(run, "data", state="FAILED")
    world.kfp.omit(run, "audit", "finetune")
    data, *others = runs.find(api, "demo-1").steps
    assert (data.state, data.seconds is None) == ("FAILED", False)
    assert [(one.name, one.state, one.seconds, one.nodes) for one in others] == [
        ("audit", "SKIPPED", None, ()), ("finetune", "SKIPPED", None, ()),
    ]  # fmt: skip


@pytest.mark.parametrize("first", ["2026-11-30T10:00:00Z", "2026-11-30T12:00:00Z"])
def test_of_two_tasks_of_a_step_the_newest_counts(world: World, api: client.Api, first: str) -> None:
    """Argo retries the whole graph, too: the list, in no order of time, then has every step twice."""
    run = start(world)
    world.kfp.begin(run, "data", state="FAILED")
    world.kfp.begin(run, "data", again=1)
    listed = [one for one in run["run_details"]["task_details"] if one["display_name"] == "data"]
    listed[0]["start_time"], listed[1]["start_time"] = first, "2026-11-30T11:00:00Z"
    newest = max(listed, key=lambda one: one["start_time"])
    assert [one.state for one in runs.find(api, "demo-1").steps] == [newest["state"]]


def test_a_run_that_argo_has_not_taken_up_is_pending(world: World, api: client.Api) -> None:
    """KFP then leaves its state out: it has not ended, is waited for and can be cancelled."""
    run = start(world)
    world.kfp.report_unspecified(run)
    found = runs.find(api, "demo-1")
    assert (found.state, found.ended, found.result) == ("PENDING", False, "pending")

    def course() -> None:
        time.sleep(0.3)
        world.kfp.begin(run, "data", state="SUCCEEDED")
        world.kfp.end(run, "SUCCEEDED")

    assert followed(world, api, course)[0].state == "SUCCEEDED"
    world.kfp.report_unspecified(run)
    assert runs.cancel(api, runs.find(api, "demo-1")) and run["state"] == "CANCELING"


def test_steps_come_in_the_order_of_the_graph(world: World, api: client.Api) -> None:
    run = start(world)
    for name in reversed(compiled.load("train").steps):
        world.kfp.begin(run, name)
    steps = [step.name for step in runs.find(api, "demo-1").steps]
    assert steps == ["data", "audit", "finetune", "bench", "register", "gate", "promote", "report"]


def test_a_run_whose_store_cannot_be_read_is_shown_without_records(world: World, api: client.Api) -> None:
    run = start(world)
    world.kfp.begin(run, "data")
    run["runtime_config"]["parameters"]["recipe"] = "s3://no-such-bucket-here/store/runs/demo-1/recipe.json"
    found = runs.find(api, "demo-1")
    assert [step.name for step in found.steps] == ["data"] and "records cannot be read" in found.notes[0]


def cloned(world: World, run: dict[str, Any]) -> dict[str, Any]:
    """As KFP's pages do it: with the parameters of the other run, and a name and an id of its own."""
    same = ("experiment_id", "pipeline_version_reference", "runtime_config", "service_account")
    body = {key: run[key] for key in same} | {"display_name": f"Clone of {run['display_name']}"}
    return world.kfp.state.create_run(body)


def test_a_clone_has_records_of_its_own_and_is_found_by_their_name(world: World, api: client.Api) -> None:
    first = start(world)
    open_store(world.store).write("runs/demo-1/kfp-run", first["run_id"].encode())
    world.record("demo-1", "data", message="of the first")
    clone = cloned(world, first)
    assert runs.find(api, clone["run_id"]).steps == (), "none has begun"
    own = f"demo-1-{clone['run_id'][:8]}"
    world.record(own, "data", message="of the clone")
    for named, message in (
        (first["run_id"], "first"),
        ("demo-1", "first"),
        ("Clone of demo-1", "clone"),
        (own, "clone"),
    ):
        (step,) = runs.find(api, named).steps
        assert step.record is not None and step.record.message == f"of the {message}"
    with pytest.raises(UserError, match="no run 'demo-1-00000000'"):
        runs.find(api, "demo-1-00000000")


def test_a_record_of_a_newer_medmim_is_read_as_far_as_it_is_known(world: World, api: client.Api) -> None:
    start(world)
    newer = {"stage": "data", "seconds": 7.0, "carbon": 3, "facts": {"rows": 40}}
    open_store(world.store).write("runs/demo-1/data.json", json.dumps(newer).encode())
    found = runs.find(api, "demo-1")
    assert [step.record and (step.record.seconds, step.record.facts) for step in found.steps] == [(7.0, {"rows": 40})]
    assert found.notes == ()


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe", b'{"stage": "data", "facts": 3}', b'{"seconds": 1}'])
def test_a_record_that_cannot_be_read_is_a_note_and_the_others_stay(world: World, api: client.Api, text: bytes) -> None:
    run = start(world)
    world.kfp.begin(run, "data")
    open_store(world.store).write("runs/demo-1/data.json", text)
    world.record("demo-1", "audit", seconds=2.0)
    found = runs.find(api, "demo-1")
    assert [(step.name, bool(step.record)) for step in found.steps] == [("data", False), ("audit", True)]
    (note,) = found.notes
    assert "the record data.json of run demo-1 cannot be read: " in note
    assert runs.cancel(api, found) and run["state"] == "CANCELING"


def test_a_run_that_succeeds_ends_the_waiting_with_0(world: World, api: client.Api) -> None:
    run = start(world)

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
    run = start(world)

    def course() -> None:
        world.kfp.begin(run, "gate", state="FAILED")
        if record:
            world.record("demo-1", "gate", **record)
        world.kfp.end(run, "FAILED")

    found, _ = followed(world, api, course)
    assert (found.state, found.exit_code) == ("FAILED", code)


def test_a_refusal_that_kfp_calls_a_success_is_still_a_refusal(world: World, api: client.Api) -> None:
    run = start(world)
    world.record("demo-1", "gate", status="refused")
    world.kfp.end(run, "SUCCEEDED")
    assert runs.find(api, "demo-1").exit_code == 1


@pytest.mark.parametrize("reported", ["while polled", "in the history", "by name"])
def test_a_cancelled_run_ends_the_waiting(world: World, api: client.Api, reported: str) -> None:
    """KFP calls it FAILED in the end, and CANCELING on the way; a later version may say CANCELED."""
    run = start(world)

    def course() -> None:
        if reported == "while polled":
            assert runs.cancel(api, runs.find(api, "demo-1"))
            time.sleep(1)
        elif reported == "in the history":
            world.kfp.report_canceling(run)
        world.kfp.end(run, "CANCELED" if reported == "by name" else "FAILED")

    found, _ = followed(world, api, course)
    assert (found.state, found.exit_code) == ("CANCELED", 75)


def test_a_skipped_run_ends_the_waiting(world: World, api: client.Api) -> None:
    run = start(world)
    found, _ = followed(world, api, lambda: world.kfp.end(run, "SKIPPED"))
    assert found.ended and found.exit_code == 75


NOT_KFPS: dict[str, Callable[[str], tuple[int, str]]] = {
    "cut off": lambda answer: (200, answer[: len(answer) // 2]),
    "empty": lambda answer: (200, ""),
    "no backend": lambda answer: (404, "default backend - 404"),
    "no route": lambda answer: (404, "<html><body>404 page not found</body></html>"),
}


@pytest.mark.parametrize("how", NOT_KFPS)
def test_answers_that_are_not_kfps_are_an_outage_of_what_was_kfp(world: World, api: client.Api, how: str) -> None:
    """An ingress whose backend restarts, a proxy that cuts off: neither ends a wait, nor takes a run its recipe."""
    world.kfp.front.garble.append(("POST .*/runs$", NOT_KFPS[how]))
    run = start(world)
    assert len(world.kfp.state.runs) == 1 and open_store(world.store).exists("runs/demo-1/recipe.json")
    world.kfp.end(run, "SUCCEEDED")
    world.kfp.front.garble += [("GET .*/runs/", NOT_KFPS[how])] * 2
    assert runs.refresh(api, runs.find(api, "demo-1")).state == "SUCCEEDED" and world.kfp.front.garble == []


def test_following_outlasts_a_server_that_restarts(world: World, api: client.Api) -> None:
    run = start(world)

    def course() -> None:
        world.kfp.front.fail += [("GET .*/runs/", 503)] * 6
        until(lambda: not world.kfp.front.fail)
        world.kfp.end(run, "SUCCEEDED")

    assert followed(world, api, course)[0].state == "SUCCEEDED"


def test_a_server_that_stays_down_ends_the_waiting(
    world: World, api: client.Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(world)
    monkeypatch.setattr(runs, "_OUTAGE", 1.0)
    run = runs.find(api, "demo-1")
    world.kfp.front.fail += [("GET .*/runs/", 503)] * 200
    with pytest.raises(Unavailable, match="answers 503"):
        runs.follow(api, run, lambda _: None, lambda _: None)


def test_a_run_that_is_deleted_ends_the_waiting(world: World, api: client.Api) -> None:
    start(world)
    with pytest.raises(runs.Deleted, match="demo-1 was deleted in KFP") as raised:
        runs.follow(api, runs.find(api, "demo-1"), lambda _: None, lambda _: world.kfp.state.runs.clear())
    assert raised.value.exit_code == 75


@pytest.mark.parametrize(
    "description", ["", "made by hand with medmim 1.0, recipe demo 0", "medmim is what this tries"]
)
def test_a_run_of_others_is_shown_and_not_cancelled(world: World, api: client.Api, description: str) -> None:
    run = start(world)
    run["description"] = description
    found = runs.find(api, "demo-1")
    with pytest.raises(UserError, match="not submitted by medmim") as raised:
        runs.cancel(api, found)
    assert raised.value.exit_code == 2 and found.run_id in raised.value.fix
    assert run["state"] == "PENDING" and not any("terminate" in one for one in world.kfp.changes())


def test_a_run_whose_workflow_is_gone_cannot_be_cancelled_and_the_way_out_is_told(
    world: World, api: client.Api
) -> None:
    run = start(world)
    world.kfp.delete_workflow(run)
    before = len(world.kfp.front.requests)
    with pytest.raises(runs.Deleted, match="the Workflow of run demo-1 is gone") as raised:
        runs.cancel(api, runs.find(api, "demo-1"))
    assert "due to patching error" in raised.value.reason and "medmim runs delete demo-1" in raised.value.fix
    assert sum("terminate" in one for one in world.kfp.front.requests[before:]) == 1, "KFP would answer the same again"
    world.kfp.front.lose.append("DELETE")
    runs.delete(api, runs.find(api, "demo-1"))
    assert not world.kfp.state.runs
    start(world, "demo-2")


def test_a_cancel_that_did_not_reach_the_workflow_is_none_and_is_tried_again(world: World, api: client.Api) -> None:
    """KFP has noted it in its database, and refuses another one until it hears of the Workflow again."""
    run = start(world)
    world.kfp.begin(run, "data")
    world.kfp.unreach_workflow(run)
    with pytest.raises(Unavailable, match="which goes on") as raised:
        runs.cancel(api, runs.find(api, "demo-1"))
    assert "connection refused" in raised.value.reason and "medmim runs cancel demo-1" in raised.value.fix
    world.kfp.unreach_workflow(run, away=False)
    run["state"] = "RUNNING"  # by the persistence agent
    assert runs.cancel(api, runs.find(api, "demo-1"))


def test_that_a_workflow_is_gone_is_seen_in_kubernetes(
    world: World, api: client.Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(world)
    world.kfp.begin(run, "data")
    monkeypatch.setattr(runs, "_LOOK", 0)
    with kube_pods() as (cluster, address):
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig_of(tmp_path, address)))
        assert not any("Workflow" in note for note in runs.find(api, "demo-1").notes)
        cluster.workflow, cluster.other = False, "0b1c2d3e-0000-4000-8000-000000000000"
        assert not any("Workflow" in note for note in runs.find(api, "demo-1").notes), "of another KFP: another cluster"
        cluster.other = start(world, "other-1", "other")["run_id"]
        assert any("Workflow" in note for note in runs.find(api, "demo-1").notes)
        cluster.other = ""
        found = runs.find(api, "demo-1")
        assert "the Workflow of run demo-1 is gone, and KFP will call it running for ever" in found.notes[-1]
        with pytest.raises(runs.Deleted):
            runs.follow(api, found, lambda _: None, lambda _: None)
        run["state"] = "CANCELING"
        with pytest.raises(runs.Deleted):
            runs.cancel(api, runs.find(api, "demo-1"))
        world.kfp.end(run, "FAILED")
        assert not runs.cancel(api, runs.find(api, "demo-1")), "it ended, and Argo removes Workflows in time"
        assert not any("Workflow" in note for note in runs.find(api, "demo-1").notes)


def test_a_run_of_others_is_not_deleted(world: World, api: client.Api) -> None:
    start(world)["description"] = "of others"
    with pytest.raises(UserError, match="not submitted by medmim"):
        runs.delete(api, runs.find(api, "demo-1"))


def test_cancelling_twice_is_cancelling_once(world: World, api: client.Api) -> None:
    run = start(world)
    assert runs.cancel(api, runs.find(api, "demo-1"))
    assert run["state"] == "CANCELING"
    assert not runs.cancel(api, runs.find(api, "demo-1"))
    world.kfp.end(run, "FAILED")
    assert not runs.cancel(api, runs.find(api, "demo-1"))
    assert len([one for one in world.kfp.changes() if "terminate" in one]) == 1


def test_a_run_that_ends_while_it_is_cancelled_is_no_error(world: World, api: client.Api) -> None:
    run = start(world)
    seen = runs.find(api, "demo-1")
    world.kfp.end(run, "SUCCEEDED")
    assert runs.cancel(api, seen)


def test_a_cancel_whose_answer_is_lost_is_a_cancel(world: World, api: client.Api) -> None:
    run = start(world)
    world.kfp.front.lose.append("terminate")
    assert runs.cancel(api, runs.find(api, "demo-1")) and run["state"] == "CANCELING"
