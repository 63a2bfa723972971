"""The folder of one process alone: gone at the end, and after a kill gone with the next one."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from medmim.run.lock import scratch

_HOLD = """
import os, sys
from pathlib import Path
from medmim.run.lock import scratch
with scratch(Path(sys.argv[1]), "work-") as folder:
    (folder / "large").write_bytes(b"x")
    print(folder.name, flush=True)
    sys.stdin.read()
"""


def test_it_is_removed_at_the_end_and_on_an_error(tmp_path: Path) -> None:
    with scratch(tmp_path, "work-") as folder:
        (folder / "a" / "b").mkdir(parents=True)
    with pytest.raises(ValueError), scratch(tmp_path, "work-") as folder:  # noqa: PT011
        (folder / "a").touch()
        raise ValueError
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_removed_by_the_next_and_that_of_a_living_one_is_not(tmp_path: Path) -> None:
    for name in ("work-", "work-mine", "other.lock"):
        (tmp_path / name).touch()
    before = set(tmp_path.iterdir())
    command = [sys.executable, "-c", _HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        held = tmp_path / process.stdout.readline().strip()
        with scratch(tmp_path, "work-"):
            assert (held / "large").exists()
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (held / "large").exists()
    with scratch(tmp_path, "work-"):
        assert not held.exists()
    assert set(tmp_path.iterdir()) == before


def test_two_of_one_process_do_not_share_a_folder(tmp_path: Path) -> None:
    with scratch(tmp_path, "work-") as one, scratch(tmp_path, "work-") as other:
        assert one != other and one.is_dir() and other.is_dir()


def test_without_locks_it_works_and_removes_nothing_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    (tmp_path / "work-left").mkdir()
    (tmp_path / "work-left.lock").touch()
    monkeypatch.setattr("fcntl.flock", refuse)
    with scratch(tmp_path, "work-") as folder:
        assert folder.is_dir()
    assert {path.name for path in tmp_path.iterdir()} == {"work-left", "work-left.lock"}
