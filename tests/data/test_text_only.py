"""No phantom question can be answered from its text: a classifier on words, options and letters stays at chance."""

from collections import defaultdict
from dataclasses import replace
from typing import Any

import pytest

from medmim.data.build import questions
from medmim.data.sources import phantom
from medmim.recipe.schema import Data
from medmim.sample import Sample
from tests.support.text_only import excess, predict_letters, predict_options

ALLOWED = 0.05
CASES = [
    ("temporal", False), ("reasoning", False), ("comparison", False), ("coreference", False), ("composed", False),
    ("single", False), ("temporal", True), ("comparison", True), ("coreference", True),
]  # fmt: skip


@pytest.fixture(scope="module")
def closed() -> dict[tuple[str, bool], list[Sample]]:
    """Closed questions by ability and domain, from as many patients as the classifier needs."""
    found = defaultdict(list)
    for kinds, patients, abilities in (
        (("chest", "breast", "brain"), 3_500, ("temporal", "reasoning")),
        (("chest", "breast", "brain"), 2_800, ("comparison", "coreference")),
        (("figures",), 800, ("composed",)),
        (("chest", "breast", "brain", "figures"), 5_000, ("single",)),
        (("fundus", "fundus", "fundus", "radiology"), 3_700, ("temporal",)),
        (("fundus", "fundus", "fundus", "radiology"), 1_400, ("comparison", "coreference")),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(phantom, "_TURNS", kinds)
            studies = phantom.patients(patients, len(kinds))
        data = Data(source="phantom", abilities=abilities, dev_fraction=0.0, test_fraction=0.05)
        for sample in questions(studies, phantom.FAMILIES, data):
            if sample.options:
                found[sample.ability, sample.held_out].append(sample)
    return found


@pytest.mark.parametrize(("ability", "held_out"), CASES)
def test_text_alone_does_not_predict_the_letter(closed: Any, ability: str, held_out: bool) -> None:
    low, high = excess(closed[ability, held_out], predict_letters)
    assert -ALLOWED < low <= high < ALLOWED


@pytest.mark.parametrize(("ability", "held_out"), CASES)
def test_text_alone_does_not_predict_the_option(closed: Any, ability: str, held_out: bool) -> None:
    low, high = excess(closed[ability, held_out], predict_options)
    assert -ALLOWED < low <= high < ALLOWED


def test_every_ability_is_covered(closed: Any) -> None:
    assert set(closed) == set(CASES)


def test_a_letter_that_is_right_too_often_would_be_found(closed: Any) -> None:
    rows = [_right_first(s) if i % 4 == 0 else s for i, s in enumerate(closed["temporal", False])]
    assert excess(rows, predict_options)[0] > ALLOWED


def test_a_word_that_gives_the_answer_away_would_be_found(closed: Any) -> None:
    rows = [
        replace(s, question=f"{s.question} Please." if s.answer == "worse" else s.question)
        for s in closed["temporal", False]
    ]
    assert excess(rows, predict_options)[0] > ALLOWED


def _right_first(sample: Sample) -> Sample:
    rest = [text for text in sample.options if text != sample.answer]
    return replace(sample, options=(sample.answer, *rest), gold=(0,))
