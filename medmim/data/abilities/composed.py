"""Composed: single captioned figures of several patients combined, as Med-MIM does with PMC figures."""

import random
from collections.abc import Iterator

from medmim.data.abilities.ask import Ask, Cohort, distinct, tries
from medmim.data.abilities.coreference import about_one

# Questions tried, by the number of patients.
_TRIES = {
    2: {"caption": 1.4, "finding": 1.0, "modality": 1.2, "size": 1.1},
    3: {"caption": 0.3, "finding": 0.3, "modality": 0.4, "size": 0.4},
}


def ask(cohort: Cohort, rng: random.Random) -> Iterator[Ask]:
    """The questions of co-reference, and `which_caption`, `what_caption`, each image from another patient."""
    figures = [[study for study in patient if study.caption] for patient in cohort]
    if not all(figures):
        return
    for attribute in tries(_TRIES[len(cohort)], rng):
        images = distinct([rng.choice(patient) for patient in figures], attribute, len(cohort), rng)
        if images is not None:
            yield about_one("composed", images, attribute, rng)
