"""What is wrong with the published Med-MIM rows, and which benchmark rows are clean, from the files themselves.

    python benchmarks/published.py FOLDER                       (every section of docs/published-med-mim.md)
    python benchmarks/published.py FOLDER --only golds          (one section)
    python benchmarks/published.py FOLDER --clean clean.json    (the clean rows: row numbers and digests, no texts)

FOLDER holds `Med_MIM_*.json` as their repository has them; no image is needed. What is compared with what depends on
which files there are, so the output begins with them.
"""

import argparse
import hashlib
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medmim.data import people
from medmim.data.audit import text_only
from medmim.data.audit.leakage import MEASURES, examine
from medmim.data.audit.types import by_type
from medmim.data.sources import published as source
from medmim.data.sources.published_rows import kind_of, sample_of
from medmim.errors import UserError
from medmim.sample import LETTERS, Sample
from medmim.stats import MIN_PATIENTS

VERSION = 1  # goes up when the same files give another list
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=SECTIONS)
    parser.add_argument("--clean", type=Path, metavar="FILE", help="write the list of the clean rows")
    arguments = parser.parse_args()
    try:
        rows = read(arguments.folder)
    except UserError as error:
        sys.exit(str(error))
    for name, section in SECTIONS.items():
        if arguments.only in (None, name):
            print(f"## {name}\n\n" + "\n".join(section(rows)) + "\n")
    if arguments.clean:
        text = clean_list(arguments.folder, rows)
        arguments.clean.write_text(text, encoding="utf-8")
        print(f"{arguments.clean}: version {VERSION}, SHA-256 {hashlib.sha256(text.encode()).hexdigest()}")


def read(folder: Path) -> list[Row]:
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


