"""The source `covid_chestxray`: real chest X-rays and CTs in the layout of github.com/ieee8023/covid-chestxray-dataset.

`metadata.csv` lists the images, `images/` holds them (`folder` in newer copies of the list). The list names far more
images than any copy holds, and volumes, which are not images: both are counted, neither is an error.

Time is the column `offset`, days since the first symptom: `date` is only a year for most rows. Rows without an offset
are not used in questions of time. A patient's `finding` is one diagnosis, the last part of `Pneumonia/Viral/COVID-19`.
"""

import posixpath
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from medmim import store
from medmim.data.sources import cells, names, table
from medmim.data.sources.files import (
    escapes,
    fetching,
    fix_for,
    folder,
    identity,
    is_missing,
    link_roots,
    locate,
    read_bytes,
    renaming,
    setting,
    similar_names,
)
from medmim.data.sources.source import BadImage, Entry, Source
from medmim.errors import UserError, from_os_error
from medmim.recipe.sources import CovidChestxray
from medmim.sample import BadRow, Finding, Study, digest_of
from medmim.terms import Terms

# The list's column `license` is another for each image, CC0 to CC BY-NC-SA, and empty for many: so what all allow.
TERMS = Terms(text=("ieee8023/covid-chestxray-dataset: a licence for each image, some non-commercial, many not given",))

LIST = "metadata.csv"
COLUMNS = ("patientid", "offset", "finding", "view", "modality", "filename")
_BIRTH = ("birthyear", "yearofbirth", "birthdate", "dateofbirth", "dob")
_OPTIONAL = ("folder", "sex", "gender", "age", *_BIRTH)
_LIFE = 36_525  # days; no offset is longer
# `change` and `larger` would need the size of a finding, which this data set does not have.
FAMILIES = (
    "order", "diagnosis", "same_patient", "same_finding", "describe",
    *(f"{kind}_{what}" for what in ("finding", "modality", "view") for kind in ("which", "what")),
)  # fmt: skip
_MODALITIES = {"x-ray": "X-ray", "ct": "CT"}
_VIEWS = {
    "pa": "PA", "ap": "AP", "ap supine": "AP", "ap erect": "AP", "l": "L", "lateral": "L",
    "axial": "axial", "coronal": "coronal",
}  # fmt: skip
_NO_FINDING = ("no finding", "normal")
_INSIDE = f"with {LIST} and images/ inside"
Problem = tuple[str, str]  # column, reason
T = TypeVar("T")


def inputs(entry: Entry[CovidChestxray]) -> dict[str, str]:
    """SHA-256 of the list, and one digest over the images that it names; parents of the data step."""
    root, allowed = _root(entry), link_roots(entry.own.link_roots)
    parts = []
    for path in sorted({_path(row) for row in _rows(root)}):
        try:
            parts.append(f"{path} {store.file_digest(locate(root, path, allowed))}")
        except (FileNotFoundError, BadImage):
            parts.append(f"{path} -")
        except OSError as error:
            raise from_os_error(error, "reading the images") from error
    return {LIST: store.file_digest(root / LIST), "images": digest_of(parts)}


def load(entry: Entry[CovidChestxray]) -> Source:
    """Read the list and check which of its images exist; rows that cannot be used are quarantined.

    Raises:
        UserError: No folder, no list, or a list that is no table or lacks columns.
    """
    root, allowed = _root(entry), link_roots(entry.own.link_roots)
    rows = list(_rows(root))
    if not rows:
        raise UserError(f"{LIST} has no rows", fix=f"{setting(entry.key)}, {_INSIDE}")
    thousands = cells.has_thousands(row["patientid"] for row in rows)
    people = _people(rows, thousands)
    studies: list[Study] = []
    bad: list[BadRow] = []
    skipped: Counter[str] = Counter()
    first: dict[str, int] = {}
    for row in rows:
        reason_to_skip = _reason_to_skip(row)
        if reason_to_skip:
            skipped[reason_to_skip] += 1
            continue
        path = posixpath.normpath(_path(row))
        study, problems = _study(row, people, thousands)
        if path in first:
            problems.append(("filename", f"the image of row {first[path]} again"))
        bad += [BadRow(LIST, row.number, key, reason) for key, reason in problems]
        if study is not None and not problems:
            first[path] = row.number
            studies.append(study)
    missing = [study.image for study in studies if is_missing(root, study.image, allowed)]
    absent = set(missing)
    studies = [study for study in studies if study.image not in absent]
    facts = {"rows": len(rows), "images": len(studies), "missing_images": len(missing), "skipped": dict(skipped)}
    return Source(
        partial(read_bytes, root, allowed=allowed),
        studies=studies,
        families=FAMILIES,
        bad=bad,
        missing=missing,
        facts=facts,
        identity=partial(identity, root, allowed=allowed),
        fix_for=partial(fix_for, root),
    )


