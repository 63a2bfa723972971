"""Lists of a store: those a page is about are read each time, those that it offers besides every few seconds."""

from pathlib import Path

import pytest
from medmim_console import catalog

from medmim import store
from medmim.run.workspace import Workspace, workspace


def publish(ws: Workspace, folder: Path, text: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "text").write_text(text, encoding="utf-8")
    return store.publish(folder, ws.store, "bench", {"items": 1}, {}).digest


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
