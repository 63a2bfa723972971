"""The rows of the published Med-MIM files, and what is wrong with each: what `published.py` counts and lists."""

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medmim.data.audit.leakage import examine
from medmim.data.sources import published as source
from medmim.data.sources.published_rows import kind_of, sample_of
from medmim.errors import UserError
from medmim.sample import Sample

FAULTS = {
    "leak": "a patient or an image that a training row has",
    "unreadable": "options that are not lettered in order, so the right one is not among them",
    "two golds": "the right text stands under two letters",
    "synonym": "a wrong option says the same as the right one",
    "given away": "a further option that stands beside one of the two answers only, so it tells which is right",
    "no such image": "an option names the middle one of two images",
    "contradiction": "another row says the opposite of one of its images",
}


@dataclass
class Row:
    """A row of a published file.

    Attributes:
        file: Its name.
        number: From 1.
        raw: As the file has it.
        sample: As it was read; None where it cannot be.
        faults: Names of `FAULTS`.
    """

    file: str
    number: int
    raw: Any
    sample: Sample | None
    faults: set[str] = field(default_factory=set)

    @property
    def id(self) -> str:
        """As the file has it; empty where the row has none."""
        return str(self.raw.get("id", "")) if isinstance(self.raw, dict) else ""

    @property
    def digest(self) -> str:
        """Of the whole row, in whatever layout the file is printed: the first 16 digits of a SHA-256."""
        text = json.dumps(self.raw, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_rows(folder: Path) -> list[Row]:
    """All rows of the files of a folder, each with its faults.

    Raises:
        UserError: There are none, or they cannot be read.
    """
    files = sorted(folder.glob(source.PATTERN))
    if not files:
        raise UserError(f"no {source.PATTERN} in {folder}", fix="give the folder with the published files")
    rows = []
    for path in files:
        kind = kind_of(path.name)
        if kind is None:
            raise UserError(f"{path.name} has no known ability", fix="give it the name that it was published under")
        for number, raw in enumerate(source.read_rows(path), 1):
            rows.append(Row(path.name, number, raw, sample_of(raw, kind)[0]))
    for row, fault in _faults(rows):
        row.faults.add(fault)
    return rows


def _faults(rows: Sequence[Row]) -> Iterator[tuple[Row, str]]:
    clean = {id(sample) for sample in examine([row.sample for row in rows if row.sample])[1]}
    for row in rows:
        sample = row.sample
        if sample is None:
            yield row, "unreadable"
            continue
        if sample.split == "test" and id(sample) not in clean:
            yield row, "leak"
        if len(sample.gold) > 1:
            yield row, "two golds"
        if synonyms(sample):
            yield row, "synonym"
        if _names_middle_of_two(sample):
            yield row, "no such image"
    for those in two_answers(rows).values():
        told = telling([row.sample for row in those if row.sample])
        for row in those:
            if row.sample and set(told) & set(row.sample.options):
                yield row, "given away"
    for row in _contradicting(rows):
        yield row, "contradiction"


# ---- Which options say the same -------------------------------------------------------------------------------------

# Of the published option sets, read by hand: what says that nothing changes, and what says that it gets worse.
_STABLE = re.compile(
    r"stable|stabil|unchanged|no change|no (?:significant|anticipated|major|immediate) |hold steady|unaltered|"
    r"maintain|status quo|continuity|uphold|without significant shifts",
    re.IGNORECASE,
)
_WORSE = re.compile(
    r"progress(?!ion$)|worse|deterior|advanc|declin|aggravat|adverse|escalat|complication|disease progression|"
    r"progression",
    re.IGNORECASE,
)
_PARTIAL = re.compile(r"^(?:partial|incomplete|limited)", re.IGNORECASE)
_COMPLETE = re.compile(r"^(?:complete|full|entire|whol|total|radical)", re.IGNORECASE)
# MS-CXR-T: what is left of an option besides its subject and the change that it tells.
_FILLER = re.compile(
    r"[^\w]+|\b(?:the|a|of|is|are|has|have|been|there|in|between|both|two|x|ray|images?|visits?|status|remain(?:s|ed)?|"
    r"disease|condition|patients?|s|shows?|no|significant(?:ly)?|changes?|changed|not|stable|unchanged|stabilized|"
    r"current|first|second|previous|compared|to|and|with|from|over|across|observed|any|or)\b"
)
_NO_CHANGE = re.compile(r"\b(?:stable|unchanged|stabilized|no (?:significant )?changes?|not changed)\b")
_EYES = (  # ODIR: spellings of one diagnosis
    (r"non[- ]proliferative", "nonproliferative"),
    (r"\bmacular epiretinal membrane\b|\bepiretinal membrane over the macula\b", "epiretinal membrane"),
)
_EYE_KINDS = (  # a diagnosis, and what is one of its kind, so that whoever names the first is right, too
    ("diabetic retinopathy", r"(?:non)?proliferative (?:diabetic )?retinopathy"),
    ("macular degeneration", r"age-related macular degeneration"),
)
_FEWEST = 10  # rows from which on an option is taken to tell the answer


def synonyms(sample: Sample) -> list[str]:
    """The wrong options of a row that say the same as its right one."""
    if not sample.options:
        return []
    wrong = [option for i, option in enumerate(sample.options) if i not in sample.gold]
    same = _same_as(sample)
    return [option for option in wrong if same(option)]


def _same_as(sample: Sample) -> Callable[[str], bool]:
    gold, kind = sample.answer, (sample.source, sample.family)
    if kind == ("LUMIERE", "multichoice_typeB"):
        return lambda option: meaning(sample, option) == meaning(sample, gold)
    if kind in (("LUMIERE", "multichoice_typeC"), ("EMBED", "multichoice_typeB")):
        return lambda option: meaning(sample, option) == meaning(sample, gold) != ""
    if sample.source == "MS_CXR_T":
        found = _unchanged(gold, sample.family)
        return lambda option: found and _unchanged(option, sample.family)
    if sample.source == "ODIR":
        return lambda option: _same_eyes(gold, option)
    return lambda option: False


def meaning(sample: Sample, option: str) -> str:
    """What an option of a type with two answers says, in one word; empty where it says neither, or both."""
    if sample.source == "LUMIERE" and sample.family == "multichoice_typeB":
        return "complete" if _COMPLETE.match(option) else "partial" if _PARTIAL.match(option) else ""
    stable, worse = bool(_STABLE.search(option)), bool(_WORSE.search(option))
    if option.lower().startswith("stable") or re.search(r"no significant progress", option, re.IGNORECASE):
        worse = False
    return "" if stable == worse else "stable" if stable else "worse"


def _unchanged(option: str, family: str) -> bool:
    """Whether all that an option of MS-CXR-T says is that the finding, or the condition, has not changed."""
    text = option.lower().replace("_", " ")
    finding = family.partition("_")[2].replace("_", " ")
    return bool(_NO_CHANGE.search(text)) and not _FILLER.sub("", text.replace(finding, ""))


def _same_eyes(gold: str, option: str) -> bool:
    """Whether an option of ODIR is right, too: of each eye it names all of the gold's diseases and no other."""
    eyes, said = (re.split(r"(?:First|Second): ", text) for text in (gold, option))
    return len(eyes) == len(said) and all(_names_all(eye, one) for eye, one in zip(eyes, said, strict=True))


def _names_all(gold: str, option: str) -> bool:
    left, said = _diagnoses(gold), _diagnoses(option)
    for one in said:
        found = next((other for other in left if one == other or _is_kind(other, one)), None)
        if found is None:
            return False
        left.remove(found)
    return not left


def _diagnoses(text: str) -> list[str]:
    text = text.lower()
    for pattern, word in _EYES:
        text = re.sub(pattern, word, text)
    return [one for one in re.split(r"[,;]\s*", text.strip(" ,;")) if one]


def _is_kind(one: str, of: str) -> bool:
    return any(of == name and re.search(pattern, one) for name, pattern in _EYE_KINDS)


# ---- Which options give the answer away -----------------------------------------------------------------------------


def telling(samples: Sequence[Sample]) -> dict[str, tuple[str, int]]:
    """Options of a type with two answers that are never right and stand beside one of them only.

    Returns:
        Option -> that answer, and in how many rows.
    """
    beside: dict[str, Counter[str]] = defaultdict(Counter)
    for sample in samples:
        for i, option in enumerate(sample.options):
            beside[option]["" if i in sample.gold else meaning(sample, sample.answer)] += 1
    return {
        option: (next(iter(answers)), total)
        for option, answers in sorted(beside.items())
        if len(answers) == 1 and "" not in answers and (total := sum(answers.values())) >= _FEWEST
    }


def two_answers(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    found: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row.sample and has_meaning(row.sample):
            found[row.sample.source, row.sample.family].append(row)
    return found


# ---- Rows that contradict each other --------------------------------------------------------------------------------

_PLACES = (  # the words for a place, the most telling first: `the last one` is not image one
    (r"\b(?:middle|center)\b", 1),
    (r"\b(?:last|final|bottom|third|three|3)\b", 2),
    (r"\b(?:second|next|subsequent|two|2)\b", 1),
    (r"\b(?:first|initial|top|one|1)\b", 0),
)


def chosen_image(sample: Sample) -> str | None:
    """The image that the gold of `which image` (EMBED typeA and typeC) names; None where its words do not fit."""
    places = [next((at for word, at in _PLACES if re.search(word, one.lower())), -1) for one in sample.options]
    if sorted(places) == [0, 2] and len(sample.images) == 2:  # the last of two
        places = [min(place, 1) for place in places]
    if sorted(places) != list(range(len(sample.images))):
        return None
    return sample.images[places[sample.gold[0]]]


def _names_middle_of_two(sample: Sample) -> bool:
    """Whether a question which of two images it is has an option such as `the middle one`."""
    asks = sample.source in ("EMBED", "LUMIERE") and sample.family in ("multichoice_typeA", "multichoice_typeC")
    return asks and len(sample.images) == 2 and any(re.search(r"\b(?:middle|center)\b", o) for o in sample.options)


def _contradicting(rows: Sequence[Row]) -> list[Row]:
    """Rows that say of an image what another row of the type denies, or give another answer to the same question."""
    found: dict[int, Row] = {}
    for family in ("multichoice_typeA", "multichoice_typeC"):
        said: dict[tuple[str, bool], list[Row]] = defaultdict(list)
        for row in rows:
            if row.sample and (row.sample.source, row.sample.family) == ("EMBED", family):
                right = chosen_image(row.sample)
                for image in row.sample.images if right else ():
                    said[image, image == right].append(row)
        for (image, is_right), those in said.items():
            if is_right and (image, False) in said:
                found |= {id(row): row for row in [*those, *said[image, False]]}
    asked: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        if row.sample and row.sample.options:
            asked[row.sample.question, row.sample.images, frozenset(row.sample.options)].append(row)
    for those in asked.values():
        if len({row.sample.answer for row in those if row.sample}) > 1:
            found |= {id(row): row for row in those}
    return list(found.values())


def has_meaning(sample: Sample) -> bool:
    return (sample.source, sample.family) in (
        ("LUMIERE", "multichoice_typeB"),
        ("LUMIERE", "multichoice_typeC"),
        ("EMBED", "multichoice_typeB"),
    )
