"""A step is done once, by one process, and resumes where a kill left it."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from medmim import store
from medmim.errors import UserError
from medmim.run.cache import cached_step, step_key
from medmim.run.stage import outcomes, stage
from medmim.run.workspace import Workspace, workspace

# Ten rows, one after the other; logs each to a file that outlives it. Waits after row `stop` for a signal.
ROWS = """
import signal, sys, time
from pathlib import Path
from medmim.errors import UserError
from medmim.run.cache import cached_step
from medmim.run.workspace import workspace

go_on = []
signal.signal(signal.SIGUSR1, lambda *_: go_on.append(1))
home, log, stop = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])

def make(folder):
    rows = folder / "rows.txt"
    done = len(rows.read_text().splitlines()) if rows.exists() else 0
    (folder / "resume").mkdir(exist_ok=True)
    (folder / "resume" / "step").write_text(str(done))
    for i in range(done, 10):
        with rows.open("a") as file, log.open("a") as seen:
            file.write(f"row {i}\\n"); seen.write(f"{i}\\n")
        while i == stop and not go_on:
            time.sleep(0.05)
    return {"rows": 10}

try:
    artifact, cached = cached_step(workspace(home), "data", 1, {}, {}, make)
    print(artifact.digest, cached)
except UserError as error:
    print(error); sys.exit(error.exit_code)
