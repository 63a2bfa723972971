"""MRI of glioma: which sequence an image is, how much of the tumor surgery removed, its course by RANO.

Types A to C of Med-MIM's LUMIERE part.
"""

import random
from collections import defaultdict
from collections.abc import Iterator

from medmim.data.abilities.ask import Ask, Cohort
from medmim.data.abilities.family import ALONE, Family, which
from medmim.sample import Study

SEQUENCES = ("T1", "CT1", "T2", "FLAIR")
EXTENTS = ("complete", "partial")
RANO = ("complete response", "partial response", "stable disease", "progressive disease")
_SHOWN = "CT1"  # resection and RANO are judged by what takes up contrast


def _which_sequence(cohort: Cohort, rng: random.Random) -> Iterator[Ask]:
    """Two or three sequences of one slice of one exam."""
    places: dict[tuple[object, int | None], dict[str, Study]] = defaultdict(dict)
    for study in cohort[0]:
        if study.sequence in SEQUENCES:
            exam = study.exam if study.exam is not None else study.time
            places[exam, study.slice].setdefault(study.sequence, study)
    for found in places.values():
        if len(found) >= 2:
            images = rng.sample(list(found.values()), min(len(found), rng.choice((2, 3))))
            right = rng.choice(images)
            yield which("coreference", "which_sequence", images, right, {"value": str(right.sequence)})


def _pairs(cohort: Cohort, finding: str) -> Iterator[tuple[Study, Study, str]]:
    """Each image after contrast with the earlier one of its slice, and what its source says became of a finding."""
    by_path = {study.image: study for study in cohort[0]}
    for study in cohort[0]:
        for change in study.changes:
            before = by_path.get(change.since)
            if change.finding == finding and study.sequence == _SHOWN and before is not None:
                yield before, study, change.state


def _extent_of_resection(cohort: Cohort, rng: random.Random) -> Iterator[Ask]:
    for before, after, state in _pairs(cohort, "resection"):
        if state in EXTENTS:
            yield Ask("comparison", "extent_of_resection", (before, after), EXTENTS, state)


def _tumor_course(cohort: Cohort, rng: random.Random) -> Iterator[Ask]:
    for before, after, _ in _pairs(cohort, "tumor"):
        if after.rating in RANO:
            yield Ask("temporal", "tumor_course", (before, after), RANO, after.rating)


FAMILIES = {
    "which_sequence": Family("coreference", ALONE, _which_sequence),
    "extent_of_resection": Family("comparison", ALONE, _extent_of_resection, EXTENTS),
    "tumor_course": Family("temporal", ALONE, _tumor_course, RANO),
}
