"""The workspace that the tests of this folder share."""

from pathlib import Path

import pytest

from medmim.run.workspace import Workspace, workspace


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return workspace(tmp_path / "home")
