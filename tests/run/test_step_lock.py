"""A step's lock among real processes: who waits, who takes over, and what a lost step may not do."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medmim import store
from medmim.errors import Unavailable
from medmim.run import cache, step_lock
from medmim.run.cache import cached_step, step_key
from medmim.run.step_lock import FOLDER, STALE, Held
from medmim.run.workspace import Workspace, workspace
from medmim.store import Store
from medmim.store.folder import FolderStore

STEP = "data-0123"


HOLD = """
import sys, time
from pathlib import Path
from medmim import store
from medmim.errors import UserError
from medmim.run import step_lock
from medmim.run.step_lock import step_lock as lock

where, how = sys.argv[1:3]
step_lock.RENEW, step_lock.STALE = 0.1, float(sys.argv[3])
try:
    with lock(store.open_store(where), "data-0123", "r-1", "s" if how == "shared" else ""):
        print("held", flush=True)
        if how == "ends by SIGTERM":
            sys.exit(143)
        while True:
            time.sleep(60)
except UserError as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
"""


@contextmanager
def holder(where: str, how: str = "", stale: float = STALE) -> "Iterator[subprocess.Popen[str]]":
    """A process that has the lock."""
    command = [sys.executable, "-c", HOLD, where, how, str(stale)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def taken_by_this_process(where: str, shared: str = "") -> Held:
    with step_lock.step_lock(store.open_store(where), STEP, "r-2", shared) as held:
        return held


@pytest.mark.timeout(60)  # less than STALE
def test_a_killed_process_of_this_machine_keeps_nobody_waiting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with holder(str(tmp_path)) as process:
        process.send_signal(signal.SIGKILL)
        taken_by_this_process(str(tmp_path))  # before it is reaped, too
    assert f"run r-1 (process {process.pid} on {os.uname().nodename}) is gone" in capsys.readouterr().err


@pytest.mark.parametrize("change", ["boot", "namespace", "start"])
def test_only_what_its_machine_can_tell_is_the_death_of_a_process(change: str) -> None:
    boot, namespace, pid, start = step_lock._this_process().split(" ")
    process = " ".join(
        [
            "another" if change == "boot" else boot,
            "pid:[1]" if change == "namespace" else namespace,
            pid if change == "start" else "999999999",
            "1" if change == "start" else start,
        ]
    )
    assert step_lock._is_gone(process) is (change == "start")  # else another process of that number, somewhere else
    assert not step_lock._is_gone(step_lock._this_process()) and not step_lock._is_gone("")


def test_a_lost_holder_of_another_machine_is_taken_over_when_it_has_not_renewed(
    bucket: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(step_lock, "STALE", 0.5)
    turn = step_lock.Turn(7, "x", run="r-9", host="pod-a", pid=1, process="boot pid:[1] 1 1")
    place = store.open_store(bucket)
    place.write(f"{FOLDER}/{STEP}/00000007.json", step_lock._dump(turn))
    held = taken_by_this_process(bucket)
    assert held.turn.number == 8 and held.waited
    assert list(place.list(f"{FOLDER}/")) == [f"{FOLDER}/{STEP}/00000008.json"]
    said = capsys.readouterr().err
    assert "waiting for run r-9 (process 1 on pod-a), which is running this very step" in said
    assert "run r-9 (process 1 on pod-a) has not renewed its lock" in said


def test_a_paused_process_that_was_taken_over_ends_with_75(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_lock, "STALE", 0.5)
    with holder(str(tmp_path)) as process:
        process.send_signal(signal.SIGSTOP)
        with step_lock.step_lock(store.open_store(str(tmp_path)), STEP, "r-2") as held:
            process.send_signal(signal.SIGCONT)
            said = process.communicate(timeout=60)[0]  # it sleeps for a minute, and is interrupted
            held.check()
        assert list(held.place.list(f"{FOLDER}/")) == [f"{FOLDER}/{STEP}/00000002.json"], "its own is not written again"
    assert process.returncode == 75 and "has lost the lock of data-0123 to run r-2" in said


@pytest.mark.parametrize("lost_in", ["make", "publish", "remember"])
def test_a_lost_step_publishes_and_clears_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost_in: str
) -> None:
    ws, cleared = workspace(tmp_path / "home"), list[str]()

    def taken_over() -> None:
        place = store.open_store(ws.store)
        (key,) = place.list(f"{FOLDER}/")
        place.create(key.replace("1.json", "2.json"), step_lock._dump(step_lock.Turn(2, "y", host="pod-b", pid=5)))

    def make(folder: Path) -> dict[str, Any]:
        (folder / "text").write_text("x")
        if lost_in == "make":
            taken_over()
        return {}

    publish = store.publish

    def slow(*arguments: Any) -> store.Artifact:
        taken_over()
        return publish(*arguments)

    remember = cache.remember

    def remembers(*arguments: Any) -> None:
        taken_over()  # by one that looked for the step before it was finished, and so makes it
        remember(*arguments)

    if lost_in == "publish":
        monkeypatch.setattr(store, "publish", slow)
    if lost_in == "remember":
        monkeypatch.setattr(cache, "remember", remembers)
    with pytest.raises(Unavailable, match="to process 5 on pod-b"):
        cached_step(ws, "data", 1, {}, {}, make, clear=lambda: cleared.append("all"))
    place = store.open_store(ws.store)
    assert cleared == [] and bool(list(place.list("steps/"))) is (lost_in == "remember")
    assert bool(list(place.list("data/"))) is (lost_in != "make")
    if lost_in != "remember":
        assert [path.name for path in (ws.home / "work").rglob("text")] == ["text"], "what it has done is kept"


def test_whoever_finds_a_step_finished_leaves_what_another_one_still_makes_it_with(tmp_path: Path) -> None:
    """As that of the last test does, after the one that it took over from has finished."""
    ws, cleared = workspace(tmp_path / "home"), list[str]()
    made, _ = cached_step(ws, "data", 1, {}, {}, lambda _: {}, clear=lambda: cleared.append("made"))
    key = step_key("data", 1, {}, {})
    with cache.working(ws, "data", key) as (folder, _):
        (folder / "resume").mkdir(parents=True)
        elsewhere = replace(ws, home=tmp_path / "other")
        assert cached_step(elsewhere, "data", 1, {}, {}, never, clear=lambda: cleared.append("there")) == (made, True)
        assert cached_step(ws, "data", 1, {}, {}, never, clear=lambda: cleared.append("here")) == (made, True)
        assert cleared == ["made"] and (folder / "resume").is_dir()
    assert cached_step(ws, "data", 1, {}, {}, never, clear=lambda: cleared.append("late")) == (made, True)
    assert cleared == ["made", "late"] and not folder.exists()


def never(folder: Path) -> dict[str, Any]:
    raise AssertionError("it is finished")


def test_processes_of_one_request_share_a_lock_and_others_wait_until_the_last_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step, the driver of its Ray job, and the step that replaces it."""
    place = store.open_store(str(tmp_path))
    with holder(str(tmp_path), "shared") as step:
        assert taken_by(place, "s", ends=False).number == 1
    assert step.returncode == -signal.SIGKILL
    monkeypatch.setattr(step_lock, "STALE", 0.5)
    monkeypatch.setattr(step_lock, "RENEW", 0.1)
    done = threading.Event()
    with step_lock.kept(place, STEP, "s"):
        other = threading.Thread(target=lambda: (taken_by(place, "other"), done.set()))
        other.start()
        assert not done.wait(1.5), "the driver is still at it"
        assert taken_by(place, "s", ends=False).number == 1, "the step that replaces the lost one shares it"
    assert done.wait(30)
    other.join()
    assert step_lock._newest(place, STEP).number == 2


