"""Checks that a text of a language model asks and states what its facts do, and nothing else.

A closed vocabulary: what the facts hold is masked (`#` for a value, `@2` for image 2), then what every question of the
family may say, and of what is left each word must be one that states nothing. So a text that is right may be rejected,
which costs a question its wording; one that says something of its own is not kept. Order, sides, counts and numbers are
then compared apart, since a lie about them is made of the same words.
"""

import re
from collections.abc import Iterator, Sequence
from functools import partial

from medmim.data.words import forms, places
from medmim.data.words.facts import Facts, is_quotation
from medmim.data.words.kinds import NOUN, PLAIN, SAME, Kind
from medmim.data.words.lie import Lie

LONGEST = 4  # times as long as the template's text may a text be, and
_SPARE = 200  # characters
_PLACE = {"one": 1, "first": 1, "1st": 1, "initial": 1, "two": 2, "second": 2, "2nd": 2, "three": 3, "third": 3,
          "3rd": 3, "four": 4, "fourth": 4, "4th": 4}  # fmt: skip
_COUNT = {"two": 2, "both": 2, "pair": 2, "twice": 2, "three": 3, "four": 4, "2": 2, "3": 3, "4": 4}
_SPELLINGS = {
    "radiography": r"radiograph(?:y|s|ic)?|x-?rays?",
    "pa": r"pa|posteroanterior(?: \(pa\))?",
    "first": r"first|earliest|earlier",
    "last": r"last|latest|later|most recent|more recent",
}
# Answers that are said in other words, too: the gold text -> a pattern of them.
_SAID = {
    "worse": r"worse\w*|deteriorated",
    "improved": r"improv\w+",
    "stable": r"stable|unchanged",
    "partial": r"partial(?:ly)?|partly",
    "it improved": r"improv\w+",
    "it is unchanged": r"unchanged|stable",
    "it became worse": r"worse\w*|deteriorated",
    "complete resection": r"complete(?:ly)?",
    "partial resection": r"partial(?:ly)?",
}
_FORMER = "earlier|previous|prior|preoperative|baseline|older"
_LATTER = "later|current|follow-up|subsequent|newer|more recent|postoperative"
_SENTENCE = re.compile(r"(?<=[.?!;])\s+")
_PHRASES = (  # of words that state something elsewhere: `the mass is gone`, `was taken out`, `remained`
    r"\b(?:find|point|pick|single|make) out\b|\bout of (?:these|those|all|both)\b|\bgoing from (?=@\d to @\d)|"
    r"\b(?:remain|stay)(?:s|ed|ing)? (?:(?=%)|stable|unchanged|the same)\b|\btook place\b"
)
_MARKUP = re.compile(r"[<>{}\[\]*_`|\\#@%~^=]|(?:^|\s)[A-H][:.)]\s|\banswer\s*:", re.IGNORECASE)
_SOMEBODY_ELSE = re.compile(r"\b(?:other|another|different|opposite|second) (?:breast|patient|brain|eye)\b")
_SOME_IMAGE = re.compile(rf"\b{NOUN}s?\b|\bviews?\b|\bwhich of (?:them|these|the)\b|\bwhere\b")
_ALL_IMAGES = re.compile(r"\b(?:images|pictures|scans|views|eyes|exams|mammograms|both|they)\b|\ball of\b")
_MORE = re.compile(r"\b(?:others?|each|every|all)\b")
_DOUBTS = re.compile(
    r"\b(?:may|might|could|would|shall|likely|possibl[ey]|probabl[ey]|appears?|appeared|seems?|suggests?|suggested|or|"
    r"either|others?|another|each|every|all|some|any|if|then|whether|believe|think|expected)\b"
)
_TYPOGRAPHY = str.maketrans("\u2018\u2019\u201c\u201d\u2013\u2014\u2010\u2011\u00a0", "''\"\"---- ")
_IMPERATIVE = re.compile(
    r"(?:^|[,:])\s*(?:please |now |then |kindly )*(?:identify|select|choose|find|pick|name|point|indicate|spot|"
    r"locate|determine|tell|state|mark|decide|describe|assess|give|write|answer|say|compare|evaluate|report|show|look|read|"
    r"provide|consider|examine|review|inspect|analyze|use)\b"
)