def clean_list(folder: Path, rows: Sequence[Row]) -> str:
    """The clean benchmark rows as JSON: of each file its SHA-256, and of each clean row its number and its digest."""
    files: dict[str, Any] = {}
    for name in sorted({row.file for row in rows}):
        files[name] = {"sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest()}
    for name in files:
        if "_benchmark_" in name:
            files[name]["clean"] = [[row.number, row.digest] for row in rows if row.file == name and not row.faults]
    about = "clean rows of the published Med-MIM benchmark: [row from 1, first 16 digits of the SHA-256 of the row]"
    return json.dumps({"about": about, "version": VERSION, "files": files}, indent=1) + "\n"


def _faults(rows: Sequence[Row]) -> Iterator[tuple[Row, str]]:
    trained = [row.sample for row in rows if row.sample and row.sample.split == "train"]
    patients = {patient for sample in trained for patient in people.of_sample(sample)}
    images = {image for sample in trained for image in sample.images}
    for row in rows:
        sample = row.sample
        if sample is None:
            yield row, "unreadable"
            continue
        if sample.split == "test" and (patients & set(people.of_sample(sample)) or images & set(sample.images)):
            yield row, "leak"
        if len(sample.gold) > 1:
            yield row, "two golds"
        if synonyms(sample):
            yield row, "synonym"
        if _names_middle_of_two(sample):
            yield row, "no such image"
    for those in _two_answers(rows).values():
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


def _two_answers(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    found: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row.sample and _has_meaning(row.sample):
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


# ---- The sections ---------------------------------------------------------------------------------------------------


def _files(rows: Sequence[Row]) -> Iterator[str]:
    yield from _table(
        ["file", "rows", "closed", "open", "unreadable", "patients", "images", "image sets"],
        [
            [
                _short(name),
                len(those),
                sum(bool(s.options) for s in read),
                sum(not s.options for s in read),
                len(those) - len(read),
                len({p for s in read for p in people.of_sample(s)}),
                len({i for s in read for i in s.images}),
                len({frozenset(s.images) for s in read}),
            ]
            for name, those, read in _by_file(rows)
        ],
    )


def _leaks(rows: Sequence[Row]) -> Iterator[str]:
    report, _ = examine([row.sample for row in rows if row.sample])
    lines = []
    for pair in report["pairs"]:
        shared = [f"{pair[key]['shared']:,} of {pair[key]['second']:,}" for key in MEASURES]
        lines.append([_short(pair["first"]["file"]), _short(pair["second"]["file"]), *shared])
        for name, facts in pair["patients_by_source"].items():
            lines.append(["", f"patients of {name}", f"{facts['shared']:,} of {facts['second']:,}", "", ""])
    yield from _table(["in", "and in", "patients", "image sets", "images"], lines)
    yield ""
    yield from _table(
        ["benchmark", "rows", "patients", "without a leak: rows", "patients"],
        [
            [_short(part["file"]), part["rows"], part["patients"], part["clean_rows"], part["clean_patients"]]
            for part in report["parts"]
            if part["split"] == "test"
        ],
    )


def _patients(rows: Sequence[Row]) -> Iterator[str]:
    lines = []
    for name, _, read in _by_file(rows):
        for group in sorted({s.source for s in read}):
            those = [s for s in read if s.source == group]
            carried = Counter(patient for s in those for patient in people.of_sample(s))
            most = carried.most_common(1)[0][1]
            few = "no interval" if len(carried) < MIN_PATIENTS else ""
            lines.append([_short(name), group, len(those), len(carried), most, few])
    yield from _table(["file", "source", "rows", "patients", "rows of one patient", ""], lines)


def _ids(rows: Sequence[Row]) -> Iterator[str]:
    holders: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        holders[row.id].append(row)
    lines = []
    for name, those, _ in _by_file(rows):
        again = len(those) - len({row.id for row in those})
        elsewhere = sum(any(other.file != name for other in holders[row.id]) for row in those)
        lines.append([_short(name), len(those), again, elsewhere])
    yield from _table(["file", "rows", "rows whose id an earlier row has", "rows whose id is in another file"], lines)
    yield f"\nIn all {len(holders):,} ids for {len(rows):,} rows."


def _golds(rows: Sequence[Row]) -> Iterator[str]:
    yield from _by_type(rows, lambda row: "two golds" in row.faults, "two letters are right")
    bad = [f"{_short(row.file)} row {row.number}" for row in rows if row.sample is None]
    yield f"\nUnreadable: {', '.join(bad) or 'none'}."


def _synonyms(rows: Sequence[Row]) -> Iterator[str]:
    yield from _by_type(rows, lambda row: "synonym" in row.faults, "a wrong option is right, too")


def _synonym_pairs(rows: Sequence[Row]) -> Iterator[str]:
    pairs = Counter(
        (row.sample.source, row.sample.answer, option) for row in rows if row.sample for option in synonyms(row.sample)
    )
    shown = [[name, gold, option, count] for (name, gold, option), count in pairs.most_common()]
    yield from _table(["source", "right", "counted as wrong", "rows"], shown)


def _given_away(rows: Sequence[Row]) -> Iterator[str]:
    yield from _by_type(rows, lambda row: "given away" in row.faults, "another option tells the answer")
    lines = []
    for (name, family), those in _two_answers(rows).items():
        for option, (answer, count) in telling([row.sample for row in those if row.sample]).items():
            lines.append([f"{name} {family.removeprefix('multichoice_')}", option, answer, count])
    yield ""
    yield from _table(["type", "option", "the right answer is always", "rows"], lines)


def _places(rows: Sequence[Row]) -> Iterator[str]:
    yield from _by_type(rows, lambda row: "no such image" in row.faults, "an option names the middle of two images")


def _contradictions(rows: Sequence[Row]) -> Iterator[str]:
    yield from _by_type(rows, lambda row: "contradiction" in row.faults, "contradicted by another row")
    asked: Counter[Any] = Counter((s.question, s.images) for _, _, read in _by_file(rows) for s in read)
    sets = Counter((s.source, s.family, frozenset(s.images)) for _, _, read in _by_file(rows) for s in read)
    yield f"\nThe same words about the same images: {sum(n > 1 for n in asked.values()):,} pairs of rows. "
    yield f"Image sets that one type asks about more than once: {sum(n > 1 for n in sets.values()):,}."


def _blind(rows: Sequence[Row]) -> Iterator[str]:
    told = {id(row.sample) for row in rows if "given away" in row.faults}
    lines = []
    for name, kind, those in _types(rows):
        chance = sum(len(s.gold) / len(s.options) for s in those) / len(those)
        letter = max(sum(at in s.gold for s in those) for at in range(8)) / len(those)
        longest = sum(_at_length(s, max) for s in those) / len(those)
        says = Counter(meaning(s, s.answer) for s in those) if _has_meaning(those[0]) else Counter()
        by_meaning, most = says.most_common(1)[0] if says else ("", 0)
        most += sum(id(s) in told and meaning(s, s.answer) != by_meaning for s in those) if says else 0
        said = f"{100 * most / len(those):.1f} ({by_meaning})" if most else ""
        lines.append([name, kind, len(those), *(f"{100 * one:.1f}" for one in (chance, letter, longest)), said])
    yield from _table(
        ["file", "type", "rows", "chance", "best letter", "longest option", "best meaning, or given away"], lines
    )


def _text(rows: Sequence[Row]) -> Iterator[str]:
    found = text_only.checks(by_type(row.sample for row in rows if row.sample))
    lines = [
        [
            check.name.removeprefix("text-only/"),
            *(f"{100 * (one or 0):+.1f}" for one in (check.value, check.low, check.high)),
            check.note,
        ]
        for check in found
        if check.value is not None
    ]
    yield from _table(["type, of all files", "points above the best constant", "from", "to", "right"], lines)
    yield from (f"\nLeft out: {check.note}." for check in found if check.value is None)


def _positions(rows: Sequence[Row]) -> Iterator[str]:
    lines = []
    for name, _, read in _by_file(rows):
        for options in sorted({len(s.options) for s in read if s.options}):
            those = [s for s in read if len(s.options) == options]
            counts = Counter(s.gold[0] for s in those)
            share = max(counts.values()) / len(those)
            cells = " ".join(f"{LETTERS[at]} {counts[at]:,}" for at in range(options))
            lines.append([_short(name), options, len(those), cells, f"{100 * share:.1f}", f"{100 / options:.1f}"])
    yield from _table(["file", "options", "rows", "right letters", "most frequent, %", "chance, %"], lines)


def _clean(rows: Sequence[Row]) -> Iterator[str]:
    tested = [(name, those) for name, those, _ in _by_file(rows) if "_benchmark_" in name]
    lines = []
    for fault, why in FAULTS.items():
        counts = [sum(fault in row.faults for row in those) for _, those in tested]
        lines.append([f"{fault}: {why}", *counts, sum(counts)])
    for label, keep in (
        ("**rows as published**", lambda row: True),
        ("**without a leak**", lambda row: not row.faults & {"leak", "unreadable"}),
        ("**clean**", lambda row: not row.faults),
    ):
        counts = [sum(keep(row) for row in those) for _, those in tested]
        lines.append([label, *counts, sum(counts)])
    yield from _table(["rows with", *(_short(name) for name, _ in tested), "all"], lines)


SECTIONS: dict[str, Callable[[Sequence[Row]], Iterator[str]]] = {
    "files": _files,
    "leaks": _leaks,
    "patients": _patients,
    "ids": _ids,
    "golds": _golds,
    "synonyms": _synonyms,
    "synonym-pairs": _synonym_pairs,
    "given-away": _given_away,
    "places": _places,
    "contradictions": _contradictions,
    "blind": _blind,
    "text": _text,
    "positions": _positions,
    "clean": _clean,
}


def _has_meaning(sample: Sample) -> bool:
    return (sample.source, sample.family) in (
        ("LUMIERE", "multichoice_typeB"),
        ("LUMIERE", "multichoice_typeC"),
        ("EMBED", "multichoice_typeB"),
    )


def _at_length(sample: Sample, pick: Callable[[list[int]], int]) -> float:
    """How often the option of that length is right, several of them sharing it."""
    lengths = [len(option) for option in sample.options]
    these = [i for i, length in enumerate(lengths) if length == pick(lengths)]
    return sum(i in sample.gold for i in these) / len(these)


def _by_file(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row], list[Sample]]]:
    for name in sorted({row.file for row in rows}):
        those = [row for row in rows if row.file == name]
        yield name, those, [row.sample for row in those if row.sample]


