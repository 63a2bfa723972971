"""Whether words that name an option are meant: not if negated, qualified, supposed or about something else."""

import re
from bisect import bisect_left
from collections.abc import Iterable, Set

from medmim.bench.reader.said import LINKS, Said, is_image, stem

_NEAR = 40  # words
_NOT = {"not", "no", "non", "never", "neither", "nor", "without", "except", "excluding", "cannot", "hardly", "barely",
        "scarcely", "lack", "lacks", "lacking", "fail", "fails", "failed", "absent", "absence", "nothing", "nobody",
        "insufficient", "mimics", "rule", "ruling", "exclude", "excludes", "nicht", "kein", "keine", "keinen", "pas",
        "не", "нет", "没", "沒", "不", "未", "无", "無", "非"}  # fmt: skip
# `no` before one of these denies no finding: `no doubt`, `no images were provided`.
_NO_FINDING = {"ability", "access", "answer", "comment", "data", "doubt", "idea", "image", "images", "information",
               "longer", "need", "one", "opinion", "problem", "question", "reason", "scan", "scans", "way"}  # fmt: skip
_QUALIFIERS = {"partial", "partially", "partly", "incomplete", "incompletely", "subtotal", "subtotally", "near",
               "nearly", "almost", "false"}  # fmt: skip
# Words before a name, right beside it, after which it is not what is found: it was, will be, is not quite or elsewhere.
_BESIDE = re.compile(
    r"\b(?:(?:hardly|barely|scarcely)(?: any| much)?|less|unlike|resolv(?:ed|ing)|previous|prior|former|post"
    r"|fail(?:s|ed|ing|ure)? to|(?:lack|absence|resolution|history|out) of|treated for|rule out|exclud(?:e|es|ed|ing)"
    r"|mimic(?:s|king)?|compared (?:to|with)|(?:other|opposite) side of"
    r"|awaiting|only \d+|[a-z]{5,}o"  # `parieto-occipital` is neither
    r"|(?:is|was|are|were|unlikely|yet|scheduled|planned|due|needs?|going) to(?: be)?)$"
)
_OVER = re.compile(r"^(?:(?:has|have|is|was) )?(?:since )?(?:resolved|gone|disappeared|cleared)\b")
_PART_OF = re.compile(r"\b(?:part|half|most|majority|portion|bulk|piece|some|\d+) of\b|\bin part\b")
_DENIALS = {("far", "from"), ("anything", "but"), ("all", "but"), ("images", "but"), ("image", "but"),
            ("rather", "than"), ("instead", "of"), ("less", "likely"), ("contrary", "to"), ("opposed", "to"),
            ("compared", "to"), ("compared", "with")}  # right before a name  # fmt: skip
_TOOLS = {"use", "uses", "utilizes", "employs", "combines"}  # what a method uses is not what it is
_SUPPOSED = {"may", "might", "could", "should", "possible", "possibly", "perhaps", "maybe", "expected", "needed",
             "needs"}  # fmt: skip
_CONDITION = {"if", "unless", "whether", "assuming", "unlikely", "doubt", "doubtful", "hard", "difficult", "impossible",
              "disagree", "history", "goal", "aim", "meant", "intended", "planned", "attempted", "concern",
              "example"}  # fmt: skip
_ELSEWHERE = {"contralateral", "opposite"}  # `opposite to the left side`
_AT_FIRST = {"previously", "formerly", "initially", "before"}  # `previously stable`
_LESS = re.compile(r"^but (?:it |is |was )*(?:not|only|just|in)\b")  # `resected, but not completely`
_OR = {"or", "nor"}
_JOINS = {"or", "nor", "and"}
_OR_NO = (["yes", "or"], ["yes", "and"])
_NO_SIGN = re.compile(r"\bno (?:sign|signs|evidence|indication|suggestion)\b")
_BEHIND = r"^(?:(?!and\b|which\b|that\b|as\b|so\b|with\b|since\b)\S+ ){0,3}?"
_DENIED = re.compile(
    _BEHIND + r"(?:(?:is|was|are|were|has|have|had|did|does|do|could|can) not|cannot|\w+n't)\b"
    r"|^(?:is |was |seems )?(?:not )?(?:wrong|incorrect|absent|unlikely|missing|mimicked)\b"
    r"|" + _BEHIND[1:] + r"(?:is|are|was|were|seems) (?:unlikely|less likely|missing)\b"
    r"|^(?:except|apart from|aside from|like)\b"
    r"|" + _BEHIND[1:] + r"(?:ruled out|excluded)\b"
    r"|^(?:\S+ ){0,2}(?:is |are )?(?:lacking|never)\b"
)
_DOUBTED = re.compile(
    _BEHIND + r"(?:(?:is|was) (?:also )?(?:planned|intended|attempted|possible|a differential|needed|required"
    r"|recommended)|would|if|unless)\b|^at #1 (?:glance|sight)\b"
)
_WRONG = re.compile(
    r"^[)\]}]?\s*(?:is|was|seems)?(?:\s*not|n't)?\s*\(?(?:wrong|incorrect|ruled out|excluded)\b"
    r"|^[)\]}]?\s*(?:is|was)(?:\s+not|n't)\s+(?:correct|right|it|the|an?|my|seen|present|visible|evident)\b"
    r"|^\s*cannot be (?:excluded|ruled out)\b"
)
# What else may be normal, stable or worse, while the finding is not.
_ASIDE = {"quality", "heart", "cardiac", "mediastinum", "mediastinal", "bones", "trachea", "diaphragm",
          "otherwise", "visibility", "symptom", "symptoms", "exposure", "displaced", "displaces", "shifted",
          "deviated", "rest", "remainder", "vital", "neurological", "clinical", "clinically"}  # fmt: skip
