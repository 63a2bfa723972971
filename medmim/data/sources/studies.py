"""The source `studies`: a hospital's own images, listed in a table with one row an image.

    patient    the id, in any form that stays the same                                   required
    path       the image, below the root; `FILE#coronal=87` is a slice, see fragments    required
    date | day 2024-03-01, 20240301 or 01.03.2024; or the number of days since any fixed day of the patient
    exam       images that are read together share it; without it, those of one day do. One that two patients share is
               bad, unless more than a tenth are so: then they are counted for each patient
    modality   X-ray, CT, MRI, mammography, ultrasound, fundus, dermoscopy, ... or DICOM's code (DX, MG, MR)
    view       PA, AP, lateral, CC, MLO, axial, ...
    laterality left or right: of a paired organ, or the breast
    finding    one, or several with `;` between them; `normal` where the image is clear. A blank cell, `NaN`, `unknown`
               and the like say nothing: the row is left out and counted, unless the whole column is so
    size       of the finding: small, medium or large
    side       of the finding: left or right
    rating     BI-RADS of the breast in this exam: 0 to 6, `BI-RADS 4a`, or in words
    caption    a sentence on this image
    age        years, at the time of the image; ages of a patient that the time between them does not explain are bad
    sequence   of an MRI: T1, CT1 (after contrast), T2, FLAIR
    held_out   yes: the patient is in the benchmark only

Columns may have other names (`columns` in the recipe), stand in any order, and be absent; of a DICOM file, its tags
fill what its row lacks, but no date where the table has days. A table named `.jsonl` holds one JSON object a line.
"""

import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from medmim.data import breasts
from medmim.data.breasts import UNCLEAR, Look
from medmim.data.sources import cells, dicom_tags, json_records, names, roots, table
from medmim.data.sources.files import escapes
from medmim.data.sources.headers import may_be_dicom
from medmim.data.sources.roots import Root
from medmim.data.sources.source import BadImage, Entry, Source
from medmim.errors import UserError
from medmim.progress import bar
from medmim.recipe.sources import Studies
from medmim.sample import BadRow, Finding, Study
from medmim.terms import Terms

NEEDED = ("patient", "path")
OPTIONAL = (
    "date", "day", "exam", "modality", "view", "laterality", "finding", "size", "side", "rating", "caption", "age",
    "sequence", "held_out",
)  # fmt: skip
COLUMNS = (*NEEDED, *OPTIONAL)
# A family is asked where the table says something in all of these columns (`date` stands for `day`, too).
FAMILIES: Mapping[str, tuple[str, ...]] = {
    "order": ("date",),
    "change": ("date", "finding", "size"),
    "larger": ("finding", "size"),
    "same_finding": ("finding",),
    "diagnosis": ("finding", "view"),
    "same_patient": ("view",),
    "describe": ("finding",),
    **{f"{kind}_{what}": (what,) for what in ("modality", "view", "caption", "finding") for kind in ("which", "what")},
    **{f"{kind}_{what}": ("finding", what) for what in ("size", "side") for kind in ("which", "what")},
    "which_diseased": ("rating", "date"),
    "forecast": ("rating", "date", "age"),
    "which_craniocaudal": ("view", "laterality"),
    "birads": ("rating", "view"),
    "which_sequence": ("sequence",),
}
# Endings of files whose tags are not asked for: pictures, and volumes.
BIRADS = (  # by number, in the words of the source `embed`
    "additional evaluation needed", "negative", "benign", "probably benign", "suspicious",
    "highly suggestive of malignancy", "known malignancy",
)  # fmt: skip
_MODALITIES = {
    "xray": "X-ray", "xr": "X-ray", "radiograph": "X-ray", "radiography": "X-ray", "ct": "CT", "mri": "MRI",
    "mr": "MRI", "mammography": "mammography", "mammogram": "mammography", "ultrasound": "ultrasound",
    "sonography": "ultrasound", "fundus": "fundus", "dermoscopy": "dermoscopy",
    **{code.lower(): name for code, name in dicom_tags.MODALITIES.items()},
}  # fmt: skip
_VIEWS = {
    **{name.lower(): name for name in ("PA", "AP", "CC", "MLO", "ML", "LM", "L")},
    "lateral": "L", "ll": "L", "lat": "L", "axial": "axial", "coronal": "coronal", "sagittal": "sagittal",
}  # fmt: skip
_SIDES = {"l": "left", "left": "left", "r": "right", "right": "right"}
_SIZES = ("small", "medium", "large")
_SEQUENCES = {"t1": "T1", "t1c": "CT1", "ct1": "CT1", "t1ce": "CT1", "t1gd": "CT1", "t2": "T2", "flair": "FLAIR"}
_YES = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
_CLEAR = ("normal", "no finding", "clear", "healthy")
_DATES = ("%Y-%m-%d", "%Y%m%d", "%d.%m.%Y", "%Y/%m/%d", "")  # the last one: any of ISO 8601, with a time of day
_OTHERWISE = ", or say in the recipe what the table calls them, such as `columns: {patient: PatNr}`"
_APART = "a day, where another row of this patient has a date: nobody knows how far apart they are"
_RARE = 0.1  # share of the exams; more that are of two patients are no mistakes
_LIFE = 36_525  # days
_OLDEST = 120  # years
T = TypeVar("T")


