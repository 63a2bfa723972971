"""Mammography: which exam is diseased, what the next year brings, which view is craniocaudal, the BI-RADS category.

Types A to D of Med-MIM's EMBED part. All are about one breast at a time: the two breasts of an exam have a category
and a pathology each.
"""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence

from medmim.data.abilities.ask import Ask, Cohort
from medmim.data.abilities.family import ALONE, Family, which
from medmim.sample import Study

BIRADS = (
    "negative", "benign", "probably benign", "additional evaluation needed", "suspicious",
    "highly suggestive of malignancy", "known malignancy",
)  # fmt: skip
FORECASTS = ("stable", "worse")
_CLEAR = BIRADS[:2]
_DISEASED = BIRADS[4:]
_VIEWS = ("CC", "MLO")
_ATTEMPTS = 10  # sets of images tried for a patient, as Med-MIM's generator did
_CRANIOCAUDAL = 2  # questions for a patient
_YEAR = 365
_FOLLOWED = (300, 550)  # days after an exam between which the next screening says that a year was uneventful


def is_diseased(study: Study) -> bool | None:
    """Whether the breast in an image is diseased; None where the records do not settle it.

    It is, where a biopsy found cancer, or the category is BI-RADS 4 to 6 and no biopsy says otherwise. It is not, where
    the category is 1 or 2 and no biopsy found anything. A negative exam with cancer by biopsy was amended later, so its
    category says nothing.
    """
    if study.outcome == "malignant":
        return None if study.rating in _CLEAR else True
    if study.rating in _DISEASED:
        return True if study.outcome is None else None
    if study.rating in _CLEAR:
        return None if study.outcome == "high-risk" else False
    return None


def _exam(study: Study) -> object:
    return study.exam if study.exam is not None else study.time


def _series(patient: Sequence[Study]) -> dict[tuple[str, str], list[Study]]:
    """Side and view -> one image for each exam, in order of time where it is known."""
    found: dict[tuple[str, str], dict[object, Study]] = defaultdict(dict)
    for study in patient:
        if study.view in _VIEWS and study.laterality is not None and _exam(study) is not None:
            found[study.laterality, study.view].setdefault(_exam(study), study)
    return {key: sorted(found[key].values(), key=lambda s: (s.time is None, s.time or 0.0)) for key in sorted(found)}


def _which_diseased(cohort: Cohort, rng: random.Random) -> Iterator[Ask]:
    """Two or three exams of one breast in one view, in random order: one is diseased, the others are not."""
    choices = []
    for series in _series(cohort[0]).values():
        sick = [study for study in series if is_diseased(study) is True]
        well = [study for study in series if is_diseased(study) is False]
        choices += [(image, well) for image in sick if well]
    seen = set()
    for _ in range(_ATTEMPTS if choices else 0):
        image, well = rng.choice(choices)
        others = rng.sample(well, min(len(well), rng.choice((1, 2))))
        images = rng.sample([image, *others], len(others) + 1)
        chosen = frozenset(study.image for study in images)
        if chosen not in seen:
            seen.add(chosen)
            yield which("coreference", "which_diseased", images, image, {})


def _forecast(cohort: Cohort, rng: random.Random) -> Iterator[Ask]:
    """Two or three exams of one breast in the order of time: is cancer found in it within a year after the last?

    A question for each exam that ends such a series; the view is drawn.
    """
    patient = cohort[0]
    by_end: dict[tuple[str, object], list[tuple[Study, ...]]] = defaultdict(list)
    for (side, _), series in _series(patient).items():
        timed = [study for study in series if study.time is not None and study.age is not None]
        for end in range(1, len(timed)):
            images = timed[max(0, end - rng.choice((1, 2))) : end + 1]
            growing = all((a.time or 0) < (b.time or 0) for a, b in zip(images, images[1:], strict=False))
            known = any(study.outcome == "malignant" or study.rating == "known malignancy" for study in images[:-1])
            if growing and not known and images[-1].rating != "known malignancy":
                by_end[side, _exam(images[-1])].append(tuple(images))
    for found in by_end.values():
        shown = rng.choice(found)
        answer = _after(shown[-1], patient)
        if answer is not None:
            yield Ask("temporal", "forecast", shown, FORECASTS, answer)


def _after(last: Study, patient: Sequence[Study]) -> str | None:
    """What becomes of a breast in the year after an exam; None where nobody looked, or the other breast falls ill."""
    since = {study.image: (study.time if study.time is not None else -1.0) - (last.time or 0.0) for study in patient}
    ill = [study for study in patient if study.outcome == "malignant" or study.rating == "known malignancy"]
    if any(s.laterality == last.laterality and 0 <= since[s.image] <= _YEAR for s in ill):
        return "worse"
    if any(0 <= since[study.image] <= _FOLLOWED[1] for study in ill):
        return None
    later = (s for s in patient if s.laterality == last.laterality)
    followed = any(_FOLLOWED[0] <= since[s.image] <= _FOLLOWED[1] and is_diseased(s) is False for s in later)
    return "stable" if followed and is_diseased(last) is False else None


def _which_craniocaudal(cohort: Cohort, rng: random.Random) -> Iterator[Ask]:
    """One craniocaudal image and one or two mediolateral oblique ones, each of another exam where there are any."""
    patient = cohort[0]
    tops = [study for study in patient if study.view == "CC"]
    obliques = [study for study in patient if study.view == "MLO"]
    for top in rng.sample(tops, min(len(tops), _CRANIOCAUDAL)) if obliques else ():
        shuffled = rng.sample(obliques, len(obliques))
        elsewhere = {_exam(study): study for study in shuffled if _exam(study) != _exam(top)}
        others = list(elsewhere.values()) or shuffled[:1]
        images = [top, *others[: rng.choice((1, 2))]]
        yield which("coreference", "which_craniocaudal", rng.sample(images, len(images)), top, {})


def _birads(cohort: Cohort, rng: random.Random) -> Iterator[Ask]:
    """Both views of one breast in one exam, the craniocaudal one first."""
    breasts: dict[tuple[object, str], dict[str, Study]] = defaultdict(dict)
    for study in cohort[0]:
        if study.view in _VIEWS and study.laterality is not None and _exam(study) is not None:
            breasts[_exam(study), study.laterality].setdefault(study.view, study)
    for views in breasts.values():
        ratings = {study.rating for study in views.values()}
        rating = next(iter(ratings))
        if len(views) == len(_VIEWS) and len(ratings) == 1 and rating in BIRADS:
            yield Ask("reasoning", "birads", tuple(views[view] for view in _VIEWS), BIRADS, rating)


FAMILIES = {
    "which_diseased": Family("coreference", ALONE, _which_diseased),
    "forecast": Family("temporal", ALONE, _forecast, FORECASTS, as_published=True),
    "which_craniocaudal": Family("coreference", ALONE, _which_craniocaudal),
    "birads": Family("reasoning", ALONE, _birads, BIRADS, as_published=True),
}
