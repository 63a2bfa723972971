"""A check crosses its limit only where its whole interval does, and an unmeasured one crosses nothing."""

import pytest

from medmim.data.audit.check import Check, Row, judged, line
from medmim.recipe.schema import Audit


@pytest.mark.parametrize(
    ("value", "low", "limit", "crossed"),
    [(3, None, 3, False), (4, None, 3, True), (4, 3, 3, False), (5, 4, 3, True), (None, None, 0, False)],
)
def test_a_limit_is_crossed_by_what_is_surely_above_it(
    value: float | None, low: float | None, limit: int, crossed: bool
) -> None:
    check = Check("images", "images in several splits", value, low=low, high=9, key="max_shared_images")
    assert judged([check.as_dict()], Audit(max_shared_images=limit))[0]["crossed"] is crossed


def test_a_check_without_a_key_has_no_limit_and_a_line_says_all_that_is_known() -> None:
    rows = (Row("a", "test/temporal", "x"),)
    one = judged([Check("words", "right", 0.5, True, 40, 0.4, 0.6, rows=rows, note="few").as_dict()], Audit())[0]
    assert (one["limit"], one["crossed"], one["rows"]) == (None, False, 1)
    assert line(one) == "words: 50.0% of 40 right (95% interval 40.0% to 60.0%); few"
