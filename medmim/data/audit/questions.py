"""Questions that are asked again: of the same pictures in other words, or in the same words of other pictures.

Templates make nearly all questions alike, so equal words alone say nothing. Three things do:

    same-questions   a row of a later split asks of the same pictures, in the same words, what an earlier split asks
    repeated         a row asks what an earlier row of its own split asks
    same-texts       a row of a later split has, of other pictures, a question in words of its own, with the options,
                     of an earlier split: what no template wrote is then copied

Words are the same where they differ in order, case, spacing, punctuation, plural, small words or a synonym of below;
options in any order. Pictures are the same in any order, and by their pixels. A text that names one by its place
(`image 2`, `the second film`) says which picture it means, and in which order: "larger in image 1 than in image 2" is
another question than "in image 2 than in image 1", and the same as that of the same pictures the other way round.

What has a word that no synonym joins is another question: how alike two texts are does not tell "bigger" for "larger"
from "right" for "left". So a copy in words that are not below is not found.
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
        ("image", "picture", "photo", "photograph", "scan", "radiograph", "film", "xray", "ray", "x"),
        ("show", "display", "depict", "exhibit", "reveal", "demonstrate", "present"),
        ("choose", "select", "pick", "identify", "indicate", "determine"),
        ("worse", "worsening", "worsened", "progressed", "progressing", "progression", "progressive"),
        ("better", "improved", "improving", "improvement"),
        ("same", "stable", "unchanged"),
        ("larger", "bigger", "greater"),
        ("largest", "biggest", "greatest"),
        ("visible", "seen", "observed", "visualized", "visualised"),
        ("tumor", "tumour"),
        ("edema", "oedema"),
        ("hemorrhage", "haemorrhage"),
        ("previous", "prior", "earlier"),
        ("later", "current", "latest", "subsequent"),
        ("1", "first", "one"),
        ("2", "second", "two"),
        ("3", "third", "three"),
    )
    for word in group
}
_NTH = {"first": "1", "1st": "1", "second": "2", "2nd": "2", "third": "3", "3rd": "3", "fourth": "4", "4th": "4"}
_NTH_IMAGE = re.compile(rf"\b({'|'.join(_NTH)}) image\b")
_IMAGES = re.compile(r"\bimage(?: image)+\b")  # `X-ray image`
_NAMED = re.compile(r"\bimage (\d+(?: \d+)*(?: (?:and|or) \d+)*)\b")
_TOGETHER = re.compile(r"@\d+(?: (?:(?:and|or) )?@\d+)*")
_PLACES = re.compile(r"@(\d+)")
_TEMPLATE = 3  # sets of pictures that are asked one text
_FEWEST = 6  # words of a text that nobody else writes by chance
_KEYS = {"same-questions": "max_same_questions", "repeated": "max_repeated_questions", "same-texts": "max_same_texts"}
_ABOUT = {
    "same-questions": "questions that an earlier split asks of the same pictures",
    "repeated": "questions that their own split has asked before of the same pictures",
    "same-texts": "questions that an earlier split has, in words of no template, of other pictures",
}

Words = tuple[str, ...]
Said = tuple[Words, tuple[Words, ...]]  # words, and the pictures that they name
Asked = tuple[frozenset[str], Said, tuple[Said, ...]]


@lru_cache(maxsize=50_000)
def words(text: str) -> Words:
    """The words that say what a text asks, in one form and order.

    Args:
        text: A question or an option.

    Returns:
        Sorted; a word as often as it stands there. All words, where small ones are all there are.
    """
    return _in_one_order(_tokens(text))


def _tokens(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def _in_one_order(found: Sequence[str]) -> Words:
    kept = [_form(word) for word in found if word not in _SMALL]
    return tuple(sorted(kept or found))


@lru_cache(maxsize=50_000)
def _placed(text: str) -> tuple[Words, tuple[tuple[int, ...], ...]]:
    """The words of a text but for the pictures that it names by place, and these places, in the order of the text.

    Places of which the text says one thing are together: `image 2 or image 1` has ((2, 1),), `image 2 than image 1`
    has ((2,), (1,)), and so has `between image 2 and image 1`, which is from one to the other.
    """
    plain = " ".join("image" if _form(word) == "image" else word for word in _tokens(text))
    plain = _NTH_IMAGE.sub(lambda found: f"image {_NTH[found[1]]}", _IMAGES.sub("image", plain))
    plain = _NAMED.sub(lambda found: re.sub(r"(\d+)", r"@\1", found[1]), plain)
    places: list[tuple[int, ...]] = []
    for found in _TOGETHER.finditer(plain):
        named = tuple(map(int, _PLACES.findall(found[0])))
        places += [(one,) for one in named] if plain[: found.start()].endswith("between ") else [named]
    return _in_one_order(_TOGETHER.sub("@", plain).replace("@", "").split()), tuple(places)


def _said(text: str, pictures: Sequence[str]) -> Said:
    """What a text says of these pictures: equal for equal words on the same ones, wherever they stand."""
    found, places = _placed(text)

    def name(place: int) -> str:
        return pictures[place - 1] if 0 < place <= len(pictures) else str(place)

    return found, tuple(tuple(sorted(map(name, together))) for together in places)


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
    own = _own_texts(ordered, same)
    seen: dict[Asked, list[Sample]] = defaultdict(list)
    texts: dict[tuple[Words, tuple[Words, ...]], Sample] = {}
    for sample in ordered:
        key, text = _asked(sample, same), (words(sample.question), tuple(sorted(map(words, sample.options))))
        for split in SPLITS[: SPLITS.index(sample.split) + 1]:
            first = next((one for one in seen[key] if one.split == split), None)
            if first is not None:
                name = "repeated" if split == sample.split else "same-questions"
                found[name].append(_row(sample, first, same))
                break
        else:
            earlier = texts.get(text) if sample.images else None
            if earlier is not None and earlier.split != sample.split and _masked(text[0]) in own:
                found["same-texts"].append(_row(sample, earlier, None))
        if all(one.split != sample.split for one in seen[key]):
            seen[key].append(sample)
        texts.setdefault(text, sample)
    return [
        Check(name, _ABOUT[name], len(rows), of=len(ordered), key=_KEYS[name], rows=rows)
        for name, rows in found.items()
    ]


def _asked(sample: Sample, same: Mapping[str, bytes]) -> Asked:
    pictures = _pictures(sample, same)
    options = sorted(_said(option, pictures) for option in sample.options)
    return frozenset(pictures), _said(sample.question, pictures), tuple(options)


def _pictures(sample: Sample, same: Mapping[str, bytes]) -> tuple[str, ...]:
    """The images of a row in their order, those with the same pixels by the same name."""
    return tuple(same[image].hex() if image in same else image for image in sample.images)


def _masked(question: Words) -> Words:
    """The words of a question without their numbers, which templates fill in."""
    return tuple(_NUMBER.sub("0", word) for word in question)


def _own_texts(samples: Iterable[Sample], same: Mapping[str, bytes]) -> set[Words]:
    """Texts that no template wrote: long ones that each split asks of very few sets of pictures."""
    asked = {(sample.split, _masked(words(sample.question)), frozenset(_pictures(sample, same))) for sample in samples}
    times = Counter((split, text) for split, text, _ in asked)
    templates = {text for (_, text), number in times.items() if number >= _TEMPLATE}
    return {text for _, text in times if text not in templates and len(text) >= _FEWEST}


def _row(sample: Sample, first: Sample, same: Mapping[str, bytes] | None) -> Row:
    """How a check lists a row that asks what another does; `same` is None where it does so of other pictures."""
    answers = [_said(one.answer, () if same is None else _pictures(one, same)) for one in (sample, first)]
    other = "" if answers[0] == answers[1] else ", with another answer"
    return Row(sample.id, file_of(sample), f"asks what row {first.id} in {first.split} asks{other}")
