"""Runs as KFP and the store have them: listed, found, and read with their steps and records."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from medmim.cluster.kfp import client, compiled, end, runs
from medmim.errors import UserError
from medmim.store import open_store
from tests.support.kfp_world import World


def test_runs_are_listed_newest_first_page_by_page(world: World, api: client.Api) -> None:
    for number in range(5):
        world.start(f"r-{number}", f"recipe-{number}")
    names: list[str] = []
    page, token = runs.page(api, 2)
    while True:
        names += [run.name for run in page]
        if not token:
            break
        page, token = runs.page(api, 2, token)
    assert names == ["r-4", "r-3", "r-2", "r-1", "r-0"]


def test_a_list_has_medmims_runs_only(world: World, api: client.Api) -> None:
    run = world.start()
    world.kfp.state.runs["other"] = {**run, "run_id": "other", "display_name": "other", "description": "of others"}
    assert [(one.name, one.recipe, one.state) for one in runs.page(api)[0]] == [("demo-1", "demo", "PENDING")]


def test_a_run_is_found_by_name_and_by_id(world: World, api: client.Api) -> None:
    run = world.start()
    assert runs.find(api, "demo-1").run_id == run["run_id"] == runs.find(api, run["run_id"]).run_id
    assert runs.find(api, run["run_id"].upper()).name == "demo-1"


@pytest.mark.parametrize("named", ["demo-2", "demo", "11111111-2222-3333-4444-555555555555"])
def test_an_unknown_run_is_reported_with_similar_names(world: World, api: client.Api, named: str) -> None:
    world.start()
    with pytest.raises(UserError, match=f"has no run '{named}") as raised:
        runs.find(api, named)
    near = "the nearest names are" if named.startswith("demo") else "no name is like it; the newest are"
    assert raised.value.reason == f"{near} demo-1" and "medmim runs list" in raised.value.fix


def test_an_invalid_page_token_is_reported(world: World, api: client.Api) -> None:
    world.start()
    with pytest.raises(UserError, match="no page 'garbage'") as raised:
        runs.page(api, token="garbage")
    assert "Invalid page token" in raised.value.reason and "without --page" in raised.value.fix


def test_two_runs_of_one_name_are_reported_with_their_ids(world: World, api: client.Api) -> None:
    run = world.start()
    twin = {**run, "run_id": "11111111-2222-3333-4444-555555555555"}
    world.kfp.state.runs[twin["run_id"]] = twin
    with pytest.raises(UserError, match="2 runs are called demo-1") as raised:
        runs.find(api, "demo-1")
    assert sorted(problem.split(",")[0] for problem in raised.value.problems) == sorted(world.kfp.state.runs)


def test_a_run_has_its_steps_with_their_records(world: World, api: client.Api) -> None:
    run = world.start()
    world.kfp.begin(run, "data", state="SUCCEEDED")
    world.record("demo-1", "data", uri="s3://bucket/data/1", seconds=7.0)
    world.kfp.begin(run, "audit")
    data, audit = runs.find(api, "demo-1").steps
    assert (data.name, data.state, data.record and data.record.uri) == ("data", "SUCCEEDED", "s3://bucket/data/1")
    assert (audit.name, audit.state, audit.record) == ("audit", "RUNNING", None)
    assert data.seconds is not None and audit.seconds is not None and 0 <= audit.seconds < 60


def test_a_step_that_never_began_took_no_time(world: World, api: client.Api) -> None:
    run = world.start()
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
    run = world.start()
    world.kfp.begin(run, "data", state="FAILED")
    world.kfp.begin(run, "data", again=1)
    listed = [one for one in run["run_details"]["task_details"] if one["display_name"] == "data"]
    listed[0]["start_time"], listed[1]["start_time"] = first, "2026-11-30T11:00:00Z"
    newest = max(listed, key=lambda one: one["start_time"])
    assert [one.state for one in runs.find(api, "demo-1").steps] == [newest["state"]]


def test_steps_come_in_the_order_of_the_graph(world: World, api: client.Api) -> None:
    run = world.start()
    for name in reversed(compiled.load("train").steps):
        world.kfp.begin(run, name)
    steps = [step.name for step in runs.find(api, "demo-1").steps]
    assert steps == ["data", "audit", "finetune", "bench", "register", "gate", "promote", "report"]


def test_a_run_whose_store_cannot_be_read_is_shown_without_records(world: World, api: client.Api) -> None:
    run = world.start()
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
    first = world.start()
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
    world.start()
    newer = {"stage": "data", "seconds": 7.0, "carbon": 3, "facts": {"rows": 40}}
    open_store(world.store).write("runs/demo-1/data.json", json.dumps(newer).encode())
    found = runs.find(api, "demo-1")
    assert [step.record and (step.record.seconds, step.record.facts) for step in found.steps] == [(7.0, {"rows": 40})]
    assert found.notes == ()


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe", b'{"stage": "data", "facts": 3}', b'{"seconds": 1}'])
def test_a_record_that_cannot_be_read_is_a_note_and_the_others_stay(world: World, api: client.Api, text: bytes) -> None:
    run = world.start()
    world.kfp.begin(run, "data")
    open_store(world.store).write("runs/demo-1/data.json", text)
    world.record("demo-1", "audit", seconds=2.0)
    found = runs.find(api, "demo-1")
    assert [(step.name, bool(step.record)) for step in found.steps] == [("data", False), ("audit", True)]
    (note,) = found.notes
    assert "the record data.json of run demo-1 cannot be read: " in note
    assert end.cancel(api, found) and run["state"] == "CANCELING"


def test_a_refusal_that_kfp_calls_a_success_is_still_a_refusal(world: World, api: client.Api) -> None:
    run = world.start()
    world.record("demo-1", "gate", status="refused")
    world.kfp.end(run, "SUCCEEDED")
    assert runs.find(api, "demo-1").exit_code == 1


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
    run = world.start()
    assert len(world.kfp.state.runs) == 1 and open_store(world.store).exists("runs/demo-1/recipe.json")
    world.kfp.end(run, "SUCCEEDED")
    world.kfp.front.garble += [("GET .*/runs/", NOT_KFPS[how])] * 2
    assert runs.refresh(api, runs.find(api, "demo-1")).state == "SUCCEEDED" and world.kfp.front.garble == []
