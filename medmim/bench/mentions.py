"""Whether words that name an option are meant: not if negated, qualified, supposed or about something else."""

import re
from bisect import bisect_left
from collections.abc import Set

from medmim.bench.said import Said, is_image, stem

_NEAR = 40  # words
_NOT = {"not", "no", "non", "never", "neither", "nor", "without", "except", "excluding", "cannot", "unlikely", "hardly",
        "barely", "scarcely", "lack", "lacks", "absence", "fail", "fails", "failed", "nicht", "kein", "keine",
        "keinen", "pas", "не", "нет", "没", "沒", "不", "未", "无", "無", "非"}  # fmt: skip
# `no` before one of these denies no finding: `no doubt`, `no images were provided`.
_NO_FINDING = {"ability", "access", "answer", "comment", "data", "doubt", "idea", "image", "images", "information",
               "longer", "need", "one", "opinion", "problem", "question", "reason", "scan", "scans", "way"}  # fmt: skip
_QUALIFIERS = {"partial", "partially", "partly", "incomplete", "incompletely", "subtotal", "subtotally", "near",
               "nearly", "almost", "false"}  # fmt: skip
_PART_OF = re.compile(r"\b(?:part|half|most|majority|portion|bulk|piece|some|\d+) of\b|\bin part\b")
_SUPPOSED = {"may", "might", "could", "should", "possible", "possibly", "perhaps", "maybe", "expected", "needed"}
_CONDITION = {"if", "unless", "whether", "assuming"}
_ELSEWHERE = {"contralateral", "opposite"}  # `opposite to the left side`
_AT_FIRST = {"previously", "formerly", "initially", "before"}  # `previously stable`
_LESS = re.compile(r"^but (?:it |is |was )*(?:not|only|just|in)\b")  # `resected, but not completely`
_NO_SIGN = re.compile(r"\bno (?:sign|signs|evidence|indication|suggestion)\b")
_BEHIND = r"^(?:(?!and\b|which\b|that\b|as\b|so\b|with\b|since\b)\S+ ){0,3}?"
_DENIED = re.compile(
    _BEHIND + r"(?:(?:is|was|are|were|has|have|had|did|does|do|could|can) not|cannot|\w+n't)\b"
    r"|^(?:is |was |seems )?(?:not )?(?:wrong|incorrect|ruled out|excluded|absent|unlikely)\b"
)
_DOUBTED = re.compile(
    _BEHIND + r"(?:(?:is|was) (?:also )?(?:planned|intended|attempted|possible|a differential|needed|required"
    r"|recommended)|would|if|unless)\b"
)
_WRONG = re.compile(
    r"^[)\]}]?\s*(?:is|was|seems)?(?:\s*not|n't)?\s*\(?(?:wrong|incorrect|ruled out|excluded)\b"
    r"|^[)\]}]?\s*(?:is|was)(?:\s+not|n't)\s+(?:correct|right|it|the|an?|my|seen|present|visible|evident)\b"
    r"|^\s*cannot be (?:excluded|ruled out)\b"
)
# What else may be normal, stable or worse, while the finding is not.
_ASIDE = {"quality", "heart", "cardiac", "mediastinum", "mediastinal", "bones", "trachea", "diaphragm", "otherwise",
          "rest", "remainder", "vital", "neurological", "clinical", "clinically"}  # fmt: skip
_COMPARED = {"compared", "comparison", "than", "unlike", "versus", "vs", "relative"}
_COURSE = {"wors", "better", "improv", "progress"}
_ASKS = {
    "is",
    "are",
    "was",
    "were",
    "does",
    "do",
    "did",
    "has",
    "have",
    "can",
    "could",
    "would",
    "which",
    "what",
    "how",
}


