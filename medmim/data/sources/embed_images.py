"""Reads EMBED's metadata table: one row a file, from which each breast and view of an exam gets one image.

Half a million rows have few different texts in most columns, so each combination of them is understood once.
"""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from medmim.data.sources import cells, large_table
from medmim.data.sources.embed_findings import EXAM, PATIENT, SIDES, TWO_PATIENTS, Clinical, identified, refuse_lost_ids
from medmim.data.sources.files import escapes
from medmim.data.sources.table import Row
from medmim.sample import BadRow

_PATH = "anon_dicom_path"
_DESCRIBED = ("ImageLateralityFinal", "FinalImageType", "ViewPosition", "spot_mag", "num_roi")
_OPTIONAL = ("spot_mag", "num_roi")  # the latter also as num_ROI
NEEDED = (PATIENT, EXAM, _PATH, *(name for name in _DESCRIBED if name not in _OPTIONAL))
_TYPES = ("2D", "CVIEW")  # the better first
_COHORT = re.compile(r"(?:^|/)(cohort_[12]/.+)", re.DOTALL)
_VIEW = re.compile(r"[A-Z]{1,8}")
_MANY = 1000  # regions or marks; no image has more
Key = tuple[str, str, str | None]  # exam, side, view
Problems = tuple[tuple[str, str], ...]  # column, reason


@dataclass
class Images:
    """What the table gives.

    Attributes:
        chosen: (exam, side, view) -> path of its image from `cohort_1/` or `cohort_2/` on.
        rows: Rows that were read.
        regions: Images with a marked region among those that could be chosen.
        bad: Rows that were quarantined.
        skipped: What was left out for another reason -> how often.
    """

    chosen: dict[Key, str] = field(default_factory=dict)
    rows: int = 0
    regions: int = 0
    bad: list[BadRow] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class _Shown:
    """What the cells of a row say of its image; `left_out` is why it is not used, `rank` is lower for better ones."""

    side: str = ""
    view: str | None = None
    rank: tuple[bool, int] = (False, 0)
    marked: bool = False
    left_out: str = ""
    problems: Problems = ()


def read(path: Path, name: str, clinical: Clinical) -> Images:
    """Read the table and choose the images of the breasts that have a label.

    Args:
        path: The file.
        name: How messages and quarantined rows call it.
        clinical: What is known of the exams. Those that turn out to have two patients lose their breasts.

    Raises:
        UserError: It is no such table, or its ids are lost.
    """
    found = Images()
    numbers: dict[str, list[int]] = defaultdict(list)
    best: dict[Key, tuple[tuple[bool, int], str]] = {}
    first: dict[str, Key] = {}  # path -> what its first row says of it
    unsure: set[Key] = set()
    two: set[str] = set()
    for row in large_table.rows(path, NEEDED, _OPTIONAL):
        found.rows += 1
        shown = _shown(*(row[column] for column in _DESCRIBED))
        patient, exam, tail, problems = _named(row)
        if exam:
            numbers[exam].append(row.number)
        problems = (*row.problems, *problems, *shown.problems)
        owners = clinical.patients.get(exam)
        if not problems and owners and patient not in owners and exam not in clinical.closed:
            problems = ((PATIENT, TWO_PATIENTS),)
            two.add(exam)
        found.bad += [BadRow(name, row.number, key, reason) for key, reason in problems]
        if problems:
            continue
        key = (exam, shown.side, shown.view)
        left_out = shown.left_out or _left_out(exam, shown.side, clinical)
        if left_out:
            found.skipped[left_out] += 1
        elif first.setdefault(tail, key) != key:
            reason = "an earlier row has this file with another exam, side or view"
            found.bad.append(BadRow(name, row.number, _PATH, reason))
            unsure |= {key, first[tail]}
        else:
            found.regions += shown.marked
            if key in best and best[key][1] != tail:
                found.skipped["further images of a view"] += 1
            best[key] = min(best.get(key, (shown.rank, tail)), (shown.rank, tail))
    for exam, reason in cells.suspicious(numbers).items():
        found.bad += [BadRow(name, number, EXAM, reason) for number in numbers[exam]]
        two.add(exam)
    refuse_lost_ids(name, found.bad, found.rows)
    found.chosen = {key: tail for key, (_, tail) in best.items() if key[0] not in two and key not in unsure}
    found.skipped["views of an exam, or with a file, that another row gives to others"] += len(best) - len(found.chosen)
    found.skipped["exams without images"] += len(clinical.patients.keys() - numbers.keys())
    found.skipped = +found.skipped
    return found


def _left_out(exam: str, side: str, clinical: Clinical) -> str:
    if exam in clinical.closed:
        return "images of an exam that is quarantined"
    if exam not in clinical.patients:
        return "images of an exam without findings"
    return "" if (exam, side) in clinical.breasts else "images of a breast without a label"


def _named(row: Row) -> tuple[str, str, str, Problems]:
    """Patient, exam, path from the cohort on, and what is wrong with them."""
    problems = []
    ids = []
    for column in (PATIENT, EXAM):
        try:
            ids.append(identified(row[column]))
        except cells.BadCell as error:
            ids.append("")
            problems.append((column, str(error)))
    found = _COHORT.search(row[_PATH])
    if found is None or escapes(found[1]):
        problems.append((_PATH, "a path without cohort_1/ or cohort_2/, or that leaves it"))
        return ids[0], ids[1], "", tuple(problems)
    return ids[0], ids[1], found[1], tuple(problems)


@lru_cache(maxsize=1 << 16)
def _shown(laterality: str, kind: str, view: str, spot: str, regions: str) -> _Shown:
    problems = []
    side, type_, seen = ((cells.text(cell) or "").upper() for cell in (laterality, kind, view))
    if side not in ("", *SIDES):
        problems.append(("ImageLateralityFinal", f"'{side[:40]}' is neither L nor R"))
    if seen and not _VIEW.fullmatch(seen):
        problems.append(("ViewPosition", f"'{seen[:40]}' is no view such as CC or MLO"))
    marks = {}
    for column, cell in (("spot_mag", spot), ("num_roi", regions)):
        try:
            marks[column] = bool(cells.number(cell, "regions or marks", _MANY))
        except cells.BadCell as error:
            problems.append((column, str(error)))
    if problems:
        return _Shown(problems=tuple(problems))
    if type_ not in _TYPES:
        return _Shown(left_out="images that are neither 2D nor cview")
    if not side:
        return _Shown(left_out="images without laterality")
    return _Shown(side, seen or None, (marks["spot_mag"], _TYPES.index(type_)), marks["num_roi"])
