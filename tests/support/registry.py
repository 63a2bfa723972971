"""A real MLflow on SQLite, migrated once and copied for each test; models and scores are small real artifacts."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medmim import store
from medmim.recipe import loading
from medmim.recipe.schema import Recipe
from medmim.run.workspace import Workspace, workspace
from medmim.store import MANIFEST, Artifact, open_store
from medmim.terms import APACHE
from tests.support.scores import scores


@pytest.fixture
def ws(tmp_path: Path, mlflow_database: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MEDMIM_STORE", raising=False)
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(mlflow_database, home / "mlflow.db")
    return workspace(home)


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, ws: Workspace) -> Workspace:
    """The workspace on each kind of store."""
    return ws if request.param == "folder" else replace(ws, store=request.getfixturevalue("bucket") + "/store")


@pytest.fixture
def recipe() -> Recipe:
    return loading.load("demo")


@pytest.fixture
def publish(ws: Workspace, tmp_path: Path) -> Callable[..., Artifact]:
    """Publish files (name -> text) as an artifact."""

    def publish(kind: str, **files: str) -> Artifact:
        folder = tmp_path / "publish"
        folder.mkdir()
        for name, text in files.items():
            (folder / name.replace("__", ".")).write_text(text)
        made = store.publish(folder, ws.store, kind, {}, {"parents": {"base": "b" * 64}, "terms": APACHE.as_dict()})
        shutil.rmtree(folder)
        return made

    return publish


@pytest.fixture
def bench(publish: Callable[..., Artifact]) -> Callable[..., Artifact]:
    """Publish scores of a candidate; `groups` is group -> (value, gain, low end of the gain, blind, patients)."""

    def bench(digest: str, champion: str = "", comparable: bool = True, **groups: Any) -> Artifact:
        return publish("bench", scores__json=json.dumps(scores(digest, champion, comparable, **groups)))

    return bench


def digest_of(name: str) -> str:
    """The digest of `model(ws, name)`."""
    return store.content_digest({"weights.txt": {"sha256": hashlib.sha256(name.encode()).hexdigest()}})


def model(ws: Workspace, name: str) -> Artifact:
    """A small model, published, that anybody may use."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "weights.txt").write_text(name)
        return store.publish(Path(folder), ws.store, "model", {}, {"terms": APACHE.as_dict()})


def artifacts(ws: Workspace) -> set[str]:
    """The artifacts that a reader finds; each must be complete."""
    place = open_store(ws.store)
    found = set()
    for key in place.list():
        if key.endswith(MANIFEST) and not key.startswith("resume/"):
            name = key.removesuffix(f"/{MANIFEST}")
            artifact = store.get(f"{ws.store}/{name}")
            assert all(place.exists(f"{name}/{file}") for file in artifact.files), f"{name} is incomplete"
            found.add(name)
    return found
