"""Two tiny models that are registered and benched, a data set, a real MLflow; once for each file of tests."""

import shutil
from pathlib import Path

import pytest

from medmim.recipe import loading
from medmim.recipe.schema import Recipe
from medmim.run.workspace import Workspace, workspace
from tests.support.bench import World, publish, world  # noqa: F401
from tests.support.inference import register_model


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return loading.load("demo")


@pytest.fixture(scope="module")
def ws(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Workspace:
    home = tmp_path_factory.mktemp("home")
    shutil.copy(mlflow_database, home / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("MEDMIM_STORE", raising=False)
        return workspace(home)


@pytest.fixture(scope="module")
def versions(ws: Workspace, recipe: Recipe, world: World) -> tuple[str, str]:  # noqa: F811
    """The numbers of two registered models."""
    data = publish(world, ws.store)
    first, second = (register_model(ws, recipe, data, folder) for folder in world.models)
    return first, second
