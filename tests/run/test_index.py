"""An index is made once, by one process, and made again where it is damaged or another one."""

import multiprocessing
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from medmim.errors import UserError
from medmim.run import index
from medmim.run.index import Form, NotReady
from medmim.store import Artifact

SCHEMA = "CREATE TABLE numbers (n INTEGER PRIMARY KEY, text TEXT);"


def artifact(name: str = "0") -> Artifact:
    return Artifact("/store/bench/" + 64 * name, 64 * name, "bench", {}, {})


def form(name: str = "numbers 1", done: Callable[[], None] = lambda: None, count: int = 5000) -> Form:
    def fill(of: Artifact, connection: sqlite3.Connection, tell: Callable[[float], None]) -> None:
        done()
        connection.executemany("INSERT INTO numbers VALUES (?, ?)", ((n, f"number {n}" * 5) for n in range(count)))
        tell(1.0)

    return Form(name, SCHEMA, fill)


def counted(home: Path, which: Form, mark: str = "", of: Artifact | None = None, patience: float = 20.0) -> int:
    with index.opened(home, of or artifact(), which, mark, patience) as connection:
        return int(connection.execute("SELECT count(*), max(text) FROM numbers").fetchone()[0])


def test_threads_that_ask_at_once_make_one(tmp_path: Path) -> None:
    made: list[int] = []

    def slow() -> None:
        made.append(1)
        time.sleep(0.3)

    which = form(done=slow)
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(counted(tmp_path, which))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [5000] * 8
    assert made == [1]


def _ask(home: Path, log: Path) -> None:
    def note() -> None:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.5)

    while True:
        try:
            assert counted(home, form(done=note)) == 5000
        except NotReady:
            time.sleep(0.05)
        else:
            return


def test_processes_that_ask_at_once_make_one(tmp_path: Path) -> None:
    several = multiprocessing.get_context("fork")
    processes = [several.Process(target=_ask, args=(tmp_path, tmp_path / "log")) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 3
    assert len((tmp_path / "log").read_text("utf-8").splitlines()) == 1
    assert [path.name for path in (tmp_path / "console").iterdir()] == [f"{64 * '0'}.sqlite"]


def test_while_it_is_being_made_nobody_waits_for_it(tmp_path: Path) -> None:
    go = threading.Event()
    which = form(done=lambda: go.wait(20) and None)
    with pytest.raises(NotReady) as told:
        counted(tmp_path, which, patience=0.01)
    assert told.value.share == 0.0
    go.set()
    assert counted(tmp_path, which) == 5000


def test_another_form_or_mark_is_made_anew(tmp_path: Path) -> None:
    made: list[str] = []
    for name, mark in (("a 1", ""), ("a 1", ""), ("a 2", ""), ("a 2", "x"), ("a 2", "x")):
        counted(tmp_path, form(name, lambda name=name, mark=mark: made.append(name + mark)), mark)  # type: ignore[misc]
    assert made == ["a 1", "a 2", "a 2x"]


@pytest.mark.parametrize("damage", ["cut", "empty", "zeros", "text", "middle"])
def test_a_damaged_one_is_made_again(tmp_path: Path, damage: str) -> None:
    made: list[int] = []
    which = form(done=lambda: made.append(1))
    counted(tmp_path, which)
    (path,) = (tmp_path / "console").glob("*.sqlite")
    data = path.read_bytes()
    path.write_bytes(
        {
            "cut": data[: len(data) // 2],
            "empty": b"",
            "zeros": bytes(len(data)),
            "text": b"no index" * 1000,
            "middle": data[:8192] + bytes(len(data) - 8192),
        }[damage]
    )
    for _ in range(50):
        try:
            assert counted(tmp_path, which) == 5000
            break
        except NotReady:
            continue
    assert made == [1, 1]


def test_why_it_could_not_be_made_is_said_and_the_next_call_tries_again(tmp_path: Path) -> None:
    def fails() -> None:
        raise UserError("line 3 is no row")

    for _ in range(2):
        with pytest.raises(UserError, match="line 3 is no row"):
            counted(tmp_path, form(done=fails))
    assert counted(tmp_path, form()) == 5000
    assert [path.suffix for path in (tmp_path / "console").iterdir()] == [".sqlite"], "nothing half-made is left"


def test_the_least_recently_used_are_dropped(tmp_path: Path) -> None:
    names = [f"{n:064x}" for n in range(index.KEPT + 3)]
    for age, name in enumerate(names):
        counted(tmp_path, form(count=1), of=Artifact(f"/store/bench/{name}", name, "bench", {}, {}))
        path = tmp_path / "console" / f"{name}.sqlite"
        os.utime(path, (1e9 + age, 1e9 + age))
    left = {path.stem for path in (tmp_path / "console").glob("*.sqlite")}
    assert left == set(names[3:])


def test_what_a_killed_process_has_left_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "console"
    folder.mkdir()
    (folder / f".part-{64 * '0'}abc").write_bytes(b"half")
    (folder / f"{64 * '0'}.lock").touch()
    assert counted(tmp_path, form()) == 5000
    assert [path.suffix for path in folder.iterdir()] == [".sqlite"]


def test_only_its_owner_reads_it(tmp_path: Path) -> None:
    counted(tmp_path, form())
    (path,) = (tmp_path / "console").glob("*.sqlite")
    assert path.stat().st_mode & 0o077 == 0
    index.clear(tmp_path)
    assert not path.exists()
