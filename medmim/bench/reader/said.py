"""A folded text as words: clauses, stems, and references to images, which are equal however they are worded."""

import itertools
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache

from medmim.bench.reader.words import UNSPACED

_UNSPACED = rf"[{UNSPACED}]"
_WORD = re.compile(
    rf"\d+(?:[.,]\d+)+|{_UNSPACED}|(?:(?!{_UNSPACED})[^\W_])+(?:'(?:(?!{_UNSPACED})[^\W_])+)*"
    r"|[.,;:!?(){}\[\]=|]|-(?!\w)"
)
_MARKS = set(".,;:!?(){}[]=|-")
_ENDS = set(".;!?|")
_BREAKS = {"but", "however", "while", "whereas", "although", "though", "because", "since"}  # begin a clause
_REASONS = {"because", "since"}
ARTICLES = {"the", "a", "an"}
_FIRST = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
_1ST = ("1st", "2nd", "3rd", "4th", "5th", "6th", "7th", "8th")
_ONE = ("one", "two", "three", "four", "five", "six", "seven", "eight")
_ORDINALS = {word: i for words in (_FIRST, _1ST) for i, word in enumerate(words, 1)}
NUMBERS = {word: i for words in (_ONE, "12345678") for i, word in enumerate(words, 1)}
_NOUNS = {"image", "img", "picture", "photo", "photograph", "scan", "figure", "film", "radiograph", "view"}
_GLUED = re.compile(rf"\b({'|'.join(sorted(_NOUNS))})([1-8])\b")
_NUMBER_WORDS = {"no", "number", "nr"}
# What is denied one after another belongs together: `no mass, nodule or edema`.
_DENIES = "no|not|without|neither|never|lacks?|lacking"
_ITEM = (
    rf"(?:\s*+(?!(?:{_DENIES}|or|nor|but|however|while|whereas|it|there|this|that|which|is|are|was|were|has|have|shows)"
    r"\b)[^\s,.;:!?()|]++(?<!n't)){0,6}+"
)
_DENIED_LIST = re.compile(rf"(?:\b(?:{_DENIES})|n't)\b{_ITEM}(?:,{_ITEM}){{1,9}}+\s*(?:or|nor)\b")
# Verbs that link a finding to what is said of it, and `it`: with them or without, the same is named.
LINKS = {"is", "are", "was", "were", "be", "been", "being", "has", "have", "had", "become", "becomes", "became",
         "remain", "remains", "remained", "it"}  # fmt: skip
_ENDINGS = ("ation", "ment", "ing", "ion", "ive", "ed", "ly", "en", "e")
_STEM = 4  # characters that a stem has at least
_PLURAL = 3  # characters that a plural has more than


@dataclass(frozen=True)
class Said:
    """A text as words, without articles and marks.

    Attributes:
        words: An image reference is `#2`.
        clauses: The number of the clause of each word.
        sentences: The number of its sentence.
        asked: The sentences that end with a question mark.
        explains: The clauses that explain what their sentence said before: behind `because`, `since`, or `as` that a
            comma stands before.
    """

    words: list[str]
    clauses: list[int]
    sentences: list[int]
    asked: frozenset[int] = frozenset()
    explains: frozenset[int] = frozenset()

    @cached_property
    def bounds(self) -> dict[int, tuple[int, int]]:
        """Clause -> where it begins, and where it has ended."""
        found: dict[int, tuple[int, int]] = {}
        for at, clause in enumerate(self.clauses):
            found[clause] = (found[clause][0] if clause in found else at, at + 1)
        return found


@lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """A word without its endings: `wors` for worse, worsened and worsening, `partial` for partially."""
    if word.endswith("s") and not word.endswith("ss") and len(word) > _PLURAL:
        word = f"{word[:-3]}y" if word.endswith("ies") else word[:-1]
    while True:
        ending = next((s for s in _ENDINGS if word.endswith(s) and len(word) - len(s) >= _STEM), None)
        if ending is None:
            return word
        word = word[: -len(ending)]


@lru_cache(maxsize=64)  # of one reply the same lines are asked for again and again
def split(said: str, images: int, kept: frozenset[tuple[str, str]] = frozenset()) -> Said:
    """The words of a folded text.

    Args:
        said: The text.
        images: Images shown, so that "the last image" has a number; 0 where unknown.
        kept: Articles that are none, with the word before: `a` behind `type`, where an option is `type a`.
    """
    said = _DENIED_LIST.sub(lambda found: found[0].replace(",", " or "), said)
    raw: list[tuple[str, int, int]] = []
    clause = sentence = 0
    asked: set[int] = set()
    explains: set[int] = set()
    explained = False
    before = ""
    for word, after in itertools.pairwise([*_WORD.findall(_GLUED.sub(r"\1 \2", said)), "."]):
        clause += word in _MARKS or word in _BREAKS
        explained = (explained or word in _REASONS or (before, word) == (",", "as")) and word not in _ENDS
        if explained:
            explains.add(clause)
        if word == "?":
            asked.add(sentence)
        sentence += word in _ENDS
        article = word in ARTICLES and after not in _MARKS and (before, word) not in kept  # `a)` is none
        if word not in _MARKS and not article:
            raw.append((word, clause, sentence))
        before = word
    words: list[str] = []
    clauses: list[int] = []
    sentences: list[int] = []
    at = 0
    while at < len(raw):
        word, took = _reference([w for w, _, _ in raw[at : at + 3]], images)
        words.append(word)
        clauses.append(raw[at][1])
        sentences.append(raw[at][2])
        at += took
    return Said(words, clauses, sentences, frozenset(asked), frozenset(explains))


def is_image(word: str) -> bool:
    """Whether a word of `split` is a reference to an image."""
    return word.startswith("#")


def _reference(ahead: list[str], images: int) -> tuple[str, int]:
    word, rest = ahead[0], ahead[1:]
    if word in _NOUNS and rest and rest[0] in NUMBERS:
        return f"#{NUMBERS[rest[0]]}", 2
    if word in _NOUNS and len(rest) == 2 and rest[0] in _NUMBER_WORDS and rest[1] in NUMBERS:
        return f"#{NUMBERS[rest[1]]}", 3
    number = _ORDINALS.get(word) or (images or -1 if word == "last" else 0)
    if not number:
        return word, 1
    took = 1
    if rest and (rest[0] in _NOUNS or rest[0] == "one"):
        took = 2
    elif rest[:2] in (["in", "sequence"], ["in", "order"]):
        took = 3
    elif number > images > 0:
        return word, 1  # the sixth rib
    return ("#last" if number < 0 else f"#{number}"), took
