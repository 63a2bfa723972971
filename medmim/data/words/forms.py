"""In which form a text asks: which, what or how, whether, where; another form of the same words asks something else."""

import re
from collections.abc import Sequence

from medmim.data.words.kinds import SAME, Kind

_VERB = r"(?:is|are|was|were|do|does|did|has|have|had|can|could|will|would|should|may|might|must)"
_WHETHER = re.compile(rf"(?:^|[,:]\s*){_VERB} (?!not\b)|\b(?:whether|if)\b")
_INDIRECT = re.compile(r"\b(?:which|what|how|whose|where|identify|name|describe|give|find|point|select|compare)\b")
_ALTERNATIVES = re.compile(r"@\d,? or (?:in |on |of |also in )?@\d|\bleft or (?:the |on the |on )?right\b|\bor not\b")
_WHERE = re.compile(
    rf"(?:^|[,:]\s*|\b(?:tell|say|state|determine|decide|see|show) )where (?:@\d|in\b|on\b|#|{_VERB}\b)"
)
_HOW = re.compile(r"\bhow (?:is|are|was|were|do|does|did|can)\b(?! you\b)")
_CAUSE = re.compile(r"\bwhat (?:made|makes|changed|changes|brought|brings|produced|produces|turned|turns|led)\b")
_TIME = re.compile(rf"(?:^|[,:]\s*)(?:when|why|who|whom) {_VERB}\b|(?:^|[,:]\s*)who\b")
_GIVEN = re.compile(
    r"\b(?:given|considering|knowing|noting|seeing|provided|assuming) that\b(?! @)|"
    r"\b(?:since|as|because|although|while) (?:it|they|there|all)\b"
)
_THING = re.compile(r"\b(?:which|what) (?:of )?(?:the )?(?:findings?|diagnos[ei]s|modalit\w+|techniques?)\b")


def problem(sentences: Sequence[str], kind: Kind) -> str:
    """What is wrong with the form of a masked text that asks; empty where nothing is.

    Args:
        sentences: Those that ask, in lower case, values as `#`, images as `@` and number.
        kind: Of its family.
    """
    for sentence in sentences:
        for pattern, name in ((_WHERE, "where"), (_TIME, "when, why or who"), (_CAUSE, "what made it so")):
            if pattern.search(sentence) and not _ALTERNATIVES.search(sentence):
                return f"it asks {name}"
        if match := _GIVEN.search(sentence):
            return f"it states something after '{match[0]}'"
        if kind.asked == SAME:
            if _THING.search(sentence):
                return "it asks which, not whether"
        elif _asks_whether(sentence, kind):
            return "it asks whether"
        if kind.images in ("which", "one") and not kind.free and _HOW.search(sentence):
            return "it asks how"
    return ""


def _asks_whether(sentence: str, kind: Kind) -> bool:
    match = _WHETHER.search(sentence)
    if match is None or _INDIRECT.search(sentence) or _ALTERNATIVES.search(sentence):
        return False
    return not kind.choices or not all(re.search(choice, sentence) for choice in kind.choices)