def counts(text: Said, begin: int, end: int, topics: Set[str]) -> bool:
    """Whether the words from `begin` to before `end`, which name an option, say that it is so.

    Args:
        text: All that is said.
        begin: Where the name begins.
        end: Where it ends.
        topics: Words of the question.
    """
    if _is_asked(text, begin):
        return False
    before, behind = near(text, begin, end)
    return not (
        _negated(text.words, begin, end, before, behind)
        or _qualified(before, behind)
        or _LESS.match(" ".join(text.words[end : end + 5]))
        or (not is_image(text.words[begin]) and not _AT_FIRST.isdisjoint((*before[-1:], *behind[:1])))
        or not _SUPPOSED.isdisjoint(before[-6:])
        or not _CONDITION.isdisjoint(before)
        or _DOUBTED.match(" ".join(behind[:8]))
        or not (_ASIDE - topics).isdisjoint((*before[-3:], *behind[:4]))
        or (is_image(text.words[begin]) and not _SUPPOSED.isdisjoint(behind[:6]))
        or ("patient" in before[-3:] and "patient" not in topics)
        or (is_image(text.words[begin]) and not _COMPARED.isdisjoint(before[-3:]))
        or _of_the_earlier(text, begin)
    )


def near(text: Said, begin: int, end: int) -> tuple[list[str], list[str]]:
    """The words of the clause before `begin`, and those from `end` on; of a long clause the nearest ones."""
    first, last = text.bounds[text.clauses[begin]][0], text.bounds[text.clauses[end - 1]][1]
    return text.words[max(first, begin - _NEAR) : begin], text.words[end : min(last, end + _NEAR)]


def _is_asked(text: Said, begin: int) -> bool:
    """Whether it stands in a question: before more that is said, or of the reply to itself."""
    sentence = text.sentences[begin]
    if sentence not in text.asked:
        return False
    return text.sentences[-1] != sentence or text.words[bisect_left(text.sentences, sentence)] in _ASKS


def _negated(words: list[str], begin: int, end: int, before: list[str], behind: list[str]) -> bool:
    if words[begin:end] == ["no"] and not _NO_FINDING.isdisjoint(words[begin + 1 : begin + 3]):
        return True
    five = before[-5:]
    if five[-2:] == ["yes", "or"] or words[begin : begin + 3] == ["yes", "or", "no"]:
        return True
    if (
        _NO_SIGN.search(" ".join(before))
        or any(w in _NOT or w.endswith("n't") for w in five)
        or five[-2:] in (["rather", "than"], ["instead", "of"], ["far", "from"])
        or words[max(0, begin - 2) : begin] == ["anything", "but"]
        or not _ELSEWHERE.isdisjoint(five[-3:])
    ):
        return True
    if is_image(words[begin]) and end == begin + 1 and any(w in _NOT or w.endswith("n't") for w in behind[:8]):
        return True
    return bool(_DENIED.match(" ".join(behind[:6])))


def _qualified(before: list[str], behind: list[str]) -> bool:
    """Whether a word takes something from it: `nearly resected`, `part of the tumor was resected`."""
    beside = {*before[-2:], *behind[:1]}
    return not beside.isdisjoint(_QUALIFIERS) or bool(_PART_OF.search(f"{' '.join(before)} | {' '.join(behind)}"))


def _of_the_earlier(text: Said, begin: int) -> bool:
    """Whether it is an earlier image that is called worse than a later one: then the finding did not become worse."""
    if stem(text.words[begin]) not in _COURSE:
        return False
    sentence = text.sentences[begin]
    at = range(max(0, begin - _NEAR), min(len(text.words), begin + _NEAR))
    words = [text.words[i] for i in at if text.sentences[i] == sentence]
    than = next((i for i, word in enumerate(words) if word in ("than", "compared")), None)
    if than is None:
        return False
    first, second = ([*dict.fromkeys(filter(is_image, part))] for part in (words[:than], words[than:]))
    if not first and len(second) > 1:  # `compared with image 2, it is worse in image 1`
        first, second = second[1:], second[:1]
    return len(first) == len(second) == 1 and first[0] < second[0]


def is_question(text: str) -> bool:
    """Whether a text is a question of the reply to itself."""
    return text.endswith("?") and text.split(" ", 1)[0] in _ASKS


def wrong(after: str) -> bool:
    """Whether what follows a letter says that it is wrong."""
    return bool(_WRONG.match(after))
