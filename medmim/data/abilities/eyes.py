"""Both fundi of a patient (ODIR): what one shows, which shows something, what both show, whether they agree.

Every wrong option is the diagnosis of the other eye or of another patient, and names no disease that the right one
names, in whatever stage or spelling.
"""

import random
from collections.abc import Iterator, Sequence

from medmim.data.abilities.ask import Ask, Cohort
from medmim.data.abilities.family import ALONE, Family, positions, which
from medmim.data.wordings.synonyms import alike_eyes
from medmim.sample import Study

NORMAL_FUNDUS = "normal fundus"
AGREEMENT = ("same", "different")
_SHARED = {2: 0.5}  # share of the pairs of patients


def diagnosis(eye: Study) -> str:
    """What an eye shows, as the published rows print it: the keywords joined by commas."""
    return ", ".join(finding.name for finding in eye.findings) or NORMAL_FUNDUS


def both(first: str, second: str) -> str:
    """The diagnoses of two eyes in one option."""
    return f"First: {first}, Second: {second}"


def _eyes(patient: Sequence[Study]) -> tuple[Study, Study] | None:
    """The left and the right eye, of one exam."""
    left = [study for study in patient if study.laterality == "left"]
    right = [study for study in patient if study.laterality == "right"]
    pairs = ((a, b) for a in left for b in right if (a.exam, a.time) == (b.exam, b.time))
    return next(pairs, None)


def _eye_diagnosis(cohort: Cohort, rng: random.Random) -> Iterator[Ask]:
    eyes = _eyes(cohort[0])
    if eyes is None:
        return
    shown = [diagnosis(eye) for eye in eyes]
    asked = rng.randrange(2)
    names = positions(eyes)
    differ = not alike_eyes(*shown)
    options = tuple(shown) if differ else (shown[asked],)  # a single one gets its wrong options in the published form
    after = shown[1 - asked] if differ else None
    yield Ask("composed", "eye_diagnosis", eyes, options, shown[asked], {"image": names[asked]}, after)


def _which_eye(cohort: Cohort, rng: random.Random) -> Iterator[Ask]:
    eyes = _eyes(cohort[0])
    if eyes is None:
        return
    shown = [[finding.name for finding in eye.findings] or [NORMAL_FUNDUS] for eye in eyes]
    asked = rng.randrange(2)
    other = shown[1 - asked]
    own = [name for name in shown[asked] if not any(alike_eyes(name, seen) for seen in other)]
    if own:
        yield which("composed", "which_eye", eyes, eyes[asked], {"value": rng.choice(own)})


def _both_eyes(cohort: Cohort, rng: random.Random) -> Iterator[Ask]:
    eyes = _eyes(cohort[0])
    if eyes is None:
        return
    first, second = (diagnosis(eye) for eye in eyes)
    answer, exchanged = both(first, second), both(second, first)
    if alike_eyes(first, second):
        yield Ask("composed", "both_eyes", eyes, (answer,), answer)
    else:
        yield Ask("composed", "both_eyes", eyes, (answer, exchanged), answer, {}, exchanged)


def _shared_diagnosis(cohort: Cohort, rng: random.Random) -> Iterator[Ask]:
    """Two patients whose eyes are alike each: both diagnoses are options, the eyes of one of the two are shown."""
    pairs = [_eyes(patient) for patient in cohort]
    found = [(eyes, {diagnosis(eye) for eye in eyes}) for eyes in pairs if eyes is not None]
    if len(found) < len(cohort) or any(len(names) > 1 for _, names in found):
        return
    options = tuple(next(iter(names)) for _, names in found)
    if not alike_eyes(*options):
        shown = rng.randrange(2)
        yield Ask("composed", "shared_diagnosis", found[shown][0], options, options[shown])


def _same_diagnosis(cohort: Cohort, rng: random.Random) -> Iterator[Ask]:
    eyes = _eyes(cohort[0])
    if eyes is None:
        return
    first, second = (diagnosis(eye) for eye in eyes)
    if first == second or not alike_eyes(first, second):  # stages of one disease are neither
        yield Ask("composed", "same_diagnosis", eyes, AGREEMENT, AGREEMENT[first != second])


FAMILIES = {
    "eye_diagnosis": Family("composed", ALONE, _eye_diagnosis),
    "which_eye": Family("composed", ALONE, _which_eye),
    "both_eyes": Family("composed", ALONE, _both_eyes),
    "shared_diagnosis": Family("composed", _SHARED, _shared_diagnosis),
    "same_diagnosis": Family("composed", ALONE, _same_diagnosis, AGREEMENT),
}
