"""Reasoning: a conclusion that takes all views of one exam together."""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence

from medmim.data.abilities.ask import FIXED_OPTIONS, Ask, Cohort, value
from medmim.sample import Study


def ask(cohort: Cohort, rng: random.Random) -> Iterator[Ask]:
    """Families `assessment` (BI-RADS-like class of an exam) and `diagnosis` (the finding that its views support)."""
    exams = [exam for patient in cohort for exam in _exams(patient)]
    for views in exams:
        rating = views[0].rating
        if rating in FIXED_OPTIONS["assessment"]:
            for images in (views, views[::-1]):
                yield Ask("reasoning", "assessment", images, FIXED_OPTIONS["assessment"], rating)
    yield from _diagnosis(exams, rng)
    yield from _same_patient(cohort, exams, rng)


def _exams(patient: Sequence[Study]) -> Iterator[tuple[Study, ...]]:
    """Sets of two or three images of one patient and time, each of another view."""
    by_time: dict[float | None, dict[str | None, Study]] = defaultdict(dict)
    for study in patient:
        by_time[study.time].setdefault(study.view, study)
    for views in by_time.values():
        views.pop(None, None)
        if len(views) >= 2:
            yield tuple(views.values())[:3]


def _diagnosis(exams: list[tuple[Study, ...]], rng: random.Random) -> Iterator[Ask]:
    """Pairs of exams with different findings: both findings are options, one of the two exams is shown."""
    shuffled = [e for e in rng.sample(exams, len(exams)) if len({value(s, "finding") for s in e}) == 1]
    while shuffled:
        exam = shuffled.pop()
        mine = value(exam[0], "finding")
        other = next((e for e in shuffled if value(e[0], "finding") not in (mine, None)), None)
        if mine is None or other is None:
            continue
        shuffled.remove(other)
        shown = rng.choice((exam, other))
        options = tuple(str(value(e[0], "finding")) for e in (exam, other))
        yield Ask("reasoning", "diagnosis", shown, options, str(value(shown[0], "finding")))


def _same_patient(cohort: Cohort, exams: list[tuple[Study, ...]], rng: random.Random) -> Iterator[Ask]:
    """The wrong image has the modality and view of the right one, so that only the patient differs."""
    studies = [study for patient in cohort for study in patient]
    for exam in exams:
        shown, right = rng.sample(exam, 2)
        of_others = [study for study in studies if study.patient != right.patient]
        others = [s for s in of_others if (s.modality, s.view) == (right.modality, right.view)]
        if others:
            pair = rng.sample((right, rng.choice(others)), 2)
            answer = f"image {pair.index(right) + 2}"
            yield Ask("reasoning", "same_patient", (shown, *pair), ("image 2", "image 3"), answer)