def terms(entry: Entry[Studies]) -> Terms:
    """The terms that the hospital has written; without them, nothing is allowed.

    Raises:
        UserError: The file is no record of terms, or allows something in nobody's name.
    """
    return roots.written_terms(entry, entry.own.source, entry.own.terms)


def inputs(entry: Entry[Studies]) -> dict[str, str]:
    """The digests of the table and of the terms, and one over the images that the table names."""
    root = roots.opened(entry)
    paths = {names.nfc(row["path"]) for row in _rows(root, entry.own) if row["path"]}
    tables = [entry.own.table, *([entry.own.terms] if entry.own.terms else [])]
    return roots.digest(root, tables, (path for path in paths if not escapes(path)))


def load(entry: Entry[Studies]) -> Source:
    """Read the table, and the tags of DICOM files for what it lacks.

    Raises:
        UserError: No root, no table, or one without the columns `patient` and `path`.
    """
    root, own = roots.opened(entry), entry.own
    rows = list(_rows(root, own))
    there = {name for name in COLUMNS if any(cells.text(row[name]) is not None for row in rows)}
    studies: list[Study] = []
    days: dict[str, date | float | None] = {}
    bad: list[BadRow] = []
    skipped: Counter[str] = Counter()
    first: dict[str, int] = {}
    missing: list[str] = []
    flagged: list[BadRow] = []
    headers: list[str] = []
    said: list[tuple[str, Look, date | float | None]] = []  # of all rows: a missing image may be the one that matters
    thousands = cells.has_thousands(row["patient"] for row in rows)
    with bar("reading studies", len(rows), "images") as progress:
        for row in rows:
            progress.add()
            study, day, problems, flags = _study(row, own, root, thousands, "day" in there)
            if study is not None and flags is not None:
                headers.append(study.image)
                flagged += [BadRow(study.image, row.number, *flag) for flag in flags]
            path = study.image if study else ""
            if path in first:
                problems.append(("path", f"the image of row {first[path]} again"))
            if study is not None:
                look = Look(None, None, None, UNCLEAR) if problems else Look(study.laterality, None, study.rating, None)
                said.append((study.patient, look, day))
            if not problems and study is not None and "finding" in there and _labels(row["finding"]) is None:
                skipped["finding is blank: write normal where the image is clear"] += 1
            elif not problems and study is not None:
                first[path] = row.number
                if root.has(path):
                    studies.append(study)
                    days[path] = day
                else:
                    missing.append(path)
            bad += [BadRow(own.table, row.number, name, reason) for name, reason in problems]
    odd = cells.suspicious(study.patient for study in studies)
    bad += [BadRow(own.table, first[s.image], "patient", odd[s.patient]) for s in studies if s.patient in odd]
    dated = {patient for patient, _, day in said if isinstance(day, date)}
    apart = {s.image for s in studies if s.patient in dated and isinstance(days[s.image], float)}
    bad += [BadRow(own.table, first[s.image], "day", _APART) for s in studies if s.image in apart]
    said = [(who, look, None if who in dated and isinstance(day, float) else day) for who, look, day in said]
    left = [study for study in studies if study.patient not in odd and study.image not in apart]
    timed = list(_timed(left, days, said))
    mixed = _mixed(timed)
    bad += [BadRow(own.table, first[s.image], *mixed[s.image]) for s in timed if s.image in mixed]
    timed = [study for study in timed if study.image not in mixed]
    found = there | {"date"} if any(study.time is not None for study in timed) else there - {"date"}
    for name in ("modality", "view", "laterality", "age"):
        if any(getattr(study, name) for study in timed):
            found = found | {name}
    facts = {"rows": len(rows), "images": len(timed), "missing_images": len(missing), "skipped": dict(skipped)}
    return Source(
        root.read,
        studies=timed,
        families=tuple(name for name, columns in FAMILIES.items() if found.issuperset(columns)),
        bad=bad,
        missing=missing,
        flagged=flagged,
        headers=headers,
        head=partial(dicom_tags.head, root),
        facts=facts,
        identity=root.identity,
        fix_for=root.fix_for,
    )


