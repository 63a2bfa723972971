"""Reads LUMIERE's tables: what the experts said of each week, and how old the patients were.

The column of the week has three names in the data set's tables, and two headers are sentences, of which only the start
is compared. A week that is rated twice has the last rating.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import total_ordering
from pathlib import Path

from medmim.data.sources import cells, table
from medmim.sample import BadRow

RATINGS = {  # as the table writes them
    "PD": "progressive disease",
    "SD": "stable disease",
    "PR": "partial response",
    "CR": "complete response",
    "Pre-Op": "pre-operative",
    "Post-Op": "post-operative",
}
UNREADABLE = "?"
EXTENTS = {"CRET": "complete", "PRET": "partial"}  # of the resection before a Post-Op week
_WEEKS = ("Date", "Timepoint", "Time point")
_RATING, _RATIONALE = "Rating (according to RANO ...)", "Rating rationale (...)"
_AGE = "Age at surgery (years)"
_WEEK = re.compile(r"week[-_](\d{1,4})(?:-([1-6]))?", re.ASCII)
_LIFE = 120  # years


@total_ordering
@dataclass(frozen=True, slots=True)
class Week:
    """A folder `week-NNN` or `week-NNN-K`; in the order of number and suffix, no suffix first.

    That order is time between weeks. Within a week it is not: a scan before surgery may be `week-000-1` beside
    `week-000` after it.
    """

    number: int
    suffix: int = 0

    def __str__(self) -> str:
        return f"week-{self.number:03}" + (f"-{self.suffix}" if self.suffix else "")

    def __lt__(self, other: "Week") -> bool:
        return (self.number, self.suffix) < (other.number, other.suffix)

    @property
    def days(self) -> float:
        """Since the first scan, as if the suffix counted days: the day within a week is not known."""
        return float(7 * self.number + self.suffix)


def week(text: str) -> Week | None:
    """The week that a folder, a file without its ending, or a cell names; None where it names none."""
    found = _WEEK.fullmatch(text.strip())
    return Week(int(found[1]), int(found[2] or 0)) if found else None


@dataclass
class Ratings:
    """What the experts said.

    Attributes:
        of: Patient -> week -> a key of `RATINGS`; empty where there is none, `UNREADABLE` where its row is bad.
        extents: (patient, week) -> a value of `EXTENTS`.
        rows: Rows that were read.
        bad: Those that were quarantined.
        skipped: What was left out for another reason -> how often.
    """

    of: dict[str, dict[Week, str]] = field(default_factory=dict)
    extents: dict[tuple[str, Week], str] = field(default_factory=dict)
    rows: int = 0
    bad: list[BadRow] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


def read(path: Path, name: str) -> Ratings:
    """Read the table of the ratings.

    Args:
        path: The file.
        name: How messages and quarantined rows call it.

    Raises:
        UserError: It is no such table.
    """
    found = Ratings()
    names = table.column_names(path)
    when = next((name for name in _WEEKS if table.find(names, (name,))), _WEEKS[0])
    rating, rationale = (_starting(names, start) for start in (_RATING, _RATIONALE))
    for row in table.rows(path, ("Patient", when, rating), (rationale,)):
        found.rows += 1
        problems = list(row.problems)
        patient, at = "", week(row[when])
        try:
            patient = cells.identifier(row["Patient"])
        except cells.BadCell as error:
            problems.append(("Patient", str(error)))
        if at is None:
            problems.append((when, f"'{row[when][:40]}' is no week such as week-000-1"))
        letters = cells.text(row[rating])
        if letters is not None and letters not in RATINGS:
            problems.append(("Rating", f"'{letters[:40]}' is none of {', '.join(RATINGS)}"))
        found.bad += [BadRow(name, row.number, key, reason) for key, reason in problems]
        if at is None or not patient:
            continue
        own = found.of.setdefault(patient, {})
        if at in own:
            found.skipped["ratings that a later row of the same week replaces"] += 1
        own[at] = UNREADABLE if problems else letters or ""
        found.extents.pop((patient, at), None)
        if own[at] == "Post-Op":
            said = {EXTENTS[word] for word in re.split(r"[\s,;/+]+", row[rationale]) if word in EXTENTS}
            if len(said) == 1:
                found.extents[patient, at] = said.pop()
            else:
                found.skipped["weeks after surgery without CRET or PRET"] += 1
    return found


def ages(path: Path, name: str) -> tuple[dict[str, float], list[BadRow]]:
    """Patient -> years at surgery, and the rows that were quarantined.

    Raises:
        UserError: It is no such table.
    """
    found: dict[str, float] = {}
    bad: list[BadRow] = []
    for row in table.rows(path, ("Patient",), (_AGE,)):
        problems = list(row.problems)
        age = None
        for column in ("Patient", _AGE):
            try:
                if column == _AGE:
                    age = cells.number(row[_AGE], "years", _LIFE)
                    if age is not None and age < 0:
                        problems.append((_AGE, f"'{row[_AGE][:40]}' is no age"))
                else:
                    patient = cells.identifier(row[column])
            except cells.BadCell as error:
                problems.append((column, str(error)))
        if age is not None and not problems:
            found[patient] = age
        bad += [BadRow(name, row.number, key, reason) for key, reason in problems]
    return found, bad


def _starting(names: Sequence[str], wanted: str) -> str:
    """The header that starts as this one does up to its dots; the wanted one itself where there is none."""
    start = wanted.partition(" to ")[0].partition(" (...")[0].casefold()
    return next((name for name in names if " ".join(name.split()).casefold().startswith(start)), wanted)
