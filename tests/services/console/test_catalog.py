"""Lists of a store: those a page is about are read each time, those that it offers besides every few seconds."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from medmim_console import catalog

from medmim import store
from medmim.run.workspace import Workspace, workspace
from tests.support.console import browser


def publish(ws: Workspace, folder: Path, text: str, kind: str = "bench", **record: object) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "text").write_text(text, encoding="utf-8")
    return store.publish(folder, ws.store, kind, {"items": 1}, record).digest


def test_what_a_page_offers_besides_is_listed_once_in_some_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ws = workspace(tmp_path / "home")
    monkeypatch.setattr(catalog, "_KEPT", 1e12)
    first = publish(ws, tmp_path / "made", "one")
    assert [row.digest for row in catalog.recent(ws, "bench").rows] == [first]
    second = publish(ws, tmp_path / "made", "two")
    assert [row.digest for row in catalog.recent(ws, "bench").rows] == [first], "as it was"
    assert {row.digest for row in catalog.artifacts(ws, "bench").rows} == {first, second}
    monkeypatch.setattr(catalog, "_KEPT", 1e-3)
    assert {row.digest for row in catalog.recent(ws, "bench").rows} == {first, second}


def test_times_are_those_of_making_also_in_a_copy_of_a_store(tmp_path: Path) -> None:
    ws = workspace(tmp_path / "home")
    times = {"one": "2026-05-03T10:20:30+02:00", "two": "2026-05-04T11:00:00", "three": "yesterday", "four": 7}
    made = {publish(ws, tmp_path / name, name, "data", time=time): name for name, time in times.items()}
    found = {made[row.digest]: row for row in catalog.artifacts(ws, "data").rows}
    assert found["one"].time == datetime(2026, 5, 3, 8, 20, 30, tzinfo=UTC)
    assert found["two"].time == datetime(2026, 5, 4, 11, tzinfo=UTC)
    for name in ("three", "four"):
        assert abs((found[name].time - datetime.now(UTC)).total_seconds()) < 3600, "when it came into the store"
    assert "2026-05-03 08:20" in browser(ws).get("/data").text


def test_a_list_says_of_which_artifact_the_record_is_damaged(tmp_path: Path) -> None:
    ws = workspace(tmp_path / "home")
    digest = publish(ws, tmp_path / "made", "one", "data", recipe={"name": "chest"})
    client = browser(ws)
    assert "chest" in client.get("/data").text and "record damaged" not in client.get("/data").text
    folder = Path(ws.store, "data", digest)
    (folder / store.PROVENANCE).write_text('{"recipe": ')
    os.utime(folder / store.MANIFEST, (1e9, 1e9))  # as after a restore from a backup
    html = client.get("/data").text
    assert "record damaged" in html and "chest" not in html and "2001-09-09" in html
