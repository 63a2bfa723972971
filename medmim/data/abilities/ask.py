"""`Ask`, a question before it is worded, and the helpers that choose images for one."""

import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import ceil, log, sqrt
from statistics import median_low

from medmim.data import people
from medmim.data.seeds import fraction
from medmim.sample import Study

NORMAL = "normal"
FIXED_OPTIONS = {
    "change": ("improved", "stable", "worse"),
    "assessment": ("negative", "benign", "indeterminate", "suspicious", "malignant"),
    "resection": ("resected", "partial", "unchanged"),
    "larger": ("image 1", "image 2", "same size"),
    "same_finding": ("same", "different"),
}
# The right answer after two images are exchanged; an answer that is not listed stays right.
OPPOSITE = {"improved": "worse", "worse": "improved", "image 1": "image 2", "image 2": "image 1"}
_SIZES = ("small", "medium", "large")
_MAJORITY = 1.25  # how much more often than the median option an option may be right
_STEP = 0.5**0.25  # of the share that is kept of a more frequent option

Cohort = Sequence[Sequence[Study]]


@dataclass(frozen=True, slots=True)
class Ask:
    """A question on images before it is worded.

    Attributes:
        ability: One of `sample.ABILITIES`.
        family: Kind of question; the key of its wording.
        studies: The images, in prompt order.
        options: The possible answers as plain values, in no particular order.
        answer: The right one.
        about: Values that the question mentions: `image` (1-based position), `value`, `finding`.
        swapped: The right one once every image has moved one place on (image 1 becomes image 2, ..., the last becomes
            image 1); None where that is undefined or changes nothing.
    """

    ability: str
    family: str
    studies: tuple[Study, ...]
    options: tuple[str, ...]
    answer: str
    about: dict[str, str] = field(default_factory=dict)
    swapped: str | None = None


def value(study: Study, attribute: str) -> str | None:
    """The value of an attribute of an image; None where it has none or more than one."""
    if attribute in ("modality", "view", "rating", "caption"):
        shown: str | None = getattr(study, attribute)
        return shown or None
    if attribute == "finding" and not study.findings:
        return NORMAL
    if len(study.findings) != 1:
        return None
    finding = study.findings[0]
    return finding.name if attribute == "finding" else getattr(finding, attribute)


def size_step(first: Study, second: Study) -> int | None:
    """By how many sizes `second` exceeds `first`; None unless both show one finding that may differ in size only."""
    if len(first.findings) != 1 or len(second.findings) != 1:
        return None
    a, b = first.findings[0], second.findings[0]
    alike = (a.name, a.side, first.modality, first.view) == (b.name, b.side, second.modality, second.view)
    if not alike or a.size is None or b.size is None:
        return None
    return _SIZES.index(b.size) - _SIZES.index(a.size)


def pairs(studies: Sequence[Study]) -> list[tuple[Study, Study]]:
    """Every two images of one patient, the earlier first; images of equal or unknown time keep their order."""
    ordered = sorted(studies, key=lambda s: s.time or 0.0)
    return list(combinations(ordered, 2))


def distinct(studies: Sequence[Study], attribute: str, count: int, rng: random.Random) -> list[Study] | None:
    """Images that all differ in an attribute, in random order; half of the time all of one modality.

    The image to ask about must be drawn from the result, uniformly: then the values, which become the options, reveal
    nothing about the answer.
    """
    within = attribute != "modality" and rng.random() < 0.5
    modality = rng.choice(studies).modality if within else None
    found: dict[str, Study] = {}
    for study in rng.sample(studies, len(studies)):
        shown = value(study, attribute)
        if shown is not None and (modality is None or study.modality == modality):
            found.setdefault(shown, study)
    if len(found) < count:
        return None
    chosen = list(found.values())[:count]
    return rng.sample(chosen, count)  # common values are found first: no position must reveal them


def tries(expected: Mapping[str, float], rng: random.Random) -> Iterator[str]:
    """Each attribute as often as expected, on average: 1.3 is once, and in three of ten cohorts twice."""
    for attribute, number in expected.items():
        yield from [attribute] * (int(number) + (rng.random() < number % 1))


def of_all(studies: Sequence[Study], cohort: Cohort) -> bool:
    """Whether the images are of every patient of the cohort."""
    return len({people.of(study) for study in studies}) == len(cohort)


def balance(
    asks: Mapping[str, Sequence[Ask]], seed: int, families: Collection[str] = tuple(FIXED_OPTIONS)
) -> tuple[dict[str, list[Ask]], dict[str, int]]:
    """Drop surplus questions so that no fixed option is right far more often than the others.

    Among questions of equal text, over all splits, an option is right at most `_MAJORITY` times as often as the median
    of the options that occur: of two or three options at most 5 in 9 times, of five 5 in 13. A constant answer is then
    worth little more than a guess, though the rarest class does not decide how much is asked, nor whether. Which
    questions go depends on each question alone and on a share in coarse steps, so further patients change few of them;
    the first of each option in each split is always kept.

    Args:
        asks: Split -> its questions.
        seed: Decides which questions go.
        families: Those that are balanced; each offers the same options whenever it is asked.

    Returns:
        The questions left, in their order, and how many were dropped of each family.
    """
    golds: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    place: dict[int, float] = {}
    first: dict[tuple[str, ...], float] = {}
    for split, own in asks.items():
        for ask in own:
            if ask.family in families:
                place[id(ask)] = fraction(seed, "balance", ask.family, *(study.image for study in ask.studies))
                golds[_text(ask)][ask.answer] += 1
                at = (split, *_text(ask), ask.answer)
                first[at] = min(first.get(at, 1.0), place[id(ask)])
    share = {text: _shares(counts) for text, counts in golds.items()}
    kept: dict[str, list[Ask]] = {}
    dropped: Counter[str] = Counter()
    for split, own in asks.items():
        kept[split] = []
        for ask in own:
            if id(ask) in place:
                limit = max(share[_text(ask)][ask.answer], first[split, *_text(ask), ask.answer])
                if place[id(ask)] > limit:
                    dropped[ask.family] += 1
                    continue
            kept[split].append(ask)
    return kept, dict(sorted(dropped.items()))


def _text(ask: Ask) -> tuple[str, ...]:
    return (ask.family, ask.studies[0].source, *sorted(ask.about.values()))


def _shares(counts: Mapping[str, int]) -> dict[str, float]:
    """Option -> the share of its questions that is kept."""
    median = median_low(counts.values())
    limit = _MAJORITY * median + 2 * sqrt(median)
    return {option: 1.0 if n <= limit else _STEP ** ceil(log(limit / n, _STEP)) for option, n in counts.items()}
