"""medmim base build: phase by phase, the same bytes, resumed where it was left."""

import json

import pytest

from medmim.errors import UserError
from medmim.lvlm import checkpoint, llava
from medmim.tiny import base_recipe, build, card

SETTINGS = {"batch_size": 4, "optimizer": "muon", "lr": 1e-3, "precision": "fp32", "freeze_vision": False}


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.setattr(card, "_TASKS", ("copy",))
    monkeypatch.setattr(build, "_CORPUS", 50)
    phases = [
        {"name": "text", "steps": 2, "diet": {"copy": 1, "dense": 1}, "finetune": SETTINGS},
        {"name": "images", "steps": 2, "diet": {"question": 1, "look_up": 1}, "finetune": SETTINGS},
    ]
    values = {"name": "try", "chat": "mantis", "seed": 3, "drawings": 2, "phases": phases}
    return base_recipe.BaseRecipe.model_validate_json(json.dumps(values))


def test_a_base_is_built_twice_with_equal_bytes_and_loads(recipe, tmp_path):
    first = build.build(recipe, tmp_path / "w1", tmp_path / "one")
    second = build.build(recipe, tmp_path / "w2", tmp_path / "two")
    assert first.digest == second.digest == checkpoint.digest(tmp_path / "one")
    assert llava.load(tmp_path / "one", device="cpu").family.name == "mantis"
    card = (tmp_path / "one" / "README.md").read_text()
    assert "| images | 2 | 8 |" in card
    assert "| copy |" in card
    assert recipe.digest[:16] in card


def test_a_build_resumes_from_its_finished_phases(recipe, tmp_path, monkeypatch):
    from medmim.finetune import loop

    whole = build.build(recipe, tmp_path / "w1", tmp_path / "one")
    train, trained = loop.train, []

    def killed(lvlm, batch_at, steps, settings, folder, **more):
        trained.append(folder.name)
        if folder.name == "images" and len(trained) == 2:
            raise KeyboardInterrupt
        return train(lvlm, batch_at, steps, settings, folder, **more)

    monkeypatch.setattr(loop, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        build.build(recipe, tmp_path / "w2", tmp_path / "two")
    assert not (tmp_path / "two").exists()
    again = build.build(recipe, tmp_path / "w2", tmp_path / "two")
    assert trained == ["text", "images", "images"]
    assert again.digest == whole.digest


@pytest.mark.parametrize("text", [None, "", "{bad", "[]", "[1.0, 2.0]", '["a"]'])
def test_a_damaged_record_of_losses_is_an_error(tmp_path, monkeypatch, text):
    if text is not None:
        (tmp_path / build.FIRST_LOSSES).write_text(text)
    monkeypatch.setattr(checkpoint, "resolve", lambda _: tmp_path)
    with pytest.raises(UserError, match="is not the record of 20 losses"):
        build.shipped_losses("tiny-mantis")


SHIPPED = pytest.mark.parametrize("name", ["tiny-mantis", "tiny-llava-med"])


@pytest.mark.long
@SHIPPED
def test_a_shipped_recipe_gives_its_first_losses_bit_for_bit_twice_and_the_recorded_ones_nearly(name, tmp_path):
    recipe = base_recipe.load(name)
    first = build.first_losses(recipe, tmp_path / "first")
    assert len(first) == 20
    assert build.first_losses(recipe, tmp_path / "second") == first
    assert first == pytest.approx(build.shipped_losses(name), abs=build.TOLERANCE)


def test_a_base_whose_losses_are_others_is_refused(recipe, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from medmim.cli.base import app
    from medmim.errors import Refused

    recorded = build.first_losses(recipe, tmp_path, 2)
    monkeypatch.setattr(base_recipe, "load", lambda _: recipe)
    monkeypatch.setattr(build, "shipped_losses", lambda _: recorded)
    good = CliRunner().invoke(app, ["check", "try", "--json"])
    assert good.exit_code == 0
    assert json.loads(good.stdout)["losses"] == recorded
    monkeypatch.setattr(build, "shipped_losses", lambda _: [recorded[0], recorded[1] + 1e-3])
    assert isinstance(CliRunner().invoke(app, ["check", "try"]).exception, Refused)


def test_shipped_recipes_load_and_an_unknown_one_is_refused():
    assert base_recipe.load("tiny-mantis").chat == "mantis"
    assert base_recipe.load("tiny-llava-med").chat == "llava-med"
    with pytest.raises(UserError, match="no base recipe 'tiny-mantiss'"):
        base_recipe.load("tiny-mantiss")


@SHIPPED
def test_a_shipped_base_was_made_by_the_shipped_recipe_and_is_small(name):
    folder = checkpoint.resolve(name)
    card = (folder / "README.md").read_text()
    assert base_recipe.load(name).digest[:16] in card
    assert checkpoint.digest(folder)[:16] in card
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 8_000_000
