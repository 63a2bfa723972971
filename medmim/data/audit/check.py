"""One named figure of an audit, the rows behind it, and its limit in the recipe."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medmim.recipe.schema import Audit


@dataclass(frozen=True)
class Row:
    """A row of the data set that a check has found.

    Attributes:
        id: `Sample.id`.
        file: The published file, or split and ability (`published_rows.file_of`).
        found: What is wrong with it, in a few words that name no patient.
    """

    id: str
    file: str
    found: str


@dataclass(frozen=True)
class Check:
    """What one check has measured.

    Attributes:
        name: `images`, `pixels`, `text-only/temporal`.
        about: What the value is, in a few words: `images in several splits`.
        value: A count, or a share of 0..1; None where it could not be measured.
        share: Whether `value`, `low`, `high` and the limit are shares, printed as percent.
        of: What a count is out of; None where that is not meant.
        low: Lower end of the 95% interval; None where there is none.
        high: Upper end.
        key: Key of the recipe's section `audit` that limits it; empty: nothing does.
        rows: The rows that a limit's crossing would be about.
        note: Why there is no value, or what to know of it.
    """

    name: str
    about: str
    value: float | None
    share: bool = False
    of: int | None = None
    low: float | None = None
    high: float | None = None
    key: str = ""
    rows: Sequence[Row] = ()
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As in `audit.json`: with the number of rows, which stand in a file of their own."""
        return {**self.__dict__, "rows": len(self.rows)}


def judged(checks: Iterable[Mapping[str, Any]], allowed: Audit) -> list[dict[str, Any]]:
    """The checks of a report, each with its `limit` (None: there is none) and whether it has `crossed` it."""
    found = []
    for check in checks:
        limit = getattr(allowed, check["key"]) if check["key"] else None
        measured = check["low"] if check["low"] is not None else check["value"]
        crossed = limit is not None and measured is not None and measured > limit
        found.append({**check, "limit": limit, "crossed": crossed})
    return found


def tells(check: Mapping[str, Any]) -> str:
    """Why people are told of a judged check: it has `crossed` its limit, is `unmeasured`, or has `found` something.

    Empty where it is within its limit, or has none and may have found nothing.
    """
    if check["crossed"]:
        return "crossed"
    if check["value"] is None:
        return "unmeasured"
    surely = check["value"] if check["low"] is None else check["low"]
    return "found" if check["limit"] is None and surely > 0 else ""


def figure(value: float | None, share: bool) -> str:
    """A value, an end of an interval or a limit, as people read it; a dash for None."""
    if value is None:
        return "–"
    return f"{100 * value:.1f}%" if share else f"{value:,.0f}"


def line(check: Mapping[str, Any]) -> str:
    """A judged check in one line."""
    value, limit = figure(check["value"], check["share"]), figure(check["limit"], check["share"])
    interval = ""
    if check["low"] is not None:
        ends = (figure(check[end], check["share"]) for end in ("low", "high"))
        interval = f" (95% interval {' to '.join(ends)})"
    of = f" of {check['of']:,}" if check["of"] is not None else ""
    allowed = f", at most {limit} allowed (audit.{check['key']})" if check["limit"] is not None else ""
    note = f"; {check['note']}" if check["note"] else ""
    return f"{check['name']}: {value}{of} {check['about']}{interval}{allowed}{note}"
