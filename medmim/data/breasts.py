"""What is known of a breast: the words for its assessment and its pathology, and what becomes of it within a year.

The year after an exam is judged by all that a table says of the patient, exams without images or without a usable label
included: the one whose files are missing may be the one that found the cancer.
"""

from collections.abc import Iterable
from dataclasses import dataclass

BIRADS = (
    "negative", "benign", "probably benign", "additional evaluation needed", "suspicious",
    "highly suggestive of malignancy", "known malignancy",
)  # fmt: skip
CLEAR, SUSPECT, KNOWN = BIRADS[:2], BIRADS[4:], BIRADS[6]
# The worst first. Unclear: a biopsy that may have been of the other breast, or have found a cancer of another organ.
OUTCOMES = ("malignant", "unclear", "high-risk", "benign", "negative")
MALIGNANT, UNCLEAR, HIGH_RISK = OUTCOMES[:3]
STABLE, WORSE = "stable", "worse"
_YEAR = 365
_FOLLOWED = (300, 550)  # days after an exam between which the next screening says that a year was uneventful


@dataclass(frozen=True, slots=True)
class Look:
    """What an exam says of a breast.

    Attributes:
        side: `left` or `right`; None: of which breast is not known.
        day: From any fixed day of the patient; None where unknown.
        rating: One of `BIRADS`, if any.
        outcome: One of `OUTCOMES`; None without a biopsy.
    """

    side: str | None
    day: float | None
    rating: str | None
    outcome: str | None


def is_diseased(rating: str | None, outcome: str | None) -> bool | None:
    """Whether a breast is diseased; None where the records do not settle it.

    It is, where a biopsy found cancer, or the category is BI-RADS 4 to 6 and no biopsy says otherwise. It is not, where
    the category is 1 or 2 and no biopsy found anything. A negative exam with cancer by biopsy was amended later, so its
    category says nothing.
    """
    if outcome == MALIGNANT:
        return None if rating in CLEAR else True
    if rating in SUSPECT:
        return True if outcome is None else None
    if rating in CLEAR:
        return None if outcome in (UNCLEAR, HIGH_RISK) else False
    return None


def year_after(last: Look, looks: Iterable[Look]) -> str | None:
    """What becomes of a breast in the year after an exam: `WORSE` (cancer is found in it), or `STABLE`.

    None where nobody looked, where it is not sure in which breast or when something was found, or where the other
    breast falls ill.

    Args:
        last: The exam.
        looks: All exams of the patient, this one included.
    """
    if last.day is None:
        return None
    since = [(look, None if look.day is None else look.day - last.day) for look in looks]
    ill = [(look, days) for look, days in since if look.outcome == MALIGNANT or look.rating == KNOWN]
    if any(look.side == last.side and days is not None and 0 <= days <= _YEAR for look, days in ill):
        return WORSE
    unsure = [days for look, days in since if look.outcome == UNCLEAR]
    if any(days is None or 0 <= days <= _FOLLOWED[1] for days in (*unsure, *(days for _, days in ill))):
        return None
    followed = any(
        look.side == last.side
        and days is not None
        and _FOLLOWED[0] <= days <= _FOLLOWED[1]
        and is_diseased(look.rating, look.outcome) is False
        for look, days in since
    )
    return STABLE if followed and is_diseased(last.rating, last.outcome) is False else None
