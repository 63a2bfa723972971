"""The options of a question, and all that names one of them: words, stems, what tells it from the others, initials.

All references to an image are equal (`the second image`, `image two`, `image2`, `2nd`). An option may be named by its
own words, by their stems (`partially`, `worsened`), by the words that tell it from the others (`left` of `left side`
and `right side`), or by what stands in brackets (`FLAIR`); a synonym names none.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from medmim.bench.reader import mentions, reply_text, said
from medmim.bench.reader.said import ARTICLES, LINKS, NUMBERS, Said, is_image, stem
from medmim.sample import LETTERS

NO = {"not", "no", "non", "never", "neither", "nor", "without", "except", "excluding", "cannot"}
WEAK = {*NO, *ARTICLES, *LINKS, "of", "in", "on", "at", "to", "and", "or", "with", "for", "by", "from", "there",
         "this", "that"}  # no answer by themselves  # fmt: skip
TOGETHER = {"both", "neither", "same", "equal", "all", "none"}  # words that stand for several images at once
# Words of a question that say nothing of what it asks for, or of an answer that names its choice.
GENERAL = {"which", "what", "where", "when", "how", "show", "shows", "shown", "seen", "see", "image", "images", "find",
            "does", "that", "this", "these", "with", "from", "patient", "following", "taken", "made",
            "most"}  # fmt: skip
_LONG = 4  # letters that each word of an option has at least, to be known by their initials
_IN_FULL = (("computed tomography", "ct"), ("magnetic resonance imaging", "mri"), ("mediolateral oblique", "mlo"),
            ("craniocaudal", "cc"))  # fmt: skip
_IN_EITHER = re.compile(  # `no fracture in either image`: in neither one
    r"\b(?:no|not|without)\b((?:(?!\b(?:no|not|but|and|while|however)\b)[^.,;:|]){1,80}?) either\b"
)
_NO_SIGN_OF = re.compile(r"\bno (?:clear |definite )?(?:signs?|evidence|indication) of (?:an? |any )?")


@dataclass(frozen=True)
class Options:
    """The options of a question.

    Attributes:
        texts: In order A, B, ...; of equal texts the first counts.
        images: Images shown, so that "the last image" has a number; 0 where unknown.
        question: The question; empty where unknown: then no comparison is read.
    """

    texts: tuple[str, ...]
    images: int = 0
    question: str = ""

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
        return [self.split(text).words for text in self.plain]

    def tokens_of(self, text: str) -> list[str]:
        """The words of another text, to compare with `tokens`."""
        return self.split(text).words

    def exactly(self, text: str) -> int | None:
        """The option that a text is, and nothing else; `2` is image 2."""
        words = self.split(text).words
        for i, own in enumerate(self.tokens):
            if (own and own == words) or (not own and text and self.plain[i] == text):
                return i
        if len(words) == 1 and words[0] in NUMBERS and [f"#{NUMBERS[words[0]]}"] in self.tokens:
            return self.tokens.index([f"#{NUMBERS[words[0]]}"])
        if not words or mentions.is_question(text):
            return None
        if len(words) == 1 and words[0] in self._initials:
            return self._initials[words[0]]
        found = {i for i, name in self.names if name == self.stems(words)}
        return found.pop() if len(found) == 1 else None

    def shortened(self, text: str) -> int | None:
        """The only option that begins with a text: `left` for `left side`. A text of weak words names none."""
        words = self.split(text).words
        if not words or set(words) <= WEAK or words[0] in NO:
            return None
        found = [i for i, own in enumerate(self.tokens) if own[: len(words)] == words]
        containing = [own for own in self.tokens if words[0] in own]
        return found[0] if len(found) == len(containing) == 1 else None

    @cached_property
    def asked(self) -> Said:
        """The words of the question."""
        return said.split(reply_text.plain(self.question), self.images)

    @cached_property
    def _kept(self) -> frozenset[tuple[str, str]]:
        """Articles that are a part of an option, with the word before: `a` of `type a`."""
        words = [re.findall(r"[^\W_]+", text) for text in self.plain]
        return frozenset(
            (a, b) for own in words for a, b in zip(own, own[1:], strict=False) if b in ARTICLES and b == own[-1]
        )

    @cached_property
    def _glued(self) -> dict[str, tuple[str, str]]:
        """`birads` for the words `bi` and `rads` of an option."""
        pairs = {(a, b) for text in self.plain for a, b in re.findall(r"(?=\b([^\W_]+)-([^\W_]+))", text)}
        return {a + b: (a, b) for a, b in pairs}

    @cached_property
    def _abbreviated(self) -> list[tuple[str, str]]:
        """(in full, abbreviation) of the abbreviations that options are."""
        own = set(self.plain)
        return [(full, short) for full, short in _IN_FULL if short in own and not any(full in text for text in own)]

    @cached_property
    def _initials(self) -> dict[str, int]:
        """`pd` -> the option `progressive disease`; of initials that several have none."""
        found: dict[str, list[int]] = {}
        for i, own in enumerate(self.tokens):
            if len(own) > 1 and all(word.isalpha() and len(word) >= _LONG for word in own):
                found.setdefault("".join(word[0] for word in own), []).append(i)
        return {name: own[0] for name, own in found.items() if len(own) == 1 and name not in WEAK}

    @cached_property
    def _counts(self) -> bool:
        """Whether an option is a number, so that `three` is 3."""
        return any(word in NUMBERS for text in self.plain for word in re.findall(r"[^\W_]+", text))

    def split(self, text: str) -> Said:
        """A folded text as words, written as the options write them."""
        if self._glued:
            text = re.sub(rf"\b(?:{'|'.join(self._glued)})\b", lambda m: " ".join(self._glued[m[0]]), text)
        if any(text.startswith("neither") for text in self.plain):
            text = _IN_EITHER.sub(r"\1 neither", text)
        if any(text.startswith("no ") for text in self.plain):
            text = _NO_SIGN_OF.sub("no ", text)
        for full, short in self._abbreviated:
            text = text.replace(full, short)
        found = said.split(text, self.images, self._kept)
        if not self._counts:
            return found
        words = [str(NUMBERS.get(word, word)) for word in found.words]
        return Said(words, found.clauses, found.sentences, found.asked)

    def stems(self, words: Sequence[str]) -> tuple[str, ...]:
        """Stems of the words that do not only link; the words themselves where options differ in endings alone."""
        kept = [word for word in words if word not in LINKS] or words
        return tuple(kept if self._alike else map(stem, kept))

    @cached_property
    def _alike(self) -> bool:
        """Whether options differ in endings alone."""
        own = {tuple(words) for words in self.tokens}
        return len({tuple(map(stem, words)) for words in own}) < len(own)

    @cached_property
    def names(self) -> list[tuple[int, tuple[str, ...]]]:
        """(option, stems) of all that names it, the longest first."""
        names = [
            (self.tokens.index(own), self.stems(own))
            for own in self.tokens
            if "".join(own)[1:] or own and own[0].isdigit()
        ]
        for i, text in enumerate(self.plain):
            bracket = re.fullmatch(r"(.+\w)\s*\(([^()]+)\)", text)
            if bracket:
                names += [(i, self.stems(self.split(part).words)) for part in bracket.groups()]
        names += self.cores.items()
        unique: dict[tuple[str, ...], set[int]] = {}
        for i, name in names:
            unique.setdefault(name, set()).add(i)
        single = [(min(own), name) for name, own in unique.items() if len(own) == 1 and name]
        return sorted(single, key=lambda one: (-len(one[1]), one))

    @cached_property
    def cores(self) -> dict[int, tuple[str, ...]]:
        """What tells each option from the others: its words without those that at least half of the options share.

        Empty where that leaves an option nothing, or weak words alone; where a word is not shared by all options, what
        is left must be one word.
        """
        own = {self.tokens.index(words): self.stems(words) for words in self.tokens if words}
        cores = {i: tuple(word for word in words if word not in self.shared_by_half) for i, words in own.items()}
        cut = {i: core for i, core in cores.items() if core != own[i]}
        for core in cut.values():
            plain = [word for word in core if word not in WEAK - TOGETHER and not is_image(word) and word[1:]]
            number = len(core) == 1 and core[0].isdigit()
            if not number and (not plain or (len(core) > 1 and not self.all_share)):
                return {}
        return {} if any(within(a, b) for a in cores.values() for b in cores.values()) else cut

    @cached_property
    def _counted(self) -> tuple[Counter[str], int]:
        """How many of the different options hold each stem; how many there are."""
        own = {self.stems(words) for words in self.tokens if words}
        return Counter(word for words in own for word in set(words)), len(own)

    @cached_property
    def shared_by_half(self) -> set[str]:
        """Stems that at least half of the options share."""
        count, options = self._counted
        return {word for word, n in count.items() if n > 1 and n * 2 >= options}

    @cached_property
    def all_share(self) -> bool:
        """Whether all options share what half of them share."""
        count, options = self._counted
        return all(count[word] == options for word in self.shared_by_half)

    @cached_property
    def topics(self) -> set[str]:
        """Stems of the question's words."""
        return {stem(word) for word in self.asked.words}

    def is_place(self, option: int) -> bool:
        """Whether an option is an image or a side."""
        own = self.tokens[option]
        return (len(own) == 1 and is_image(own[0])) or own[:1] in (["left"], ["right"])

    @cached_property
    def topical(self) -> set[str]:
        """Stems of the question's words that say what it asks for."""
        return {stem(word) for word in self.asked.words if word[3:] and word not in GENERAL}


@lru_cache(maxsize=16_384)  # every model and probe of a bench answers the same questions, in the same order
def known_options(texts: tuple[str, ...], images: int, question: str = "") -> Options:
    """The options of a question, read once."""
    return Options(texts, images, question)


def prompt_form(text: str) -> str:
    """A folded text whose leading letter is marked as in the prompt: `b) text` and `b. text` as `b: text`."""
    return re.sub(r"^([a-h])\s*[:.)]\s*", r"\1: ", text).rstrip(" .")


def within(short: Sequence[str], long: Sequence[str]) -> bool:
    """Whether words stand in this order, side by side, within others, which are more."""
    return len(short) < len(long) and any(
        tuple(long[at : at + len(short)]) == tuple(short) for at in range(len(long) - len(short) + 1)
    )