def _mixed(studies: Sequence[Study]) -> dict[str, tuple[str, str]]:
    """Image -> column and reason, of rows that take two people for one.

    An exam of two patients is one where that is rare: exams may be counted anew for each patient.
    """
    aged = [cells.Person(s.patient, age=f"{s.age:g}", days=s.time) for s in studies if s.age is not None]
    two = cells.shared_ids(aged)
    found = {study.image: ("age", two[study.patient]) for study in studies if study.patient in two}
    of_exam: dict[str, set[str]] = defaultdict(set)
    for study in studies:
        if study.exam is not None:
            of_exam[study.exam].add(study.patient)
    shared = {exam for exam, patients in of_exam.items() if len(patients) > 1}
    if len(shared) <= _RARE * len(of_exam):
        found |= {s.image: ("exam", "an exam of two patients") for s in studies if s.exam in shared}
    return found


def _rows(root: Root, own: Studies) -> Iterator[table.Row]:
    """The rows, their cells by our names."""
    unknown = [name for name in own.columns if name not in COLUMNS]
    if unknown:
        fact = f"columns maps {', '.join(unknown)}, which is no column of ours"
        raise UserError(fact, fix=f"known: {', '.join(COLUMNS)}")
    theirs = {name: own.columns.get(name, name) for name in COLUMNS}
    path = root.table(own.table)
    needed = list(dict.fromkeys(theirs[name] for name in COLUMNS if name in NEEDED or name in own.columns))
    optional = [theirs[name] for name in OPTIONAL if name not in own.columns]
    odd: dict[int, tuple[str, str]] = {}
    if own.table.lower().endswith((".jsonl", ".ndjson")):
        found = table.of_records(path, _json_lines(path, odd), needed, optional, first=1, otherwise=_OTHERWISE)
    else:
        found = table.rows(path, needed, optional, otherwise=_OTHERWISE)
    ours = {key: name for name, key in theirs.items()}
    for row in found:
        values = {name: row.cells[key] for name, key in theirs.items() if key in row.cells}
        problems = (*row.problems, *([odd[row.number]] if row.number in odd else []))
        yield table.Row(row.number, values, tuple((ours.get(key, key), reason) for key, reason in problems))


def _json_lines(path: Path, odd: dict[int, tuple[str, str]]) -> Iterator[list[str]]:
    """The cells of a table in JSON Lines, the names of all its keys first; what no cell can hold goes into `odd`."""
    keys = dict.fromkeys(
        key for one in json_records.records(path, "one JSON object a line") if isinstance(one, dict) for key in one
    )
    yield list(keys)
    for number, one in enumerate(json_records.records(path, "one JSON object a line"), 1):
        if not isinstance(one, dict):
            odd[number] = "", "not a JSON object"
            yield ["?"] * len(keys)  # a row without any cell would be passed over
            continue
        nested = next((key for key, value in one.items() if not _is_flat(value)), None)
        if nested is not None:
            odd[number] = nested, "an object, or a list in a list, where a value is expected"
        yield [_cell(one.get(key)) for key in keys]


def _is_flat(value: object) -> bool:
    return not any(isinstance(one, dict | list) for one in (value if isinstance(value, list) else [value]))


def _cell(value: object) -> str:
    if not _is_flat(value):
        return "?"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return "; ".join(map(_cell, value))
    return "" if value is None else str(value)


