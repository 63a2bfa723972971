"""What is said of the order of the images, and of the side or view of each, held against the facts."""

import re
from collections.abc import Sequence

from medmim.data.words.facts import Facts
from medmim.data.words.lie import Lie

LATE = frozenset((
    "later", "after", "follow-up", "subsequent", "postoperative", "post-operative", "post-surgery", "current", "newer",
    "afterwards", "follows", "following", "followed", "recent", "next",
))  # fmt: skip
EARLY = frozenset((
    "earlier", "before", "previous", "prior", "preoperative", "pre-operative", "baseline", "older", "precedes",
    "preceding", "preceded", "first", "beforehand", "reference",
))  # fmt: skip
_BEFORE_AN_IMAGE = ("the", "to", "by", "earlier", "later", "previous", "current", "visit", "exam", "scan")
_GOVERNS = {"after", "before", "following", "follows", "precedes", "preceding", "prior", "preceded", "followed"}


def order(sentences: Sequence[str], facts: Facts) -> None:
    """What is said of before and after fits: of two images the first is the earlier one.

    Args:
        sentences: Of a masked text.
        facts: Of its question.

    Raises:
        Lie: It turns them round.
    """
    if facts.kind.images != "ordered":
        return
    last = facts.images
    for sentence in sentences:
        for first, second in re.findall(r"@(\d) (?:on )?to @(\d)", sentence):
            if first > second:
                raise Lie("turns the order round", f"image {second} is the earlier one")
        for place in re.findall(r"by the time of @(\d)", sentence):
            if int(place) != last:
                raise Lie("turns the order round", f"image {last} is the later one")
        against = (
            r"\b(?:compared (?:with|to|against)|comparison (?:with|to)|relat(?:ive|ion) to|versus|since|than|"
            r"respect to|light of)"
        )
        for place in re.findall(rf"{against} (?:\w+ ){{0,3}}?@(\d)", sentence):
            if int(place) == last:
                raise Lie("turns the order round", f"image {last} is the later one")
        tokens = re.findall(r"@\d|\(|[\w'-]+", sentence)
        for at, token in enumerate(tokens):
            if token in LATE or token in EARLY:
                late = token in LATE
                place = _bound(tokens, at)
                if place is None:
                    continue
                number, turned = place
                if (late != turned) != (number == last):
                    raise Lie("turns the order round", f"image {last} is the later one")


def _bound(tokens: Sequence[str], at: int) -> tuple[int, bool] | None:
    """The image that a word of time is said of, and whether it is the one that the word relates another to."""
    word, after = tokens[at], tokens[at + 1 : at + 6]
    for ahead, token in enumerate(after):
        if token.startswith("@"):
            between = after[:ahead]
            if "(" in between:
                return int(token[1:]), False
            if all(one in _BEFORE_AN_IMAGE for one in between):
                return int(token[1:]), word in _GOVERNS
            if all(one in ("in", "on", "at", "is", "image", "one", "the") for one in between):
                return int(token[1:]), False
            break
    before = [token for token in tokens[:at] if token.startswith("@")]
    if before:
        return int(before[-1][1:]), False
    following = next((token for token in tokens[at:] if token.startswith("@")), None)
    return None if following is None else (int(following[1:]), False)


def sides(sentences: Sequence[str], facts: Facts) -> None:
    """A side, or a view, is said of the image that has it.

    Args:
        sentences: Of a masked text.
        facts: Of its question.

    Raises:
        Lie: It is said of another one.
    """
    of_each = facts.kind.sides
    if of_each is None:
        return
    for sentence in sentences:
        tokens = re.findall(r"@\d|\(|[\w'-]+", sentence)
        said = [token for token in tokens if token in of_each]
        if not any(token.startswith("@") for token in tokens):
            if said and (said != list(of_each)):
                raise Lie("changes a side", "of which image it is said is not clear")
            continue
        for at, token in enumerate(tokens):
            if token not in of_each:
                continue
            bracket = next((one for one in tokens[at + 1 : at + 5] if one == "(" or one.startswith("@")), "")
            ahead = [one for one in tokens[at + 1 : at + 6] if one.startswith("@")]
            before = [one for one in tokens[:at] if one.startswith("@")]
            place = ahead[0] if bracket == "(" and ahead else before[-1] if before else ahead[0] if ahead else ""
            if place != f"@{of_each.index(token) + 1}":
                raise Lie("changes a side", f"image 1 is {of_each[0]} and image 2 {of_each[1]}")