def question(text: str, facts: Facts) -> None:
    """Check the wording of a question.

    Raises:
        Lie: It does not ask what the facts ask, or says what they do not.
    """
    kind = facts.kind
    _form(text, facts, facts.question)
    masked = _masked(text, facts)
    for value in ("value", "finding", "questions"):
        if value in facts.about and "#" not in masked:
            raise Lie("drops a value", facts.about[value])
    sentences = _SENTENCE.split(masked)
    for need in kind.needs:
        if not re.search(need, masked):
            raise Lie("asks something else", "what the question is about is not in it")
    _choices(masked, kind)
    _images(sentences, facts)
    _other(masked, facts)
    for sentence in sentences:
        if not _asks(sentence):
            _statement(sentence, facts)
    if wrong := forms.problem([sentence for sentence in sentences if _asks(sentence)], kind):
        raise Lie("has another form of question", wrong)
    places.order(sentences, facts)
    places.sides(sentences, facts)
    _words(masked, facts)


def answer(text: str, facts: Facts) -> None:
    """Check the wording of the answer to an open question.

    Raises:
        Lie: It does not say what the gold answer says, or more than that.
    """
    _form(text, facts, facts.answer + facts.question)
    if "?" in text:
        raise Lie("is no answer", "it asks")
    gold = _gold(facts)
    lower = text.translate(_TYPOGRAPHY).lower()
    place = re.fullmatch(r"image (\d)", facts.answer.lower())
    if facts.kind.asked and facts.answer in ("same", "different"):
        lower = re.sub(rf"^{'yes' if facts.answer == 'same' else 'no'}, ", "", lower)
    masked = lower if place else re.sub(gold, " % ", lower)
    masked = _masked(masked, facts, asks=False)
    if place:
        named = set(_places(masked))
        if masked.count(f"@{place[1]}") > 1:
            raise Lie("names another image", f"it says image {place[1]} twice")
        if named - ({1} if facts.kind.images == "as_first" else set()) != {int(place[1])}:
            raise Lie("names another image", _shown(named))
    elif "%" not in masked:
        raise Lie("does not give the answer", facts.answer)
    else:
        named = set(_places(masked))
        asked = _place(facts.about.get("image", ""))
        if asked and named - {asked}:
            raise Lie("names another image", _shown(named))
        if named and max(named) > facts.images:
            raise Lie("names an image that is not there", _shown(named))
    if any(re.search(choice, masked) for choice in facts.kind.choices):
        raise Lie("does not give the answer", "it says another one, too")
    if match := _DOUBTS.search(masked):
        raise Lie("doubts or adds to the answer", f"it says '{match[0]}'")
    places.order(_SENTENCE.split(masked), facts)
    places.sides(_SENTENCE.split(masked), facts)
    _words(masked, facts)


def _form(text: str, facts: Facts, template: str) -> None:
    stripped = text.strip()
    if not stripped or "\n" in stripped:
        raise Lie("has another form", "it is empty" if not stripped else "it has several lines")
    if len(stripped) > LONGEST * len(template) + _SPARE:
        raise Lie("has another form", f"it has {len(stripped):,} characters")
    for value in (*facts.about.values(), facts.answer):
        stripped = stripped.replace(value, " ")
    if match := _MARKUP.search(stripped):
        raise Lie("has another form", f"it holds {match[0].strip()!r}")


def _masked(text: str, facts: Facts, asks: bool = True) -> str:
    """The text in lower case, a value as `#`, an image as `@` and its number, sides of the template's kind left."""
    text = text.translate(_TYPOGRAPHY)
    for name in ("questions", "value", "finding"):
        given = facts.about.get(name)
        if given is None:
            continue
        if is_quotation(given):
            quoted = given.translate(_TYPOGRAPHY)
            text = text.replace(quoted, " # ").replace(quoted.rstrip("."), " # ")
        else:
            text = re.sub(_spelled(given), " # ", text.lower())
    text = text.lower()
    if "ages" in facts.about and asks:
        text = _without_ages(text, facts.about["ages"])
    text = re.sub(r"^\W*(?:question|caption)\s*:\s*", "", text)
    return _with_places(text, facts)


def _spelled(value: str) -> str:
    """A pattern of a value: any case, hyphens as blanks, its plural."""
    plain = re.sub(r"^(?:an?|the) ", "", value.lower())
    words = _SPELLINGS.get(plain) or r"[\s-]+".join(map(re.escape, re.split(r"[\s-]+", plain)))
    return rf"(?<![\w-])(?:{words})(?:e?s)?(?!\w)(?!-(?:like|free|negative))"


def _without_ages(text: str, ages: str) -> str:
    given = re.findall(r"\d+\.\d", ages)
    if re.findall(r"\d+(?:\.\d+)?", re.sub(r"\b12 months\b", "", text)) != given:
        raise Lie("changes a number", f"the ages are {ages}")
    return re.sub(r"\d+\.\d(?: years?)?(?: old)?", " ", text)


