"""Composed: figures of different articles side by side, two to four, as Med-MIM's largest part.

What is right follows from the captions. A wrong option is another figure, or its caption, of which the captions make
sure that it cannot be right as well.
"""

import random
import re
from collections.abc import Iterator, Sequence

from medmim.data.abilities.ask import Ask, Cohort
from medmim.data.abilities.family import Family, positions, which
from medmim.data.wordings import synonyms
from medmim.sample import Study

SAMENESS = ("same", "different")
_LONGEST = 300  # characters of a caption as a question or option quotes it
_SHARES = {2: 0.4, 3: 0.12, 4: 0.04}  # number of articles -> share of the cohorts that are asked: most ask two
_SENTENCE = re.compile(r".+?[.!?](?=\s+[A-Z(]|$)", re.DOTALL)
_NO_END = re.compile(r"(?:\b(?:fig|figs|approx|vs|no|dr|ca|al|etc|e\.g|i\.e)|\b[a-z])\.$", re.IGNORECASE)


def quoted(caption: str) -> str | None:
    """The first sentences of a caption that fit into a question, in one line; None where not even one does."""
    text = " ".join(caption.split())
    if len(text) <= _LONGEST:
        return text or None
    end = 0
    for match in _SENTENCE.finditer(text):
        if match.end() > _LONGEST:
            break
        if not _NO_END.search(match[0]):
            end = match.end()
    return text[:end] or None


def _drawn(cohort: Cohort, rng: random.Random) -> list[Study] | None:
    """One captioned figure of each article, in random order."""
    choices = [[study for study in patient if study.caption] for patient in cohort]
    if not all(choices):
        return None
    return [rng.choice(own) for own in rng.sample(choices, len(choices))]


def _which_figure(cohort: Cohort, rng: random.Random) -> Iterator[Ask]:
    """Something that one caption says is there, and that no other caption speaks of in any way."""
    figures = _drawn(cohort, rng)
    if figures is None:
        return
    place = rng.randrange(len(figures))
    asked = str(figures[place].caption)
    elsewhere = {name for i, study in enumerate(figures) if i != place for name in synonyms.related(str(study.caption))}
    names = sorted(synonyms.shown(asked) - elsewhere)
    if names:
        yield which("composed", "which_figure", figures, figures[place], {"value": rng.choice(names)})


def _captions(figures: Sequence[Study] | None) -> list[str] | None:
    """What is quoted of each caption, where no quotation may be true of another figure."""
    if figures is None:
        return None
    quotations = [quoted(str(study.caption)) for study in figures]
    found = [text for text in quotations if text is not None]
    if len(found) < len(figures):
        return None
    for i, study in enumerate(figures):
        if not synonyms.apart(found[:i] + found[i + 1 :], str(study.caption)):
            return None
    return found


def _match_figure(cohort: Cohort, rng: random.Random) -> Iterator[Ask]:
    figures = _drawn(cohort, rng)
    captions = _captions(figures)
    if figures is not None and captions is not None:
        place = rng.randrange(len(figures))
        yield which("composed", "match_figure", figures, figures[place], {"value": captions[place]})


def _match_caption(cohort: Cohort, rng: random.Random) -> Iterator[Ask]:
    figures = _drawn(cohort, rng)
    captions = _captions(figures)
    if figures is not None and captions is not None:
        place = rng.randrange(len(figures))
        about = {"image": positions(figures)[place]}
        after = captions[place - 1]  # the figure before it is in its place then
        yield Ask("composed", "match_caption", tuple(figures), tuple(captions), captions[place], about, after)


def _same_modality(cohort: Cohort, rng: random.Random) -> Iterator[Ask]:
    """Two figures whose captions name no other way of imaging than their source does."""
    figures = _drawn(cohort, rng)
    if figures is None:
        return
    if all(s.modality and synonyms.modalities(str(s.caption)) <= {s.modality} for s in figures):
        different = figures[0].modality != figures[1].modality
        yield Ask("composed", "same_modality", tuple(figures), SAMENESS, SAMENESS[different])


FAMILIES = {
    "which_figure": Family("composed", _SHARES, _which_figure),
    "match_figure": Family("composed", _SHARES, _match_figure),
    "match_caption": Family("composed", _SHARES, _match_caption),
    "same_modality": Family("composed", {2: _SHARES[2]}, _same_modality, SAMENESS),
}
