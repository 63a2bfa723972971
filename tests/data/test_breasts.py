"""The year after an exam: when it counts as looked at, and what leaves it open. Days and words are typed."""

import pytest

from medmim.data.breasts import Look, year_after

LAST = Look("left", 1000.0, "negative", None)


def then(
    day: float | None, rating: str | None = "benign", outcome: str | None = None, side: str | None = "left"
) -> Look:
    return Look(side, None if day is None else 1000.0 + day, rating, outcome)


@pytest.mark.parametrize(
    ("looks", "after"),
    [
        ([], None),
        ([then(299)], None),
        ([then(300)], "stable"),
        ([then(550)], "stable"),
        ([then(551)], None),
        ([then(400, side="right")], None),
        ([then(400, "probably benign")], None),
        ([then(400, "benign", "high-risk")], None),
        ([then(400), then(100, "suspicious", "benign")], "stable"),
        ([then(365, "suspicious", "malignant")], "worse"),
        ([then(0, "known malignancy")], "worse"),
        ([then(366, "suspicious", "malignant"), then(400)], None),
        ([then(551, "suspicious", "malignant"), then(400)], "stable"),
        ([then(-1, "suspicious", "malignant"), then(400)], "stable"),
        ([then(100, "suspicious", "malignant", "right"), then(400)], None),
        ([then(100, None, "malignant", None), then(400)], None),
        ([then(100, None, "unclear"), then(400)], None),
        ([then(None, "suspicious", "malignant"), then(400)], None),
        ([then(None), then(400)], "stable"),
    ],
)
def test_the_year_after_an_exam(looks: list[Look], after: str | None) -> None:
    assert year_after(LAST, [LAST, *looks]) == after
    assert year_after(LAST, [*looks[::-1], LAST]) == after


def test_the_year_after_an_exam_that_is_not_clear_is_never_stable() -> None:
    for last in (Look("left", 0.0, "suspicious", "benign"), Look("left", 0.0, "probably benign", None)):
        assert year_after(last, [last, Look("left", 365.0, "negative", None)]) is None
        assert year_after(last, [last, Look("left", 300.0, "known malignancy", None)]) == "worse"
    assert year_after(Look("left", None, "negative", None), [then(400)]) is None
