"""A recipe is frozen, checks what no single key can, and survives its dump."""

import json
from pathlib import Path

import pytest

from medmim.errors import UserError
from medmim.recipe import loading
from medmim.recipe.schema import Recipe


def test_splits_that_leave_no_patients_are_refused() -> None:
    with pytest.raises(UserError, match="leave no patients"):
        loading.load("demo", ["data.dev_fraction=0.5", "data.test_fraction=0.5"])


def test_dump_and_back_is_the_same_recipe() -> None:
    loaded = loading.load("demo", ["finetune.lr=3e-4", "register.model=a.b-c"])
    assert loading.from_dump(loaded.dump()) == loaded
    assert json.loads(loaded.dump())["register"]["model"] == "a.b-c"


def test_a_loaded_recipe_does_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        loading.load("demo").data.seed = 2  # type: ignore[misc]


def test_more_workers_than_samples_in_a_step_are_refused() -> None:
    with pytest.raises(UserError) as raised:
        loading.load("demo", ["platform.workers=5", "finetune.batch_size=4"])
    assert "fewer samples than there are workers" in str([raised.value.fact, raised.value.problems])
    assert loading.load("demo", ["platform.workers=4", "finetune.batch_size=4"]).platform.workers == 4


def test_further_models_keep_their_order_on_the_way_to_a_step() -> None:
    loaded = loading.load("demo", ['bench.models={"z": "tiny-mantis", "a": "openai:http://127.0.0.1:1/v1#x"}'])
    assert list(loading.from_dump(loaded.dump()).bench.models) == ["z", "a"]


@pytest.mark.parametrize("name", ["tuned", "champion", "data", "a b", "", "A", "-"])
def test_names_of_further_models_are_told_apart_from_the_runs_own(name: str) -> None:
    with pytest.raises(UserError) as raised:
        loading.load("demo", [f"bench.models={json.dumps({name: 'tiny-mantis'})}"])
    assert "bench.models" in raised.value.problems[0]


@pytest.mark.parametrize(
    "address",
    ["http://me:s3cret@h:1/v1#m@1", "http://me:s3cret@h", "http://h/v1?api_key=s3cret#m", "http://s3#a@h/v1#m"],
)
def test_secrets_in_the_addresses_of_further_models_are_refused_and_not_shown(address: str) -> None:
    with pytest.raises(UserError) as raised:
        loading.load("demo", [f"bench.models={json.dumps({'a': f'openai:{address}'})}"])
    said = str([raised.value.fact, raised.value.reason, raised.value.problems])
    assert "a: the address holds" in said and "s3" not in said
    for fine in ("openai:http://h/v1#org/m@rev", "models:/m@champion", "s3://b/m@x"):
        loading.load("demo", [f"bench.models={json.dumps({'a': fine})}"])


def test_approved_wordings_are_named_by_a_digest_and_never_in_the_published_form() -> None:
    approved = f"data.words={{approved: {'a' * 64}}}"
    loading.load("demo", [approved])
    for given, said in (
        (["data.words={approved: book.yaml}"], "approved"),
        ([approved, "data.form=published"], "strict"),
    ):
        with pytest.raises(UserError) as raised:
            loading.load("demo", given)
        assert said in str(raised.value)


BENCH = ["pipeline=bench", "bench.models={a: tiny-mantis}"]


def test_a_recipe_that_trains_nothing_names_models_and_no_training() -> None:
    comparing = (recipe_of(*BENCH), recipe_of(*BENCH, "platform.workers=100"))  # workers that ask, not that train
    assert all(recipe == loading.from_dump(recipe.dump()) for recipe in comparing)
    for sets, problem in (
        (["pipeline=bench"], "there are none"),
        ([*BENCH, "finetune.lr=1e-3", "gate.policy=research"], "does not read finetune, gate"),
    ):
        with pytest.raises(UserError) as raised:
            recipe_of(*sets)
        assert problem in raised.value.problems[0]


def test_commands_that_train_refuse_it(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("{name: r, data: {source: phantom}}")
    assert loading.load_to_train(str(tmp_path / "r.yaml")).name == "r"
    with pytest.raises(UserError, match="recipe r trains no model"):
        loading.load_to_train(str(tmp_path / "r.yaml"), BENCH)


def recipe_of(*sets: str) -> Recipe:
    values = {"name": "r", "data": {"source": "phantom"}}
    for item in sets:
        loading._override(values, item)
    return loading.validate(values, "r")
