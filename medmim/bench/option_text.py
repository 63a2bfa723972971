"""Options by their text: which of them a text names, whatever its case, punctuation, endings and way to name an image.

All references to an image are equal (`the second image`, `image two`, `image2`, `2nd`). An option may be named by its
own words, by their stems (`partially`, `worsened`), by the words that tell it from the others (`left` of `left side`
and `right side`), or by what stands in brackets (`FLAIR`); a synonym names none. An option that is negated, qualified
or supposed (`not resected`, `nearly resected`, `may be resected`) is not named.
"""

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from medmim.bench import comparative, mentions, presence, reply_text, said
from medmim.bench.said import ARTICLES, LINKS, NUMBERS, Said, is_image, stem
from medmim.sample import LETTERS

_NO = {"not", "no", "non", "never", "neither", "nor", "without", "except", "excluding", "cannot"}
_WEAK = {*_NO, *ARTICLES, *LINKS, "of", "in", "on", "at", "to", "and", "or", "with", "for", "by", "from", "there",
         "this", "that"}  # no answer by themselves  # fmt: skip
_TOGETHER = {"both", "neither", "same", "equal", "all", "none"}  # words that stand for several images at once
_CLASS = {"category", "class", "grade", "score", "stage", "level", "assessment"}
_COUNTED = {"is", "are", "of", "shows", "see", "count", "total", "number", "answer", "exactly"}
# Words of a question that say nothing of what it asks for, or of an answer that names its choice.
_GENERAL = {"which", "what", "where", "when", "how", "show", "shows", "shown", "seen", "see", "image", "images", "find",
            "does", "that", "this", "these", "with", "from", "patient", "following", "taken", "made",
            "most"}  # fmt: skip
_ANSWERS = {"answer", "option", "choice", "correct"}
_TELLS = {"show", "shows", "showing", "has", "seen", "appears", "contains", "displays", "depicts", "located"}
_CLEAR = {"normal", "clear", "healthy", "unremarkable"}  # such an image is not the one that shows a finding
_LEFT_OVER = {"unclear", "open", "out", "behind", "undetermined", "unanswered", "over", "blank"}
_LONG = 4  # letters that each word of an option has at least, to be known by their initials
_IN_FULL = (("computed tomography", "ct"), ("magnetic resonance imaging", "mri"), ("mediolateral oblique", "mlo"),
            ("craniocaudal", "cc"))  # fmt: skip
_FEW = 2  # words that an option has more than, to be known by them in another order
_RIGHT_AS_CORRECT = (["is"], ["are"], ["that's"], ["all"])
_NOT_ALL = {"of", "except", "besides", "completely", "fully", "entirely", "totally"}
# What may follow a `no` that is an answer: of others it denies one.
_SUBJECTS = {"there", "it", "they", "this", "that", "these", "those", "i", "we", "both", "neither", "he", "she", "as",
             "because", "since", "only", "not", "in", "on", "is", "for", "from", "and", "or", "was", "are"}  # fmt: skip
_EACH = {"each", "per", "every", "apiece"}
_IN = {"in", "for", "on"}
_NOT_EXCLUDED = re.compile(r"\b(?:cannot|\w+n't|not)(?: be)? (?:rule[sd]? |exclude)")  # `no, I cannot rule it out`
_ALSO = {"also", "too", "likewise", "similarly"}
_MANY = 100  # times that an option is named, at the beginning and at the end: more of them tell nothing new
_PROBABLY = {
    "probab",
    "probably",
    "like",
    "likely",
    "presumab",
}  # stems that make `benign` as good as `probably benign`
_RANGE = re.compile(r"(?<![#\d])\d (?:to )?\d\b|\bup to \d")
_ALIKE = {"same", "different"}
# What may stand between a number and what is counted.
_SEEN_AS = {"distinct", "separate", "discrete", "visible", "pulmonary", "lung", "small", "round"}
_IN_EITHER = re.compile(  # `no fracture in either image`: in neither one
    r"\b(?:no|not|without)\b((?:(?!\b(?:no|not|but|and|while|however)\b)[^.,;:|]){1,80}?) either\b"
)
_NO_SIGN_OF = re.compile(r"\bno (?:clear |definite )?(?:signs?|evidence|indication) of (?:an? |any )?")
# What begins the conclusion of a reply, and what is then not concluded but advised.
_CONCLUSION = re.compile(
    r"\b(?:therefore|thus|hence|consequently|in conclusion|in summary)\b"
    r"|(?:^|[.;|!?] |, )(?:and )?(?:so|overall|conclusion|taken together)\b(?! (?:that|called|far|much|many|as)\b)"
)
_ADVICE = {stem(word) for word in ("recommended", "recommendation", "should", "need", "require", "follow", "exclude",
                                   "rule", "biopsy", "treatment", "consult", "surgery", "advise",
                                   "consider")}  # fmt: skip


