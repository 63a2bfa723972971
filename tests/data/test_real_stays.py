"""Further patients of a real source change no question that is made without them."""

import random
from collections.abc import Callable

import pytest

from medmim.data import abilities, build
from medmim.recipe.schema import Data
from medmim.sample import Study
from tests.support import real_studies as drawn

CASES = [
    (drawn.embed, ("which_diseased", "forecast", "which_craniocaudal", "birads")),
    (drawn.lumiere, ("which_sequence", "extent_of_resection", "tumor_course")),
    (drawn.ms_cxr_t, ("progression",)),
    (drawn.odir, ("eye_diagnosis", "which_eye", "both_eyes", "shared_diagnosis", "same_diagnosis")),
    (drawn.vqa_rad, ("joined",)),
    (drawn.pmc, ("which_figure", "match_figure", "match_caption", "same_modality", "joined_figures")),
]


@pytest.mark.parametrize("form", ["strict", "published"])
@pytest.mark.parametrize(("draw", "families"), CASES, ids=[draw.__name__ for draw, _ in CASES])
def test_further_patients_keep_the_old_questions(
    draw: Callable[[random.Random, int], list[Study]], families: tuple[str, ...], form: str
) -> None:
    few, many = draw(random.Random(5), 150), draw(random.Random(5), 160)  # noqa: S311  test records
    assert few == many[: len(few)]
    data = Data(source="phantom", form=form, dev_fraction=0.2, test_fraction=0.3)  # type: ignore[arg-type]
    old, counts = build.ask_and_count(few, families, data)
    assert counts["sized_for"] == build.ask_and_count(many, families, data)[1]["sized_for"]
    new = {sample.id for sample in build.questions(many, families, data)}
    capped = abilities.balanced(form)
    free = [sample for sample in old if sample.family not in capped]
    assert all(sample.id in new for sample in free)
    assert sum(sample.id in new for sample in old) >= 0.95 * len(old) > 10
    assert len(new) > len(old)
    assert {sample.held_out for sample in old} == {draw in (drawn.odir, drawn.vqa_rad)}
    splits = {"test"} if draw in (drawn.odir, drawn.vqa_rad) else {"train", "dev", "test"}
    assert {sample.split for sample in old} == splits


@pytest.mark.parametrize(("draw", "families"), CASES, ids=[draw.__name__ for draw, _ in CASES])
def test_a_family_that_is_left_out_changes_no_other(
    draw: Callable[[random.Random, int], list[Study]], families: tuple[str, ...]
) -> None:
    studies = draw(random.Random(6), 60)  # noqa: S311  test records
    data = Data(source="phantom")
    together = build.questions(studies, families, data)
    for family in families:
        alone = build.questions(studies, (family,), data)
        assert alone == [sample for sample in together if sample.family == family]
