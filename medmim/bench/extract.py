"""Extracts the chosen option from the free text of an answer; what is ambiguous is None, never guessed.

An answer is parsed as a letter (`B`, `B: text`, `(b)`, `**B**`, `The answer is B.`, `option B`) or as the text of one
option, ignoring case and punctuation; all references to an image are equal (`the second image`, `image two`, `2nd`).
Two different options, a contradiction, or a letter without an option give None.
"""

import itertools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from medmim.sample import LETTERS

_L = f"[{LETTERS[0].lower()}-{LETTERS[-1].lower()}]"
# Not letters: `e.g.` and `a.m.` (full stop inside), `d-dimer` (dash inside), `a mass` (an article).
_STOP = r"(?=\s*(?:$|[:,;!?)\]}]|\.(?!\w\.)|[-–—](?:\s|$)|(?:because|since)\b))"
_LEAD = re.compile(rf"^[\s(\[{{]*(?:option\s+|choice\s+)?({_L}){_STOP}")
_BARE = re.compile(rf"^[\s(\[{{]*({_L})\s+(?=\S)")
_ELSEWHERE = (
    re.compile(rf"\b(?:options?|choice|letter|select|choose|chose|pick|go with|boxed)\s*[:=]?\s*[(\[{{]?({_L}){_STOP}"),
    re.compile(r"\b(?:options?|choice|letter|select|choose|chose|pick|go with)\s*[:=]?\s*[(\[{]?([b-h])(?![\w'-])"),
    re.compile(rf"[(\[]\s*({_L})\s*[)\]]"),
    re.compile(rf"(?<![\w'-])({_L})\s*[:)](?!\w:)"),
    re.compile(rf"(?<![\w'-])({_L})\s+is\s+(?:not\s+)?(?:the\s+)?(?:correct|right|best|wrong|incorrect|answer)\b"),
)
_MORE = re.compile(rf"[)\]}}]?\s*(?:,|/|&|\bor\b|\band\b)\s*[(\[{{]?({_L})(?:{_STOP}|(?=\s*(?:/|&|or\b|and\b)))")
_CLAIM = re.compile(r"\banswer(?:\s+to\s+\w+(?:\s+\w+)?)?\s*(?:(?:is|would be|should be|must be)\b\s*:?|[:=])\s*")
_CLAIMED = re.compile(rf"^[\s(\[{{]*(?:option\s+|choice\s+|letter\s+)?(?:({_L}){_STOP}|([b-h])(?![\w'-]))")

_WORD = re.compile(r"\d+(?:[.,]\d+)+|[^\W_]+(?:'[^\W_]+)*|[.,;:!?()\[\]]")
_MARKS = set(".,;:!?()[]")
_ARTICLES = {"the", "a", "an"}
_FIRST = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
_1ST = ("1st", "2nd", "3rd", "4th", "5th", "6th", "7th", "8th")
_ONE = ("one", "two", "three", "four", "five", "six", "seven", "eight")
_ORDINALS = {word: i for words in (_FIRST, _1ST) for i, word in enumerate(words, 1)}
_NUMBERS = {word: i for words in (_ONE, "12345678") for i, word in enumerate(words, 1)}
_NOUNS = {"image", "picture", "photo", "photograph", "scan", "figure", "film", "radiograph", "view"}
_NOT = {"not", "no", "never", "neither", "nor", "without", "except", "excluding", "cannot"}
_NOT_BEFORE = re.compile(r"(?:\b(?:not|no|never|neither|nor|except|excluding|cannot|rather than|instead of)|n't)"
                         r"\s+(?:[\w']+\s+){0,4}[(\[{]?$")  # fmt: skip
_WRONG = re.compile(r"^[)\]}]?\s*(?:is|was|seems)?(?:\s*not|n't)?\s*(?:wrong|incorrect|ruled out|excluded)\b"
                    r"|^[)\]}]?\s*(?:is|was)(?:\s+not|n't)\s+(?:correct|right|it|the|an?|my)\b")  # fmt: skip


def extract(text: str, options: Sequence[str], images: int = 0) -> int | None:
    """The chosen option of an answer.

    Args:
        text: The generated text.
        options: Option texts in order A, B, ...; equal texts count as one, the first.
        images: Images shown, so that "the last image" has a number; 0 where unknown.

    Returns:
        Index of the option, or None where the text names none or several, or contradicts itself.
    """
    said = _fold(re.sub(r"(?s)<think>.*?</think>", " ", text))
    named = [_fold(option) for option in options]
    if not said or not options:
        return None
    for i, option in enumerate(named):  # the form of the prompt: `B: text`
        if _letter_form(said) == _letter_form(f"{LETTERS[i].lower()}: {option}"):
            return i
    reader = _Reader(named, [_tokens(option, images) for option in named], images)
    exact = reader.exactly(said)
    if exact is not None and not re.fullmatch(_L, said):
        return exact
    cues = [*_CLAIM.finditer(said)]
    ends = [cue.start() for cue in cues[1:]] + [len(said)]
    claims = [said[cue.end() : end] for cue, end in zip(cues, ends, strict=False)]
    claimed = {reader.claim(part) for part in claims if part.strip()} - {None}
    if claimed:
        lead = _LEAD.match(said)
        return _only(claimed | ({_index(lead[1])} if lead else set()), len(options))
    return reader.read(said)


