"""A recipe is frozen, checks what no single key can, and survives its dump."""

import json

import pytest

from medmim.errors import UserError
from medmim.recipe import loading


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


@pytest.mark.parametrize("name", ["tuned", "champion", "a b", "", "A", "-"])
def test_names_of_further_models_are_told_apart_from_the_runs_own(name: str) -> None:
    with pytest.raises(UserError) as raised:
        loading.load("demo", [f"bench.models={json.dumps({name: 'tiny-mantis'})}"])
    assert "bench.models" in raised.value.problems[0]
