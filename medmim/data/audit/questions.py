"""Questions that are asked again: of the same pictures in other words, or in the same words of other pictures.

Templates make nearly all questions alike, so equal words alone say nothing. Three things do:

    same-questions   a row of a later split asks of the same pictures, in the same words, what an earlier split asks
    repeated         a row asks what an earlier row of its own split asks
    same-texts       a row of a later split has, of other pictures, a question in words of its own, with the options,
                     of an earlier split: what no template wrote is then copied

Words are the same where they differ in order, case, spacing, punctuation, plural, small words or a synonym of below;
options in any order. Pictures are the same in any order, and by their pixels.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from medmim.data.audit.check import Check, Row
from medmim.data.sources.published_rows import file_of
from medmim.sample import SPLITS, Sample

_WORD = re.compile(r"[^\W_]+")
_NUMBER = re.compile(r"\d+")
_SMALL = frozenset(
    {
        "a", "an", "and", "any", "are", "as", "at", "be", "been", "by", "can", "could", "do", "does", "following",
        "for", "from", "has", "have", "here", "in", "is", "it", "its", "me", "of", "on", "or", "please", "shown",
        "tell", "that", "the", "their", "there", "these", "this", "those", "to", "was", "were", "what", "which",
        "with", "would", "you",
    }
)  # fmt: skip
_SYNONYMS = {
    word: group[0]
    for group in (
        ("image", "picture", "photo", "photograph", "scan", "radiograph", "film", "xray", "ray", "view", "x"),
        ("show", "display", "depict", "exhibit", "reveal", "demonstrate", "present"),
        ("choose", "select", "pick", "identify", "indicate", "determine"),
        ("worse", "worsening", "worsened", "progressed", "progressing", "progression", "progressive"),
        ("better", "improved", "improving", "improvement"),
        ("same", "stable", "unchanged"),
        ("previous", "prior", "earlier"),
        ("later", "current", "latest", "subsequent"),
        ("1", "first", "one"),
        ("2", "second", "two"),
        ("3", "third", "three"),
    )
    for word in group
}
_TEMPLATE = 3  # sets of pictures that are asked one text
_FEWEST = 6  # words of a text that nobody else writes by chance
_KEYS = {"same-questions": "max_same_questions", "repeated": "max_repeated_questions", "same-texts": "max_same_texts"}
_ABOUT = {
    "same-questions": "questions that an earlier split asks of the same pictures",
    "repeated": "questions that their own split has asked before of the same pictures",
    "same-texts": "questions that an earlier split has, in words of no template, of other pictures",
}

Words = tuple[str, ...]
Asked = tuple[frozenset[str], Words, tuple[Words, ...]]


@lru_cache(maxsize=50_000)
def words(text: str) -> Words:
    """The words that say what a text asks, in one form and order.

    Args:
        text: A question or an option.

    Returns:
        Sorted; a word as often as it stands there. All words, where small ones are all there are.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    found = _WORD.findall(plain)
    kept = [_form(word) for word in found if word not in _SMALL]
    return tuple(sorted(kept or found))


@lru_cache(maxsize=100_000)
def _form(word: str) -> str:
    if word in _SYNONYMS:
        return _SYNONYMS[word]
    stem = word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
    return _SYNONYMS.get(stem, stem)


def checks(samples: Sequence[Sample], same: Mapping[str, bytes]) -> list[Check]:
    """The checks `same-questions`, `repeated` and `same-texts`.

    Args:
        samples: Of all splits.
        same: Image id -> what is equal for equal pixels; an id without stands for itself.
    """
    found: dict[str, list[Row]] = {name: [] for name in _ABOUT}
    ordered = sorted(samples, key=lambda sample: SPLITS.index(sample.split))
    keys = [_asked(sample, same) for sample in ordered]
    own = _own_texts(ordered, keys)
    seen: dict[Asked, list[Sample]] = defaultdict(list)
    texts: dict[tuple[Words, tuple[Words, ...]], Sample] = {}
    for sample, key in zip(ordered, keys, strict=True):
        pictures, question, options = key
        for split in SPLITS[: SPLITS.index(sample.split) + 1]:
            first = next((one for one in seen[key] if one.split == split), None)
            if first is not None:
                name = "repeated" if split == sample.split else "same-questions"
                found[name].append(_row(sample, first))
                break
        else:
            earlier = texts.get((question, options)) if pictures else None
            if earlier is not None and earlier.split != sample.split and _masked(question) in own:
                found["same-texts"].append(_row(sample, earlier))
        if all(one.split != sample.split for one in seen[key]):
            seen[key].append(sample)
        texts.setdefault((question, options), sample)
    return [
        Check(name, _ABOUT[name], len(rows), of=len(ordered), key=_KEYS[name], rows=rows)
        for name, rows in found.items()
    ]


def _asked(sample: Sample, same: Mapping[str, bytes]) -> Asked:
    pictures = frozenset(_name(same.get(image, image)) for image in sample.images)
    return pictures, words(sample.question), tuple(sorted(map(words, sample.options)))


def _name(one: str | bytes) -> str:
    return one if isinstance(one, str) else one.hex()


def _masked(question: Words) -> Words:
    """The words of a question without their numbers, which templates fill in."""
    return tuple(_NUMBER.sub("0", word) for word in question)


def _own_texts(samples: Iterable[Sample], keys: Iterable[Asked]) -> set[Words]:
    """Texts that no template wrote: long ones that each split asks of very few sets of pictures."""
    asked = {
        (sample.split, _masked(question), pictures)
        for sample, (pictures, question, _) in zip(samples, keys, strict=True)
    }
    times = Counter((split, text) for split, text, _ in asked)
    templates = {text for (_, text), number in times.items() if number >= _TEMPLATE}
    return {text for _, text in times if text not in templates and len(text) >= _FEWEST}


def _row(sample: Sample, first: Sample) -> Row:
    other = "" if set(words(sample.answer)) == set(words(first.answer)) else ", with another answer"
    return Row(sample.id, file_of(sample), f"asks what row {first.id} in {first.split} asks{other}")
