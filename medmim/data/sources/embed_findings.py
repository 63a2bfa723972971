"""Reads EMBED's clinical table: one row a finding, from which each breast of an exam gets one assessment.

The label of a breast is the worst of its findings, so an exam with a row that cannot be read has no label at all, and
neither has a breast with a finding whose assessment does not fit the kind of exam.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TypeVar

from medmim.data import breasts
from medmim.data.breasts import UNCLEAR, Look
from medmim.data.sources import cells, large_table, table
from medmim.errors import UserError
from medmim.sample import BadRow, Finding

RATINGS = {  # `asses`, the most severe first
    "K": "known malignancy",
    "M": "highly suggestive of malignancy",
    "S": "suspicious",
    "A": "additional evaluation needed",
    "P": "probably benign",
    "B": "benign",
    "N": "negative",
}
NEGATIVE = RATINGS["N"]
# The only letters that an exam of this kind gives: EMBED's own notebooks drop the others.
_SCREENING, _DIAGNOSTIC = "ABN", "KMSPBN"
_NO_ASSESSMENT = "X"
_SEVERITY = {
    0: "malignant", 1: "malignant", 2: "high-risk", 3: "high-risk", 4: "benign", 5: "negative", 6: UNCLEAR,
}  # fmt: skip
_OTHER_CANCER = 6  # not of the breast
_UNSURE = 5  # negative in tables that have a 6; in those without, cancer of another organ
_LESIONS = {
    **dict.fromkeys("GROX", "mass"),
    **dict.fromkeys("QA", "architectural distortion"),
    **dict.fromkeys("TBSFV", "asymmetry"),
    **dict.fromkeys("NY", "lymph node"),
}
_CALCIFICATIONS = "calcifications"
UNSPECIFIED = "unspecified abnormality"  # where the table says no more than that there is one
SIDES = {"L": "left", "R": "right"}
TWO_PATIENTS = "an accession of two patients"

PATIENT, EXAM = "empi_anon", "acc_anon"
NEEDED = (PATIENT, EXAM, "study_date_anon", "desc", "side", "asses")
_DESCRIBED = ("massshape", "calcfind", "calcdistri", "calcnumber")  # only the full table has them
OPTIONAL = (
    "path_severity", "bside", "age_at_study", "GENDER_DESC", "RACE_DESC", "ETHNICITY_DESC", "tissueden", *_DESCRIBED,
)  # fmt: skip
_DATE = re.compile(r"(\d{4}-\d\d-\d\d)( 00:00:00(\.0+)?)?", re.ASCII)
_LIFE = 120  # years
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Breast:
    """One breast in one exam.

    Attributes:
        patient: `empi_anon`.
        time: Days since the patient's first exam in the table; None where the exam has no date.
        age: Years.
        rating: A value of `RATINGS`.
        outcome: One of `breasts.OUTCOMES`; None without a biopsy.
        year_after: See `breasts.year_after`.
        findings: None for a negative breast; else those that are described, or `UNSPECIFIED`.
    """

    patient: str
    time: float | None
    age: float | None
    rating: str
    outcome: str | None
    year_after: str | None
    findings: tuple[Finding, ...]


@dataclass
class Clinical:
    """What the table gives.

    Attributes:
        breasts: (exam, side `L` or `R`) -> what is known of it.
        patients: Exam -> its patients; more than one is an error of the table.
        closed: Exams that have no labels since a row of theirs is bad.
        rows: Rows that were read.
        bad: Those that were quarantined.
        skipped: What was left out for another reason -> how often.
        races: Patient -> the table's word.
        densities: Exam -> BI-RADS density, 1 to 4, or 5 for a male breast.
    """

    breasts: dict[tuple[str, str], Breast] = field(default_factory=dict)
    patients: dict[str, set[str]] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)
    rows: int = 0
    bad: list[BadRow] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    races: dict[str, str] = field(default_factory=dict)
    densities: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Row:
    number: int
    patient: str
    exam: str
    day: int | None
    desc: str
    side: str
    letter: str
    severity: int | None
    biopsied: str
    age: float | None
    sex: str
    lesions: tuple[str, ...]


def read(path: Path, name: str) -> Clinical:
    """Read the table.

    Args:
        path: The file.
        name: How messages and quarantined rows call it.

    Raises:
        UserError: It is no such table, or its ids are lost.
    """
    found = Clinical()
    rows: list[_Row] = []
    unread: list[tuple[str, int | None]] = []  # patient and day of rows that may have said anything
    for line in large_table.rows(path, NEEDED, OPTIONAL):
        found.rows += 1
        row, problems = _parsed(line)
        found.bad += [BadRow(name, line.number, key, reason) for key, reason in problems]
        if problems:
            found.closed.update(filter(None, [_or_none(identified, line[EXAM])]))
            unread.append((_or_none(identified, line[PATIENT]) or "", _or_none(_day, line["study_date_anon"])))
        if row is not None:
            rows.append(row)
            if race := _word(line["RACE_DESC"] or line["ETHNICITY_DESC"]):
                found.races[row.patient] = race
            if density := _density(line["tissueden"]):
                found.densities[row.exam] = max(density, found.densities.get(row.exam, 0))
    refuse_lost_ids(name, found.bad, found.rows)
    exams = _by_exam(rows, name, found)
    first: dict[str, int] = {}
    for row in chain.from_iterable(own for exam, own in exams.items() if exam not in found.closed):
        if row.day is not None:
            first[row.patient] = min(row.day, first.get(row.patient, row.day))
    has_other = any(row.severity == _OTHER_CANCER for row in rows)
    labelled: dict[tuple[str, str], tuple[Look, list[_Row], tuple[Finding, ...]]] = {}
    looks: dict[str, list[Look]] = defaultdict(list)

    def time(patient: str, day: int | None) -> float | None:
        return None if day is None or patient not in first else float(day - first[patient])

    for exam, own in exams.items():
        if exam in found.closed:
            found.skipped["exams with a row that is quarantined"] += 1
            unread += ((row.patient, row.day) for row in own)
            continue
        patient = own[0].patient
        at = time(patient, next((row.day for row in own if row.day is not None), None))
        for look, findings in _breasts(own, at, has_other, found.skipped):
            looks[patient].append(look)
            if findings is not None:
                labelled[exam, "L" if look.side == SIDES["L"] else "R"] = look, own, findings
    for patient, day in unread:
        looks[patient].append(Look(None, time(patient, day), None, UNCLEAR))
    for (exam, side), (look, own, findings) in labelled.items():
        patient = own[0].patient
        age = next((row.age for row in own if row.age is not None), None)
        after = breasts.year_after(look, looks[patient])
        found.breasts[exam, side] = Breast(patient, look.day, age, str(look.rating), look.outcome, after, findings)
    return found


def refuse_lost_ids(name: str, bad: Collection[BadRow], rows: int) -> None:
    """Refuse a table of which more than half of the rows have lost an id.

    Raises:
        UserError: Saying which column, and how that happens.
    """
    for column in (EXAM, PATIENT):
        reasons = {row.row: row.reason for row in bad if row.key == column}
        if len(reasons) * 2 > rows:
            often, _ = Counter(reasons.values()).most_common(1)[0]
            raise UserError(
                f"{name}: {len(reasons):,} of {rows:,} rows have no {column} that can be used",
                reason=f"{often}; {EXAM} has 16 digits, and a spreadsheet keeps 15 of them (4.37886E+15)",
                fix="take the table as it was downloaded, and save it in no spreadsheet",
            )


_word = lru_cache(maxsize=1 << 12)(cells.text)


@lru_cache(maxsize=1 << 18)
def identified(cell: str) -> str:
    """An id, as `cells.identifier`: half a million rows hold a fifth as many.

    Raises:
        BadCell: There is none, or it is damaged.
    """
    return cells.identifier(cell)


def _or_none(read: Callable[[str], T], cell: str) -> T | None:
    try:
        return read(cell)
    except cells.BadCell:
        return None


def _parsed(line: table.Row) -> tuple[_Row | None, list[tuple[str, str]]]:
    problems = list(line.problems)
    if problems:
        return None, problems

    def value(column: str, read: Callable[[str], T], default: T) -> T:
        try:
            return read(line[column])
        except cells.BadCell as error:
            problems.append((column, str(error)))
            return default

    row = _Row(
        number=line.number,
        patient=value(PATIENT, identified, ""),
        exam=value(EXAM, identified, ""),
        day=value("study_date_anon", _day, None),
        desc=(_word(line["desc"]) or "").casefold(),
        side=value("side", _side, ""),
        letter=value("asses", _letter, ""),
        severity=value("path_severity", _severity, None),
        biopsied=value("bside", _side, ""),
        age=value("age_at_study", _age, None),
        sex=line["GENDER_DESC"],
        lesions=_lesions(*(line[column] for column in _DESCRIBED)),
    )
    return (None if problems else row), problems


@lru_cache(maxsize=1 << 16)
def _day(cell: str) -> int | None:
    plain = cells.text(cell)
    if plain is None:
        return None
    found = _DATE.fullmatch(plain)
    with suppress(ValueError):
        if found:
            return date.fromisoformat(found[1]).toordinal()
    raise cells.BadCell(f"'{plain[:40]}' is no date such as 2015-07-26")


@lru_cache(maxsize=1 << 12)
def _side(cell: str) -> str:
    """`L`, `R`, `B` for both, or empty."""
    plain = (cells.text(cell) or "").upper()
    if plain not in ("", "L", "R", "B"):
        raise cells.BadCell(f"'{plain[:40]}' is none of L, R, B")
    return plain


@lru_cache(maxsize=1 << 12)
def _letter(cell: str) -> str:
    """A key of `RATINGS`, or empty where there is no assessment."""
    plain = (cells.text(cell) or _NO_ASSESSMENT).upper()
    if plain != _NO_ASSESSMENT and plain not in RATINGS:
        raise cells.BadCell(f"'{plain[:40]}' is none of {', '.join(RATINGS)}, {_NO_ASSESSMENT}")
    return plain.removesuffix(_NO_ASSESSMENT)


@lru_cache(maxsize=1 << 12)
def _severity(cell: str) -> int | None:
    found = cells.number(cell, "pathology", _OTHER_CANCER)
    if found is not None and (found < 0 or found % 1):
        raise cells.BadCell(f"'{cell[:40]}' is no pathology from 0 to {_OTHER_CANCER}")
    return None if found is None else int(found)


def _age(cell: str) -> float | None:
    found = cells.number(cell, "years", _LIFE)
    if found is not None and found < 0:
        raise cells.BadCell(f"'{cell[:40]}' is no age")
    return found


@lru_cache(maxsize=1 << 12)
def _density(cell: str) -> int:
    """From 1 to 5; 0 where it is not known."""
    with suppress(cells.BadCell):
        found = cells.number(cell, "densities", 5) or 0
        return int(found) if found in (1, 2, 3, 4, 5) else 0
    return 0


@lru_cache(maxsize=1 << 12)
def _lesions(shape: str, find: str, distribution: str, number: str) -> tuple[str, ...]:
    """What a row describes, of `_LESIONS` and calcifications; letters that are not known say nothing."""
    shown = {_LESIONS[letter] for letter in (cells.text(shape) or "").upper() if letter in _LESIONS}
    if cells.text(find) or cells.text(distribution) or re.search(r"[1-9]", number):
        shown.add(_CALCIFICATIONS)
    return tuple(name for name in (*dict.fromkeys(_LESIONS.values()), _CALCIFICATIONS) if name in shown)


def _by_exam(rows: Iterable[_Row], name: str, found: Clinical) -> dict[str, list[_Row]]:
    """The rows of each exam; those of two patients or two dates are quarantined."""
    exams: dict[str, list[_Row]] = defaultdict(list)
    for row in rows:
        exams[row.exam].append(row)
    patients = {row.patient for own in exams.values() for row in own}
    lost = cells.suspicious(exams)
    lost_patients = cells.suspicious(patients)
    for own in exams.values():
        for row in own:
            for column, id_, reasons in ((EXAM, row.exam, lost), (PATIENT, row.patient, lost_patients)):
                if id_ in reasons:
                    found.bad.append(BadRow(name, row.number, column, reasons[id_]))
                    found.closed.add(row.exam)
    refuse_lost_ids(name, found.bad, found.rows)
    two = cells.shared_ids(
        cells.Person(row.patient, row.sex, "" if row.age is None else str(row.age), days=row.day)
        for own in exams.values()
        for row in own[:1]
    )
    for exam, own in exams.items():
        found.patients[exam] = {row.patient for row in own}
        bad = [BadRow(name, row.number, PATIENT, two[row.patient]) for row in own if row.patient in two]
        if len(found.patients[exam]) > 1:
            bad = [BadRow(name, row.number, PATIENT, TWO_PATIENTS) for row in own]
        elif len({row.day for row in own} - {None}) > 1:
            reason = "the rows of this exam have different dates"
            bad += [BadRow(name, row.number, "study_date_anon", reason) for row in own]
        if bad:
            found.bad += bad
            found.closed.add(exam)
    return exams


def _breasts(
    own: Sequence[_Row], time: float | None, has_other: bool, skipped: Counter[str]
) -> Iterator[tuple[Look, tuple[Finding, ...] | None]]:
    """What an exam says of its breasts, left before right; with the findings of those that have a label."""
    about = {row.desc for row in own} - {""}
    kinds = {"screen" in text for text in about}
    if len(kinds) != 1:
        skipped["exams without a description" if not kinds else "exams described as screening and as diagnostic"] += 1
        yield Look(None, time, None, UNCLEAR), None
        return
    fitting = _SCREENING if kinds == {True} else _DIAGNOSTIC
    both = any("bilat" in text for text in about)
    seen = "LR" if both else "".join(side for side, word in SIDES.items() if any(word in text for text in about))
    letters: dict[str, set[str]] = defaultdict(set)
    outcomes: dict[str, set[str]] = defaultdict(set)
    lesions: dict[str, set[str]] = defaultdict(set)
    for row in own:
        sides = _sides(row.side, seen)
        for side in sides:
            letters[side].add(row.letter)
            lesions[side].update(row.lesions)
        if row.severity is not None:
            biopsied = _sides(row.biopsied, sides)
            outcome = UNCLEAR if row.severity == _UNSURE and not has_other else _SEVERITY[row.severity]
            if not row.biopsied and len(biopsied) > 1:
                skipped["pathologies of a breast that is not named"] += 1
                outcome = UNCLEAR
            elif outcome == UNCLEAR:
                skipped["pathologies that are, or may be, a cancer of another organ"] += 1
            for side in biopsied:
                outcomes[side].add(outcome)
        if not row.letter:
            skipped["findings without an assessment (X or blank)"] += 1
        elif row.letter not in fitting:
            skipped["findings whose assessment does not fit a screening or a diagnostic exam"] += 1
    touched = letters.keys() | outcomes.keys()
    if both and len(touched) == 1:  # the table has no row for a breast without findings beside one with findings
        letters["L" if "R" in touched else "R"].add("N")
    for side, word in SIDES.items():
        given = letters[side] - {""}
        proven = min(outcomes[side], key=breasts.OUTCOMES.index, default=None)
        if not given or given - set(fitting):
            if given or proven:
                yield Look(word, time, None, proven if proven == breasts.MALIGNANT or not given else UNCLEAR), None
            continue
        worst = min(given, key=fitting.index)
        if kinds == {True} and worst in "NB" and proven is not None:
            skipped["breasts of a screening exam, N or B, with a pathology of their own: amended later"] += 1
            yield Look(word, time, None, proven), None
            continue
        rating = RATINGS[worst]
        shown = [name for name in (*dict.fromkeys(_LESIONS.values()), _CALCIFICATIONS) if name in lesions[side]]
        found = () if rating == NEGATIVE else tuple(map(Finding, shown or [UNSPECIFIED]))
        yield Look(word, time, rating, proven), found


def _sides(side: str, otherwise: str) -> str:
    """The breasts that a cell means: `L`, `R`, or both; where it is blank, those of the exam."""
    return "LR" if side == "B" else side or otherwise or "LR"