@dataclass(frozen=True)
class _Mention:
    """An option where it is named: its first place among the words, its last one and whether in its own words."""

    option: int
    begin: int
    end: int
    exact: bool


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
        return [self._split(text).words for text in self.plain]

    def tokens_of(self, text: str) -> list[str]:
        """The words of another text, to compare with `tokens`."""
        return self._split(text).words

    def exactly(self, text: str) -> int | None:
        """The option that a text is, and nothing else; `2` is image 2."""
        words = self._split(text).words
        for i, own in enumerate(self.tokens):
            if (own and own == words) or (not own and text and self.plain[i] == text):
                return i
        if len(words) == 1 and words[0] in NUMBERS and [f"#{NUMBERS[words[0]]}"] in self.tokens:
            return self.tokens.index([f"#{NUMBERS[words[0]]}"])
        if not words or mentions.is_question(text):
            return None
        if len(words) == 1 and words[0] in self._initials:
            return self._initials[words[0]]
        found = {i for i, name in self._names if name == self._stems(words)}
        return found.pop() if len(found) == 1 else None

    def shortened(self, text: str) -> int | None:
        """The only option that begins with a text: `left` for `left side`. A text of weak words names none."""
        words = self._split(text).words
        if not words or set(words) <= _WEAK or words[0] in _NO:
            return None
        found = [i for i, own in enumerate(self.tokens) if own[: len(words)] == words]
        containing = [own for own in self.tokens if words[0] in own]
        return found[0] if len(found) == len(containing) == 1 else None

    def named(self, text: str) -> set[int]:
        """Options that a text names, not negated, qualified or supposed; a longer one hides those within it."""
        found = self._split(text)
        length = Counter(found.clauses)
        alone = {word for word, clause in zip(found.words, found.clauses, strict=True) if length[clause] == 1}
        said_alone = {self.tokens.index([word]) for word in alone & {"yes", "no"} if [word] in self.tokens}
        if said_alone and (self._of_one_image(found) or _NOT_EXCLUDED.search(text)):
            return set()
        present: set[int] = set()
        if ["yes"] in self.tokens and ["no"] in self.tokens:
            words = presence.said(reply_text.plain(self.question), self._asked.words, found)
            present = {self.tokens.index([word]) for word in words}
        if said_alone:  # `No, there is no mass`, and not `No, there is a mass`
            return said_alone | (present if len(present) == 1 else set())
        if present:
            return present
        images = [own[0] for own in self.tokens if len(own) == 1 and is_image(own[0])]
        compared = comparative.meant(text, self._asked, sorted(set(images)), self.images)
        if compared:
            return {self.tokens.index([image]) for image in compared if [image] in self.tokens}
        chosen = self._chosen(found, self._mentions(found))
        if len(chosen) > 1:
            concluded = self._concluded(text)
            return concluded if concluded and concluded < chosen else chosen
        return chosen or self._reworded(found)

    def _concluded(self, text: str) -> set[int]:
        """The option that the conclusion of a text names, or none: what stands before led there."""
        cues = [*_CONCLUSION.finditer(text)]
        rest = self._split(text[cues[-1].end() :]) if cues else None
        if rest is None or not (_ADVICE - self._topics).isdisjoint(map(stem, rest.words)):
            return set()
        chosen = self._chosen(rest, self._mentions(rest))
        before = self._split(text[: cues[-1].start()])
        contradicts = len(self._chosen(before, self._mentions(before)) - chosen) == 1
        return chosen if len(chosen) == 1 and not contradicts else set()

    def _reworded(self, text: Said) -> set[int]:
        """The options whose words a sentence holds in another order: `the condition is likely to improve`.

        Three and more, no image and no number, and the sentence denies and supposes nothing.
        """
        names = [(i, {word for word in self._stems(own) if word not in _WEAK}) for i, own in enumerate(self.tokens)]
        names = [(i, name) for i, name in names if len(name) > _FEW and all(map(str.isalpha, name))]
        sentences: dict[int, set[str]] = {}
        for word, sentence in zip(text.words if names else (), text.sentences, strict=False):
            sentences.setdefault(sentence, set()).add(word)
        found = set()
        for sentence, words in sentences.items():
            stems = set(map(stem, words)) if sentence not in text.asked else set()
            held = [(i, name) for i, name in names if name <= stems]
            found |= {i for i, name in held if not mentions.open_or_denied({w for w in words if stem(w) not in name})}
        return found

    def _of_one_image(self, text: Said) -> bool:
        """Whether a `yes` or `no` is said of one image that is not the only one asked about: `yes, in image 1`."""
        images = {(word, sentence) for word, sentence in zip(text.words, text.sentences, strict=True) if is_image(word)}
        if "both" in self._asked.words and len(dict(images)) == len(images) == len({where for _, where in images}) > 1:
            return True  # a sentence for each image
        where = {word for word in self._asked.words if is_image(word)}
        for at, word in enumerate(text.words):
            if word not in ("yes", "no"):
                continue
            for near in (text.words[max(0, at - 2) : at], text.words[at + 1 : at + 3]):
                if len(near) > 1 and near[0] in _IN and is_image(near[1]) and {near[1]} != where:
                    return True
        return False

    @cached_property
    def _asked(self) -> Said:
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
        return {name: own[0] for name, own in found.items() if len(own) == 1 and name not in _WEAK}

    @cached_property
    def _counts(self) -> bool:
        """Whether an option is a number, so that `three` is 3."""
        return any(word in NUMBERS for text in self.plain for word in re.findall(r"[^\W_]+", text))

    def _split(self, text: str) -> Said:
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

    def _stems(self, words: Sequence[str]) -> tuple[str, ...]:
        kept = [word for word in words if word not in LINKS] or words
        return tuple(kept if self._alike else map(stem, kept))

    @cached_property
    def _alike(self) -> bool:
        """Whether options differ in endings alone."""
        own = {tuple(words) for words in self.tokens}
        return len({tuple(map(stem, words)) for words in own}) < len(own)

    @cached_property
    def _names(self) -> list[tuple[int, tuple[str, ...]]]:
        """(option, stems) of all that names it, the longest first."""
        names = [
            (self.tokens.index(own), self._stems(own))
            for own in self.tokens
            if "".join(own)[1:] or own and own[0].isdigit()
        ]
        for i, text in enumerate(self.plain):
            bracket = re.fullmatch(r"(.+\w)\s*\(([^()]+)\)", text)
            if bracket:
                names += [(i, self._stems(self._split(part).words)) for part in bracket.groups()]
        names += self._cores.items()
        unique: dict[tuple[str, ...], set[int]] = {}
        for i, name in names:
            unique.setdefault(name, set()).add(i)
        single = [(min(own), name) for name, own in unique.items() if len(own) == 1 and name]
        return sorted(single, key=lambda one: (-len(one[1]), one))

    @cached_property
    def _cores(self) -> dict[int, tuple[str, ...]]:
        """What tells each option from the others: its words without those that at least half of the options share.

        Empty where that leaves an option nothing, or weak words alone; where a word is not shared by all options, what
        is left must be one word.
        """
        own = {self.tokens.index(words): self._stems(words) for words in self.tokens if words}
        cores = {i: tuple(word for word in words if word not in self._shared_by_half) for i, words in own.items()}
        cut = {i: core for i, core in cores.items() if core != own[i]}
        for core in cut.values():
            plain = [word for word in core if word not in _WEAK - _TOGETHER and not is_image(word) and word[1:]]
            number = len(core) == 1 and core[0].isdigit()
            if not number and (not plain or (len(core) > 1 and not self._all_share)):
                return {}
        return {} if any(_within(a, b) for a in cores.values() for b in cores.values()) else cut

    @cached_property
    def _counted(self) -> tuple[Counter[str], int]:
        """How many of the different options hold each stem; how many there are."""
        own = {self._stems(words) for words in self.tokens if words}
        return Counter(word for words in own for word in set(words)), len(own)

    @cached_property
    def _shared_by_half(self) -> set[str]:
        count, options = self._counted
        return {word for word, n in count.items() if n > 1 and n * 2 >= options}

    @cached_property
    def _all_share(self) -> bool:
        """Whether all options share what half of them share."""
        count, options = self._counted
        return all(count[word] == options for word in self._shared_by_half)

    def _mentions(self, text: Said) -> list[_Mention]:
        """Where options are named; those negated, qualified, supposed or asked for are left out."""
        places = [at for at, word in enumerate(text.words) if word not in LINKS] or list(range(len(text.words)))
        stems = self._stems([text.words[at] for at in places])
        starts: dict[str, list[int]] = {}
        for at, word in enumerate(stems):
            starts.setdefault(word, []).append(at)
        free = [True] * len(stems)
        found = []
        for option, name in self._names:
            places_of = starts.get(name[0], [])
            for at in (*places_of[:_MANY], *places_of[_MANY:][-_MANY:]):
                end = at + len(name)
                if stems[at:end] != name or not all(free[at:end]):
                    continue
                free[at:end] = [False] * len(name)
                begin, last = places[at], places[end - 1]
                exact = [word for word in text.words[begin : last + 1]] == self.tokens[option]
                mention = _Mention(option, begin, last, exact)
                if self._counts_as_named(text, mention):
                    found.append(mention)
        return found

    def _counts_as_named(self, text: Said, mention: _Mention) -> bool:
        begin, end = mention.begin, mention.end + 1
        if not mentions.counts(text, begin, end, set(self._asked.words)):
            return False
        own = text.words[begin:end]
        next_word = text.words[end] if end < len(text.words) and text.clauses[end] == text.clauses[begin] else ""
        if len(own) == 1 and own[0].isdigit():
            return self._is_number_named(text, begin)
        if own == ["right"] and (next_word in _ANSWERS or text.words[begin - 1 : begin] in _RIGHT_AS_CORRECT):
            return False
        if own == ["left"] and (next_word in _LEFT_OVER or text.words[begin - 1 : begin] == ["nothing"]):
            return False
        if own[0] in {*_NO, "nothing"} and next_word in _NOT_ALL:
            return False  # `no findings of atelectasis`
        if own == ["no"] and next_word and next_word not in _SUBJECTS and not is_image(next_word):
            denied = {stem(word) for word in text.words[end : end + 4]}  # `no difference` is about something else
            about_it = not self.question or not denied.isdisjoint(self._topics)
            return about_it and not presence.asks(reply_text.plain(self.question))
        if own in (["left"], ["right"]):
            return not self._is_place(mention.option) or self._is_place_named(text, mention)
        plain = not next_word or next_word in _WEAK or next_word[:3] == next_word or stem(next_word) in self._topics
        if len(own) == 1 and own[0] in _ALIKE and not plain:
            return False  # `the same patient`
        if self._cores.get(mention.option) == self._stems(own) and not self._all_share:
            subject = [
                word for word in mentions.near(text, begin, end)[0] if word not in LINKS | _WEAK and word[-2:] != "ly"
            ]
            of_it = {*self._stems(self.tokens[mention.option]), *self._topics}
            if subject and of_it.isdisjoint(map(stem, subject)):
                return False  # `the mass increased` is not `the effusion increased`
            return plain or stem(next_word) in self._shared_by_half  # `completely resected` is no `complete response`
        return not self._is_place(mention.option) or self._is_place_named(text, mention)

    def _is_place_named(self, text: Said, mention: _Mention) -> bool:
        """Whether an image is chosen: not where it is called normal, or described where a comparison is asked for."""
        words = _clause(text, mention)
        if words & (_CLEAR - set(self._asked.words)):
            return False
        if not comparative.asked(self._asked)[0] or not words.isdisjoint(_ANSWERS):
            return True
        return words.isdisjoint(_TELLS) and words.isdisjoint(comparative.SIGN)

    @cached_property
    def _topics(self) -> set[str]:
        """Stems of the question's words."""
        return {stem(word) for word in self._asked.words}

    def _is_number_named(self, text: Said, at: int) -> bool:
        """Whether a number is what the options count or grade: `two nodules`, `category 4`."""
        words, clauses = text.words, text.clauses
        if len(words) == 1:
            return True
        before = {words[i] for i in range(max(0, at - 4), at) if clauses[i] == clauses[at]}
        if [words[at]] not in self.tokens:
            return bool({stem(word) for word in before} & self._shared_by_half or before & _CLASS)
        beside = (*words[max(0, at - 1) : at], *words[at + 1 : at + 2])
        if not {"least", "most", "than", "over", "or", "fewer"}.isdisjoint(beside) or any(
            word.isdigit() for word in beside
        ):
            return False
        if words[at - 1 : at] == ["of"] and _COUNTED.isdisjoint(words[max(0, at - 2) : at - 1]):
            return False  # `none of the three images`
        if _RANGE.search(" ".join(words[max(0, at - 2) : at + 3])):
            return False
        clause = set(words[slice(*text.bounds[clauses[at]])])
        if not clause.isdisjoint(_EACH) or ("total" in self._asked.words and any(map(is_image, clause))):
            return False
        behind = at + 2 if "".join(words[at + 1 : at + 2]) in _SEEN_AS else at + 1
        after = words[behind] if behind < len(words) and clauses[behind] == clauses[at] else ""
        part = after == "of" and "of" in self._asked.words  # `two of the images`, where it is asked how many of them
        return stem(after) in self._topics or part or (not after and bool(before & _COUNTED))

    def _chosen(self, text: Said, found: list[_Mention]) -> set[int]:
        """The options of the mentions that answer the question."""
        found = self._focused(text, _without_reasons(text, self._without_asked(text, found)))
        found = self._without_asides(text, found)
        found = [m for m in found if not self._describes_both(text, m)]
        together = {m.option for m in found if not _TOGETHER.isdisjoint(self.tokens[m.option])}
        joined = self._joined(text, found)
        single = {m.option for m in found if m not in joined} - together
        if together and (not single or (len(single) > 1 and all(map(self._is_place, single)))):
            return together
        if not single and len({m.option for m in joined}) == 2 == self.images:
            if any(not (_clause(text, m) - {"nor"}).isdisjoint(_NO) for m in joined):
                return set()
            return {i for i, own in enumerate(self.tokens) if own == ["both"] or own[:2] == ["both", "images"]}
        if joined:
            return {m.option for m in found}
        if len(single) > 1 and all(is_image("".join(self.tokens[i])) for i in single):
            found = [m for m in found if self._on_topic(text, m)] or found
        named = {m.option for m in found}
        if len(named) == 1 and any(own and own[0] in _TOGETHER for own in self.tokens):
            named |= self._also(text)
        return named | (self._longer(text, found[0].option) if len(named) == 1 else set())

    def _without_asides(self, text: Said, found: list[_Mention]) -> list[_Mention]:
        """Without `both` where something else is said of both images: `both show the wrist; no fracture is seen`."""
        spoken = not self._topical.isdisjoint(map(stem, text.words))
        return [m for m in found if not spoken or self.tokens[m.option][0] != "both" or self._on_topic(text, m)
                or _clause(text, m) <= _WEAK | {"images", "eyes"}]  # fmt: skip

    def _also(self, text: Said) -> set[int]:
        """Images of which more of the same is said: `image 2 also shows one`."""
        found = {word for at, word in enumerate(text.words) if is_image(word) and self._alongside(text, at)}
        return {self.tokens.index([word]) for word in found if [word] in self.tokens}

    @staticmethod
    def _alongside(text: Said, at: int) -> bool:
        before, behind = mentions.near(text, at, at + 1)
        return not _ALSO.isdisjoint((*before, *behind))

    def _describes_both(self, text: Said, mention: _Mention) -> bool:
        """Whether `both` is said of something that is not asked about: `both images are frontal radiographs`."""
        if not self.question or self.tokens[mention.option][0] != "both" or self._on_topic(text, mention):
            return False
        rest = {word for word in _clause(text, mention) if not is_image(word)}
        return len(rest - _WEAK - _GENERAL - LINKS) > 1

    def _joined(self, text: Said, found: list[_Mention]) -> set[_Mention]:
        """Mentions that `and` joins, or `nor`, where an option stands for both; of images, if it is about the topic."""
        if not any(own and own[0] in _TOGETHER for own in self.tokens):
            return set()
        joined: set[_Mention] = set()
        for a, b in itertools.pairwise(sorted(found, key=lambda m: m.begin)):
            if text.words[a.end + 1 : b.begin] in (["and"], ["nor"], ["as", "well", "as"], ["and", "in"]):
                joined |= {a, b}
        return {m for m in joined if self._on_topic(text, m) or not self._is_place(m.option)}

    def _without_asked(self, text: Said, found: list[_Mention]) -> list[_Mention]:
        """Without words that the question asks about: `the extent of resection` does not name `resected`."""
        asked = {i for i, name in self._names if set(name) <= self._topics}
        words = set(self._asked.words)
        return [m for m in found if len(asked) != 1 or m.exact or m.option not in asked
                or not words.issuperset(text.words[m.begin : m.end + 1])]  # fmt: skip

    def _focused(self, text: Said, found: list[_Mention]) -> list[_Mention]:
        """Without what is said of another image than that asked about; all of them where a clause names both."""
        asked = {word for word in self._asked.words if is_image(word)}
        if len(asked) != 1 or any(is_image(word) for own in self.tokens for word in own):
            return found
        about: dict[int, set[str]] = {}
        for word, clause in zip(text.words, text.clauses, strict=True):
            if is_image(word):
                about.setdefault(clause, set()).add(word)
        return [m for m in found if asked <= about.get(text.clauses[m.begin], asked)
                and asked >= mentions.subject(text, m.begin, asked)]  # fmt: skip

    def _is_place(self, option: int) -> bool:
        own = self.tokens[option]
        return (len(own) == 1 and is_image(own[0])) or own[:1] in (["left"], ["right"])

    def _on_topic(self, text: Said, mention: _Mention) -> bool:
        """Whether a clause speaks of what the question asks for, in its words."""
        words = _clause(text, mention)
        return bool(words & _ANSWERS) or not self._topical.isdisjoint(map(stem, words))

    @cached_property
    def _topical(self) -> set[str]:
        """Stems of the question's words that say what it asks for."""
        return {stem(word) for word in self._asked.words if word[3:] and word not in _GENERAL}

    def _longer(self, text: Said, option: int) -> set[int]:
        """Options that hold the one that is named, if another word of them is said: `effusion, probably pleural`."""
        own, said_stems = self._stems(self.tokens[option]), set(self._stems(text.words))
        if not said_stems.isdisjoint(_PROBABLY):
            said_stems |= _PROBABLY
        longer = [(i, self._stems(words)) for i, words in enumerate(self.tokens)]
        return {i for i, words in longer if _within(own, words) and (set(words) - set(own) - _WEAK) & said_stems}


