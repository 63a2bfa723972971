"""Joined: the questions that a source asks on single images, two or three unrelated cases at once.

Med-MIM had a language model combine VQA-RAD's pairs, and those of PMC figures; here they stand one after the other.
"""

import random
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import product

from medmim.data.abilities.ask import Ask, Cohort
from medmim.data.abilities.family import Family
from medmim.data.wordings import synonyms
from medmim.sample import Pair, Study

_YES_NO = ("yes", "no")
_JOINED = {2: 0.3, 3: 0.4}  # number of cases -> share of the cohorts that are asked
_JOINED_FIGURES = {2: 0.5, 3: 0.12, 4: 0.04}
_OPEN = 0.2  # share of the questions without options, as Med-MIM's 73 of 366
_OPTIONS = 4
_LONGEST = 120  # characters of an answer that can be an option
_MODALITY = re.compile(
    r"(?:what|which) (?:(?:type|kind)s? of )?(?:imag|scan)\w*|what .{0,30}modality|what .{0,30}imaging"
)


def together(texts: Sequence[str], name: str = "image", between: str = "; ") -> str:
    """One text on each of several images, in one line: `image 1: yes; image 2: no`."""
    return between.join(f"{name} {number + 1}: {' '.join(text.split())}" for number, text in enumerate(texts))


def _about(pairs: Sequence[Pair]) -> dict[str, str]:
    return {"questions": together([pair.question for pair in pairs], "Image", " ")}


def _joined(cohort: Cohort, rng: random.Random) -> Iterator[Ask]:
    """One question on one image of each case.

    Where an answer is yes or no, the right combination is drawn first, of the offered ones, and then a pair of each
    image that has this answer: so no combination is right more often than another.
    """
    images = [rng.choice(patient) for patient in rng.sample(list(cohort), len(cohort))]
    if rng.random() < _OPEN:
        chosen = [[pair for pair in study.pairs if pair.kind == "open"] for study in images]
        if all(chosen):
            pairs = [rng.choice(own) for own in chosen]
            answer = together([pair.answer for pair in pairs])
            yield Ask("composed", "joined", tuple(images), (), answer, _about(pairs))
        return
    by_answer = [_closed(study) for study in images]
    if all(set(own) == set(_YES_NO) for own in by_answer):
        combinations = list(product(_YES_NO, repeat=len(images)))
        offered = rng.sample(combinations, _OPTIONS)
        right = rng.choice(offered)
        pairs = [rng.choice(own[answer]) for own, answer in zip(by_answer, right, strict=True)]
        options = tuple(together(answers) for answers in offered)
        yield Ask("composed", "joined", tuple(images), options, together(right), _about(pairs))


def _closed(study: Study) -> dict[str, list[Pair]]:
    found: dict[str, list[Pair]] = {}
    for pair in study.pairs:
        if pair.kind == "closed" and pair.answer.lower() in _YES_NO:
            found.setdefault(pair.answer.lower(), []).append(pair)
    return found


def _joined_figures(cohort: Cohort, rng: random.Random) -> Iterator[Ask]:
    """Figures of different articles that are asked the same: their answers, and the same ones at each other's place.

    Since all answer the same question, no option is out of place. None of an image's wrong answers may be true of what
    its caption and its own answer say.
    """
    figures = [rng.choice(patient) for patient in rng.sample(list(cohort), len(cohort))]
    by_kind = [_kinds(study.pairs) for study in figures]
    common = sorted(set.intersection(*(set(own) for own in by_kind)))
    rng.shuffle(common)
    for kind in common:
        pairs = [rng.choice(own[kind]) for own in by_kind]
        answers = [pair.answer for pair in pairs]
        if _are_exclusive(kind, figures, answers):
            turned = tuple(together(answers[i:] + answers[:i]) for i in range(len(answers)))
            yield Ask("composed", "joined_figures", tuple(figures), turned, turned[0], _about(pairs), turned[-1])
            return


def _are_exclusive(kind: str, figures: Sequence[Study], answers: list[str]) -> bool:
    """Whether no answer can be right for a figure that is not its own."""
    if kind == "modality":
        named = [synonyms.modalities(answer) for answer in answers]
        own = [frozenset({study.modality}) for study in figures]
        return named == own and len(set(own)) == len(own)
    known = [(study.caption or "", answer) for study, answer in zip(figures, answers, strict=True)]
    return all(synonyms.apart(answers[:i] + answers[i + 1 :], *texts) for i, texts in enumerate(known))


@lru_cache(maxsize=65_536)
def _kinds(pairs: tuple[Pair, ...]) -> dict[str, list[Pair]]:
    """Pairs of a figure by what they ask: its modality, or one and the same question."""
    found: dict[str, list[Pair]] = {}
    for pair in pairs:
        plain = " ".join(re.findall(r"[a-z0-9]+", pair.question.lower()))
        if 0 < len(pair.answer) <= _LONGEST and plain:
            found.setdefault("modality" if _MODALITY.match(plain) else plain, []).append(pair)
    return found


FAMILIES = {
    "joined": Family("composed", _JOINED, _joined),
    "joined_figures": Family("composed", _JOINED_FIGURES, _joined_figures),
}
