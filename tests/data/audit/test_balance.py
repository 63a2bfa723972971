"""An answer's letter, length and label are found where they give it away, by type, with an interval."""

import random
from collections.abc import Sequence

from medmim.data.audit import balance
from medmim.data.audit.check import Check
from medmim.data.audit.types import by_type
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
