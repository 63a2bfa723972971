"""The forms in which a question may be worded, `forms.ini`: reads them, matches a text, draws texts."""

import re
from collections.abc import Iterator, Sequence
from configparser import ConfigParser
from dataclasses import dataclass
from functools import cache
from importlib import resources
from random import Random
from typing import Literal

Part = Literal["question", "answer"]
_FILE = "forms.ini"
_NEVER = "!"
_TOKEN = re.compile(r"\{\w+\}|[\w'-]+|[^\w\s]")
_MARK = re.compile(r"\\[()]|[()\[\]|]|<\w+>|\{\w+\}|[^\s()\[\]|<>{}\\]+")
_CLOSED = {"(": ")", "[": "]"}
_BEFORE = frozenset(".,:;?)")  # signs that follow a word without a space
_WRITTEN = {"cc": "CC", "mlo": "MLO", "mri": "MRI", "mr": "MR", "bi-rads": "BI-RADS", "rano": "RANO"}


@dataclass(frozen=True, eq=False)
class Form:
    """A word or sign, or forms one after the other (`all`) or instead of each other (`any`)."""

    kind: Literal["word", "all", "any"]
    word: str = ""
    parts: "tuple[Form, ...]" = ()


def families() -> list[str]:
    """Those that have forms."""
    return _file().sections()


@cache
def of(family: str, part: Part) -> Form:
    """The forms of a family's questions or answers.

    Raises:
        KeyError: There is no such family, or no such name.
        ValueError: `forms.ini` is malformed, or a name stands for itself.
    """
    return _Reader(family).named(part)


@cache
def vocabulary(family: str, part: Part) -> frozenset[str]:
    """All words, signs and slots of the forms."""
    return frozenset(_words(of(family, part), set()))


def has(family: str, part: Part) -> bool:
    """Whether anything can be said; the answers of some families are kept as they are."""
    return vocabulary(family, part) != {_NEVER}


def tokens(text: str) -> list[str]:
    """Words, signs and slots of a text, in lower case."""
    return _TOKEN.findall(text.lower())


def unmatched(said: Sequence[str], form: Form) -> tuple[int, frozenset[str]] | None:
    """None where the tokens are of the form; else with how many of them a text of it begins, and what may follow."""
    known: dict[tuple[Form, int], frozenset[int]] = {}
    furthest = 0
    tried: dict[int, set[str]] = {}

    def ends(form: Form, begin: int) -> frozenset[int]:
        nonlocal furthest
        if form.kind == "word":
            if form.word == _NEVER:
                return frozenset()
            tried.setdefault(begin, set()).add(form.word)
            if begin < len(said) and said[begin] == form.word:
                furthest = max(furthest, begin + 1)
                return frozenset((begin + 1,))
            return frozenset()
        found = known.get((form, begin))
        if found is None:
            if form.kind == "any":
                found = frozenset().union(*(ends(part, begin) for part in form.parts))
            else:
                found = frozenset((begin,))
                for part in form.parts:
                    found = frozenset().union(*(ends(part, at) for at in found))
            known[form, begin] = found
        return found

    return None if len(said) in ends(form, 0) else (furthest, frozenset(tried.get(furthest, ())))


def draw(form: Form, rng: Random) -> list[str]:
    """The tokens of a text of the form."""
    while _NEVER in (found := list(_drawn(form, rng))):
        pass
    return found


def written(said: Sequence[str]) -> str:
    """A text of tokens: spaces, capitals and names as they are written, whoever wrote it."""
    text, begins, before = "", True, ""
    for token in said:
        word = _WRITTEN.get(token, token)
        glued = not text or token in _BEFORE or text.endswith("(") or token.startswith("-")
        text += ("" if glued else " ") + (word[0].upper() + word[1:] if begins else word)
        begins = token in (".", "?") or (before == ":" and token.startswith("{"))  # a caption ends as a sentence does
        before = token
    return text


def _drawn(form: Form, rng: Random) -> Iterator[str]:
    if form.kind == "word":
        yield form.word
    for part in form.parts if form.kind == "all" else rng.choices(form.parts) if form.parts else ():
        yield from _drawn(part, rng)


def _words(form: Form, seen: set[Form]) -> Iterator[str]:
    if form not in seen:
        seen.add(form)
        if form.kind == "word":
            yield form.word
        for part in form.parts:
            yield from _words(part, seen)


@cache
def _file() -> ConfigParser:
    found = ConfigParser(interpolation=None, delimiters=("=",), comment_prefixes=("#",))
    found.read_string((resources.files(__package__) / _FILE).read_text(encoding="utf-8"))
    return found


class _Reader:
    """Reads the names of one family, each once, so that equal parts are one object."""

    def __init__(self, family: str) -> None:
        self.section = _file()[family]
        self.known: dict[str, Form | None] = {}

    def named(self, name: str) -> Form:
        if name not in self.known:
            self.known[name] = None
            marks = _MARK.findall(self.section[name])
            if re.sub(r"\s", "", self.section[name]) != "".join(marks):
                raise ValueError(f"{_FILE}: {self.section.name}: {name}: a sign is not understood")
            self.known[name] = self.either(marks)
            if marks:
                raise ValueError(f"{_FILE}: {self.section.name}: {name}: '{marks[0]}' opens or closes nothing")
        found = self.known[name]
        if found is None:
            raise ValueError(f"{_FILE}: {self.section.name}: {name} stands for itself")
        return found

    def either(self, marks: list[str]) -> Form:
        """Read up to a closing sign or the end; `marks` lose what is read."""
        ways: list[list[Form]] = [[]]
        while marks and marks[0] not in ")]":
            mark = marks.pop(0)
            if mark == "|":
                ways.append([])
            elif mark in _CLOSED:
                inner = self.either(marks)
                if not marks or marks.pop(0) != _CLOSED[mark]:
                    raise ValueError(f"{_FILE}: {self.section.name}: '{mark}' is not closed")
                ways[-1].append(inner if mark == "(" else Form("any", parts=(Form("all"), inner)))
            elif mark.startswith("<"):
                ways[-1].append(self.named(mark[1:-1]))
            else:
                ways[-1] += [Form("word", word) for word in tokens(mark.removeprefix("\\"))]
        return Form("any", parts=tuple(Form("all", parts=tuple(way)) for way in ways))