def _with_places(text: str, facts: Facts) -> str:
    """Images by `@` and number, however they are named."""

    def listed(match: "re.Match[str]") -> str:
        return re.sub(r"\d", r"@\g<0>", match[2])

    order = facts.family == "order"  # there, `the first image` may be the answer
    text = re.sub(
        r"\b(images?|scans?|pictures?|figures?|views?) (\d(?:(?:, | and | or |, and |, or | to )\d)+)", listed, text
    )
    named = r"\b(?:the )?(?:image|scan|picture|figure|photo)s?,? (?:number |no\.? ?)?(\d|one|two|three|four)\b(?! of)"
    text = re.sub(named, lambda m: f"@{_PLACE.get(m[1], m[1])}", text)
    if not order:
        nouns = rf"(?: of (?:the|these) (?:\w+ )?images?| (?:\w+ )?{NOUN}s?\b|(?= (?:image|eye|one)\b))?"
        text = re.sub(
            rf"\b(?:the |that of the )(first|second|third|fourth|1st|2nd|3rd|4th|initial)\b(?! (?:year|time)){nouns}",
            lambda m: f"@{_PLACE[m[1]]}",
            text,
        )
        if facts.family != "forecast":
            text = re.sub(r"\b(?:the )?last image\b", f"@{facts.images}", text)
    if facts.kind.images == "ordered":
        nouns = r"(?:image|one|scan|picture|visit|exam|examination)\b(?!,? @)(?! is\b)"
        said_of = r"((?:(?:\b(?:is|was|are|as|being)|@\d),? )?)(?:the |an? )?"  # of an image that has a name
        for number, words in (("1", _FORMER), ("2", _LATTER)):
            unsaid = re.compile(rf"{said_of}(?:{words}) {nouns}")
            text = unsaid.sub(partial(_unless_said, number), text)
    if facts.images == 1:
        text = re.sub(r"\b(?:this|the) (?:image|picture|scan)\b(?! @)", "@1", text)
    return text


def _unless_said(number: str, match: "re.Match[str]") -> str:
    return match[0] if match[1] else f"@{number}"


def _places(masked: str) -> Iterator[int]:
    return (int(one) for one in re.findall(r"@(\d)", masked))


def _place(text: str) -> int:
    return int(text.removeprefix("image ")) if text.startswith("image ") else 0


def _shown(places: "set[int]") -> str:
    return ", ".join(f"image {one}" for one in sorted(places)) or "none"


def _asks(sentence: str) -> bool:
    return (
        sentence.rstrip().endswith("?")
        or bool(_IMPERATIVE.search(sentence))
        or bool(re.match(r"\s*(?:to |in |of |on |from )?(?:which|what|where|how)\b", sentence))
    )


def _statement(sentence: str, facts: Facts) -> None:
    """What stands beside the question gives nothing of it away."""
    kind = facts.kind
    one_of = re.search(r"(?:^|[,:]|\b(?:in|of|to))\s*(?:one of|this is the|the following)\b", sentence)
    if kind.asked and re.search(kind.asked, sentence) and not one_of:
        raise Lie("gives the answer away", "it states what is asked")
    if any(re.search(choice, sentence) for choice in kind.choices):
        raise Lie("gives the answer away", "it states one of the choices")
    quotes = any(is_quotation(facts.about.get(name, "")) for name in ("value", "questions"))
    if "#" in sentence and not one_of and not quotes:
        raise Lie("gives the answer away", "it states what is asked")
    if kind.images == "which" and "@" in sentence and (kind.sides is None or "#" in sentence):
        raise Lie("gives the answer away", "it states something of one of the images")


def _choices(masked: str, kind: Kind) -> None:
    named = [bool(re.search(choice, masked)) for choice in kind.choices]
    if any(named) and not all(named):
        raise Lie("gives the answer away", "it names some of the choices only")


