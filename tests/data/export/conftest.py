"""A home, and a data set in it."""

from pathlib import Path

import pytest

from medmim.run.workspace import Workspace, workspace
from tests.support.exports import publish, rows


@pytest.fixture
def ws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.delenv("MEDMIM_STORE", raising=False)
    return workspace(tmp_path / "home")


@pytest.fixture
def uri(ws: Workspace, tmp_path: Path) -> str:
    return publish(ws, tmp_path / "data", rows())