def _types(rows: Sequence[Row]) -> Iterator[tuple[str, str, list[Sample]]]:
    """File, type, and its closed rows."""
    for name, _, read in _by_file(rows):
        kinds: dict[str, list[Sample]] = defaultdict(list)
        for sample in read:
            if sample.options:
                family = sample.family.removeprefix("multichoice_").replace("multichoice", "").split("_")[0]
                kinds[f"{sample.source} {family}".strip()].append(sample)
        for kind, those in sorted(kinds.items()):
            yield _short(name), kind, those


def _by_type(rows: Sequence[Row], has: Callable[[Row], bool], title: str) -> Iterator[str]:
    with_it = {id(row.sample) for row in rows if has(row)}
    counts = [
        [name, kind, len(those), sum(id(sample) in with_it for sample in those)] for name, kind, those in _types(rows)
    ]
    found = [line for line in counts if line[-1]]
    yield from _table(["file", "type", "closed rows", title], found) if found else ["No row."]


def _short(name: str) -> str:
    return re.sub(r"Med_MIM_|benchmark_|_inherent|\.json", "", name).replace("_", " ")


def _table(columns: Sequence[str], lines: Sequence[Sequence[Any]]) -> Iterator[str]:
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "---|" * len(columns)
    for line in lines:
        yield "| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in line) + " |"


if __name__ == "__main__":
    main()
