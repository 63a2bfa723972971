"""Comparing two benchmarks: paired on equal items, antisymmetric, and zero for a benchmark and itself."""

from dataclasses import replace

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
    rows = run.predictions(ws, first)
    differences = compare.paired((rows, "model"), (rows, "model"))
    assert differences and all(row["value"] == 0 and row["p"] in (None, 1) for row in differences)
    with pytest.raises(UserError, match="both are the answers of model in one benchmark"):
        compare.compare(ws, first, first)


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


def test_models_of_one_run_and_of_others_are_compared_by_their_names(two, world):
    ws, first, second = two
    models = {"one": str(world.models[0]), "other": str(world.models[1])}
    settings = Bench(max_new_tokens=2, probes=())
    many = run.bench(ws, publish(world, ws.store), models, settings)[0].uri
    across = compare.compare(ws, first, second)["differences"]
    assert compare.compare(ws, many, many, "one", "other")["differences"] == across
    assert compare.compare(ws, first, many, "model", "other")["differences"] == across
    same = compare.compare(ws, first, many)  # the same weights under another name
    assert same["differs"] == [] and all(row["value"] == 0 for row in same["differences"])
    with pytest.raises(UserError) as caught:
        compare.compare(ws, many, many, "", "one")
    assert caught.value.fix == "RUN#MODEL takes another model of it: one, other"
    with pytest.raises(UserError, match="has no model 'othre'") as caught:
        compare.compare(ws, many, first, "othre")
    assert "did you mean 'other'" in caught.value.fix and "one, other" in caught.value.fix


def test_what_else_differs_is_named(two, world):
    ws, first, second = two
    (weights,) = compare.compare(ws, first, second)["differs"]
    digests = [run.scores(ws, uri)["models"]["model"]["digest"] for uri in (first, second)]
    assert weights == {"what": "weights", "first": digests[0], "second": digests[1]}
    settings = Bench(max_new_tokens=3, probes=(), tasks=("temporal",))
    part = run.bench(ws, publish(world, ws.store), {"model": str(world.models[0])}, settings)[0].uri
    found = {row["what"]: (row["first"], row["second"]) for row in compare.compare(ws, first, part)["differs"]}
    assert found == {
        "tasks": ("held_in, held_out", "temporal"),
        "longest answer": ("2 new tokens", "3 new tokens"),
    }


def test_another_machine_and_another_chat_format_are_named(two, world, monkeypatch):
    ws, first, _ = two
    real = run.engine

    def engine(*given):
        one = real(*given)
        # as the real ones do: other keys of the answers, and so another artifact
        ask = lambda *asked: (replace(reply, key="on a GPU") for reply in one.ask(*asked))  # noqa: E731
        half = {"device": "NVIDIA H200", "dtype": "bfloat16", "images": "pil"}
        return replace(one, template="t" * 64, inference=lambda: half, ask=ask)

    monkeypatch.setattr(run, "engine", engine)
    settings = Bench(max_new_tokens=2, probes=(), batch_size=4)
    other = run.bench(ws, publish(world, ws.store), {"model": str(world.models[0])}, settings)[0].uri
    found = {row["what"]: row["second"] for row in compare.compare(ws, first, other)["differs"]}
    assert found == {"device": "NVIDIA H200", "dtype": "bfloat16", "chat template": "t" * 64}
