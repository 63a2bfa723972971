"""Yes or no where a reply says it in a sentence: whether the finding that `Is there a ...?` asks for is there."""

import re

from medmim.bench import mentions
from medmim.bench.said import Said, is_image, split, stem

_ASKED = re.compile(
    r"^(?:is|are) there (?:an? |any )?(?:(?:sign|signs|evidence) of )?((?:\w+ ){0,2}?\w+)(?= in\b| on\b|\?|$)"
)
_THERE = {"there", "present", "seen", "see", "visible", "noted", "identified", "evident", "shows", "show", "has",
          "demonstrates", "detected", "observed"}  # fmt: skip
_OPEN = {"whether", "if", "may", "might", "could", "possible", "possibly", "exclude", "excluded", "ruled", "rule",
         "unclear", "determine", "determined", "assess", "assessed", "question", "asks", "suspected", "suggest",
         "history", "resolved", "would"}  # fmt: skip
_NONE = {"no", "not", "without", "absent", "never", "cannot"}


def said(question: str, text: Said) -> set[str]:
    """`yes`, `no`, both, or neither where the text says nothing of the finding.

    Args:
        question: Folded.
        text: The reply.
    """
    asked = _ASKED.match(question)
    if not asked:
        return set()
    finding = [stem(word) for word in asked[1].split()]
    stems = [stem(word) for word in text.words]
    images = {word for word in split(question, 0).words if is_image(word)}
    found = set()
    for at in range(len(stems) - len(finding) + 1):
        if stems[at : at + len(finding)] != finding or text.sentences[at] in text.asked:
            continue
        before, behind = mentions.near(text, at, at + len(finding))
        words = {*before, *behind}
        if images and any(map(is_image, words)) and images.isdisjoint(words):
            continue  # said of another image than the one asked about
        if not words.isdisjoint(_OPEN):
            continue
        if not words.isdisjoint(_NONE) or any(word.endswith("n't") for word in words):
            found.add("no")
        elif not words.isdisjoint(_THERE):
            found.add("yes")
    return found
