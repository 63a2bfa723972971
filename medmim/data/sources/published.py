"""The source `published`: the Med-MIM annotation files, JSON with questions on images that each user downloads.

Every row is checked (see `published_rows`) before anything is built, and the content of the files is counted: rows by
source, family and number of options, duplicate rows, and rows whose gold text is under two letters.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from medmim import progress, sniff, store
from medmim.data.sources import names
from medmim.data.sources.files import (
    fetching,
    fix_for,
    folder,
    identity,
    is_missing,
    link_roots,
    locate,
    read_bytes,
    setting,
    similar_names,
)
from medmim.data.sources.published_rows import FileKind, kind_of, sample_of
from medmim.data.sources.source import BadImage, Entry, Source
from medmim.errors import UserError
from medmim.recipe.sources import Published
from medmim.sample import BadRow, Sample, digest_of, is_utf8
from medmim.terms import Terms

TERMS = Terms(
    text=(
        "Med-MIM: published without a licence; its images are EMBED's, LUMIERE's, MS-CXR-T's (MIMIC-CXR), ODIR's, "
        "VQA-RAD's and PMC's, each under terms or a data use agreement of its own",
    )
)

PATTERN = "Med_MIM_*.json"
_LAYOUT = '[{"id", "images", "conversation", "source"}, ...]'
_WANTED = "a list of rows in JSON"


def inputs(entry: Entry[Published]) -> dict[str, str]:
    """SHA-256 of every annotation file, and one digest over the images' paths, sizes and times of change.

    Hashing a hundred thousand images at each start would take longer than the build that the cache saves.
    """
    files = annotation_files(entry)
    for file in files:
        sniff.require_file(file, _WANTED)
    digests = {path.name: store.file_digest(path) for path in files}
    root, allowed = image_root(entry), link_roots(entry.own.link_roots)
    parts = []
    for path in sorted({image for rows in map(read_rows, files) for image in _image_paths(rows)}):
        try:
            facts = locate(root, path, allowed).stat()
            parts.append(f"{path} {facts.st_size} {facts.st_mtime_ns}")
        except (OSError, BadImage):
            parts.append(f"{path} -")
    return digests | {"images": digest_of(parts)}


def load(entry: Entry[Published]) -> Source:
    """Read and check all annotation files.

    Raises:
        UserError: No folder, no file of Med-MIM in it, or files that are not valid JSON (all of them at once).
    """
    root, allowed = image_root(entry), link_roots(entry.own.link_roots)
    samples: list[Sample] = []
    bad: list[BadRow] = []
    facts: dict[str, Any] = {}
    for path, kind in _readable(annotation_files(entry)):
        kept, dropped, facts[path.name] = check_file(path.name, kind, read_rows(path))
        samples += kept
        bad += dropped
    missing = _missing(root, samples, allowed)
    absent = set(missing)
    for file in facts.values():
        file["missing_images"] = sum(path in absent for path in file.pop("paths"))
    return Source(
        partial(read_bytes, root, allowed=allowed),
        samples=samples,
        bad=bad,
        missing=missing,
        facts={"files": facts},
        identity=partial(identity, root, allowed=allowed),
        fix_for=partial(fix_for, root),
    )


def image_root(entry: Entry[Published]) -> Path:
    """The folder that image paths start from."""
    given = entry.own.root or entry.own.annotations
    if given is None:
        raise UserError(
            "the recipe names no folder to read",
            fix=f"{setting(entry.key)} (and {setting(entry.key, 'annotations')} where the JSON files are not in it)",
        )
    return folder(given, f"{entry.key}.root" if entry.own.root else f"{entry.key}.annotations")


def annotation_files(entry: Entry[Published]) -> list[Path]:
    """The Med-MIM files of `data.annotations`, or else of `data.root`, sorted by name.

    Raises:
        UserError: There is none, or one whose name has no known ability.
    """
    given = entry.own.annotations
    place = image_root(entry) if given is None else folder(given, f"{entry.key}.annotations")
    found = sorted(place.glob(PATTERN))
    if not found:
        raise UserError(
            f"no {PATTERN} in {place}",
            reason="the published annotations are read by their names" + similar_names(place, "med_mim"),
            fix=fetching(place, sorted(path.stem for path in place.glob(f"{PATTERN}.*")))
            or "give the folder that holds Med_MIM_train_inherent_*.json and Med_MIM_benchmark_Held_*.json",
        )
    unknown = [path.name for path in found if kind_of(path.name) is None]
    if unknown:
        raise UserError(
            f"{place} holds files of Med-MIM whose names have no known ability",
            problems=unknown,
            fix="names are Med_MIM_train_inherent_ABILITY.json, Med_MIM_train_Composed.json, "
            "Med_MIM_benchmark_Held_in_ABILITY.json and Med_MIM_benchmark_Held_out_SOURCE.json",
        )
    return found


def read_rows(path: Path) -> list[Any]:
    """The rows of one file.

    Raises:
        UserError: Not valid JSON, with line, column and the number of complete rows before; or not a list.
    """
    text = sniff.read_text(path, _WANTED)
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise _broken(path, text, error) from None
    except (RecursionError, ValueError) as error:
        raise UserError(f"{path.name} is not a list of rows", reason=str(error), fix=f"correct it: {_LAYOUT}") from None
    if isinstance(rows, list):
        return rows
    lists = [key for key, value in rows.items() if isinstance(value, list)] if isinstance(rows, dict) else []
    if lists and "conversation" not in rows and re.fullmatch(r"[\w ]+", lists[0]):
        code = f"import json, sys; json.dump(json.load(sys.stdin)[{lists[0]!r}], sys.stdout)"
        kind = sniff.Kind(f"an object whose '{lists[0]}' is a list", sniff.in_place(f'python3 -c "{code}"'))
        raise kind.error(path, _WANTED)
    raise UserError(f"{path.name} holds a {type(rows).__name__}, not a list of rows", fix=f"correct it: {_LAYOUT}")


def _broken(path: Path, text: str, error: json.JSONDecodeError) -> UserError:
    """The error of text that is not JSON: what it is, or where it is broken or cut off."""
    if error.msg == "Extra data":
        code = "import json, sys; json.dump([json.loads(line) for line in sys.stdin if line.strip()], sys.stdout)"
        lines = _is_json(text.lstrip().split("\n", 1)[0])
        fix = sniff.in_place(f'python3 -c "{code}"' if lines else "jq -s .")
        name = "JSON Lines (one row a line)" if lines else "several JSON values one after another"
        return sniff.Kind(name, fix).error(path, _WANTED)
    kind = sniff.text_kind(text[: sniff.HEAD].encode()) if error.pos == 0 else None
    if kind is not None:
        return kind.error(path, _WANTED)
    cut_off = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string")
    return UserError(
        f"{path.name} is not valid JSON at line {error.lineno}, column {error.colno} "
        f"({error.msg}), after {_count_complete_rows(text):,} complete rows",
        reason="the file is cut off" if cut_off else "the file was edited by hand, or is not JSON",
        fix=f"copy it completely: it has {len(text.encode()):,} bytes here"
        if cut_off
        else f"correct line {error.lineno}",
    )


def check_file(name: str, kind: FileKind, rows: list[Any]) -> tuple[list[Sample], list[BadRow], dict[str, Any]]:
    """Check the rows of one file. Rows are numbered from 1.

    A duplicate row is kept once and counted. A row with another answer than an earlier row with the same question and
    images is quarantined, since it is not known which is right.

    Returns:
        Samples, quarantined rows and counts.
    """
    samples: list[Sample] = []
    bad: list[BadRow] = []
    first: dict[str, tuple[int, Sample]] = {}  # sample id -> the first row with it
    equal = conflicting = 0
    for number, row in enumerate(rows, 1):
        sample, problems = sample_of(row, kind)
        bad += [BadRow(name, number, key, reason) for key, reason in problems]
        if sample is None:
            continue
        first_number, first_sample = first.setdefault(sample.id, (number, sample))
        if first_number == number:
            samples.append(sample)
        elif first_sample == sample:
            equal += 1
        else:
            conflicting += 1
            reason = f"another answer than row {first_number} to the same question on the same images"
            bad.append(BadRow(name, number, "conversation.1.content", reason))
    ids = Counter(str(row["id"]) for row in rows if isinstance(row, dict) and "id" in row)
    facts = _facts(kind, len(rows), samples, bad)
    facts["duplicates"] = {
        "rows": equal,
        "ids": sum(count - 1 for count in ids.values()),
        "conflicting": conflicting,
    }
    return samples, bad, facts


def _facts(kind: FileKind, rows: int, samples: list[Sample], bad: list[BadRow]) -> dict[str, Any]:
    paths = sorted({path for sample in samples for path in sample.paths})
    return {
        "split": kind.split,
        "ability": kind.ability,
        "held_out": kind.held_out,
        "rows": rows,
        "kept": len(samples),
        "quarantined": len({row.row for row in bad}),
        "by_source": _counts(sample.source for sample in samples),
        "by_family": _counts(f"{sample.source} {sample.family}" for sample in samples),
        "by_options": _counts(str(len(sample.options)) for sample in samples),
        "gold_under_two_letters": sum(len(sample.gold) > 1 for sample in samples),
        "patients": len({(sample.source, patient) for sample in samples for patient in sample.patients}),
        "image_sets": len({frozenset(sample.paths) for sample in samples}),
        "paths": paths,
        "images": len(paths),
    }


def _counts(values: Iterator[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def _readable(files: list[Path]) -> Iterator[tuple[Path, FileKind]]:
    """The files and their kinds, after each was read once, so that all unreadable files are reported together."""
    problems = []
    for path in files:
        try:
            read_rows(path)
        except UserError as error:
            problems.append(error)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise UserError(
            f"{len(problems)} of {len(files)} annotation files cannot be read",
            problems=[f"{problem.fact}; fix: {problem.fix}" for problem in problems],
            fix="correct each as it says",
        )
    for path in files:
        kind = kind_of(path.name)
        if kind is not None:
            yield path, kind


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _count_complete_rows(text: str) -> int:
    """How many elements of a broken JSON list can be read before the error."""
    decoder = json.JSONDecoder()
    count, at = 0, text.find("[") + 1
    while at:
        while at < len(text) and text[at] in " \t\r\n,":
            at += 1
        try:
            _, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            return count
        count += 1
    return count


def _image_paths(rows: list[Any]) -> Iterator[str]:
    for row in rows:
        if isinstance(row, dict) and isinstance(row.get("images"), list):
            yield from (names.nfc(path) for path in row["images"] if isinstance(path, str) and is_utf8(path))


def _missing(root: Path, samples: list[Sample], allowed: Sequence[Path]) -> list[str]:
    paths = sorted({path for sample in samples for path in sample.paths})
    absent = []
    with progress.bar("looking for images", len(paths), "images") as bar:
        for path in paths:
            if is_missing(root, path, allowed):
                absent.append(path)
            bar.add()
    return absent
