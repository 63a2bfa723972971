"""What is wrong with the published Med-MIM rows, and which benchmark rows are clean, from the files themselves.

    python benchmarks/published.py FOLDER                       (every section of docs/published-med-mim.md)
    python benchmarks/published.py FOLDER --only golds          (one section)
    python benchmarks/published.py FOLDER --clean FILE.json     (the clean rows: row numbers and digests, no texts)

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
from pathlib import Path
from typing import Any

from published_faults import FAULTS, Row, has_meaning, meaning, read_rows, synonyms, telling, two_answers

from medmim.bench import item_lists
from medmim.data import people
from medmim.data.audit import text_only
from medmim.data.audit.leakage import MEASURES, examine
from medmim.data.audit.types import by_type
from medmim.errors import UserError
from medmim.sample import LETTERS, Sample
from medmim.stats import MIN_PATIENTS

VERSION = item_lists.VERSION  # goes up when the same files give another list, or its form changes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=SECTIONS)
    parser.add_argument("--clean", type=Path, metavar="FILE", help="write the list of the clean rows")
    arguments = parser.parse_args()
    try:
        rows = read_rows(arguments.folder)
    except UserError as error:
        sys.exit(str(error))
    for name, section in SECTIONS.items():
        if arguments.only in (None, name):
            print(f"## {name}\n\n" + "\n".join(section(rows)) + "\n")
    if arguments.clean:
        text = clean_list(arguments.folder, rows)
        arguments.clean.write_text(text, encoding="utf-8")
        ids = item_lists.read(arguments.clean)
        print(f"{arguments.clean}: version {VERSION}, SHA-256 {hashlib.sha256(text.encode()).hexdigest()}")
        print(f"{len(ids):,} questions, digest {item_lists.digest(ids)}")


def clean_list(folder: Path, rows: Sequence[Row]) -> str:
    """The clean benchmark rows as JSON: of each file its SHA-256, of each clean row its number, digest and question."""
    files: dict[str, Any] = {}
    for name in sorted({row.file for row in rows}):
        files[name] = {"sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest()}
    for name in files:
        if "_benchmark_" in name:
            files[name]["clean"] = [
                [row.number, row.digest, item_lists.by_paths(row.sample)]
                for row in rows
                if row.file == name and row.sample and not row.faults
            ]
    about = (
        "clean rows of the published Med-MIM benchmark: "
        "[row from 1, first 16 digits of the SHA-256 of the row, medmim's id of the question]"
    )
    return json.dumps({"about": about, "version": VERSION, "files": files}, indent=1) + "\n"


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
    for (name, family), those in two_answers(rows).items():
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
        says = Counter(meaning(s, s.answer) for s in those) if has_meaning(those[0]) else Counter()
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