@dataclass(frozen=True)
class _Reader:
    named: list[str]
    tokens: list[list[str]]
    images: int

    def exactly(self, said: str) -> int | None:
        words = _tokens(said, self.images)
        for i, own in enumerate(self.tokens):
            if (own and own == words) or (not own and self.named[i] == said):
                return i
        if len(words) == 1 and words[0] in _NUMBERS and [f"#{_NUMBERS[words[0]]}"] in self.tokens:
            return self.tokens.index([f"#{_NUMBERS[words[0]]}"])
        return None

    def claim(self, part: str) -> int | None:
        """The option named after `the answer is`: by a letter right behind it, or by its text."""
        exact = self.exactly(part.rstrip(" ."))
        if exact is not None:
            return exact
        sentence = re.split(r"\.\s", part, maxsplit=1)[0]
        match = _CLAIMED.match(part)
        if match is None:
            return _only(self.texts(sentence), len(self.named))
        letter = _index(match[1] or match[2])
        named = self.exactly(sentence[match.end() :].strip(" .:)]}-"))
        contradicts = named is not None and letter < len(self.tokens) and self.tokens[letter] != self.tokens[named]
        return None if contradicts or _MORE.match(part, match.end()) else letter

    def read(self, said: str) -> int | None:
        letters, texts = self.letters(said), self.texts(said)
        if not letters:
            return _only(texts, len(self.named))
        choice = _only(letters, len(self.named))
        if choice is None or (len(texts) == 1 and self.tokens[choice] != self.tokens[min(texts)]):
            return None  # `A: worse` where A is `stable`
        return choice

    def letters(self, said: str) -> set[int]:
        found = set()
        bare = _BARE.match(said)
        if bare and _index(bare[1]) < len(self.tokens):
            own = self.tokens[_index(bare[1])]
            if own and own == _tokens(said[bare.end() :], self.images):
                found.add(_index(bare[1]))
        for pattern in (_LEAD, *_ELSEWHERE):
            for match in pattern.finditer(said):
                clause = re.split(r"[.,;:!?]", said[: match.start(1)])[-1]
                if _NOT_BEFORE.search(clause) or _WRONG.match(said, match.end(1)) or _wrong(said[match.end(1) :]):
                    continue
                found.add(_index(match[1]))
                end = match.end(1)
                while more := _MORE.match(said, end):
                    found.add(_index(more[1]))
                    end = more.end(1)
        return found

    def texts(self, said: str) -> set[int]:
        """Options whose words are in the text and are not negated; a longer option hides those within it."""
        words, clauses = _words(said, self.images)
        if words and words[0] in ("yes", "no") and [words[0]] in self.tokens and clauses[:2] != [0, 0]:
            return {self.tokens.index([words[0]])}  # `No, there is no mass`
        free = [True] * len(words)
        found = set()
        for own in sorted({tuple(t) for t in self.tokens if t}, key=lambda t: (-len(t), t)):
            for at in range(len(words) - len(own) + 1):
                if tuple(words[at : at + len(own)]) == own and all(free[at : at + len(own)]):
                    free[at : at + len(own)] = [False] * len(own)
                    if not _negated(words, clauses, at, len(own)):
                        found.add(self.tokens.index(list(own)))
        return found


def _wrong(after: str) -> bool:
    return bool(_WRONG.match(after))


def _negated(words: list[str], clauses: list[int], at: int, length: int) -> bool:
    near = range(max(0, at - 5), at)
    before = [words[i] for i in near if clauses[i] == clauses[at]]
    if any(w in _NOT or w.endswith("n't") for w in before) or before[-2:] in (["rather", "than"], ["instead", "of"]):
        return True
    return _wrong(" " + " ".join(words[at + length : at + length + 4]))


def _fold(text: str) -> str:
    """Normalise case, quotes, white space and emphasis."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).upper().casefold())
    text = re.sub(r"[*`\"“”«»]|(?<!\w)_+|_+(?!\w)", "", text.replace("’", "'"))
    return " ".join(text.split())


def _letter_form(said: str) -> str:
    return re.sub(rf"^({_L})\s*[:.)]\s*", r"\1: ", said).rstrip(" .")


def _words(said: str, images: int) -> tuple[list[str], list[int]]:
    """Words without articles, image references as `#2`, and the clause of each word."""
    raw: list[tuple[str, int]] = []
    clause = 0
    found = [*_WORD.findall(said), "."]
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


def _tokens(said: str, images: int) -> list[str]:
    return _words(said, images)[0]


def _reference(ahead: list[str], images: int) -> tuple[str, int]:
    word, rest = ahead[0], ahead[1:]
    if word in _NOUNS and rest and rest[0] in _NUMBERS:
        return f"#{_NUMBERS[rest[0]]}", 2
    number = _ORDINALS.get(word) or (images or -1 if word == "last" else 0)
    if not number:
        return word, 1
    took = 1
    if rest and (rest[0] in _NOUNS or rest[0] == "one"):
        took = 2
    elif rest[:2] in (["in", "sequence"], ["in", "order"]):
        took = 3
    return ("#last" if number < 0 else f"#{number}"), took


def _index(letter: str) -> int:
    return LETTERS.lower().index(letter)


def _only(found: set[int] | set[int | None], options: int) -> int | None:
    one = next(iter(found)) if len(found) == 1 else None
    return one if one is not None and one < options else None
