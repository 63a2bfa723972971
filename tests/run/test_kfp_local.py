"""The runner of a pipeline on this machine: how it ended decides the exit code where no stage recorded one."""

import json
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from medmim.errors import UserError
from medmim.recipe import loading
from medmim.run.kfp_local import exit_code, log_file, run_pipeline
from medmim.run.screen import Screen
from medmim.run.stage import Outcome, outcomes
from medmim.run.workspace import Workspace, workspace


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return workspace(tmp_path / "home", run="r1")


@pytest.mark.parametrize(("code", "ended"), [(70, 70), (1, 75), (75, 75), (-9, 75), (-15, 75), (137, 75)])
def test_a_runner_that_ended_by_itself_names_its_log(code: int, ended: int, ws: Workspace) -> None:
    with pytest.raises(UserError) as raised:
        exit_code({}, [], code, ws)
    assert raised.value.exit_code == ended and str(log_file(ws)) in raised.value.reason


@pytest.mark.parametrize(
    ("stages", "reported", "code", "ended"),
    [
        ({"data": 70}, [], 1, 70),
        ({"data": 0, "audit": 1}, [], 1, 1),
        ({"data": 75, "report": 70}, [2], 1, 75),
        ({}, [70], 1, 70),
        ({"data": 0}, [], 0, 0),
    ],
)
def test_a_stages_record_comes_first(
    stages: dict[str, int], reported: list[int], code: int, ended: int, ws: Workspace
) -> None:
    found = {name: Outcome(name, exit_code=one) for name, one in stages.items()}
    assert exit_code(found, reported, code, ws) == ended


def test_an_exception_in_the_runner_is_70_with_its_traceback_in_the_log(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "medmim.run.kfp_local", "no such pipeline", str(tmp_path)]
    done = subprocess.run(command, input=b"{}", capture_output=True, timeout=60)
    assert done.returncode == 70 and b"Traceback (most recent call last)" in done.stderr


@pytest.mark.parametrize(
    ("home", "sets", "fix"),
    [("{{$}}", (), "give another --home"), ("home", ("data.root=/x{{$.inputs}}",), "change that text of the recipe")],
)
def test_what_kfp_takes_for_a_placeholder_is_refused_before_anything_runs(
    home: str, sets: tuple[str, ...], fix: str, tmp_path: Path
) -> None:
    recipe = loading.load("demo", sets)
    ws = workspace(tmp_path / home, recipe, "r1")
    with pytest.raises(UserError, match="holds '{{\\$'") as raised:
        run_pipeline("train", recipe, ws, Screen())
    assert raised.value.fix == fix and not list(ws.home.iterdir())


@pytest.mark.long
def test_no_password_of_the_tracking_uri_is_on_a_command_line_or_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every user of a machine reads the command lines of all processes, and kfp gives a step its arguments there."""
    secret = "XQZJXQ"  # noqa: S105
    sets = (
        "data.source=odir",
        f"data.root={tmp_path / 'nothing'}",
        f"platform.tracking=http://me:{secret}@127.0.0.1:9",
    )
    recipe = loading.load("demo", sets)
    ws = workspace(tmp_path / "home", recipe, "r1")
    seen, done = set[bytes](), threading.Event()

    def look() -> None:
        while not done.wait(0.02):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    line = path.read_bytes()
                    seen.update([line] if b"--executor_input" in line else [])

    watching = threading.Thread(target=look)
    watching.start()
    try:
        assert run_pipeline("train", recipe, ws, Screen(quiet=True)) == 1
    finally:
        done.set()
        watching.join()
    assert [line for line in seen if str(ws.home).encode() in line], "a step was seen"
    assert not [line for line in seen if secret.encode() in line]
    assert not [path for path in ws.home.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert outcomes(ws)["data"].exit_code == 2
    kept = json.loads((ws.home / "store" / "runs" / "r1" / "recipe.json").read_text("utf-8"))
    assert (kept["name"], kept["data"]["source"]) == ("demo", "odir"), "for people who look at the run later"
