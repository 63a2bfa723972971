"""medmim gc: shows first, removes with --yes."""

import json
import os
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from medmim import store
from medmim.cli.app import app
from medmim.run.workspace import workspace


def call(home: Path, *arguments: str) -> str:
    done = CliRunner().invoke(app, ["gc", "--home", str(home), *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_it_shows_first_and_removes_with_yes(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv("MEDMIM_STORE", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    ws = workspace(tmp_path / "home")
    assert "nothing to remove" in call(ws.home)
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "a").write_text(str(number))
        store.publish(folder, ws.store, "data", {}, {"recipe": {"name": "demo"}})
    for path in Path(ws.store).rglob("*"):
        os.utime(path, (0, 0))
    whole = set(Path(ws.store).rglob("manifest.json"))
    shown = json.loads(call(ws.home, "--last", "1", "--json"))
    assert shown["removed"] is False and shown["kept"] == {"among retention.last": 1}
    assert {item["kind"] for item in shown["items"]} == {"artifact"} and len(shown["items"]) == 2
    assert "nothing was removed" in call(ws.home, "--last", "1")
    assert set(Path(ws.store).rglob("manifest.json")) == whole
    gone = json.loads(call(ws.home, "--last", "1", "--json", "--yes"))
    assert gone["removed"] is True and gone["items"] == shown["items"] and gone["bytes"] == shown["bytes"] > 0
    assert len(set(Path(ws.store).rglob("manifest.json"))) == 1
    assert "nothing to remove" in call(ws.home, "--last", "1")
