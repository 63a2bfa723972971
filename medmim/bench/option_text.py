"""Options by their text: which of them a text names, whatever its case, punctuation and way to name an image.

All references to an image are equal (`the second image`, `image two`, `image2`, `2nd`). An option that is negated or
qualified (`not resected`, `partially resected`) is not named.
"""

import itertools
import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property, lru_cache

from medmim.bench import reply_text
from medmim.sample import LETTERS

_WORD = re.compile(r"\d+(?:[.,]\d+)+|[^\W_]+(?:'[^\W_]+)*|[.,;:!?(){}\[\]=|]|-(?!\w)")
_MARKS = set(".,;:!?(){}[]=|-")
_ARTICLES = {"the", "a", "an"}
_FIRST = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
_1ST = ("1st", "2nd", "3rd", "4th", "5th", "6th", "7th", "8th")
_ONE = ("one", "two", "three", "four", "five", "six", "seven", "eight")
_ORDINALS = {word: i for words in (_FIRST, _1ST) for i, word in enumerate(words, 1)}
_NUMBERS = {word: i for words in (_ONE, "12345678") for i, word in enumerate(words, 1)}
_NOUNS = {"image", "img", "picture", "photo", "photograph", "scan", "figure", "film", "radiograph", "view"}
_GLUED = re.compile(rf"\b({'|'.join(sorted(_NOUNS))})([1-8])\b")
_NUMBER_WORDS = {"no", "number", "nr"}
_NOT = {"not", "no", "non", "never", "neither", "nor", "without", "except", "excluding", "cannot"}
_WEAK = {*_NOT, *_ARTICLES, "of", "in", "on", "at", "to", "and", "or", "is", "it"}  # no answer by themselves
_QUALIFIERS = {"partial", "partially", "partly", "incomplete", "incompletely", "subtotal", "subtotally", "nearly",
               "almost", "false"}  # fmt: skip
# `no` before one of these denies no finding: `no doubt`, `no images were provided`.
_NO_FINDING = {"ability", "access", "answer", "comment", "data", "doubt", "idea", "image", "images", "information",
               "longer", "need", "one", "opinion", "problem", "question", "reason", "scan", "scans", "way"}  # fmt: skip
_WRONG = re.compile(
    r"^[)\]}]?\s*(?:is|was|seems)?(?:\s*not|n't)?\s*\(?(?:wrong|incorrect|ruled out|excluded)\b"
    r"|^[)\]}]?\s*(?:is|was)(?:\s+not|n't)\s+(?:correct|right|it|the|an?|my|seen|present|visible|evident)\b"
    r"|^\s*cannot be (?:excluded|ruled out)\b"
)


@dataclass(frozen=True)
class Options:
    """The options of a question.

    Attributes:
        texts: In order A, B, ...; of equal texts the first counts.
        images: Images shown, so that "the last image" has a number; 0 where unknown.
    """

    texts: tuple[str, ...]
    images: int = 0

    @cached_property
    def written(self) -> list[str]:
        """Each as the prompt writes it, folded: `a: stable`."""
        items = zip(LETTERS, self.texts, strict=False)
        return [prompt_form(" ".join(f"{letter.lower()}: {reply_text.fold(text)}".split())) for letter, text in items]

    @cached_property
    def plain(self) -> list[str]:
        """Each text in one line, folded, without markup."""
        return [reply_text.plain(text) for text in self.texts]

    @cached_property
    def tokens(self) -> list[list[str]]:
        """Words of each text; image references as `#2`."""
        return [tokens(text, self.images) for text in self.plain]

    def tokens_of(self, said: str) -> list[str]:
        """The words of another text, to compare with `tokens`."""
        return tokens(said, self.images)

    def exactly(self, said: str) -> int | None:
        """The option that a text is, and nothing else; `2` is image 2."""
        words = tokens(said, self.images)
        for i, own in enumerate(self.tokens):
            if (own and own == words) or (not own and self.plain[i] == said):
                return i
        if len(words) == 1 and words[0] in _NUMBERS and [f"#{_NUMBERS[words[0]]}"] in self.tokens:
            return self.tokens.index([f"#{_NUMBERS[words[0]]}"])
        return None

    def shortened(self, said: str) -> int | None:
        """The only option that begins with a text: `left` for `left side`. A text of weak words names none."""
        words = tokens(said, self.images)
        if not words or set(words) <= _WEAK or words[0] in _NOT:
            return None
        found = [i for i, own in enumerate(self.tokens) if own[: len(words)] == words]
        containing = [own for own in self.tokens if words[0] in own]
        return found[0] if len(found) == len(containing) == 1 else None

    def named(self, said: str) -> set[int]:
        """Options whose words are in a text, not negated and not qualified; a longer one hides those within it."""
        words, clauses = _words(said, self.images)
        length = Counter(clauses)
        alone = {word for word, clause in zip(words, clauses, strict=True) if length[clause] == 1} & {"yes", "no"}
        said_alone = {self.tokens.index([word]) for word in alone if [word] in self.tokens}
        if said_alone:
            return said_alone  # `No, there is no mass`
        words = [self._adjective(word) for word in words]
        free = [True] * len(words)
        found = set()
        for own in sorted({tuple(t) for t in self.tokens if "".join(t)[1:]}, key=lambda t: (-len(t), t)):
            for at in range(len(words) - len(own) + 1):
                if tuple(words[at : at + len(own)]) == own and all(free[at : at + len(own)]):
                    free[at : at + len(own)] = [False] * len(own)
                    if not _negated(words, clauses, at, len(own)) and not _qualified(words, clauses, at, len(own)):
                        found.add(self.tokens.index(list(own)))
        return found

    def _adjective(self, word: str) -> str:
        """`partially` as `partial` where an option is `partial`."""
        known = word.removesuffix("ly")
        return known if [known] in self.tokens and [word] not in self.tokens else word