def _root(entry: Entry[CovidChestxray]) -> Path:
    fix = f"{setting(entry.key)}, {_INSIDE}"
    if entry.own.root is None:
        raise UserError("the recipe names no folder to read", fix=fix)
    root = folder(entry.own.root, f"{entry.key}.root")
    if not (root / LIST).exists():
        raise UserError(
            f"there is no {LIST} in {entry.own.root}",
            reason="the source covid_chestxray reads the layout of github.com/ieee8023/covid-chestxray-dataset"
            + similar_names(root, "metadata"),
            fix=renaming(root, LIST) or fetching(root, [LIST]) or fix,
        )
    return root


def _rows(root: Path) -> Iterator[table.Row]:
    return table.rows(root / LIST, COLUMNS, _OPTIONAL)


def _path(row: table.Row) -> str:
    """The path of the row's image in NFC, whatever its cells hold."""
    return f"{cells.text(row['folder']) or 'images'}/{names.nfc(row['filename'])}"


def _people(rows: Iterable[table.Row], thousands: bool) -> dict[str, str]:
    """Patients whose rows cannot be trusted -> the reason."""
    people = []
    for row in rows:
        days = None
        with suppress(cells.BadCell):
            days = _offset(row)
        with suppress(cells.BadCell):
            birth = next((row[column] for column in _BIRTH if row[column]), "")
            patient = cells.identifier(row["patientid"], thousands)
            people.append(cells.Person(patient, row["sex"] or row["gender"], row["age"], birth, days))
    return cells.suspicious(person.patient for person in people) | cells.shared_ids(people)


def _offset(row: table.Row) -> float | None:
    return cells.number(row["offset"], "days", _LIFE)


def _reason_to_skip(row: table.Row) -> str:
    """Why a valid row is not used; empty if it is."""
    if row["folder"] == "volumes" or row["filename"].endswith((".nii.gz", ".nii")):
        return "a volume, not an image"
    with suppress(cells.BadCell):
        if "finding" in row.cells and _finding(row) is None:
            return "finding unknown"
    return ""


def _finding(row: table.Row) -> str | None:
    """The last part of `Pneumonia/Viral/COVID-19` that has a value."""
    parts = row["finding"].split("/")
    known = next((parts[:i] for i in range(len(parts)) if cells.text("/".join(parts[i:])) is None), parts)
    return cells.label(known[-1]) if known else None


def _study(row: table.Row, people: Mapping[str, str], thousands: bool) -> tuple[Study | None, list[Problem]]:
    problems = list(row.problems)
    if problems:
        return None, problems

    def value(column: str, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except cells.BadCell as error:
            problems.append((column, str(error)))
            return None

    patient = value("patientid", lambda: cells.identifier(row["patientid"], thousands))
    if patient is not None and patient in people:
        problems.append(("patientid", people[patient]))
    time = value("offset", lambda: _offset(row))
    finding = value("finding", lambda: _finding(row))
    modality = _MODALITIES.get((cells.text(row["modality"]) or "").lower())
    if modality is None:
        problems.append(("modality", f"'{row['modality'][:40]}' is neither X-ray nor CT"))
    path = _path(row)
    value("filename", lambda: cells.file_name(row["filename"]))
    if escapes(path):
        problems.append(("filename", f"the path '{path}' leaves the image root"))
    if problems or patient is None or finding is None or modality is None:
        return None, problems
    return Study(
        source="covid-chestxray",
        patient=patient,
        image=path,
        modality=modality,
        time=time,
        view=_VIEWS.get((cells.text(row["view"]) or "").lower()),
        findings=() if finding.lower() in _NO_FINDING else (Finding(finding),),
    ), problems
