"""ODIR-5K: the left and the right fundus of a patient with what the doctors wrote of each eye; a benchmark.

    ROOT/data.xlsx                       as on Kaggle; the challenge's own name and `full_df.csv` are found as well
    ROOT/Training Images/0_left.jpg      the challenge's ODIR-5K_Training_Dataset, or preprocessed_images

What an eye shows is in its keywords alone: the columns N, D, G, ... are of the patient, so of either eye. Keywords are
free text, joined by `,` or its full-width form, in several spellings; marks of quality among them are dropped, and an
eye of which nothing else is said is left out. All of it is counted.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from medmim.data.sources import cells, roots, table, workbook
from medmim.data.sources.names import nfc
from medmim.data.sources.roots import Root
from medmim.data.sources.source import Entry, Source
from medmim.errors import UserError
from medmim.recipe.sources import Odir
from medmim.sample import BadRow, Finding, Study
from medmim.terms import Terms

TERMS = Terms(text=("ODIR-5K: the licence of its copies is not known; nothing but research on one's own machines",))

SOURCE = "odir"
# The families on any finding would offer `epiretinal membrane` beside `macular epiretinal membrane`.
FAMILIES = ("eye_diagnosis", "which_eye", "both_eyes", "shared_diagnosis", "same_diagnosis")
NORMAL = "normal fundus"
QUALITY = (
    "anterior segment image", "no fundus image", "lens dust", "optic disk photographically invisible",
    "low image quality", "image offset",
)  # fmt: skip
_EYES = {"left": ("leftfundus", "leftdiagnostickeywords"), "right": ("rightfundus", "rightdiagnostickeywords")}
_NEEDED = ("id", *(column for columns in _EYES.values() for column in columns))
_OPTIONAL = ("patientage", "patientsex")
_TABLES = ("data.xlsx", "ODIR-5K_Training_Annotations(Updated)_V2.xlsx", "full_df.csv")
_FOLDERS = ("Training Images", "ODIR-5K_Training_Dataset", "preprocessed_images")
_LIFE = 130  # years
_SPELLINGS = ((r"non[ -]proliferative", "nonproliferative"), (r"age related", "age-related"))

_LOOKED_AT = 20  # rows whose images tell in which folder they are
_NOTHING_ELSE = "an eye of which only marks of quality are said"
_LONGEST = 120  # characters of a keyword

Problem = tuple[str, str]  # column, reason


@dataclass(frozen=True, slots=True)
class _Eyes:
    """What a row says: its patient, the eyes of which something is said, and the marks of quality that were dropped."""

    patient: str
    studies: tuple[Study, ...]
    marks: tuple[str, ...]


def inputs(entry: Entry[Odir]) -> dict[str, str]:
    """The digest of the table, and one over sizes and times of change of the images."""
    root = roots.opened(entry)
    name, folder = _places(root, entry.own)
    images = [f"{folder}/{nfc(row[column])}" for row in _rows(root, name) for column, _ in _EYES.values()]
    return roots.digest(root, (name,), images)


def load(entry: Entry[Odir]) -> Source:
    """Read both eyes of each patient; rows that cannot be used are quarantined.

    Raises:
        UserError: No folder, no table, or one that is something else, lacks columns or has no rows.
    """
    root = roots.opened(entry)
    name, folder = _places(root, entry.own)
    rows = list(_rows(root, name))
    if not rows:
        raise UserError(f"{name} has no rows", fix=f"copy it again to {root}")
    bad: list[BadRow] = []
    again = 0
    patients: dict[str, dict[_Eyes, int]] = defaultdict(dict)  # what its rows say -> the first of them that says so
    for row in rows:
        eyes, problems = _eyes(row, folder)
        bad += [BadRow(name, row.number, *problem) for problem in problems]
        if eyes is not None:
            again += eyes in patients[eyes.patient]  # the CSV has a row for each eye, with both in it
            patients[eyes.patient].setdefault(eyes, row.number)
    odd = cells.suspicious(patients)
    studies: list[Study] = []
    marks: Counter[str] = Counter()
    for patient, said in patients.items():
        reason = odd.get(patient) or ("another row of this patient says something else" if len(said) > 1 else "")
        if reason:
            bad += [BadRow(name, number, "id", reason) for number in said.values()]
        else:
            eyes = next(iter(said))
            studies += eyes.studies
            marks.update(eyes.marks)
    missing = [study.image for study in studies if not root.has(study.image)]
    absent = set(missing)
    studies = [study for study in studies if study.image not in absent]
    return Source(
        root.read,
        studies=studies,
        families=FAMILIES,
        bad=bad,
        missing=missing,
        facts={
            "rows": len(rows),
            "images": len(studies),
            "patients": len({study.patient for study in studies}),
            "missing_images": len(missing),
            "without_age": sum(study.age is None for study in studies),
            "rows_again": again,
            "marks_of_quality": {mark: n for mark, n in sorted(marks.items()) if mark != _NOTHING_ELSE},
            "skipped": {_NOTHING_ELSE: marks[_NOTHING_ELSE]} if marks[_NOTHING_ELSE] else {},
        },
        identity=root.identity,
        fix_for=root.fix_for,
    )


def _places(root: Root, own: Odir) -> tuple[str, str]:
    """The table and the folder of images: those of the recipe, or else the names of other copies that are there."""
    tables = (own.table, *(_TABLES if own.table == _TABLES[0] else ()))
    name = next((name for name in tables if root.has(name)), own.table)
    if own.images != _FOLDERS[0]:
        return name, own.images.rstrip("/")
    images = [image for row in islice(_rows(root, name), _LOOKED_AT) if (image := nfc(row["leftfundus"]))]
    found = (folder for folder in _FOLDERS if any(root.has(f"{folder}/{image}") for image in images))
    return name, next(found, own.images)


def _rows(root: Root, name: str) -> Iterator[table.Row]:
    path = root.table(name)
    read = workbook.rows if name.lower().endswith((".xlsx", ".xlsm")) else table.rows
    return read(path, _NEEDED, _OPTIONAL)


def _eyes(row: table.Row, folder: str) -> tuple[_Eyes | None, list[Problem]]:
    problems = list(row.problems)
    if problems:
        return None, problems
    studies, marks, patient, age = [], [], "", None
    try:
        patient = cells.identifier(row["id"])
    except cells.BadCell as error:
        problems.append(("id", str(error)))
    try:
        age = cells.number(row["patientage"], "years", _LIFE)
        if age is not None and age < 0:
            problems.append(("patientage", f"'{row['patientage'][:40]}' is less than 0"))
    except cells.BadCell as error:
        problems.append(("patientage", str(error)))
    for side, (file, words) in _EYES.items():
        image = nfc(row[file])
        if not re.fullmatch(rf"{re.escape(patient)}_{side}\.\w{{1,5}}", image, re.IGNORECASE):
            problems.append((file, f"'{image[:80]}' is not the {side} eye of this patient: ID_{side}.jpg"))
        try:
            found, dropped = keywords(row[words])
        except cells.BadCell as error:
            problems.append((words, str(error)))
            continue
        marks += dropped
        if not found:
            marks.append(_NOTHING_ELSE)
            continue
        studies.append(
            Study(
                source=SOURCE,
                patient=patient,
                image=f"{folder}/{image}",
                modality="fundus",
                laterality=side,
                findings=tuple(Finding(name) for name in found if name != NORMAL),
                held_out=True,
                exam=patient,
                age=age,
            )
        )
    return (None, problems) if problems else (_Eyes(patient, tuple(studies), tuple(marks)), [])


def keywords(cell: str) -> tuple[list[str], list[str]]:
    """What a cell says of an eye, and the marks of quality in it; both in its order, each once, in one spelling.

    Raises:
        BadCell: Nothing is said, a keyword is a number or too long, or the eye is called normal and diseased at once.
    """
    parts = [text for part in re.split("[,\uff0c;\uff1b\u3001]", cell) if (text := cells.label(part)) is not None]
    if not parts:
        raise cells.BadCell("no keyword at all")
    named = list(dict.fromkeys(map(_spelled, parts)))
    if any(len(name) > _LONGEST for name in named):
        raise cells.BadCell(f"a keyword of more than {_LONGEST} characters")
    found = [name for name in named if name not in QUALITY]
    if NORMAL in found and len(found) > 1:
        raise cells.BadCell(f"'{NORMAL}' beside '{next(name for name in found if name != NORMAL)}'")
    return found, [name for name in named if name in QUALITY]


def _spelled(keyword: str) -> str:
    """A keyword in one of its spellings."""
    text = " ".join(re.sub("[\u2010-\u2015\u2212]", "-", keyword).casefold().strip(" .").split())
    for written, wanted in _SPELLINGS:
        text = re.sub(rf"\b{written}\b", wanted, text)
    return text
