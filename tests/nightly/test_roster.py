"""Which models a night benches, and the error where one of them is gone."""

from pathlib import Path

import pytest

from components.rebench import rebench
from medmim.errors import UserError
from medmim.nightly import roster
from medmim.recipe import loading
from medmim.recipe.schema import Recipe
from medmim.registry import decisions
from medmim.run.stage import NIGHTLY, outcomes
from medmim.run.workspace import Workspace


def promoted(ws: Workspace, recipe: Recipe, digest: str) -> None:
    """Make a model champion that is not in the store."""
    entry = decisions.Decision("promoted", "7", digest * 64, f"{ws.store}/model/{digest * 64}", why="a test")
    decisions.append(ws, recipe.register_.model, lambda _: entry)


@pytest.fixture
def world(tmp_path: Path) -> tuple[Recipe, Workspace]:
    ws = Workspace(tmp_path, str(tmp_path / "store"), f"sqlite:///{tmp_path / 'mlflow.db'}", "night-1")
    return loading.load("demo", [f"platform.store={ws.store}", f"platform.tracking={ws.tracking}"]), ws


def test_a_deleted_champion_is_reported_and_rollback_named_only_where_there_was_another(
    world: tuple[Recipe, Workspace],
) -> None:
    recipe, ws = world
    name = recipe.register_.model
    promoted(ws, recipe, "a")
    with pytest.raises(UserError, match=f"the champion of {name} was deleted: version 7") as error:
        roster.models(recipe, ws)
    assert error.value.exit_code == 2 and "rollback" not in error.value.fix and "backup" in error.value.fix
    promoted(ws, recipe, "b")
    with pytest.raises(UserError) as error:
        roster.models(recipe, ws)
    assert f"`medmim registry rollback {name} --why" in error.value.fix


def test_a_champion_whose_address_is_another_models_is_not_asked(world: tuple[Recipe, Workspace]) -> None:
    recipe, ws = world
    entry = decisions.Decision("promoted", "7", "a" * 64, f"{ws.store}/model/{'b' * 64}", why="a test")
    decisions.append(ws, recipe.register_.model, lambda _: entry)
    with pytest.raises(UserError, match="names two models"):
        roster.models(recipe, ws)


@pytest.mark.parametrize("ray", ["local", "rayjob"])
def test_a_night_without_its_champion_leaves_the_record_of_its_stage(
    world: tuple[Recipe, Workspace], ray: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, ws = world
    for name in ("MEDMIM_STAGE", "OMP_WAIT_POLICY"):  # the component sets them
        monkeypatch.setenv(name, "")
    promoted(ws, recipe, "a")
    recipe = recipe.model_copy(update={"platform": recipe.platform.model_copy(update={"ray": ray})})
    with pytest.raises(SystemExit) as ended:
        rebench.python_func(recipe.dump(), str(ws.home), ws.run, "data")
    assert ended.value.code == 2
    seen = outcomes(ws, NIGHTLY)["rebench"]
    assert (seen.status, seen.exit_code) == ("failed", 2) and "was deleted" in seen.message


def test_a_reference_that_does_not_exist_leaves_the_record_too(
    world: tuple[Recipe, Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, ws = world
    for name in ("MEDMIM_STAGE", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")
    wrong = recipe.nightly.model_copy(update={"references": ("models:/nobody@champion",)})
    recipe = recipe.model_copy(update={"nightly": wrong})
    with pytest.raises(SystemExit):
        rebench.python_func(recipe.dump(), str(ws.home), ws.run, "data")
    assert outcomes(ws, NIGHTLY)["rebench"].exit_code == 2
