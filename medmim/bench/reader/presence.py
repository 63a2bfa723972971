"""Yes or no where a reply says it in a sentence: whether the finding that `Is there a ...?` asks for is there."""

import re
from collections.abc import Collection

from medmim.bench.reader import mentions
from medmim.bench.reader.said import Said, is_image, stem

_ASKED = re.compile(
    r"^(?:is|are) there (?:an? |any )?"
    r"(?:(?:sign|signs|evidence) of (?:an? |any )?)?((?:\w+ ){0,2}?\w+)(?= in\b| on\b|\?|$)"
)
_THERE = {"there", "present", "seen", "see", "visible", "noted", "identified", "evident", "shows", "show", "has",
          "demonstrates", "detected", "observed", "indicating", "indicates", "consistent"}  # fmt: skip
_OPEN = {"whether", "if", "may", "might", "could", "possible", "possibly", "exclude", "excluded", "ruled", "rule",
         "unclear", "determine", "determined", "assess", "assessed", "question", "asks", "suspected", "suggest",
         "history", "resolved", "resolving", "cleared", "gone", "disappeared", "doubt", "reason", "only", "other",
         "than", "missed", "hard", "difficult", "previous", "previously", "significant", "would", "should"}  # fmt: skip
_NONE = {"no", "not", "without", "absent", "never", "cannot"}
_ABSENT = re.compile(
    r"^(?:(?:is|are|was|were|can|could) )?(?:not|cannot|\w+n't|no longer)(?: be| clearly| definitely| longer)*"
    r" (?:seen|present|visible|noted|identified|evident|detected|observed|there|found)\b|^(?:is |are )?absent\b|^\|?no$"
)
_DENIED = re.compile(
    r"\b(?:no|without|not|cannot|\w+n't)(?: (?:see|show|have|has|be|seen|identify|detect|find|demonstrate|contain|any"
    r"|signs?|evidence|indications?|of|visible|definite|obvious|clear|present|there|small|large|left|right|appear|seem|to))*$"
)


def asks(question: str) -> bool:
    """Whether a folded question asks for the presence of a finding."""
    return bool(_ASKED.match(question))


def said(question: str, asked_words: Collection[str], text: Said) -> set[str]:
    """`yes`, `no`, both, or neither where the text does not plainly say that the finding is there, or that it is not.

    Args:
        question: Folded.
        asked_words: Its words.
        text: The reply.
    """
    asked = _ASKED.match(question)
    if not asked:
        return set()
    finding = [stem(word) for word in asked[1].split()]
    where = {word for word in asked_words if is_image(word)}
    elsewhere = {word for word in text.words if is_image(word)} - where
    stems = [stem(word) for word in text.words]
    found = set()
    for at in range(len(stems) - len(finding) + 1):
        if stems[at : at + len(finding)] != finding or text.sentences[at] in text.asked:
            continue
        before, behind = mentions.near(text, at, at + len(finding))
        lacking = next(
            (i for i, word in enumerate(behind) if word == "without" or behind[i : i + 2] == ["with", "no"]), None
        )
        behind = behind[:lacking]  # a finding `without displacement` is there
        words = {*before, *behind}
        if not words.isdisjoint(_OPEN) or (elsewhere and where and (words & elsewhere or not words & where)):
            continue
        denied = not words.isdisjoint(_NONE) or any(word.endswith("n't") for word in words)
        if denied:
            plainly = _DENIED.search(" ".join(before)) or _ABSENT.match(" ".join(behind))
            found |= {"no"} if plainly else set()
        elif not words.isdisjoint(_THERE):
            found.add("yes")
    return found
