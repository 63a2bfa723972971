"""Comparisons of images: which one `image 2 shows a larger mass than image 1` names, in the light of the question.

Only what is stated plainly is understood: one image, one comparative, and perhaps the image that it is compared with.
"""

import itertools
import re
from collections.abc import Iterator, Sequence

from medmim.bench.reader import said
from medmim.bench.reader.said import Said, is_image, stem

_MORE, _LESS = {"larger", "bigger", "greater", "largest", "biggest"}, {"smaller", "smallest"}
_PLAIN = {"large": 1, "big": 1, "small": -1}
SIGN = {**dict.fromkeys(_MORE, 1), **dict.fromkeys(_LESS, -1)}
# What the word behind a comparative may be, beside that of the question.
_ABOUT = {
    "one",
    "lesion",
    "finding",
    "abnormality",
    "size",
    "in",
    "of",
    "on",
    "at",
    "than",
    "and",
    "compared",
    "for",
    "is",
}
_NOT_AS = (
    (re.compile(r"\bnot\s(?:quite\s)?(?:as|so)\s(?:large|big)\sas\b"), "smaller than"),
    (re.compile(r"\bless\s(?:large|big)\b"), "smaller"),
    (re.compile(r"\bless\ssmall\b"), "larger"),
    (re.compile(r"\s>\s"), " is larger than "),
    (re.compile(r"\s<\s"), " is smaller than "),
    (re.compile(r"\bnot\s(?:quite\s)?(?:as|so)\ssmall\sas\b"), "larger than"),
)
_THAN = re.compile(
    r"\b(?:(?:when|as)\s)?(?:compared\s(?:to|with)|in\scomparison\s(?:to|with)|relative\sto|versus|vs)\b"
)
_UNSURE = {"not", "no", "neither", "nor", "never", "cannot", "if", "whether", "would", "were", "may", "might", "could",
           "possibly", "either", "or"}  # fmt: skip
_JOIN = re.compile(r"\b(?:while|whereas|but|although|though|because|however|since)\b")


def asked(question: Said) -> tuple[int, frozenset[str]]:
    """The comparative of a question, 1 for larger and -1 for smaller, 0 for none or two; and the stems of its nouns."""
    signs = [SIGN[word] for word in question.words if word in SIGN]
    nouns = [stem(b) for a, b in itertools.pairwise(question.words) if a in SIGN]
    return (signs[0] if len(signs) == 1 else 0), frozenset(nouns)


def meant(text: str, question: Said, images: Sequence[str], shown: int) -> set[str]:
    """The images that the comparisons of a text name as the question's answer, as `#2`.

    Args:
        text: Folded.
        question: Its words.
        images: The options that are images; of two, one that is smaller makes the other one larger.
        shown: Images shown, or 0.

    Returns:
        None of them where the text compares nothing or the question asks for no comparison; two where it contradicts
        itself.
    """
    sign, nouns = asked(question)
    if not sign or len(images) < 2:
        return set()
    for pattern, instead in _NOT_AS:
        text = pattern.sub(instead, text)
    named = set()
    for sentence in re.split(r"[.!;|\n](?!\d)|(?<=\?)", _THAN.sub(" than ", text)):
        if sentence.endswith("?"):
            continue
        for image, stated, against in _statements(sentence, nouns, shown):
            others = [other for other in images if other != image]
            if against and not against.issuperset(others):
                continue  # larger than one of two others
            if stated == sign:
                named.add(image)
            elif len(images) == 2 and len(others) == 1:
                named.add(others[0])
    return named


def _statements(sentence: str, nouns: frozenset[str], shown: int) -> Iterator[tuple[str, int, set[str]]]:
    """(image, sign, what it is compared with where that is said) of each comparison in a sentence."""
    all_words = set(said.split(sentence, shown).words)
    both = len({_PLAIN[word] for word in all_words if word in _PLAIN}) == 2  # `small in image 1, but large in image 2`
    signs = {**SIGN, **(_PLAIN if both and all_words.isdisjoint(SIGN) else {})}
    for segment in _JOIN.split(sentence):
        words = said.split(segment, shown).words
        several = "than" not in words and len(set(filter(is_image, words))) > 1
        for part in [said.split(one, shown).words for one in segment.split(",")] if several else [words]:
            if _UNSURE.isdisjoint(part) and not any(word.endswith("n't") for word in part):
                yield from _stated(part, signs, nouns)


def _stated(words: list[str], signs: dict[str, int], nouns: frozenset[str]) -> Iterator[tuple[str, int, set[str]]]:
    """The comparison of a part of a sentence, if it is about one image and what the question is about."""
    than = words.index("than") if "than" in words else len(words)
    before = [word for word in words[:than] if is_image(word)]
    if len(set(before)) > 1:
        return
    behind = [at for at in range(than + 1, len(words)) if is_image(words[at])]
    places = [at for at, word in enumerate(words) if word in signs]
    if before:
        subject = before[0]
        told = [at for at in places if at < than] or places
    elif len({words[at] for at in behind}) > 1:
        subject = next(words[at] for at in behind if words[at] != words[behind[0]])
        told = [at for at in places if at > behind[0]]
    else:
        return
    if len({signs[words[at]] for at in told}) == 1 and _about(words, told[0], nouns):
        yield subject, signs[words[told[0]]], {words[at] for at in behind} - {subject}


def _about(words: list[str], at: int, nouns: frozenset[str]) -> bool:
    """Whether a comparative is about what the question asks for: `a larger effusion` is not about a mass."""
    if at + 1 == len(words) or is_image(words[at + 1]) or words[at + 1] in _ABOUT:
        return True
    return not nouns.isdisjoint(map(stem, words))