_COMPARED = {"compare", "look", "compared", "comparison", "than", "unlike", "versus", "vs", "relative"}
_TAKEN_BACK = {"misleading", "disagree", "mistaken"}
# Stems of findings -> a name for those that may be one and the same.
_FINDINGS = {stem(word): stem(word) for word in ("pneumothorax", "effusion", "pneumonia", "edema", "cardiomegaly",
                                                 "atelectasis", "fracture", "nodule", "emphysema", "glaucoma",
                                                 "cataract", "hemorrhage", "aneurysm", "calcification")}  # fmt: skip
_FINDINGS[stem("consolidation")] = stem("pneumonia")
_INVERTED = {"were", "had"}  # `were it malignant, ...`
_TOO = re.compile(r"\btoo \S+ to\b")
_KINDS = {"condition", "disease", "infection", "disorder", "term", "inflammation"}
_USUALLY = {"usually", "typically", "often", "commonly", "generally"}
_SINCE = {"since", "from", "to", "with", "between", "after", "vs"}
_RELATED = {"than", "with", "to", "from", "versus", "vs", "like", "unlike", "or"}
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
    supposed = _SUPPOSED - topics  # `signs of possible cancer` in a question about them
    return not (
        _negated(text.words, begin, end, before, behind)
        or _qualified(before, behind, _following(text, end))
        or (_LESS.match(" ".join(after := text.words[end : end + 5])) and not any(map(is_image, after)))
        or _BESIDE.search(" ".join(before[-4:]))
        or (not is_image(text.words[begin]) and _OVER.match(" ".join(behind[:4])))
        or (not is_image(text.words[begin]) and not _AT_FIRST.isdisjoint((*before[-1:], *behind[:1])))
        or not supposed.isdisjoint(before[-6:])
        or not _CONDITION.isdisjoint(before)
        or _DOUBTED.match(" ".join(behind[:8]))
        or not (_ASIDE - topics).isdisjoint((*before[-3:], *behind[:4]))
        or (is_image(text.words[begin]) and not supposed.isdisjoint(behind[:6]))
        or (
            "patient" in before[-3:] and not {"patient", "patients"} & topics and "patient" not in text.words[begin:end]
        )
        or (is_image(text.words[begin]) and (not _COMPARED.isdisjoint(before[-3:]) or _is_measured(behind)))
        or _of_the_earlier(text, begin)
        or _of_another(text, begin, topics)
        or _expected(before)
        or _is_taken_back(text, end)
        or _is_general(text, begin, before, behind)
    )


def open_or_denied(words: Set[str]) -> bool:
    """Whether a sentence of these words denies or supposes anything."""
    beside = _NOT | _SUPPOSED | _CONDITION | _OR | {"would", "either"}
    return not beside.isdisjoint(words) or any(word.endswith("n't") for word in words)


def subject(text: Said, begin: int, unknown: Set[str]) -> Set[str]:
    """The image that a mention is about, in a clause that begins with one: `image 2 is normal and image 3 is not`."""
    before, _ = near(text, begin, begin + 1)
    if not any(map(is_image, before[:2])):
        return unknown
    named = [word for at, word in enumerate(before) if is_image(word) and not {*before[max(0, at - 1) : at]} & _RELATED]
    return {named[-1]} if named else unknown


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
    before = _without_earlier_statement(before)
    five = before[-5 - 3 * sum(word in _OR for word in before[-20:]) :]  # `no edema or nodule or fracture`
    if five[-2:] in _OR_NO or words[begin : begin + 3] in (["yes", "or", "no"], ["yes", "and", "no"]):
        return True
    if (
        _NO_SIGN.search(" ".join(before))
        or any(w in _NOT or w.endswith("n't") for w in five)
        or tuple(words[max(0, begin - 2) : begin]) in _DENIALS
        or five[-1:] in (["less"], ["least"], ["than"], ["unlike"])
        or not _TOOLS.isdisjoint(five[-3:])
        or not _ELSEWHERE.isdisjoint(five[-3:])
    ):
        return True
    whole = is_image(words[begin]) or words[begin] == "both"
    if whole and end == begin + 1 and any(w in _NOT or w.endswith("n't") for w in behind[:8]):
        return True
    return bool(_DENIED.match(" ".join(behind[:6])))