@lru_cache(maxsize=1024)  # a bench asks many questions with the same options
def known(texts: tuple[str, ...], images: int) -> Options:
    """The options of a question, read once."""
    return Options(texts, images)


def prompt_form(said: str) -> str:
    """A folded text whose leading letter is marked as in the prompt: `b) text` and `b. text` as `b: text`."""
    return re.sub(r"^([a-h])\s*[:.)]\s*", r"\1: ", said).rstrip(" .")


def wrong(after: str) -> bool:
    """Whether what follows an option says that it is wrong."""
    return bool(_WRONG.match(after))


def tokens(said: str, images: int) -> list[str]:
    """Words without articles and marks; image references as `#2`."""
    return _words(said, images)[0]


def _negated(words: list[str], clauses: list[int], at: int, length: int) -> bool:
    near = range(max(0, at - 5), at)
    if words[at : at + length] == ["no"] and not _NO_FINDING.isdisjoint(words[at + 1 : at + 3]):
        return True
    before = [words[i] for i in near if clauses[i] == clauses[at]]
    if before[-2:] == ["yes", "or"] or words[at : at + 3] == ["yes", "or", "no"]:
        return True
    if any(w in _NOT or w.endswith("n't") for w in before) or before[-2:] in (["rather", "than"], ["instead", "of"]):
        return True
    return wrong(" " + " ".join(words[at + length : at + length + 4]))


def _qualified(words: list[str], clauses: list[int], at: int, length: int) -> bool:
    """Whether a word that takes something from it stands before or right behind: `partially resected`."""
    near = [i for i in (at - 2, at - 1, at + length) if 0 <= i < len(words) and clauses[i] == clauses[at]]
    return any(words[i] in _QUALIFIERS for i in near)


def _words(said: str, images: int) -> tuple[list[str], list[int]]:
    """Words without articles, image references as `#2`, and the clause of each word."""
    raw: list[tuple[str, int]] = []
    clause = 0
    found = [*_WORD.findall(_GLUED.sub(r"\1 \2", said)), "."]
    for word, after in itertools.pairwise(found):
        clause += word in _MARKS or word in ("but", "however")
        if word not in _MARKS and (word not in _ARTICLES or after in _MARKS):  # `a)` is not an article
            raw.append((word, clause))
    words: list[str] = []
    clauses: list[int] = []
    at = 0
    while at < len(raw):
        word, took = _reference([w for w, _ in raw[at : at + 3]], images)
        words.append(word)
        clauses.append(raw[at][1])
        at += took
    return words, clauses


def _reference(ahead: list[str], images: int) -> tuple[str, int]:
    word, rest = ahead[0], ahead[1:]
    if word in _NOUNS and rest and rest[0] in _NUMBERS:
        return f"#{_NUMBERS[rest[0]]}", 2
    if word in _NOUNS and len(rest) == 2 and rest[0] in _NUMBER_WORDS and rest[1] in _NUMBERS:
        return f"#{_NUMBERS[rest[1]]}", 3
    number = _ORDINALS.get(word) or (images or -1 if word == "last" else 0)
    if not number:
        return word, 1
    took = 1
    if rest and (rest[0] in _NOUNS or rest[0] == "one"):
        took = 2
    elif rest[:2] in (["in", "sequence"], ["in", "order"]):
        took = 3
    return ("#last" if number < 0 else f"#{number}"), took
