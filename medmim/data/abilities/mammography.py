"""Mammography: which exam is diseased, what the next year brings, which view is craniocaudal, the BI-RADS category.

Types A to D of Med-MIM's EMBED part. All are about one breast at a time: the two breasts of an exam have a category
and a pathology each.
"""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence

from medmim.data import breasts
from medmim.data.abilities.ask import Ask, Cohort
from medmim.data.abilities.family import ALONE, Family, which
from medmim.data.breasts import BIRADS
from medmim.sample import Study

FORECASTS = (breasts.STABLE, breasts.WORSE)
_VIEWS = ("CC", "MLO")
_ATTEMPTS = 10  # sets of images tried for a patient, as Med-MIM's generator did
_CRANIOCAUDAL = 2  # questions for a patient


def _is_diseased(study: Study) -> bool | None:
    return breasts.is_diseased(study.rating, study.outcome)


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
        sick = [study for study in series if _is_diseased(study) is True]
        well = [study for study in series if _is_diseased(study) is False]
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
    by_end: dict[tuple[str, object], list[tuple[Study, ...]]] = defaultdict(list)
    for (side, _), series in _series(cohort[0]).items():
        timed = [study for study in series if study.time is not None and study.age is not None]
        for end in range(1, len(timed)):
            images = timed[max(0, end - rng.choice((1, 2))) : end + 1]
            growing = all((a.time or 0) < (b.time or 0) for a, b in zip(images, images[1:], strict=False))
            known = any(study.outcome == breasts.MALIGNANT or study.rating == breasts.KNOWN for study in images[:-1])
            if growing and not known and images[-1].rating != breasts.KNOWN:
                by_end[side, _exam(images[-1])].append(tuple(images))
    for found in by_end.values():
        shown = rng.choice(found)
        answer = shown[-1].year_after
        if answer in FORECASTS:
            yield Ask("temporal", "forecast", shown, FORECASTS, str(answer))


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
