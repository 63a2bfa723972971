"""What a text gives away is found by type, none of a patient is on both sides, and chance stays chance."""

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from medmim.data.audit import text_only
from medmim.data.audit.check import Check
from medmim.data.audit.types import by_type
from medmim.sample import Sample

STATES = ("improved", "stable", "worse")


def rows(count: int, told: float, patients: int = 100, together: int = 1, family: str = "change") -> list[Sample]:
    """Questions of which a share says the answer in other words: `again` where it is worse."""
    rng = random.Random(5)  # noqa: S311  test records
    made = []
    for i in range(count):
        order = rng.sample(STATES, 3)
        gold = rng.randrange(3)
        hint = {"improved": "now", "stable": "still", "worse": "again"}[order[gold]]
        word = hint if rng.random() < told else rng.choice(("now", "still", "again"))
        who = tuple(f"p{(i * 7 + k * rng.randrange(1, patients)) % patients}" for k in range(together))
        made.append(
            Sample("temporal", family, "clinic-a", "train", False, tuple(dict.fromkeys(who)), (f"i{i}",), (f"i{i}",),
                   f"How is the mass {word}?", tuple(order), order[gold], (gold,))
        )  # fmt: skip
    return made


def checked(samples: Sequence[Sample]) -> list[Check]:
    return text_only.checks(by_type(samples))


def test_a_text_without_the_answer_stays_at_the_best_guess() -> None:
    (check,) = checked(rows(600, 0.0))
    assert check.low is not None and check.low < 0.05
    assert check.value == pytest.approx(0, abs=0.1)


def test_a_word_that_gives_the_answer_away_is_found_with_its_rows() -> None:
    (check,) = checked(rows(600, 0.7))
    assert check.name == "text-only/clinic/temporal/change"
    assert check.low is not None and check.low > 0.2
    assert 200 < len(check.rows) < 500


def test_an_open_question_with_one_answer_is_measured_and_its_text_adds_nothing() -> None:
    (check,) = checked([replace(s, options=(), gold=(), answer="stable") for s in rows(600, 0.7)])
    assert (check.name, check.value) == ("text-only/clinic/temporal/change open", 0)
    assert "100.0% against 100.0%" in check.note


def test_what_the_best_constant_answer_gets_is_no_gain() -> None:
    open_ones = [
        replace(s, question="How is it?", options=(), gold=(), answer="stable" if i % 10 else "worse")
        for i, s in enumerate(rows(600, 0.0))
    ]
    (check,) = checked(open_ones)
    assert check.value == 0
    assert "90.0% against 90.0%" in check.note


@pytest.mark.parametrize("together", [1, 2, 3])
def test_no_patient_is_asked_about_who_was_fitted_on(together: int) -> None:
    samples = rows(400, 0.0, patients=60, together=together)
    patients = by_type(samples)[0].patients
    asked = []
    for fit, test in text_only.folds(patients):
        assert {name for i in fit for name in patients[i]}.isdisjoint(name for i in test for name in patients[i])
        asked += list(test)
    if together == 1:
        assert sorted(asked) == list(range(400))
    assert len(np.unique(asked)) > 100


def test_few_patients_and_free_answers_are_left_out_by_name() -> None:
    free = [Sample("temporal", "talk", "clinic", "train", False, (f"p{i}",), ("a",), ("a",), "Say.", (), f"text {i}")
            for i in range(40)]  # fmt: skip
    found = checked([*rows(200, 0.9, patients=19), *free])
    assert [(check.name, check.value) for check in found] == [("text-only", None)]
    assert "have too few patients: clinic/temporal/change" in found[0].note
    assert "have free answers: clinic/temporal/talk open" in found[0].note
