"""Reasoning: a conclusion that takes all views of one exam together."""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import product

from medmim.data.abilities.ask import FIXED_OPTIONS, Ask, Cohort, value
from medmim.sample import Study

Exam = tuple[Study, ...]


def ask(cohort: Cohort, rng: random.Random) -> Iterator[Ask]:
    """Families `assessment` (BI-RADS-like class of an exam), `diagnosis` (its finding) and `same_patient`."""
    exams = [list(_exams(patient)) for patient in cohort]
    if len(cohort) == 1:
        yield from _assessment(exams[0])
        yield from _diagnosis([(a, b) for i, a in enumerate(exams[0]) for b in exams[0][:i]], rng)
    else:
        yield from _diagnosis(list(product(exams[0], exams[1])), rng)
        yield from _same_patient(cohort, exams, rng)


def _exams(patient: Sequence[Study]) -> Iterator[Exam]:
    """Sets of two or three images of one exam of one breast, eye or other organ, each of another view.

    Images of equal time are of one exam where the source does not name it.
    """
    by_exam: dict[tuple[object, ...], dict[str | None, Study]] = defaultdict(dict)
    for study in patient:
        by_exam[study.exam or study.time, study.laterality].setdefault(study.view, study)
    for views in by_exam.values():
        views.pop(None, None)
        if len(views) >= 2:
            yield tuple(views.values())[:3]


def _assessment(exams: Sequence[Exam]) -> Iterator[Ask]:
    for views in exams:
        rating = views[0].rating
        if rating in FIXED_OPTIONS["assessment"] and {study.rating for study in views} == {rating}:
            for images in (views, views[::-1]):
                yield Ask("reasoning", "assessment", images, FIXED_OPTIONS["assessment"], rating)


def _diagnosis(pairs: Sequence[tuple[Exam, Exam]], rng: random.Random) -> Iterator[Ask]:
    """At most one question: two exams with different findings, which are the options; one of the two is shown."""
    different = [pair for pair in pairs if None not in (found := [_finding(e) for e in pair]) and len(set(found)) == 2]
    if different:
        pair = rng.choice(different)
        shown = rng.choice(pair)
        options = tuple(str(_finding(exam)) for exam in pair)
        yield Ask("reasoning", "diagnosis", shown, options, str(_finding(shown)))


def _finding(exam: Exam) -> str | None:
    """The finding that all views show, or None."""
    found = {value(study, "finding") for study in exam}
    return found.pop() if len(found) == 1 else None


def _same_patient(cohort: Cohort, exams: Sequence[Sequence[Exam]], rng: random.Random) -> Iterator[Ask]:
    """The wrong image has the modality and view of the right one, so that only the patient differs."""
    for own, others in ((0, 1), (1, 0)):
        choices = []
        for exam in exams[own]:
            shown, right = rng.sample(exam, 2)
            choices += [
                (shown, right, study)
                for study in cohort[others]
                if (study.modality, study.view) == (right.modality, right.view)
            ]
        if choices:
            shown, right, wrong = rng.choice(choices)
            pair = rng.sample((right, wrong), 2)
            answer = f"image {pair.index(right) + 2}"
            yield Ask("reasoning", "same_patient", (shown, *pair), ("image 2", "image 3"), answer)