def taken_by(place: Store, shared: str, ends: bool = True) -> step_lock.Turn:
    """Take the lock and leave: told to go, where it does not end it."""
    try:
        with step_lock.step_lock(place, STEP, "r-2", shared) as held:
            if not ends:
                raise SystemExit(143)
    except SystemExit:
        assert not step_lock._newest(place, STEP).ended
    return held.turn


class Slow(FolderStore):
    """A store whose user is paused before it creates: others come and go meanwhile."""

    meanwhile: Callable[[], object] | None = None

    def create(self, key: str, data: bytes) -> bool:
        if (others := self.meanwhile) is not None:
            self.meanwhile = None
            others()
        return super().create(key, data)


def test_a_turn_that_others_have_taken_and_left_is_not_taken_again(tmp_path: Path) -> None:
    place, plain = Slow(tmp_path), FolderStore(tmp_path)
    kept: list[Any] = []

    def others() -> None:
        taken_by(plain, "")
        taken_by(plain, "")
        kept.append(step_lock._acquire(plain, STEP, step_lock.Turn(host="pod-c", pid=3, shared="s")))

    place.meanwhile = others
    assert step_lock._acquire(place, STEP, step_lock.Turn(shared="s")).turn.number == 3, "the first was free by then"
    assert [held.turn.number for held in kept] == [3]
    assert list(plain.list(f"{FOLDER}/")) == [f"{FOLDER}/{STEP}/00000003.json"]


