"""The decision log: one winner, no gaps, and the roles that it gives."""

import json
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from medmim.errors import UserError
from medmim.registry import decisions
from medmim.registry.decisions import Decision
from medmim.run.workspace import Workspace, workspace
from medmim.store import open_store


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


def _text(made: Decision) -> bytes:
    import json
    from dataclasses import asdict

    return json.dumps(asdict(replace(made, n=1))).encode()
