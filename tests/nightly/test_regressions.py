"""The rule for regressions: how often it raises a false alarm, what it detects, and that repeating it does no harm."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmim.nightly import regressions
from medmim.nightly.regressions import Answers

LEVEL = 0.01


def night(right: Sequence[bool], patients: int, group: str = "held_in", date: str = "2026-06-01") -> Answers:
    """Closed questions, the i-th about patient i modulo `patients`."""
    return Answers(
        date,
        {
            str(i): {
                "groups": [group], "people": [f"p{i % patients}"], "question": "?", "text": str(yes),
                "scores": {"accuracy": float(yes)},
            }
            for i, yes in enumerate(right)
        },
    )  # fmt: skip


def regressed(ours: Answers, *theirs: Answers, smallest: float = 0.01) -> bool:
    rows = regressions.differences({"champion": (ours, theirs)}, LEVEL, smallest)
    return any(row["dropped"] for row in rows)


def test_equally_good_champions_seldom_raise_an_alarm() -> None:
    """120 histories of three weeks, each with two promotions: the rate of histories with a false alarm is bounded.

    A champion differs from the one before on a tenth of the questions, whose worth is a coin's toss; questions of a
    patient go together. Each of the two changes is tested at LEVEL, two-sided, so a quarter of the bound is expected.
    """
    rng, false = np.random.default_rng(7), 0
    for _ in range(120):
        sets = [night(rng.random(400) < 0.7, 80)]
        for _ in range(2):
            before = np.array([row["scores"]["accuracy"] for row in sets[-1].rows.values()])
            moved = rng.random(400) < 0.1 * np.repeat(rng.random(80) < 0.5, 5).reshape(5, 80, order="F").ravel() * 2
            sets.append(night(np.where(moved, rng.random(400) < 0.7, before > 0.5), 80))
        false += any(regressed(sets[i], *sets[:i]) for i in range(1, len(sets)))
    assert false <= 5  # 2.4 are the bound's mean


def test_three_points_less_are_detected_in_the_first_night() -> None:
    """2,000 questions of 200 patients: 5 points lost and 2 won."""
    rng, seen = np.random.default_rng(1), 0
    for _ in range(20):
        before = rng.random(2000) < 0.7
        lost, won = before & (rng.random(2000) < 0.05 / 0.7), ~before & (rng.random(2000) < 0.02 / 0.3)
        seen += regressed(night((before & ~lost) | won, 200), night(before, 200))
    assert seen >= 19


def test_slow_erosion_is_detected_against_the_oldest_night() -> None:
    """0.4 points a night: yesterday's alone would never show it."""
    rng = np.random.default_rng(3)
    state, week = rng.random(2000) < 0.7, []
    for _ in range(10):
        week.append(night(state, 200))
        state = state & ~((rng.random(2000) < 0.004 / 0.7) & state)
    tonight = night(state, 200)
    assert regressed(tonight, *week) and not regressed(tonight, week[-1])


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, 200))
def test_what_is_no_worse_is_never_a_regression(seed: int, patients: int) -> None:
    rng = np.random.default_rng(seed)
    before = rng.random(200) < 0.5
    assert not regressed(night(before, patients), night(before, patients))
    assert not regressed(night(before | (rng.random(200) < 0.3), patients), night(before, patients))


def test_a_small_regression_does_not_count_however_significant() -> None:
    before = np.ones(5000, bool)
    after = before.copy()
    after[:40] = False
    assert not regressed(night(after, 500), night(before, 500))
    assert regressed(night(after, 500), night(before, 500), smallest=0.005)


def test_few_patients_are_not_tested() -> None:
    (row,) = regressions.differences({"base": (night([False] * 400, 19), [night([True] * 400, 19)])}, LEVEL, 0.01)
    assert (row["value"], row["p"], row["dropped"]) == (-1.0, None, False)


def test_only_questions_that_both_asked_are_compared() -> None:
    before, after = night([True] * 400, 40), night([True] * 200 + [False] * 200, 40)
    part = Answers(after.date, dict(list(after.rows.items())[:240]))
    (row,) = regressions.differences({"base": (part, [before])}, LEVEL, 0.01)
    assert (row["n"], row["value"]) == (240, pytest.approx(-1 / 6)) and row["dropped"]
    assert regressions.differences({"base": (before, [before])}, LEVEL, 0.01) == []