"""


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return workspace(tmp_path / "home", run="r1")


def writes(text: str, calls: list[Path] | None = None) -> Callable[[Path], Mapping[str, Any]]:
    def make(folder: Path) -> Mapping[str, Any]:
        (folder / "text").write_text(text)
        if calls is not None:
            calls.append(folder)
        return {"letters": len(text)}

    return make


def start(home: Path, log: Path, stop: int = -1, store: Path | None = None) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", ROWS, str(home), str(log), str(stop)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **({"MEDMIM_STORE": str(store)} if store else {})},
    )


def wait_for(log: Path, rows: int) -> None:
    end = time.monotonic() + 120
    while not log.exists() or len(log.read_text().splitlines()) < rows:
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("stop", [0, 4, 9])
def test_killed_in_the_middle_it_resumes_from_there_to_the_same_digest(tmp_path: Path, stop: int) -> None:
    first = start(tmp_path / "whole", tmp_path / "whole.log")
    digest = first.communicate(timeout=150)[0].split()[0]

    killed = start(tmp_path / "home", tmp_path / "log", stop)
    wait_for(tmp_path / "log", stop + 1)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not list((tmp_path / "home" / "store").rglob("manifest.json"))

    again = start(tmp_path / "home", tmp_path / "log")
    assert again.communicate(timeout=150)[0].split() == [digest, "False"]
    assert (tmp_path / "log").read_text().split() == [str(i) for i in range(10)], "no row is made twice"
    assert list((tmp_path / "home" / "work").iterdir()) == [], "nothing stays behind"
    third = start(tmp_path / "home", tmp_path / "log")
    assert third.communicate(timeout=150)[0].split() == [digest, "True"]


@pytest.mark.timeout(60)  # less than the time after which a lock is stale
@pytest.mark.parametrize("killed", [False, True])
def test_the_second_of_two_processes_waits_for_the_first_and_says_so(tmp_path: Path, killed: bool) -> None:
    busy = start(tmp_path / "home", tmp_path / "log", 3 if killed else 9)
    wait_for(tmp_path / "log", 4 if killed else 10)
    second = start(tmp_path / ("home" if killed else "other"), tmp_path / "log", store=tmp_path / "home" / "store")
    assert second.stderr
    said = second.stderr.readline()
    assert f"waiting for process {busy.pid} on {socket.gethostname()}, which is running this very step" in said
    assert second.poll() is None
    busy.send_signal(signal.SIGKILL if killed else signal.SIGUSR1)
    busy.wait()
    assert second.communicate(timeout=50)[0].split()[1] == str(not killed)
    assert (tmp_path / "log").read_text().split() == [str(i) for i in range(10)], "no row is made twice"


def test_a_process_that_waited_takes_what_the_other_made(tmp_path: Path) -> None:
    both = [start(tmp_path / "home", tmp_path / "log") for _ in range(2)]
    said = [process.communicate(timeout=150)[0].split() for process in both]
    assert said[0][0] == said[1][0] and (tmp_path / "log").read_text().split() == [str(i) for i in range(10)]


def test_a_finished_step_is_found_and_not_made(ws: Workspace) -> None:
    calls: list[Path] = []
    first, made = cached_step(ws, "data", 1, {"a": 1}, {"p": "d"}, writes("x", calls))
    second, found = cached_step(ws, "data", 1, {"a": 1}, {"p": "d"}, writes("x", calls))
    assert (made, found, len(calls)) == (False, True, 1) and first == second
    assert first.counts == {"letters": 1}


def test_the_key_changes_with_each_of_its_parts_and_with_nothing_else() -> None:
    key = step_key("data", 1, {"a": 1, "b": [1, 2]}, {"p": "d", "q": "e"})
    assert key == step_key("data", 1, {"b": [1, 2], "a": 1}, {"q": "e", "p": "d"})
    others = [
        step_key("bench", 1, {"a": 1, "b": [1, 2]}, {"p": "d", "q": "e"}),
        step_key("data", 2, {"a": 1, "b": [1, 2]}, {"p": "d", "q": "e"}),
        step_key("data", 1, {"a": 1, "b": [2, 1]}, {"p": "d", "q": "e"}),
        step_key("data", 1, {"a": "1", "b": [1, 2]}, {"p": "d", "q": "e"}),
        step_key("data", 1, {"a": 1, "b": [1, 2]}, {"p": "e", "q": "d"}),
        step_key("data", 1, {"a": 1, "b": [1, 2]}, {"p": "d"}),
    ]
    assert len({key, *others}) == 7


def test_settings_that_are_no_plain_json_are_a_programming_error() -> None:
    with pytest.raises(TypeError):
        step_key("data", 1, {"folder": Path("/x")}, {})


def test_a_step_whose_artifact_was_deleted_is_made_again(ws: Workspace) -> None:
    calls: list[Path] = []
    first, _ = cached_step(ws, "data", 1, {}, {}, writes("x", calls))
    shutil.rmtree(first.uri)
    second, found = cached_step(ws, "data", 1, {}, {}, writes("x", calls))
    assert not found and len(calls) == 2 and second == first and store.find(first.uri) == first


def test_a_store_that_was_moved_still_knows_its_steps(ws: Workspace, tmp_path: Path) -> None:
    first, _ = cached_step(ws, "data", 1, {}, {}, writes("x"))
    Path(ws.store).rename(tmp_path / "moved")
    moved = Workspace(ws.home, str(tmp_path / "moved"), ws.tracking)
    second, found = cached_step(moved, "data", 1, {}, {}, writes("x"))
    assert found and second.digest == first.digest and second.uri.startswith(str(tmp_path / "moved"))


def test_working_files_are_there_for_the_next_try_and_never_published(ws: Workspace) -> None:
    def breaks(folder: Path) -> Mapping[str, Any]:
        (folder / "resume").mkdir()
        (folder / "resume" / "state").write_text("half")
        (folder / ".cache").mkdir()
        raise RuntimeError("power cut")

    def resumes(folder: Path) -> Mapping[str, Any]:
        (folder / "text").write_text((folder / "resume" / "state").read_text())
        return {}

    with pytest.raises(RuntimeError):
        cached_step(ws, "data", 1, {}, {}, breaks)
    artifact, _ = cached_step(ws, "data", 1, {}, {}, resumes)
    assert set(artifact.files) == {"text"} and (Path(artifact.uri) / "text").read_text() == "half"


def test_a_step_that_refuses_its_input_leaves_nothing(ws: Workspace) -> None:
    def refuses(folder: Path) -> Mapping[str, Any]:
        raise UserError("row 3 is wrong")

    with pytest.raises(UserError, match="row 3"):
        cached_step(ws, "data", 1, {}, {}, refuses)
    (lock,) = [path for path in ws.home.rglob("*") if path.is_file()]
    assert lock.parts[-3] == "locks" and json.loads(lock.read_text())["ended"]
    assert list((ws.home / "work").iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device", "/home/x/large"),
        Exception("Error while serializing: I/O error: No space left on device (os error 28)"),  # safetensors
        sqlite3.OperationalError("database or disk is full"),
    ],
)
def test_a_full_disk_in_a_step_is_reported_and_what_was_done_is_kept(ws: Workspace, error: Exception) -> None:
    def fills(folder: Path) -> Mapping[str, Any]:
        (folder / "half").write_text("x")
        raise error

    with pytest.raises(UserError, match="the disk is full while running the step data"), stage(ws, "data"):
        cached_step(ws, "data", 1, {}, {}, fills)
    assert outcomes(ws)["data"].exit_code == 2
    assert [path.name for path in (ws.home / "work").rglob("*") if path.is_file()] == ["half"]


def test_a_step_in_a_bucket_is_the_step_in_a_folder(ws: Workspace, bucket: str, tmp_path: Path) -> None:
    far = Workspace(tmp_path / "far", f"{bucket}/lab", "", "r1")
    with stage(far, "data") as outcome:
        outcome.of(*cached_step(far, "data", 1, {}, {}, writes("x")))
    near, _ = cached_step(ws, "data", 1, {}, {}, writes("x"))
    again, found = cached_step(far, "data", 1, {}, {}, writes("x"))
    assert found and again.digest == near.digest == outcomes(far)["data"].digest
    assert (far.fetch(again.uri) / "text").read_text() == "x"
    assert list((far.home / "work").iterdir()) == [] and not (far.home / "store").exists()
