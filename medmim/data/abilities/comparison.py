"""Comparison: two images side by side."""

import random
from collections.abc import Iterator, Sequence
from itertools import combinations, product

from medmim.data.abilities.ask import FIXED_OPTIONS, OPPOSITE, Ask, Cohort, pairs, size_step, value
from medmim.sample import Study

_LARGER = 2  # questions per patient
_ACROSS = 0.8  # share of the pairs of patients that are asked about a finding


def ask(cohort: Cohort, rng: random.Random) -> Iterator[Ask]:
    """Families `resection` (before and after surgery), `larger` and `same_finding`."""
    if len(cohort) == 1:
        yield from _resection(cohort[0])
        yield from _larger(cohort[0], rng)
    yield from _same_finding(cohort, rng)


def _resection(patient: Sequence[Study]) -> Iterator[Ask]:
    ordered = sorted(patient, key=lambda s: s.time or 0.0)
    for before, after in zip(ordered, ordered[1:], strict=False):
        if after.rating in FIXED_OPTIONS["resection"]:
            yield Ask("comparison", "resection", (before, after), FIXED_OPTIONS["resection"], after.rating)


def _larger(patient: Sequence[Study], rng: random.Random) -> Iterator[Ask]:
    fitting = [pair for pair in pairs(patient) if size_step(*pair) is not None]
    for pair in rng.sample(fitting, min(_LARGER, len(fitting))):
        images = pair if rng.random() < 0.5 else pair[::-1]
        step = size_step(*images) or 0
        answer = "same size" if step == 0 else "image 2" if step > 0 else "image 1"
        about = {"finding": images[0].findings[0].name}
        yield Ask("comparison", "larger", images, FIXED_OPTIONS["larger"], answer, about, OPPOSITE.get(answer))


def _same_finding(cohort: Cohort, rng: random.Random) -> Iterator[Ask]:
    """Pairs of one modality and view; of two patients only where neither has such a pair of their own.

    Then only the finding can differ, wherever that can be had.
    """
    own = [list(combinations(patient, 2)) for patient in cohort]
    for answer in FIXED_OPTIONS["same_finding"]:
        fitting = [[pair for pair in pairs if _answer(*pair) == answer] for pairs in own]
        if len(cohort) == 1:
            choice = fitting[0]
        elif any(fitting) or rng.random() >= _ACROSS:
            continue
        else:
            choice = [pair for pair in product(cohort[0], cohort[1]) if _answer(*pair) == answer]
        if choice:
            first, second = rng.choice(choice)
            images = (first, second) if rng.random() < 0.5 else (second, first)
            yield Ask("comparison", "same_finding", images, FIXED_OPTIONS["same_finding"], answer)


def _answer(first: Study, second: Study) -> str | None:
    """Whether two images show the same finding; None where that cannot be asked."""
    findings = value(first, "finding"), value(second, "finding")
    if None in findings or (first.modality, first.view) != (second.modality, second.view):
        return None
    return "same" if findings[0] == findings[1] else "different"
