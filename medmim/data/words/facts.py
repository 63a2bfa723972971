"""What a question states and asks: taken from the template that worded it, and all that a rewording may use."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from string import Formatter

from medmim.data import wording
from medmim.data.wordings import strict
from medmim.data.words.kinds import KINDS, Kind
from medmim.sample import Sample

_QUOTED = 40  # characters from which a value is a quotation, which is kept to the letter
_LONGEST_LABEL = 60  # characters of an answer that may be put into a sentence


@dataclass(frozen=True)
class Facts:
    """A question as its template words it.

    Attributes:
        family: Of the sample.
        images: How many there are.
        question: In the template's words.
        options: Of a closed question.
        answer: Gold text.
        about: What the template was filled with: `value`, `finding`, `image`, `ages`, `questions`.
    """

    family: str
    images: int
    question: str
    options: tuple[str, ...]
    answer: str
    about: Mapping[str, str]

    @property
    def kind(self) -> Kind:
        """What may be said of its family."""
        return KINDS[self.family]

    @property
    def writes_answer(self) -> bool:
        """Whether the answer is reworded, too: a label of an open question, no option and no quotation."""
        label = len(self.answer) <= _LONGEST_LABEL and not re.search(r"[:;,]|\.$", self.answer)
        return not self.options and label and self.family != "describe"


def of(sample: Sample) -> Facts | None:
    """The facts of a sample; None where no template of ours made its question."""
    about = parsed(sample.family, sample.question)
    if about is None:
        return None
    return Facts(sample.family, len(sample.images), sample.question, sample.options, sample.answer, about)


def parsed(family: str, question: str) -> dict[str, str] | None:
    """What fills the template of a question; None where it is of none."""
    found = (stem.fullmatch(question) for stem in _stems(family)) if family in KINDS else ()
    return next((match.groupdict() for match in found if match), None)


def is_quotation(text: str) -> bool:
    """Whether a value is kept to the letter: a caption, or the questions on single images."""
    return len(text) > _QUOTED or ":" in text or text.endswith((".", "?"))


@cache
def _stems(family: str) -> Sequence["re.Pattern[str]"]:
    templates = strict.TEMPLATES.get(family) or wording.TEMPLATES.get(family, ())
    found = []
    for template in templates:
        pattern, seen = "", set()
        for text, name, _, _ in Formatter().parse(template):
            pattern += re.escape(text)
            if name is not None:
                pattern += f"(?P={name})" if name in seen else f"(?P<{name}>.+)"
                seen.add(name)
        found.append(re.compile(pattern, re.DOTALL))
    return sorted(found, key=lambda one: -len(one.pattern))  # the most text first: `Which image is {value}?` fits all
