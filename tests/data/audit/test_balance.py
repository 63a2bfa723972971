"""An answer's letter, length and label are found where they give it away, by type, with an interval."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from medmim.data.audit import balance
from medmim.data.audit.check import Check, judged
from medmim.data.audit.types import by_type
from medmim.recipe.schema import Audit
from medmim.sample import Sample

WORDS = ("mass", "oedema", "effusion", "nodule", "atelectasis", "pneumothorax", "scar", "cyst", "fibrosis", "abscess",
         "fracture", "calcification", "normal", "granuloma")  # fmt: skip


def rows(count: int, first: float = 0.0, longest: float = 0.0, patients: int = 80) -> list[Sample]:
    """Questions with three of many options, a share of them right under A, a share with the longest right."""
    rng = random.Random(3)  # noqa: S311  test records
    made = []
    for i in range(count):
        options = rng.sample(WORDS, 3)
        gold = rng.randrange(3)
        if rng.random() < longest:
            gold = max(range(3), key=lambda k: len(options[k]))
        if rng.random() < first:
            options[0], options[gold], gold = options[gold], options[0], 0
        made.append(
            Sample("comparison", "what", "clinic", "test", False, (f"p{i % patients}",), (f"i{i}",), (f"i{i}",),
                   "What?", tuple(options), options[gold], (gold,))
        )  # fmt: skip
    return made


def checked(samples: Sequence[Sample]) -> dict[str, Check]:
    return {check.name.split("/")[0]: check for check in balance.checks(by_type(samples))}


def test_a_fair_set_has_nothing_surely_above_chance() -> None:
    found = checked(rows(500))
    assert found.keys() == {"answer-position", "option-length"}
    assert all(check.low is not None and check.low < 0.03 for check in found.values())


def test_a_letter_that_is_right_too_often_is_found_and_its_rows_listed() -> None:
    check = checked(rows(500, first=0.4))["answer-position"]
    assert check.about.endswith("letter A")
    assert check.low is not None and check.low > 0.15
    assert len(check.rows) > 250
    assert "p below 0.001" in check.note


def test_the_longest_option_is_found() -> None:
    check = checked(rows(500, longest=0.4))["option-length"]
    assert check.about.endswith("the longest option")
    assert check.low is not None and check.low > 0.15


def test_a_label_that_is_right_too_often_is_found_and_is_no_letter_where_the_order_is_fixed() -> None:
    answers, states = ["worse"] * 8 + ["stable", "improved"], ("improved", "stable", "worse")
    samples = [
        Sample("temporal", "change", "clinic", "test", False, (f"p{i % 50}",), (f"i{i}",), (f"i{i}",), "How?",
               states, answers[i % 10], (states.index(answers[i % 10]),))
        for i in range(300)
    ]  # fmt: skip
    found = checked(samples)
    assert found.keys() == {"label-balance"}
    assert found["label-balance"].about.endswith("'worse'")
    assert found["label-balance"].low is not None and found["label-balance"].low > 0.25


def yes_or_no(yes: int, options: tuple[str, ...] = ("yes", "no")) -> list[Sample]:
    """600 questions with two answers, the first of them `yes`."""
    return [
        Sample("temporal", "is", "clinic", "test", False, (f"p{i % 60}",), (f"i{i}",), (f"i{i}",), "Is it?", options,
               "yes" if i < yes else "no", (int(i >= yes),) if options else ())
        for i in range(600)
    ]  # fmt: skip


def judged_labels(samples: Sequence[Sample]) -> dict[str, Any]:
    return judged([checked(samples)["label-balance"].as_dict()], Audit())[0]


@pytest.mark.parametrize("options", [("yes", "no"), ()])
@pytest.mark.parametrize("yes", [600, 599])
def test_a_label_that_is_always_right_or_nearly_crosses_the_limit(yes: int, options: tuple[str, ...]) -> None:
    found = judged_labels(yes_or_no(yes, options))
    assert found["value"] > 0.99 and found["high"] <= 1
    assert found["crossed"]
    assert found["rows"] == yes


def test_two_labels_are_held_to_the_same_share_of_the_possible_as_three() -> None:
    assert not judged_labels(yes_or_no(400))["crossed"]  # 67% against 50%: a third of what is possible
    assert judged_labels(yes_or_no(500))["crossed"]  # 83%: two thirds


def test_one_of_many_answers_is_a_label_where_it_is_right_most_of_the_time() -> None:
    samples = [
        replace(one, answer=f"finding {i}" if i < 40 else "normal") for i, one in enumerate(yes_or_no(600, options=()))
    ]
    assert judged_labels(samples)["crossed"]
    texts = [replace(one, answer=f"finding {i // 100 * 100 + min(i % 100, 90)}") for i, one in enumerate(samples)]
    assert checked(texts) == {}


def test_an_open_answer_is_compared_with_those_of_as_many_images() -> None:
    samples = []
    for i in range(400):
        images = tuple(f"i{i}-{k}" for k in range(2 + i % 2))
        answer = f"image {1 + (i // 2) % len(images)}"
        samples.append(Sample("coreference", "which", "clinic", "test", False, (f"p{i % 50}",), images, images,
                              "Which?", (), answer))  # fmt: skip
    check = checked(samples)["label-balance"]
    assert check.low is not None and check.low < 0.02


def test_fewer_than_twenty_patients_give_no_figure() -> None:
    found = checked(rows(300, first=0.9, patients=19))
    assert [(check.value, check.low) for check in found.values()] == [(None, None)]
    assert "too few patients: clinic/comparison/what" in found["balance"].note
