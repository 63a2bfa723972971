"""The decision log: one winner, no gaps, and the roles that it gives."""

import json
import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from medmim.errors import UserError
from medmim.registry import decisions
from medmim.registry.decisions import Decision
from medmim.run.workspace import Workspace, workspace
from medmim.store import open_store
from tests.support.s3_proxy import Proxy


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return workspace(tmp_path / "home")


def entry(digest: str, verdict: decisions.Verdict = "promoted", evidence: str = "") -> Decision:
    return Decision(verdict, version=digest, digest=digest, uri=f"store/model/{digest}", evidence=evidence, why="test")


def _add(home: str, count: int) -> list[int]:
    ws = workspace(Path(home))
    return [decisions.append(ws, "m", lambda log: entry(f"{home}-{len(log)}")).n for _ in range(count)]


def test_an_entry_reads_back_as_it_was_written(ws: Workspace) -> None:
    made = decisions.append(ws, "m", lambda _: replace(entry("a"), why='é "quoted"\nline'))
    assert decisions.read(ws, "m") == [made]
    assert made.n == 1 and made.who and made.time.endswith("+00:00")
    assert decisions.read(ws, "m2") == [] and decisions.names(ws) == ["m"]


def test_many_writers_leave_no_gap_and_lose_no_entry(ws: Workspace) -> None:
    with ThreadPoolExecutor(4) as threads, multiprocessing.get_context("fork").Pool(2) as processes:
        far = processes.starmap_async(_add, [(str(ws.home), 10)] * 2)
        near = [threads.submit(_add, str(ws.home), 5) for _ in range(4)]
        numbers = [n for part in (*far.get(60), *(future.result() for future in near)) for n in part]
    assert sorted(numbers) == list(range(1, 41))
    assert [e.n for e in decisions.read(ws, "m")] == list(range(1, 41))


def test_a_writer_that_was_late_decides_again_by_the_new_log(ws: Workspace) -> None:
    seen: list[int] = []

    def decide(log: list[Decision]) -> Decision:
        seen.append(len(log))
        if not log:  # somebody else writes between our reading and our writing
            open_store(ws.store).create("decisions/m/1.json", _text(entry("other")))
        return entry("mine")

    assert decisions.append(ws, "m", decide).n == 2
    assert seen == [0, 1]


def test_a_missing_or_broken_entry_is_named(ws: Workspace) -> None:
    for name in "abc":
        decisions.append(ws, "m", lambda _, name=name: entry(name))
    store = open_store(ws.store)
    typed = {"verdict": "promoted", "version": "3", "digest": "c" * 64, "uri": "u", "n": 3}
    for broken in ('{"n": 3', "[]", *(json.dumps({**typed, key: 7 if key != "n" else "3"}) for key in typed)):
        store.write("decisions/m/3.json", broken.encode())
        with pytest.raises(UserError, match=r"3\.json is not a decision"):
            decisions.read(ws, "m")
    store.write("decisions/m/3.json", b"\xff")
    with pytest.raises(UserError, match=r"3\.json is not a decision"):
        decisions.read(ws, "m")
    store.delete("decisions/m/2.json")
    with pytest.raises(UserError, match="gaps") as error:
        decisions.read(ws, "m")
    assert "2.json is missing" in str(error.value)


def test_roles_fold_the_log() -> None:
    log = [entry("a", evidence="e1"), entry("b", "refused", "e2")]
    now = decisions.roles(log)
    assert {role: e.digest for role, e in now.by_alias().items()} == {"champion": "a", "challenger": "b"}
    log += [entry("c", evidence="e3"), entry("c", "kept", "e4"), entry("a", "rolled-back")]
    now = decisions.roles(log)
    expected = {"champion": "a", "previous-champion": "c", "challenger": "c"}
    assert {role: e.digest for role, e in now.by_alias().items()} == expected


def test_writers_on_s3_leave_no_gap_either(tmp_path: Path, bucket: str) -> None:
    ws = Workspace(tmp_path, bucket, "")
    with ThreadPoolExecutor(4) as pool:
        made = pool.map(lambda i: decisions.append(ws, "m", lambda _: entry(str(i))).n, range(12))
    assert sorted(made) == list(range(1, 13))
    assert [e.n for e in decisions.read(ws, "m")] == list(range(1, 13))


def test_a_long_log_is_read_in_few_requests(
    tmp_path: Path, bucket: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decisions, "_SETTLED", -1.0)
    ws, place = Workspace(tmp_path, bucket, ""), open_store(bucket)
    for n in range(1, 251):
        place.create(f"decisions/m/{n}.json", _text(entry(str(n)), n))
    decisions.append(ws, "m", lambda _: entry("251"))  # which copies the two full hundreds
    _forget(monkeypatch)
    requests: list[str] = []
    monkeypatch.setattr(proxy, "allows", lambda method, path, _: requests.append(path) is None)
    assert [one.digest for one in decisions.read(ws, "m")] == [str(n) for n in range(1, 252)]
    assert len(requests) == 1 + 2 + 51
    requests.clear()
    assert len(decisions.read_all(ws)["m"]) == 251 and len(requests) == 1  # the rest it remembers


def test_an_entry_that_was_restored_counts_more_than_its_copy(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "_SETTLED", -1.0)
    monkeypatch.setattr(decisions, "_TOGETHER", 2)
    place = open_store(ws.store)
    for name in "abc":
        decisions.append(ws, "m", lambda _, name=name: entry(name))
    (copy,) = (key for key in place.list("decisions/m/entries-"))
    for known in (False, True):  # by this process
        name = f"x{known}"
        place.write("decisions/m/2.json", _text(entry(name), 2))
        if not known:
            _forget(monkeypatch)
        assert [one.digest for one in decisions.read(ws, "m")] == ["a", name, "c"]
    place.write(copy, b"{")
    assert [one.digest for one in decisions.read(ws, "m")] == ["a", "xTrue", "c"]


def test_what_was_written_just_now_is_neither_copied_nor_remembered(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decisions, "_TOGETHER", 2)
    place = open_store(ws.store)
    for name in "abc":
        decisions.append(ws, "m", lambda _, name=name: entry(name))
    path = Path(ws.store) / "decisions/m/2.json"
    before = path.stat()
    place.write("decisions/m/2.json", _text(entry("x"), 2))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # a store may tell seconds only
    assert [one.digest for one in decisions.read(ws, "m")] == ["a", "x", "c"]
    assert not list(place.list("decisions/m/entries-"))


def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a new process."""
    monkeypatch.setattr(decisions, "_known", {})


def _text(made: Decision, n: int = 1) -> bytes:
    return json.dumps(asdict(replace(made, n=n))).encode()
