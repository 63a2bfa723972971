"""medmim runs list --stored: the runs of a store, where no KFP is."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from medmim.cli.runs import app
from medmim.errors import UserError
from medmim.run.stage import stage
from medmim.run.workspace import Workspace
from tests.support.registry import ws  # noqa: F401

NAMES = [f"demo-2026010{day}-000000-{day:04x}" for day in (1, 2, 3)]


def call(*words: str) -> Any:
    return CliRunner().invoke(app, ["list", "--stored", *words], catch_exceptions=False).stdout


def test_the_runs_of_a_store_are_listed_newest_first_a_page_at_a_time(
    ws: Workspace,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MEDMIM_HOME", str(ws.home))
    monkeypatch.delenv("KFP_ENDPOINT", raising=False)
    assert call() == "no runs\n"
    for name in NAMES:
        with stage(Workspace(ws.home, ws.store, ws.tracking, name), "data"):
            pass
    first, second, more = call("--limit", "2").splitlines()
    assert first.startswith(NAMES[2]) and second.startswith(NAMES[1]) and more.endswith("--stored --page 2")
    found = json.loads(call("--limit", "2", "--page", "2", "--json"))
    assert found["next_page"] is None and [run["name"] for run in found["runs"]] == NAMES[:1]
    assert (found["runs"][0]["recipe"], found["runs"][0]["begun"]) == ("demo", "2026-01-01T00:00:00+00:00")
    with pytest.raises(UserError, match="no page 'x'"):
        call("--page", "x")
