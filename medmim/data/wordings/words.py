"""Puts a question into words, in our strict form or in the published one (`data.form`)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from string import Formatter

from medmim.data import wording
from medmim.data.abilities.ask import Ask
from medmim.data.wordings import published, strict
from medmim.sample import Sample, Study

_ADDED = (1, 1, 2)  # how many further wrong options a published row has, where it has any


@dataclass(frozen=True)
class Worded:
    """A question in words.

    Attributes:
        question: Without its options.
        options: Empty for an open question.
        answer: Gold text.
        gold: Indices of the right options; two in published rows that give the right one twice.
        swapped: Indices of the options that are right once all images move one place on.
    """

    question: str
    options: tuple[str, ...]
    answer: str
    gold: tuple[int, ...]
    swapped: tuple[int, ...] = ()


def put(ask: Ask, rng: Random, closed: bool, form: str) -> Worded | None:
    """Put a question into words.

    Args:
        ask: What is asked.
        rng: Decides phrasing and option order.
        closed: Whether options are given; a question without options is open in any case.
        form: `strict` or `published`.

    Returns:
        The question, or None where the form has no words for its answer: the published one for responses by RANO, the
        strict one where there is nothing to choose from.
    """
    if ask.family not in strict.TEMPLATES:
        question, options, answer, gold = wording.render(ask, rng, closed)
        swapped = wording.matching_options(options, ask.swapped) if ask.swapped is not None else ()
        return Worded(question, options, answer, gold, swapped)
    if form == "published" and ask.family in published.POOLS:
        return _from_pool(ask, rng, closed, published.POOLS[ask.family])
    if form == "published" and ask.family in published.EYES:
        return _eyes(ask, rng, closed)
    return _strict(ask, rng, closed)


def is_strict(sample: Sample) -> bool:
    """Whether a question is worded as the form `strict` words its family; the published form has other stems."""
    return any(stem.fullmatch(sample.question) for stem in _stems(sample.family))


@cache
def _stems(family: str) -> tuple["re.Pattern[str]", ...]:
    """The strict stems of a family, with any text where a value is put in."""
    templates = strict.TEMPLATES.get(family) or wording.TEMPLATES.get(family, ())
    parsed = ([(text, name) for text, name, _, _ in Formatter().parse(template)] for template in templates)
    return tuple(
        re.compile("".join(re.escape(text) + (".+" if name is not None else "") for text, name in parts), re.DOTALL)
        for parts in parsed
    )


def _strict(ask: Ask, rng: Random, closed: bool) -> Worded | None:
    words = strict.VALUES.get(ask.family, {})
    question = rng.choice(strict.TEMPLATES[ask.family]).format(**_about(ask, words))
    options = rng.sample(ask.options, len(ask.options))
    if not closed or not options:
        return Worded(question, (), words.get(ask.answer, ask.answer), ())
    return _chosen(ask, question, options, words) if len(options) > 1 else None


def _from_pool(ask: Ask, rng: Random, closed: bool, pool: published.Pool) -> Worded | None:
    answers = pool.answers or ask.options
    if ask.answer not in answers:
        return None
    number = rng.randrange(len(pool.stems))
    chosen = pool.sets[rng.choice(pool.tied[number] if pool.tied else range(len(pool.sets)))]
    about = _about(ask, pool.values)
    words = {value: text.format(**about) for value, text in zip(answers, chosen, strict=False)}
    question = pool.stems[number].format(**about)
    if not closed:
        return Worded(question, (), words[ask.answer], ())
    never = [text.format(**about) for text in chosen[len(words) :]] if pool.answers else []
    if rng.random() < pool.share:
        never += rng.sample(pool.added[ask.answer], rng.choice(_ADDED))
    options = [*answers, *never]
    return _chosen(ask, question, rng.sample(options, len(options)), words)


def _eyes(ask: Ask, rng: Random, closed: bool) -> Worded:
    """ODIR's rows: three wrong options of the common diagnoses, synonyms and all; some give the right one again."""
    place = published.PLACES.get(ask.about.get("image", ""), "")
    question = rng.choice(published.EYES[ask.family]).format(place=place)
    if not closed:
        return Worded(question, (), ask.answer, ())
    wrong = [text for text in published.EYE_DISEASES if text != ask.answer]
    if ask.family == "both_eyes":
        first, second = ask.answer.removeprefix("First: ").split(", Second: ", 1)
        others = rng.sample([text for text in published.EYE_DISEASES if text not in (first, second)], 2)
        pairs = [(second, first), *((first, other) for other in others), *((other, second) for other in others)]
        wrong = [text for a, b in pairs if (text := f"First: {a}, Second: {b}") != ask.answer]
    options = [ask.answer, *rng.sample(wrong, 3)]
    if rng.random() < published.TWICE:
        options[-1] = ask.answer
    return _chosen(ask, question, rng.sample(options, len(options)), {})


def _chosen(ask: Ask, question: str, options: Sequence[str], words: Mapping[str, str]) -> Worded:
    texts = [words.get(value, value) for value in options]
    gold = tuple(i for i, value in enumerate(options) if value == ask.answer)
    swapped = tuple(i for i, value in enumerate(options) if value == ask.swapped)
    return Worded(question, tuple(texts), texts[gold[0]], gold, swapped)


def _about(ask: Ask, words: Mapping[str, str]) -> dict[str, str]:
    about = {key: words.get(text, text) for key, text in ask.about.items()}
    return {"ages": _ages(ask.studies), "finding": "finding", **about}


def _ages(studies: Sequence[Study]) -> str:
    """Ages with one decimal: `51.2 and 52.3`, or `51.2, 52.3, and 54.0`."""
    ages = ["unknown" if study.age is None else f"{study.age:.1f}" for study in studies]
    if len(ages) <= 2:
        return " and ".join(ages)
    return f"{', '.join(ages[:-1])}, and {ages[-1]}"
