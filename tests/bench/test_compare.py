"""Comparing two benchmarks: paired on equal items, antisymmetric, and zero for a benchmark and itself."""

import pytest

from medmim.bench import compare, run
from medmim.errors import UserError
from medmim.recipe.schema import Bench
from medmim.run.workspace import workspace
from tests.support.bench import publish


@pytest.fixture(scope="module")
def two(world, tmp_path_factory):
    ws = workspace(tmp_path_factory.mktemp("two"))
    settings = Bench(max_new_tokens=2, probes=())
    data = publish(world, ws.store)
    return ws, *(run.bench(ws, data, {"model": str(path)}, settings)[0].uri for path in world.models)


def test_exchanging_the_runs_changes_the_sign(two):
    ws, first, second = two
    ours, theirs = compare.compare(ws, first, second), compare.compare(ws, second, first)
    assert ours["comparable"] and ours["items"] == 48
    assert [r["value"] for r in ours["differences"]] == pytest.approx([-r["value"] for r in theirs["differences"]])


def test_a_run_does_not_differ_from_itself(two):
    ws, first, _ = two
    for row in compare.compare(ws, first, first)["differences"]:
        assert row["value"] == 0 and (row["p"] is None or row["p"] == 1)


def test_a_part_of_the_questions_is_not_comparable(two, world):
    ws, first, _ = two
    settings = Bench(max_new_tokens=2, probes=(), tasks=("temporal",))
    part = run.bench(ws, publish(world, ws.store), {"model": str(world.models[0])}, settings)[0].uri
    found = compare.compare(ws, first, part)
    assert (found["comparable"], found["items"]) == (False, 16)


def test_runs_on_different_questions_cannot_be_compared(two, world):
    ws, _, _ = two
    data = publish(world, ws.store)
    uris = [
        run.bench(ws, data, {"model": str(world.models[0])}, Bench(max_new_tokens=2, probes=(), tasks=(task,)))[0].uri
        for task in ("temporal", "comparison")
    ]
    with pytest.raises(UserError, match="no question in common"):
        compare.compare(ws, *uris)