def _study(
    row: table.Row, own: Studies, root: Root, thousands: bool, days: bool
) -> tuple[Study | None, date | float | None, list[tuple[str, str]], list[tuple[str, str]] | None]:
    """A row as a study, its date or day, what is wrong with it, and what a header says of a person; None without one.

    Where the table counts `days`, no tag dates it.
    """
    problems = list(row.problems)
    flags: list[tuple[str, str]] | None = None
    if problems:
        return None, None, problems, flags

    def value(column: str, read: Callable[[str], T]) -> T | None:
        try:
            return read(given.get(column, ""))
        except cells.BadCell as error:
            problems.append((column, str(error)))
            return None

    given = dict(row.cells)
    path = value("path", lambda cell: posixpath.normpath(names.nfc(cells.file_name(cell)))) or ""
    if escapes(path):
        problems.append(("path", "the path leaves the root"))
    if not problems and may_be_dicom(path):
        texts = {name: cell for name, cell in given.items() if name not in NEEDED and cell}
        tags, flags = _tags(root, path, texts)
        for name, said in tags.items():
            if not given.get(name) and name != "patient" and not (name == "date" and days):
                given[name] = said
    patient = value("patient", lambda cell: cells.identifier(cell, thousands))
    size = value("size", lambda cell: _one_of(cell, dict(zip(_SIZES, _SIZES, strict=True)), ", ".join(_SIZES)))
    side = value("side", lambda cell: _one_of(cell, _SIDES, "left or right"))
    day: date | float | None
    day = value("day", lambda cell: cells.number(cell, "days", _LIFE)) if given.get("day") else value("date", _date)
    study = Study(
        source=own.source,
        patient=patient or "",
        image=path,
        modality=value("modality", _modality) or "",
        view=value("view", lambda cell: _VIEWS.get(cell.lower(), cells.text(cell))),
        laterality=value("laterality", lambda cell: _one_of(cell, _SIDES, "left or right")),
        findings=tuple(Finding(label, size, side) for label in value("finding", _labels) or ()),
        rating=value("rating", _rating),
        caption=value("caption", cells.text),
        held_out=bool(value("held_out", lambda cell: _one_of(cell, _YES, "yes or no"))),
        exam=value("exam", cells.text),
        age=value("age", lambda cell: cells.number(cell, "years", _OLDEST)),
        sequence=value("sequence", lambda cell: _SEQUENCES.get(cell.lower(), cells.text(cell))),
    )
    return study, day, problems, flags


def _tags(root: Root, path: str, texts: Mapping[str, str]) -> tuple[dict[str, str], list[tuple[str, str]] | None]:
    try:
        head = dicom_tags.head(root, path)
        return dicom_tags.read(head), dicom_tags.identifying(head, texts)
    except (FileNotFoundError, BadImage):  # missing, or bad: the build says so when it reads the image
        return {}, None


def _labels(cell: str) -> tuple[str, ...] | None:
    """The findings of a cell, none where it says that the image is clear; None where it says nothing."""
    found = [cells.label(part) for part in cell.split(";")]
    named = [label for label in found if label is not None]
    if not named:
        return None
    if any(label.lower() in _CLEAR for label in named) and len(named) > 1:
        raise cells.BadCell("says normal beside a finding")
    return tuple(dict.fromkeys(label for label in named if label.lower() not in _CLEAR))


def _modality(cell: str) -> str:
    plain = cells.text(cell)
    return "" if plain is None else _MODALITIES.get(re.sub(r"[\s_-]", "", plain).lower(), plain)


def _rating(cell: str) -> str | None:
    plain = cells.text(cell)
    if plain is None:
        return None
    number = re.fullmatch(r"(?:bi-?rads:?\s*)?([0-6])(?:\.0|[abc])?", plain.lower())
    if number:
        return BIRADS[int(number[1])]
    if not any(char.isalpha() for char in plain):
        raise cells.BadCell(f"'{plain[:40]}' is no BI-RADS class of 0 to 6")
    return plain.lower() if plain.lower() in BIRADS else plain


def _one_of(cell: str, known: Mapping[str, T], what: str) -> T | None:
    plain = cells.text(cell)
    if plain is None:
        return None
    found = known.get(plain.lower())
    if found is None:
        raise cells.BadCell(f"'{plain[:40]}' is not {what}")
    return found


def _date(cell: str) -> date | None:
    plain = cells.text(cell)
    if plain is None:
        return None
    for form in _DATES:
        try:
            found = datetime.strptime(plain, form).date() if form else datetime.fromisoformat(plain).date()
        except ValueError:
            continue
        if not 1900 <= found.year <= 2200:
            raise cells.BadCell(f"'{plain}' is not in the years 1900 to 2200")
        return found
    raise cells.BadCell(f"'{plain[:40]}' is no date such as 2024-03-01, 20240301 or 01.03.2024")


def _timed(
    studies: Sequence[Study],
    days: Mapping[str, date | float | None],
    said: Iterable[tuple[str, Look, date | float | None]],
) -> Iterator[Study]:
    """The studies with days since the patient's first date; held out are all of a patient, or none."""
    held_out = {study.patient for study in studies if study.held_out}
    first: dict[str, date] = {}
    for study in studies:
        day = days[study.image]
        if isinstance(day, date):
            first[study.patient] = min(day, first.get(study.patient, day))

    def time(patient: str, day: date | float | None) -> float | None:
        if not isinstance(day, date):
            return day
        return float((day - first[patient]).days) if patient in first else None

    looks: dict[str, list[Look]] = defaultdict(list)
    for patient, look, day in said:
        looks[patient].append(replace(look, day=time(patient, day)))
    for study in studies:
        at = time(study.patient, days[study.image])
        after = breasts.year_after(Look(study.laterality, at, study.rating, None), looks[study.patient])
        yield replace(study, time=at, year_after=after, held_out=study.patient in held_out)
