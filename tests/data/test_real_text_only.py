"""No question on the real sources can be answered from its text, in the strict form, where all labels are as frequent.

How often a label is right in the real tables is another matter: `abilities.ask.balance` caps it, the manifest says it.
"""

import random
from collections import defaultdict
from dataclasses import replace
from typing import Any

import pytest

from medmim.data.build import questions
from medmim.recipe.schema import Data
from medmim.sample import Sample
from tests.support import real_studies as drawn
from tests.support.text_only import excess, predict_letters, predict_options

ALLOWED = 0.05
PATIENTS = {
    drawn.embed: (3_000, ("which_diseased", "forecast", "which_craniocaudal", "birads")),
    drawn.lumiere: (900, ("which_sequence", "extent_of_resection", "tumor_course")),
    drawn.ms_cxr_t: (900, ("progression",)),
    drawn.odir: (2_500, ("eye_diagnosis", "which_eye", "both_eyes", "shared_diagnosis", "same_diagnosis")),
    drawn.vqa_rad: (3_000, ("joined",)),
    # `same_modality` has the same text and options each time, so a classifier of text can only be constant
    drawn.pmc: (3_000, ("which_figure", "match_figure", "match_caption", "joined_figures")),
}
FEWEST = 50  # rows to fit on


@pytest.fixture(scope="module")
def closed() -> dict[str, list[Sample]]:
    """Closed questions by family."""
    found = defaultdict(list)
    for draw, (patients, families) in PATIENTS.items():
        data = Data(source="phantom", dev_fraction=0.0, test_fraction=0.05)
        for sample in questions(draw(random.Random(7), patients), families, data):  # noqa: S311  test records
            if sample.options:
                found[sample.family].append(sample)
    return found


FAMILIES = [family for _, families in PATIENTS.values() for family in families]


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
def test_text_alone_does_not_predict_the_answer(closed: Any, family: str) -> None:
    for predict in (predict_letters, predict_options):
        low, _ = excess(closed[family], predict, FEWEST)
        assert low < ALLOWED


@pytest.mark.long
def test_an_option_that_is_never_right_would_be_found(closed: Any) -> None:
    """As the published form has them."""
    rows = [replace(s, options=(*s.options, "never right")) for s in closed["extent_of_resection"]]
    low, _ = excess(rows, predict_options, FEWEST)
    assert low > ALLOWED
