"""Comparison: two images side by side."""

import random
from collections.abc import Iterator, Sequence
from itertools import combinations

from medmim.data.abilities.ask import FIXED_OPTIONS, OPPOSITE, Ask, Cohort, pairs, size_step, value
from medmim.sample import Study

_LARGER = 2  # questions per patient
_SAME = 4  # questions per cohort


def ask(cohort: Cohort, rng: random.Random) -> Iterator[Ask]:
    """Families `resection` (before and after surgery), `larger` and `same_finding`."""
    for patient in cohort:
        yield from _resection(patient)
        yield from _larger(patient, rng)
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
    """Pairs of one modality, of one patient where there are any, so that only the finding can differ."""
    studies = [s for patient in cohort for s in patient if value(s, "finding") is not None]
    alike = [p for p in combinations(studies, 2) if (p[0].modality, p[0].view) == (p[1].modality, p[1].view)]
    for answer in ("same", "different") * (_SAME // 2):
        fitting = [p for p in alike if (value(p[0], "finding") == value(p[1], "finding")) == (answer == "same")]
        own = [p for p in fitting if p[0].patient == p[1].patient]
        if fitting:
            first, second = rng.choice(own or fitting)
            images = (first, second) if rng.random() < 0.5 else (second, first)
            yield Ask("comparison", "same_finding", images, FIXED_OPTIONS["same_finding"], answer)
