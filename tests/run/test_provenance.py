"""provenance.json says who made an artifact, from what, with which recipe."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from medmim.recipe import loading
from medmim.run.cache import cached_step
from medmim.run.workspace import workspace


def test_provenance_says_who_made_it_from_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("uid not found")

    def make(folder: Path) -> Mapping[str, Any]:
        (folder / "text").write_text("x")
        return {}

    monkeypatch.setattr("getpass.getuser", nameless)
    monkeypatch.delenv("MEDMIM_USER", raising=False)
    ws = workspace(tmp_path / "home")
    artifact, _ = cached_step(ws, "data", 3, {}, {"base": "abc"}, make, recipe=loading.load("demo"))
    said = json.loads((Path(artifact.uri) / "provenance.json").read_text())
    assert said["who"] == f"uid {os.getuid()}" and said["parents"] == {"base": "abc"} and said["revision"] == 3
    assert said["recipe"]["name"] == "demo" and said["time"].endswith("+00:00")
