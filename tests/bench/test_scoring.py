"""Swap consistency: a model with a constant answer scores 0, a model that reads the images scores its accuracy."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmim.bench import metrics, scoring
from medmim.bench.reader.reply import read
from medmim.sample import LETTERS, Sample

WORDS = ("improved", "stable", "worse", "image 1", "image 2", "mass", "radiography", "left")
Reader = Callable[[Sample, str], tuple[str, str | None]]  # sample, probe -> text, error


def item(i: int, options: tuple[str, ...], gold: int, swapped: int | None) -> Sample:
    images = (f"{i}a", f"{i}b")
    moved = () if swapped is None else (swapped,)
    return Sample("temporal", "change", "s", "test", False, (f"p{i}",), images, images, f"What in {i}?", options,
                  options[gold], (gold,), moved)  # fmt: skip


@st.composite
def benchmarks(draw: st.DrawFn, least: int = 1) -> list[Sample]:
    """Closed questions of which the first moves with its images, and any of the others may."""
    made = []
    for i in range(draw(st.integers(least, least + 20))):
        options = tuple(draw(st.permutations(WORDS)))[: draw(st.integers(2, 5))]
        gold, swapped = draw(st.permutations(range(len(options))))[:2]
        made.append(item(i, options, gold, swapped if i == 0 or draw(st.booleans()) else None))
    return made


def board(samples: list[Sample], **readers: Reader) -> scoring.Board:
    def answers(reader: Reader, probe: str) -> list:
        asked = [sample for sample in samples if probe == "none" or sample.swapped]
        return [read(sample, probe, "k", *reader(sample, probe)) for sample in asked]

    given = {role: {probe: answers(reader, probe) for probe in ("none", "swap")} for role, reader in readers.items()}
    return scoring.Board(samples, given)


def held_in(found: scoring.Board, role: str = "tuned") -> dict:
    rows = found.leaderboard()
    return next(r for r in rows if (r["model"], r["group"], r["metric"]) == (role, "held_in", "accuracy"))


def perfect(sample: Sample, probe: str) -> tuple[str, str | None]:
    return LETTERS[(sample.swapped if probe == "swap" else sample.gold)[0]], None


def blind(sample: Sample, probe: str) -> tuple[str, str | None]:
    return LETTERS[sample.gold[0]], None  # right for the images as they are, and never moves with them


@given(benchmarks(), st.one_of(st.sampled_from([*LETTERS[:5], *WORDS]), st.text(max_size=20)))
@settings(deadline=None)
def test_a_constant_answer_is_never_right_both_ways(samples: list[Sample], text: str) -> None:
    row = held_in(board(samples, tuned=lambda sample, probe: (text, None)))
    assert row["swap"] == 0 and row["swap_n"] == sum(bool(sample.swapped) for sample in samples)


@given(benchmarks())
@settings(deadline=None)
def test_a_perfect_reader_of_the_images_is_always_right_both_ways(samples: list[Sample]) -> None:
    row = held_in(board(samples, tuned=perfect))
    assert (row["value"], row["swap"]) == (1, 1)


@given(benchmarks(), st.lists(st.sampled_from(["A", "B", "C", "no idea", ""]), min_size=60, max_size=60))
@settings(deadline=None)
def test_right_both_ways_is_rarer_than_right_either_way(samples: list[Sample], texts: list[str]) -> None:
    replies = iter(texts)
    found = board(samples, tuned=lambda sample, probe: (next(replies), None))
    both = [found.values["tuned"]["none"][i] for i, sample in enumerate(samples) if sample.swapped]
    swapped = [found.values["tuned"]["swap"][i]["accuracy"] for i, sample in enumerate(samples) if sample.swapped]
    plain = [scores["accuracy"] for scores in both]
    ways = [scores[metrics.BOTH_WAYS["accuracy"]] for scores in both]
    assert ways == [min(pair) for pair in zip(plain, swapped, strict=True)]
    assert held_in(found)["swap"] == pytest.approx(sum(ways) / len(ways))


@given(benchmarks(least=2), st.sampled_from(["none", "swap"]))
@settings(deadline=None)
def test_an_engine_error_in_either_order_leaves_the_question_out(samples: list[Sample], failing: str) -> None:
    def broken(sample: Sample, probe: str) -> tuple[str, str | None]:
        return perfect(sample, probe) if (sample, probe) != (samples[0], failing) else ("", "timeout")

    row = held_in(board(samples, tuned=broken))
    left = sum(bool(sample.swapped) for sample in samples) - 1
    assert (row["swap_n"], row["swap"]) == (left, 1 if left else None)
    assert row["errors"] == (failing == "none")


def test_the_interval_needs_twenty_patients_among_the_questions_asked_both_ways() -> None:
    few = [item(i, ("a", "b"), 0, 1 if i < 19 else None) for i in range(40)]
    enough = [item(i, ("a", "b"), 0, 1 if i < 20 else None) for i in range(40)]
    row = held_in(board(few, tuned=perfect))
    assert (row["swap_patients"], row["swap_low"], row["swap_high"]) == (19, None, None) and row["low"] is not None
    row = held_in(board(enough, tuned=perfect))
    assert row["swap_patients"] == 20 and row["swap_low"] < row["swap_high"] == 1


def test_models_are_compared_on_it_pair_by_pair() -> None:
    samples = [item(i, ("a", "b", "c"), 0, 1) for i in range(30)]
    found = board(samples, tuned=perfect, base=blind).differences("tuned")
    gains = {row["metric"]: row["value"] for row in found if row["group"] == "held_in"}
    assert gains == {"accuracy": 0, metrics.IF_READ: 0, metrics.BOTH_WAYS["accuracy"]: 1}
    (row,) = [r for r in found if (r["group"], r["metric"]) == ("held_in", metrics.BOTH_WAYS["accuracy"])]
    assert row["low"] > 0 and row["p_holm"] < 0.05 and row["n"] == 30


def test_without_the_probe_its_counts_are_none_and_without_such_questions_they_are_zero() -> None:
    samples = [item(i, ("a", "b"), 0, None) for i in range(30)]
    row = held_in(board(samples, tuned=perfect))
    assert (row["swap"], row["swap_n"]) == (None, 0)
    plain = {"tuned": {"none": [read(sample, "none", "k", "A", None) for sample in samples]}}
    row = held_in(scoring.Board(samples, plain))
    assert (row["swap"], row["swap_n"]) == (None, None)


def test_predictions_carry_both_answers_of_the_questions_that_were_asked_both_ways() -> None:
    samples = [item(0, ("a", "b"), 0, 1), item(1, ("a", "b"), 0, None)]
    moved, still = board(samples, tuned=blind).predictions()
    assert moved["swapped"] == (1,)
    assert moved["answers"]["tuned"]["swap"]["scores"] == {"accuracy": 0}
    assert moved["answers"]["tuned"]["none"]["scores"] == {
        "accuracy": 1,
        metrics.BOTH_WAYS["accuracy"]: 0,
    }
    assert set(still["answers"]["tuned"]) == {"none"}


def asked_blind(right: int, seen: int = 100, people: int = 100) -> scoring.Board:
    """100 questions with two options on as many patients: so many right without images, and with them."""
    samples = [item(i, ("a", "b"), 0, None) for i in range(people)]
    given = {
        probe: [read(sample, probe, "k", "AB"[i >= known], None) for i, sample in enumerate(samples)]
        for probe, known in (("none", seen), ("blind", right))
    }
    return scoring.Board(samples, {"tuned": given})


@pytest.mark.parametrize(("right", "above"), [(50, False), (62, False), (70, True), (100, True)])
def test_text_that_reveals_the_answers_is_marked(right: int, above: bool) -> None:
    """Chance is a half: the lower end of 70 of 100 lies above 0.55, that of 62 below."""
    rows = asked_blind(right).text_only()
    assert {row["above"] for row in rows} == {above}
    assert {(row["blind"], row["chance"]) for row in rows} == {(right / 100, 0.5)}


def test_what_the_images_add_is_paired() -> None:
    """60 right with images and 50 of them without: surer than two intervals of their own, which overlap."""
    row = held_in(asked_blind(50, seen=60))
    assert row["gap"] == pytest.approx(0.1) and row["gap_patients"] == 100
    assert 0.02 < row["gap_low"] < 0.1 < row["gap_high"]
    assert row["low"] - row["blind"] < 0.01


def test_a_question_that_failed_without_images_is_in_no_gap() -> None:
    samples = [item(i, ("a", "b"), 0, None) for i in range(30)]
    seen = [read(sample, "none", "k", "A", None) for sample in samples]
    blind_ones = [read(sample, "blind", "k", "B", None if i else "timeout") for i, sample in enumerate(samples)]
    row = held_in(scoring.Board(samples, {"tuned": {"none": seen, "blind": blind_ones}}))
    assert (row["n"], row["gap"], row["gap_patients"]) == (30, 1.0, 29)


def test_without_the_blind_probe_there_is_no_gap() -> None:
    samples = [item(i, ("a", "b"), 0, None) for i in range(30)]
    plain = {"tuned": {"none": [read(sample, "none", "k", "A", None) for sample in samples]}}
    assert not any(key.startswith("gap") for key in held_in(scoring.Board(samples, plain)))


def test_holm_counts_every_row_of_a_metric_that_is_shown_together() -> None:
    """One domain, one source and two abilities: four rows, whose smallest p counts four times."""
    samples = [replace(item(i, ("a", "b"), 0, None), ability="temporal" if i < 40 else "reasoning") for i in range(80)]
    found = board(samples, tuned=perfect, base=lambda sample, probe: ("AB"[int(sample.patients[0][1:]) % 4 == 0], None))
    rows = [row for row in found.differences("tuned") if row["metric"] == "accuracy"]
    assert len(rows) == 4
    least = min(rows, key=lambda row: row["p"])
    assert least["p_holm"] == pytest.approx(4 * least["p"])
    with_champion = board(samples, tuned=perfect, champion=perfect,
                          base=lambda sample, probe: ("AB"[int(sample.patients[0][1:]) % 4 == 0], None))  # fmt: skip
    rows = [row for row in with_champion.differences("tuned") if row["metric"] == "accuracy"]
    assert len(rows) == 8
    assert min(row["p_holm"] for row in rows) == pytest.approx(8 * least["p"])