def _following(text: Said, end: int) -> list[str]:
    """The next words of the sentence, whatever stands between: `resected, but only partly`."""
    until = min(len(text.words), end + 3)
    return [text.words[at] for at in range(end, until) if text.sentences[at] == text.sentences[end - 1]]


def _is_measured(behind: list[str]) -> bool:
    """Whether what follows an image compares it with another: `image 1 is later than image 2`."""
    than = next((at for at, word in enumerate(behind) if word == "than" and behind[at - 1 : at] != ["rather"]), None)
    return than is not None and any(map(is_image, behind[than : than + 3]))


def _without_earlier_statement(before: list[str]) -> list[str]:
    """The words behind an `and` that a verb follows: `there is no pneumothorax and the effusion has improved`."""
    at = max((i for i, word in enumerate(before) if word == "and"), default=-1)
    return before[at + 1 :] if not LINKS.isdisjoint(before[at + 1 :]) else before


def _qualified(before: list[str], behind: list[str], following: list[str]) -> bool:
    """Whether a word takes something from it: `nearly resected`, `part of the tumor was resected`."""
    if following[:2] == ["but", "only"] or "residual" in behind[:3]:
        return True
    two = before[-1:] if before[-1:] and before[-1] in _JOINS else before[-2:]  # `partial or unchanged`
    beside = {*two, *behind[:1]}
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
        images = {word for word in words if is_image(word)}
        before, _ = near(text, begin, begin + 1)
        place = before.index("#1") if "#1" in before else 0
        return images == {"#1"} and "#1" in before and _SINCE.isdisjoint(before[max(0, place - 1) : place])
    first, second = ([*dict.fromkeys(filter(is_image, part))] for part in (words[:than], words[than:]))
    if not first and len(second) > 1:  # `compared with image 2, it is worse in image 1`
        first, second = second[1:], second[:1]
    return len(first) == len(second) == 1 and first[0] < second[0]


def _of_another(text: Said, begin: int, topics: Set[str]) -> bool:
    """Whether a sentence speaks of another finding than the question: `the pneumothorax is worse` of an effusion."""
    asked = _findings(topics)
    if not asked or stem(text.words[begin]) in _FINDINGS:
        return False
    before, behind = near(text, begin, begin + 1)
    found = _findings([*before, *behind])
    if not found:
        sentence = range(max(0, begin - _NEAR), begin)
        found = _findings(text.words[at] for at in sentence if text.sentences[at] == text.sentences[begin])
    return bool(found) and found.isdisjoint(asked)


def _findings(words: Iterable[str]) -> set[str]:
    return {_FINDINGS[found] for word in words if (found := stem(word)) in _FINDINGS}


def _expected(before: list[str]) -> bool:
    """Whether it is what would be so otherwise: `one would expect it`, `nothing is seen that would suggest it`."""
    if "would" not in before:
        return False
    at = len(before) - 1 - before[::-1].index("would")
    return before[at + 1 : at + 2] in (["expect"], ["have"]) or not _NOT.isdisjoint(before[:at])


def _is_general(text: Said, begin: int, before: list[str], behind: list[str]) -> bool:
    """Whether it is said of such findings in general, of what would be, or of what is to be found out."""
    if before:
        inverted = before[0] in _INVERTED and text.sentences[: begin - len(before)][-1:] != [text.sentences[begin]]
        purpose = before[0] == "to" and before[1:2] not in (["me"], ["us"])
        return inverted or purpose or bool(_TOO.search(" ".join(before)))
    defined = behind[:1] == ["is"] and not _KINDS.isdisjoint(behind[1:5])
    return defined or not _USUALLY.isdisjoint(behind[:4])


def _is_taken_back(text: Said, end: int) -> bool:
    """Whether the rest of the sentence calls it wrong: `it seems stable, but that is misleading`."""
    sentence = text.sentences[end - 1]
    rest = range(end, min(len(text.words), end + _NEAR))
    return any(text.sentences[at] == sentence and text.words[at] in _TAKEN_BACK for at in rest)


def is_question(text: str) -> bool:
    """Whether a text is a question of the reply to itself."""
    return text.endswith("?") and text.split(" ", 1)[0] in _ASKS


def wrong(after: str) -> bool:
    """Whether what follows a letter says that it is wrong."""
    return bool(_WRONG.match(after))
