"""Progression: what became of a finding between two images of a patient, as the source labels the pair (MS-CXR-T)."""

import random
from collections.abc import Iterator

from medmim.data.abilities.ask import OPPOSITE, Ask, Cohort
from medmim.data.abilities.family import ALONE, Family

STATES = ("improved", "stable", "worse")


def _progression(cohort: Cohort, rng: random.Random) -> Iterator[Ask]:
    """The previous image, then the current one, for each labelled finding."""
    by_path = {study.image: study for study in cohort[0]}
    for study in cohort[0]:
        for change in study.changes:
            before = by_path.get(change.since)
            if before is not None and change.state in STATES:
                about = {"finding": change.finding}
                opposite = OPPOSITE.get(change.state)
                yield Ask("comparison", "progression", (before, study), STATES, change.state, about, opposite)


FAMILIES = {"progression": Family("comparison", ALONE, _progression, STATES)}
