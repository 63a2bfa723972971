"""A stage leaves its record on every way out; a component parses its recipe and ends with our exit code."""

import json
import os
from pathlib import Path

import pytest

from medmim.errors import Refused, Unavailable, UserError
from medmim.recipe import loading
from medmim.run.stage import component, outcomes, stage
from medmim.run.workspace import Workspace, workspace
from medmim.store import open_store
from tests.support.rust import panic

DEMO = loading.load("demo")


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return workspace(tmp_path / "home", run="r1")


def test_a_record_of_a_newer_medmim_is_read_as_far_as_it_is_known(ws: Workspace) -> None:
    with stage(ws, "data") as outcome:
        outcome.facts = {"rows": 40}
    place = open_store(ws.store)
    newer = {**json.loads(place.read(f"runs/{ws.run}/data.json")), "carbon": 3}
    place.write(f"runs/{ws.run}/data.json", json.dumps(newer).encode())
    assert outcomes(ws)["data"] == outcome


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b'{"stage": "data", "facts": 3}'])
def test_a_damaged_record_is_named(ws: Workspace, text: bytes) -> None:
    open_store(ws.store).write(f"runs/{ws.run}/data.json", text)
    with pytest.raises(UserError, match=f"the record data.json of run {ws.run} cannot be read: "):
        outcomes(ws)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (None, "done", 0),
        (Refused("too few patients"), "refused", 1),
        (UserError("bad row"), "failed", 2),
        (Unavailable("no answer"), "failed", 75),
        (ZeroDivisionError("a bug"), "failed", 70),
        (KeyError("patient"), "failed", 70),
        (MemoryError(), "failed", 75),
        (PermissionError(13, "Permission denied"), "failed", 2),
        (KeyboardInterrupt(), "failed", 130),
        (SystemExit(143), "failed", 75),
        (SystemExit(129), "failed", 75),
        (SystemExit(1), "failed", 70),
        (SystemExit(), "failed", 70),
    ],
)
def test_a_stage_leaves_its_record_on_every_way_out(
    ws: Workspace, error: BaseException | None, status: str, code: int
) -> None:
    try:
        with stage(ws, "gate") as outcome:
            outcome.facts["seen"] = 1
            if error:
                raise error
    except BaseException as raised:
        assert raised is error or raised.__cause__ is error
    (left,) = outcomes(ws).values()
    assert (left.stage, left.status, left.exit_code, left.facts) == ("gate", status, code, {"seen": 1})
    assert error is None or (str(error) or type(error).__name__) in left.message or "Error" in type(error).__name__
    logs = [str(path) for path in (ws.home / "errors").glob("*")]
    assert [path in left.message for path in logs] == [True] * (code == 70)


def test_a_panic_of_a_rust_library_is_a_fault_that_nobody_retries(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with (
        pytest.raises(SystemExit) as raised,
        component("gate", DEMO.dump(), str(home), "r") as (_, ws),
        stage(ws, "gate"),
    ):
        panic()
    record = outcomes(ws)["gate"]
    assert raised.value.code == record.exit_code == 70 and "PanicException: Precompiled" in record.message
    with pytest.raises(SystemExit) as raised, component("data", DEMO.dump(), str(home), "r") as (_, ws):
        panic()
    assert raised.value.code == outcomes(ws)["data"].exit_code == 70


def test_in_a_pod_the_traceback_of_a_fault_is_in_its_log(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MEDMIM_STAGE", "gate")
    monkeypatch.delenv("MEDMIM_RUNNER", raising=False)
    with pytest.raises(UserError, match="ZeroDivisionError: a bug"), stage(ws, "gate"):
        raise ZeroDivisionError("a bug")
    assert "Traceback (most recent call last)" in capsys.readouterr().err
    assert "the log of this pod (`medmim runs logs RUN gate`)" in outcomes(ws)["gate"].message
    assert not (ws.home / "errors").exists()


def test_a_stage_that_fails_raises_its_own_error_when_the_store_is_gone_too(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file where the store should be")
    gone = Workspace(tmp_path, str(tmp_path / "store"), "", "r1")
    with pytest.raises(UserError, match="bad row"), stage(gone, "data"):
        raise UserError("bad row")
    with pytest.raises(UserError, match="writing to the store"), stage(gone, "data"):
        pass


def test_records_are_read_in_the_order_of_the_stages(ws: Workspace) -> None:
    for name in ("report", "data", "bench"):
        with stage(ws, name) as outcome:
            outcome.cached = name == "data"
    assert list(outcomes(ws)) == ["data", "bench", "report"]
    assert outcomes(ws)["data"].seconds == 0.0


def test_a_step_outside_a_run_leaves_no_record(tmp_path: Path) -> None:
    with stage(workspace(tmp_path), "data"):
        pass
    assert not (tmp_path / "store").exists()


def test_a_component_reads_its_recipe_by_its_uri(tmp_path: Path) -> None:
    open_store(str(tmp_path)).write("runs/r/recipe.json", DEMO.dump().encode())
    with component("data", f"{tmp_path}/runs/r/recipe.json", str(tmp_path / "home"), "r") as (parsed, ws):
        assert parsed == DEMO and ws.run == "r"


@pytest.mark.parametrize("within", [True, False])
def test_a_component_ends_with_70_after_a_fault_in_its_stage_or_around_it(
    within: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = tmp_path / "events"
    monkeypatch.setenv("MEDMIM_EVENTS", str(events))
    monkeypatch.setenv("MEDMIM_RUNNER", str(os.getpid()))
    monkeypatch.setattr("medmim.run.stage.end_with_runner", lambda: None)
    with pytest.raises(SystemExit) as raised, component("gate", DEMO.dump(), str(tmp_path / "home"), "r") as (_, ws):
        if within:
            with stage(ws, "gate"):
                raise KeyError("x")
        raise KeyError("x")
    (event,) = map(json.loads, events.read_text("utf-8").splitlines())
    (log,) = (tmp_path / "home" / "errors").iterdir()
    assert raised.value.code == event["code"] == outcomes(ws)["gate"].exit_code == 70
    assert outcomes(ws)["gate"].message == event["text"] and str(log) in event["text"]


def test_a_component_without_its_recipe_ends_with_2(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as raised, component("data", f"{tmp_path}/none.json", str(tmp_path), "r"):
        raise AssertionError("it must not begin")
    assert raised.value.code == 2
