"""A run that KFP cloned from another, or started again by a schedule, leaves records of its own."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmim.recipe import loading, names
from medmim.run import run_name
from medmim.run.stage import component, outcomes, stage
from medmim.run.workspace import workspace

DEMO = loading.load("demo")
FIRST, CLONE, THIRD = (f"{digits}-2222-4333-8444-555555555555" for digits in ("11111111", "2222222a", "3333333b"))


def step(home: Path, store: str, name: str, message: str) -> str:
    """A step as in a pod: the parameters of a clone are those of the first run."""
    recipe = DEMO.model_copy(update={"platform": DEMO.platform.model_copy(update={"store": store})})
    with component(name, recipe.dump(), str(home), "demo-1") as (_, ws), stage(ws, name) as outcome:
        outcome.message = message
    return ws.run


def messages(tmp_path: Path, run: str) -> dict[str, str]:
    ws = workspace(tmp_path / "home", run=run)
    return {name: one.message for name, one in outcomes(ws).items()}


def test_a_clone_writes_over_nothing_and_a_retry_finds_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, store = tmp_path / "home", str(tmp_path / "home" / "store")
    course = [
        (FIRST, "data", "a"),
        (FIRST, "audit", "b"),
        (CLONE, "data", "c"),
        (FIRST, "audit", "d"),
        (THIRD, "data", "e"),
    ]
    called = []
    for run_id, name, message in course:
        monkeypatch.setenv(names.RUN_ID, run_id)
        called.append(step(home, store, name, message))
    assert called == ["demo-1", "demo-1", "demo-1-2222222a", "demo-1", "demo-1-3333333b"]
    assert messages(tmp_path, "demo-1") == {"data": "a", "audit": "d"}
    assert messages(tmp_path, "demo-1-2222222a") == {"data": "c"}
    assert messages(tmp_path, "demo-1-3333333b") == {"data": "e"}
    assert [run_name.of(store, "demo-1", run_id) for run_id in (FIRST, CLONE)] == [called[0], called[2]]


def test_a_laptops_run_keeps_its_name_and_claims_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(names.RUN_ID, raising=False)
    store = tmp_path / "home" / "store"
    assert step(tmp_path / "home", str(store), "data", "a") == "demo-1"
    assert [path.name for path in (store / "runs" / "demo-1").iterdir()] == ["data.json"]


@given(ids=st.lists(st.uuids(), min_size=1, max_size=5, unique_by=lambda one: str(one)[:8]))
@settings(max_examples=20)
def test_each_id_has_one_name_and_no_two_have_the_same(
    tmp_path_factory: pytest.TempPathFactory, ids: list[object]
) -> None:
    store = str(tmp_path_factory.mktemp("store"))
    with pytest.MonkeyPatch.context() as patch:
        found = []
        for one in [*ids, *reversed(ids)]:
            patch.setenv(names.RUN_ID, str(one))
            found.append(run_name.claim(store, "demo-1"))
    assert found == [*found[: len(ids)], *reversed(found[: len(ids)])]
    assert len(set(found)) == len(ids) and "demo-1" in found


def test_a_clone_is_kept_among_the_runs_of_its_recipe() -> None:
    for own, recipe in (("demo-20260601-020000-ab12", "demo"), ("demo-nightly-20260601-1", "demo-nightly")):
        assert run_name.recipe_of(f"{own}-2222222a") == run_name.recipe_of(own) == recipe


def test_a_name_says_when_its_run_was_begun() -> None:
    assert run_name.time_of("demo-20260601-020000-ab12") == "20260601-020000"
    assert run_name.time_of("demo-20260601-020000-ab12-2222222a") == "20260601-020000"
    assert run_name.time_of("demo-nightly-20260601-1") == "20260601"
    assert run_name.time_of("mine") == ""