def _images(sentences: Sequence[str], facts: Facts) -> None:
    """The images that the question is about are named, and no others."""
    how, everyone = facts.kind.images, set(range(1, facts.images + 1))
    text = " ".join(sentences)
    named = set(_places(text))
    if named - everyone:
        raise Lie("names an image that is not there", _shown(named - everyone))
    _counts(text, facts)
    if how != "quoted" and facts.family != "both_eyes" and _SOMEBODY_ELSE.search(text):
        raise Lie("speaks of another patient", "all is said of the same one")
    asking = [sentence for sentence in sentences if _asks(sentence)]
    found = {one for sentence in asking for one in _places(sentence)}
    if how == "one":
        asked = _place(facts.about.get("image", "")) or 1
        if found != {asked} or (named != {asked} and facts.kind.sides is None):
            raise Lie("names other images", f"it is about image {asked}")
        match = _MORE.search(text)
        if match and not (facts.kind.sides and match[0] == "all"):
            raise Lie("names other images", f"it says '{match[0]}', and is about image {asked}")
    elif how == "quoted" and named:
        raise Lie("names other images", "the quoted questions name them")
    elif how == "ordered" and named != everyone and not (named == {facts.images} and "two visits" in text):
        raise Lie("drops an image", "both images must be named")
    elif how == "as_first":
        if named not in ({1}, everyone) or not re.search(
            r"\b(?:as|of|in|from|with) @1|@1 (?:shows|is|has|belongs)", text
        ):
            raise Lie("names other images", "it is about the patient of image 1")
    elif how == "which":
        if found and (found != everyone or not any(_enumerates(one, facts.images) for one in asking)):
            raise Lie("gives the answer away", "it asks about one of the images")
        if re.search(r"\bwhich (?:images|pictures|scans|views)\b", text):
            raise Lie("changes a count", "it is about one image")
        if not found and not _SOME_IMAGE.search(text):
            raise Lie("drops an image", "it asks for no image")
    elif how == "all" and named != everyone:
        views = facts.family in ("birads", "forecast") and re.search(r"\bimage|mammogram|\bcc\b", text)
        if named or not (views or _ALL_IMAGES.search(text)):
            raise Lie("drops an image", "it is about all images")


def _other(text: str, facts: Facts) -> None:
    """What turns a text round without a word of denial."""
    if match := re.search(r"\b(?:other|rather) than\b|\bother (?:kind|type|sort)s?\b", text):
        raise Lie("denies something", f"it says '{match[0]}'")
    if "than" in text.split() and facts.kind.images != "ordered":
        raise Lie("asks something else", "it says 'than'")
    if facts.kind.images == "ordered" and re.search(r"\bwhich (?:image|one|of)\b", text):
        raise Lie("asks something else", "it asks which image")
    if facts.kind.asked == SAME and re.search(r"\bhow (?:do|does|did|are|is)\b", text):
        raise Lie("asks something else", "it asks how, not whether")


def _counts(text: str, facts: Facts) -> None:
    counts = re.findall(r"\b(?:two|both|pair|twice|three|four|[234])\b", re.sub(r"@\d", "", text))
    if any(_COUNT[one] != facts.images for one in counts) or re.search(r"\b(?:which|what) (?:two|both)\b", text):
        raise Lie("changes a count", f"there are {facts.images} images")


def _enumerates(sentence: str, images: int) -> bool:
    """Whether all images stand in a row, as alternatives do."""
    row = r"(?:,? ?(?:and|or|to|with)? ?(?:in|on|also|of)? ?)".join(f"@{one + 1}" for one in range(images))
    return bool(re.search(row, sentence))


def _words(masked: str, facts: Facts) -> None:
    """No word is left that could state something."""
    kind = facts.kind
    left = re.sub(_PHRASES, " ", re.sub(r"'s\b", " ", masked))
    for pattern in (*kind.needs, *kind.may, *kind.choices):
        left = re.sub(pattern, " ", left)
    for side in kind.sides or ():
        left = re.sub(rf"\b{side}\b", " ", left)
    left = re.sub(r"@\d", " ", left)
    if kind.images == "ordered":
        left = re.sub(
            rf"(?<![\w-])(?:{'|'.join(sorted(places.LATE | places.EARLY, key=len, reverse=True))})(?![\w-])", " ", left
        )
        left = re.sub(r"\b(?:over time|by the time of|in the meantime|more|acquisition|again)\b", " ", left)
    left = re.sub(r"\b(?:two|both|pair|twice|three|four|[234])\b", " ", left)  # counted before
    left = re.sub(r"\bor not\b", " ", left)
    for word in re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?|\d+", left):
        if word not in PLAIN:
            if word in ("no", "not", "without", "neither", "nor", "never", "none") or word.endswith("n't"):
                raise Lie("denies something", f"it says '{word}'")
            if word.isdigit():
                raise Lie("says a number", f"'{word}' is not in the facts")
            raise Lie("says something new", f"'{word}' is not in the facts")


def _gold(facts: Facts) -> str:
    said = _SAID.get(facts.answer.lower())
    return rf"(?<![\w-])(?:{said})(?!\w)" if said else _spelled(facts.answer)