@lru_cache(maxsize=16_384)  # every model and probe of a bench answers the same questions, in the same order
def known(texts: tuple[str, ...], images: int, question: str = "") -> Options:
    """The options of a question, read once."""
    return Options(texts, images, question)


def prompt_form(text: str) -> str:
    """A folded text whose leading letter is marked as in the prompt: `b) text` and `b. text` as `b: text`."""
    return re.sub(r"^([a-h])\s*[:.)]\s*", r"\1: ", text).rstrip(" .")


def _within(short: Sequence[str], long: Sequence[str]) -> bool:
    """Whether words stand in this order, side by side, within others, which are more."""
    return len(short) < len(long) and any(
        tuple(long[at : at + len(short)]) == tuple(short) for at in range(len(long) - len(short) + 1)
    )


def _clause(text: Said, mention: _Mention) -> set[str]:
    """The other words of a mention's clause."""
    before, behind = mentions.near(text, mention.begin, mention.end + 1)
    return {*before, *behind}


def _without_reasons(text: Said, found: list[_Mention]) -> list[_Mention]:
    """The mentions without those that explain an earlier one of their sentence: `worse, since image 1 was stable`."""
    plain = {text.sentences[m.begin] for m in found if text.clauses[m.begin] not in text.explains}
    return [m for m in found if text.clauses[m.begin] not in text.explains or text.sentences[m.begin] not in plain]
