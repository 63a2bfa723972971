"""A real MLflow on SQLite: migrated once and copied for each test; models and scores are small real artifacts."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medmim import recipe as recipes
from medmim import store
from medmim.recipe import Recipe
from medmim.steps import Workspace, workspace
from medmim.store import Artifact

SCORE = {"metric": "accuracy", "low": None, "high": None, "blind": None, "chance": 0.33, "unparsed": 0, "errors": 0}


@pytest.fixture
def ws(tmp_path: Path, mlflow_database: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MEDMIM_STORE", raising=False)
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(mlflow_database, home / "mlflow.db")
    return workspace(home)


@pytest.fixture
def recipe() -> Recipe:
    return recipes.load("demo")


@pytest.fixture
def publish(ws: Workspace, tmp_path: Path) -> Callable[..., Artifact]:
    """Publish files (name -> text) as an artifact."""

    def publish(kind: str, **files: str) -> Artifact:
        folder = tmp_path / "publish"
        folder.mkdir()
        for name, text in files.items():
            (folder / name.replace("__", ".")).write_text(text)
        made = store.publish(folder, ws.store, kind, {}, {"parents": {"base": "b" * 64}})
        shutil.rmtree(folder)
        return made

    return publish


@pytest.fixture
def bench(publish: Callable[..., Artifact]) -> Callable[..., Artifact]:
    """Publish scores of a candidate; `groups` is group -> (value, gain, low end of the gain, blind, patients)."""

    def bench(digest: str, champion: str = "", comparable: bool = True, **groups: Any) -> Artifact:
        return publish("bench", scores__json=json.dumps(scores(digest, champion, comparable, **groups)))

    return bench


def scores(digest: str, champion: str = "", comparable: bool = True, **groups: Any) -> dict[str, Any]:
    """What medmim.bench.run writes, for one candidate."""
    groups = groups or {"held_in": (0.9, 0.4, 0.35, 0.33, 200)}
    models = {"tuned": {"digest": digest}, "base": {"digest": "base"}}
    opponents = ["base"]
    if champion:
        models["champion"] = {"digest": champion}
        opponents.append("champion")
    board, differences = [], []
    for key, (value, gain, low, blind, patients) in groups.items():
        group = key.replace("__", ":")
        few = patients < 20
        interval = (None, None) if few else (value - 0.05, value + 0.05)
        row = SCORE | {"group": group, "value": value, "n": 3 * patients, "patients": patients}
        board.append(row | {"model": "tuned", "low": interval[0], "high": interval[1], "blind": blind})
        board.append(row | {"model": "base", "value": value - gain})
        for opponent in opponents:
            paired = {"group": group, "metric": "accuracy", "opponent": opponent, "value": gain, "n": 3 * patients}
            ends = {"low": None, "high": None} if few else {"low": low, "high": 2 * gain - low}
            differences.append(paired | ends | {"patients": patients})
    return {"models": models, "leaderboard": board, "differences": differences, "comparable": comparable}
