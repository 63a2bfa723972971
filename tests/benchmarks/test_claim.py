"""The table of the claim: paired gains, seeds, swap-consistency, Holm by kind of row, and which rows are won."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

SPEC = importlib.util.spec_from_file_location("claim", Path(__file__).parents[2] / "benchmarks" / "claim.py")
assert SPEC and SPEC.loader
claim = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(claim)

SEEDS = (1, 2)


def given(right: bool, both: float | None = None, status: str = "parsed") -> dict[str, Any]:
    scores = {"accuracy": float(right), "likelihood": 1.0} | ({} if both is None else {"swap_consistency": both})
    blind = {"scores": {"accuracy": 0.0, "likelihood": 0.0}, "status": "parsed"}
    return {"none": {"scores": scores, "status": status}, "blind": blind}


def item(i: int, base: bool, seeds: tuple[bool, ...], **fields: Any) -> dict[str, Any]:
    """A question on patient `i % 200`; every second one has `swap_consistency`."""
    both = None if i % 2 else 1.0
    answers = {f"seed {seed}": given(good, both and float(good)) for seed, good in zip(SEEDS, seeds, strict=True)}
    known = {
        "options": ["a", "b"],
        "gold": [0],
        "groups": ["held_in", "source:phantom-chest", "ability:temporal"],
        "held_out": False,
        "ability": "temporal",
        "family": "change",
        "source": "phantom-chest",
        "question": "What became of the effusion?",
        "people": [f"phantom/{i % 200}"],
        "answers": {**answers, "base": given(base, both and 0.0)},
    }
    return known | fields


def rows(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {row.group: row for row in claim.table("mantis", items, SEEDS)}


def test_a_gain_is_the_mean_over_the_seeds_minus_the_base_on_the_same_questions() -> None:
    found = rows([item(i, i % 4 == 0, (True, i % 2 == 0)) for i in range(400)])["held_in"]
    assert (found.base, found.tuned, found.lowest, found.blind, found.chance) == (0.25, 0.75, 0.5, 0.0, 0.5)
    assert found.gain.value == 0.5 and found.gain.patients == 200
    assert found.both_ways == (0.0, 1.0)  # both seeds are right on every question that is asked both ways


def test_unread_answers_stand_beside_the_gain_and_are_left_out_of_the_gain_if_read() -> None:
    items = [item(i, False, (True, True)) for i in range(100)]
    for i in range(40):  # half of what one seed and a tenth of what the base said
        items[i]["answers"]["seed 1" if i < 30 else "base"] |= given(False, status="unparsed")
    found = rows(items)["held_in"]
    assert found.unread == pytest.approx((0.10, 0.15))
    assert found.if_read is not None and found.if_read.n == 60 and found.if_read.value == 1
    assert found.likelihood.value == 0 and found.likelihood.n == 100
    nothing = rows([item(i, False, (True, True)) | {"answers": {
        role: given(True, status="unparsed") for role in ("seed 1", "seed 2", "base")
    }} for i in range(30)])["held_in"]  # fmt: skip
    assert nothing.if_read is None


def test_open_questions_failed_ones_and_held_in_sources_are_in_no_row() -> None:
    good = [item(i, False, (True, True)) for i in range(60)]
    failed = item(60, False, (True, True))
    failed["answers"]["seed 2"]["none"]["scores"] = {}
    found = rows([*good, failed, item(61, False, (True, True), options=[])])
    assert found["held_in"].gain.n == 60
    assert set(found) == {
        "held_in",
        "ability:temporal",
    }  # the only kind of an ability has no row of its own


def test_a_finding_has_a_row_of_its_own_where_sizes_are_compared() -> None:
    fields = {"held_out": True, "groups": ["held_out", "source:phantom-fundus"], "source": "phantom-fundus"}
    larger = {**fields, "ability": "comparison", "family": "larger"}
    scattered = [item(i, True, (False, False), **larger, question="the larger drusen?") for i in range(30)]
    found = rows([*scattered, *(item(i, False, (True, True), **fields) for i in range(30))])
    assert found["source:phantom-fundus/larger drusen"].gain.value == -1
    assert not found["source:phantom-fundus/larger drusen"].won


def test_holm_corrects_headline_rows_and_sub_cases_separately() -> None:
    items = [item(i, False, (i % 3 > 0, True), family=("change", "order")[i % 2]) for i in range(400)]
    found = claim.correct(claim.table("mantis", items, SEEDS))
    heads, parts = ([row for row in found if ("/" in row.group) == part] for part in (False, True))
    assert len(heads) == len(parts) == 2
    assert [row.p for row in found] == pytest.approx([2 * row.gain.p for row in found])
    corrected = claim.correct(heads)
    assert [row.p for row in corrected] == [row.p for row in heads]


def test_a_group_that_is_lost_absent_or_of_too_few_patients_is_not_won(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = ("held_in", "ability:temporal")
    monkeypatch.setattr(claim, "BASES", {"mantis": ""})
    won = claim.correct(claim.table("mantis", [item(i, False, (True, True)) for i in range(200)], SEEDS))
    assert claim.missing(won, needed) == []
    assert claim.missing([row for row in won if row.group == "held_in"], needed) == ["mantis ability:temporal"]
    few = claim.correct(claim.table("mantis", [item(i, False, (True, True)) for i in range(149)], SEEDS))
    assert all(row.won for row in few) and claim.missing(few, needed) == ["mantis held_in", "mantis ability:temporal"]
    same = claim.correct(claim.table("mantis", [item(i, True, (True, True)) for i in range(200)], SEEDS))
    assert len(claim.missing(same, needed)) == 2


def test_a_gain_over_a_base_that_cannot_be_read_is_not_won_when_images_add_nothing() -> None:
    items = [item(i, False, (i % 4 > 0, i % 4 > 0)) for i in range(400)]
    assert all(row.won for row in claim.correct(claim.table("mantis", items, SEEDS)))
    for one in items:
        for role in ("seed 1", "seed 2"):
            one["answers"][role]["blind"]["scores"]["accuracy"] = one["answers"][role]["none"]["scores"]["accuracy"]
    assert not any(row.won for row in claim.correct(claim.table("mantis", items, SEEDS)))
