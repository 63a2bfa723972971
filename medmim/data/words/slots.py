"""The slots of wordings: which a family has, what a sample puts into them, and the text that comes of it."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from string import Formatter

from medmim.data import wording
from medmim.data.abilities.ask import NORMAL
from medmim.data.wordings import strict
from medmim.data.words.forms import Part
from medmim.sample import Sample

_LONGEST_LABEL = 60  # characters of an answer that may be put into a sentence
_QUOTED = 40  # characters from which a value is a quotation, which is kept to the letter
_SLOT = re.compile(r"(^|[.?] )?\{(\w+)\}")


def templates(family: str) -> Sequence[str]:
    """How medmim words a family by itself."""
    return strict.TEMPLATES.get(family) or wording.TEMPLATES.get(family, ())


@cache
def of(family: str, part: Part) -> tuple[tuple[str, ...], frozenset[str]]:
    """The slots that a wording must have, in the order of the first template, and all that it may have."""
    own = [[f"{{{name}}}" for _, name, _, _ in Formatter().parse(line) if name] for line in templates(family)]
    known = frozenset(slot for slots in own for slot in slots)
    if part == "answer":
        return ("{answer}",), known | {"{answer}"}
    return tuple(dict.fromkeys(slot for slot in own[0] if all(slot in slots for slots in own))), known


def values(sample: Sample) -> dict[str, str] | None:
    """What the template of a question was filled with; None where it is of no template of ours."""
    found = (stem.fullmatch(sample.question) for stem in _stems(sample.family))
    return next((match.groupdict() for match in found if match), None)


def takes_answer(sample: Sample) -> bool:
    """Whether the answer may stand in a sentence: a label of an open training question, no option and no quotation."""
    # Nothing `shows normal`.
    label = len(sample.answer) <= _LONGEST_LABEL and not re.search(rf"[:;,]|\.$|^{NORMAL}\b", sample.answer)
    return not sample.options and label and sample.split == "train"


def fill(text: str, about: Mapping[str, str]) -> str:
    """A wording with its values; one that begins a sentence gets a capital letter."""

    def put(match: "re.Match[str]") -> str:
        value = about[match[2]]
        if match[1] is None or _is_quotation(value):
            return (match[1] or "") + value
        return match[1] + value[:1].upper() + value[1:]

    return _SLOT.sub(put, text)


def _is_quotation(value: str) -> bool:
    """Whether a value is a caption, or the questions on single images."""
    return len(value) > _QUOTED or ":" in value or value.endswith((".", "?"))


@cache
def _stems(family: str) -> Sequence["re.Pattern[str]"]:
    found = []
    for template in templates(family):
        pattern, seen = "", set()
        for text, name, _, _ in Formatter().parse(template):
            pattern += re.escape(text)
            if name is not None:
                pattern += f"(?P={name})" if name in seen else f"(?P<{name}>.+)"
                seen.add(name)
        found.append(re.compile(pattern, re.DOTALL))
    return sorted(found, key=lambda one: -len(one.pattern))  # the most text first: `Which image is {value}?` fits all
