"""Composed: single captioned figures of several patients combined, as Med-MIM does with PMC figures."""

import random
from collections.abc import Iterator

from medmim.data.abilities.ask import Ask, Cohort
from medmim.data.abilities.coreference import refer

_WEIGHTS = {"caption": 6, "finding": 6, "modality": 3, "size": 5}  # questions tried in a cohort


def ask(cohort: Cohort, rng: random.Random) -> Iterator[Ask]:
    """The questions of co-reference, and `which_caption`, `what_caption`, each image from another patient."""
    figures = [[study for study in patient if study.caption] for patient in cohort]
    figures = [patient for patient in figures if patient]
    if len(figures) < 2:
        return
    for attribute, tries in _WEIGHTS.items():
        for _ in range(tries):
            yield from refer("composed", [rng.choice(patient) for patient in figures], attribute, rng)