def test_a_lock_that_a_later_version_has_written_is_a_lock(tmp_path: Path) -> None:
    place = store.open_store(str(tmp_path))
    held = step_lock._acquire(place, STEP, step_lock.Turn(shared="s", run="r"))
    key = f"{FOLDER}/{STEP}/00000001.json"
    place.write(key, json.dumps(json.loads(place.read(key)) | {"later": 1}).encode())
    assert step_lock._newest(place, STEP) == held.turn
    place.write(key, b"cut o")
    assert not step_lock._newest(place, STEP).ended


def test_a_store_that_may_only_be_read_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medmim.errors import UserError

    (tmp_path / "store").mkdir()
    ws = Workspace(tmp_path / "home", str(tmp_path / "store"), "")
    monkeypatch.setattr("medmim.store.folder.tempfile.mkstemp", _refuse)
    with pytest.raises(UserError, match="no permission while writing to the store"):
        cached_step(ws, "data", 1, {}, {}, lambda folder: pytest.fail("it began"))


def _refuse(**_: object) -> None:
    raise PermissionError(13, "Permission denied")


def test_a_steps_user_holds_renews_and_hands_on_a_lock_in_a_bucket_that_keeps_versions(
    as_user: Callable[[str], str],
) -> None:
    where = as_user("step")
    place = store.open_store(where)
    with step_lock.step_lock(place, STEP, "r-1") as held:
        for count in (1, 2):
            held.renew()
            assert step_lock._newest(place, STEP).renewals == count
    assert taken_by_this_process(where).turn.number == 2
    assert list(place.list(f"{FOLDER}/")) == [f"{FOLDER}/{STEP}/00000002.json"]


def test_two_steps_of_one_bucket_are_made_once_on_two_machines(bucket: str, tmp_path: Path) -> None:
    """Different homes, and a process that the other one cannot see."""
    log, begin = list[str](), threading.Barrier(2)

    def step(name: str) -> None:
        def make(folder: Path) -> dict[str, Any]:
            log.append(name)
            time.sleep(0.5)
            (folder / "text").write_text("x")
            return {}

        ws = Workspace(tmp_path / name, f"{bucket}/lab", "")
        begin.wait()
        made = cached_step(ws, "data", 1, {}, {}, make, clear=lambda: log.append(f"{name} cleared"))
        log.append(f"{name} {'found' if made[1] else 'made'}")

    both = [threading.Thread(target=step, args=(name,)) for name in ("a", "b")]
    for one in both:
        one.start()
    for one in both:
        one.join()
    first = log[0]
    second = "ab".replace(first, "")
    assert sorted(log) == sorted([first, f"{first} cleared", f"{first} made", f"{second} found"])


def test_a_signal_of_somebody_else_interrupts_nothing(tmp_path: Path) -> None:
    with step_lock.step_lock(store.open_store(str(tmp_path)), "step"):
        for number in (signal.SIGWINCH, signal.SIGURG):
            os.kill(os.getpid(), number)
            time.sleep(0.05)


def test_what_is_held_now_is_told_with_its_holder_and_not_what_ended_or_was_killed(tmp_path: Path) -> None:
    place = store.open_store(str(tmp_path))
    begin = time.time() - 60
    with step_lock.step_lock(place, "data-1", "demo-1"):
        pass
    child = "import sys, time; from medmim import store; from medmim.run import step_lock\n"
    child += "with step_lock.step_lock(store.open_store(sys.argv[1]), 'bench-1', 'demo-1'):\n"
    child += " print(flush=True); time.sleep(99)"
    other = subprocess.Popen([sys.executable, "-c", child, str(tmp_path)], stdout=subprocess.PIPE)
    assert other.stdout is not None and other.stdout.readline()
    with step_lock.step_lock(place, "finetune-1", "demo-2"):
        found = {name: (turn.run, turn.pid) for name, turn, _ in step_lock.held(place, begin)}
        assert found == {"bench-1": ("demo-1", other.pid), "finetune-1": ("demo-2", os.getpid())}
        other.kill()
        other.wait()
        assert [name for name, _, _ in step_lock.held(place, begin)] == ["finetune-1"]
        assert not step_lock.held(place, time.time() + 60)
