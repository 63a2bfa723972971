"""Reads the tables of data sets: CSV in UTF-8, the header in its first line. `cells` reads the values.

* A cell that is used and holds control characters or more than `MAX_CELL` characters makes its row bad, and so does a
  row with more cells than the header (a comma outside quotation marks). Other cells may hold anything, at any length.
* Column names are compared without case, blanks, `_` and `-`, so they may be asked for in any spelling. Rows are
  numbered as a spreadsheet does; empty ones, and blank cells beyond the last column, are passed over.
"""

import csv
import difflib
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medmim import sniff
from medmim.data.sources.cells import HIDDEN, has_controls
from medmim.errors import UserError, from_os_error

if TYPE_CHECKING:
    from _csv import Reader

# The limit of `csv` would refuse a whole file for one long note. It holds for the process, so it is never set back:
# other tables may be read at the same time.
_ANY = 2**31 - 1
csv.field_size_limit(_ANY)

MAX_CELL = 4096  # characters of a cell that is used
WANTED = "a CSV table in UTF-8"
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_OBJECTS = (
    "(lambda rows: [names := list(dict.fromkeys(name for row in rows for name in row))] "
    "+ [[row.get(name) for name in names] for row in rows])"
)
_ROWS = {  # a table of another form -> the Python that reads its rows from `sys.stdin`
    sniff.JSON.name: f"{_OBJECTS}(json.load(sys.stdin))",
    sniff.JSON_LINES.name: f"{_OBJECTS}([json.loads(line) for line in sys.stdin if line.strip()])",
    sniff.MARKDOWN.name: "[cell.strip() for cell in line.strip().removeprefix('|').removesuffix('|').split('|')] "
    "for line in sys.stdin if line.strip(' |:-\\r\\n')",
}
_VALUE = re.compile(r"[+-]?\d+([.,]\d+)?|.+\.(png|jpe?g|tiff?|bmp|webp|dcm)", re.IGNORECASE)  # no name of a column
_SHOWN = 300  # characters of the names in a message
_SEARCHED = 20  # lines at the start of a file in which a header may be


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its number in the file, the cells that it has of the columns asked for, and why it is unusable."""

    number: int
    cells: dict[str, str]
    problems: tuple[tuple[str, str], ...] = ()  # column, reason

    def __getitem__(self, column: str) -> str:
        """The cell; empty where the row or the table lacks it."""
        return self.cells.get(column, "")


def rows(path: Path, needed: Sequence[str], optional: Sequence[str] = (), otherwise: str = "") -> Iterator[Row]:
    """Read a table in CSV.

    Args:
        path: The file: UTF-8, commas, its header in the first line.
        needed: Columns that it must have; the cells of a row have these names.
        optional: Columns that it may have.
        otherwise: What else would help where columns are lacking, for the message.

    Yields:
        The rows that are not empty, one after another: a table may be larger than the memory.

    Raises:
        UserError: It is no such file, lacks columns, or has a broken quotation; the message says what it is.
    """
    sniff.require_text(path, WANTED)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            records = _records(path, csv.reader(file, strict=True), needed)
            yield from of_records(path, records, needed, optional, otherwise=otherwise)
    except OSError as error:
        raise from_os_error(error, f"reading {path.name}") from error
    except UnicodeDecodeError:
        data = path.read_bytes()
        try:
            data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise sniff.encoding_kind(data, error).error(path, WANTED) from None
        raise


def column_names(path: Path) -> list[str]:
    """The names of the columns as the file writes them; none where its first line cannot be read."""
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            return [value_of(name) for name in next(csv.reader(file, strict=True), [])]
    except (OSError, csv.Error):
        return []


def find(names: Sequence[str], wanted: Sequence[str]) -> dict[str, list[int]]:
    """Each of the wanted columns that there is -> where it stands in a header, more than once if written twice."""
    places: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        places.setdefault(_key(name), []).append(i)
    return {name: places[_key(name)] for name in wanted if _key(name) in places}


def of_records(
    path: Path,
    records: Iterator[list[str]],
    needed: Sequence[str],
    optional: Sequence[str],
    first: int = 2,
    otherwise: str = "",
) -> Iterator[Row]:
    """The rows of a table that is cut into cells, whatever its file is; arguments and errors as of `rows`.

    Args:
        path: The file, for messages.
        records: The cells of each row, those of the header first.
        needed: See `rows`.
        optional: See `rows`.
        first: The number of the first row.
        otherwise: See `rows`.
    """
    header = next(records, [])
    columns = find(header, (*needed, *optional))
    if not columns.keys() >= set(needed):
        raise _no_columns(path, header, needed, optional, otherwise)
    for number, cells in enumerate(records, first):
        if not any(cell.strip(HIDDEN).strip() for cell in cells):
            continue
        extra = len(cells) - len(header)
        if cells == header:
            yield Row(number, {}, (("", "the header again"),))
        elif extra > 0 and any(cell.strip() for cell in cells[len(header) :]):
            reason = f"the row has {extra} cells more than the header: a comma outside quotation marks"
            yield Row(number, {}, (("", reason),))
        else:
            found = {name: [cells[i] for i in at if i < len(cells)] for name, at in columns.items()}
            yield _row(number, found, needed)


def _row(number: int, found: dict[str, list[str]], needed: Sequence[str]) -> Row:
    problems = [(name, "the row ends before this column") for name in needed if not found[name]]
    for name, cells in found.items():
        if len(set(cells)) > 1:
            problems.append((name, "two columns have this name and differ"))
        elif cells and (problem := problem_of(cells[0])):
            problems.append((name, problem))
    return Row(number, {name: value_of(cells[0]) for name, cells in found.items() if cells}, tuple(problems))


def problem_of(cell: str) -> str:
    """Why the row of this cell is bad, whatever the cell should hold; empty where it is not."""
    if len(cell) > MAX_CELL:
        return f"a cell of more than {MAX_CELL:,} characters"
    return "a cell with control characters" if has_controls(re.sub(r"\s", "", cell.strip(HIDDEN))) else ""


def value_of(cell: str) -> str:
    """A cell without what surrounds its value."""
    return cell.strip(HIDDEN).strip()


def _records(path: Path, table: "Reader", needed: Sequence[str]) -> Iterator[list[str]]:
    start = 1
    while True:
        start = table.line_num + 1
        try:
            yield next(table)
        except StopIteration:
            return
        except csv.Error as error:
            other = _other_form(path, needed) if start == 1 else None  # quoted names and other marks between them
            if other is not None:
                raise other from None
            if "unexpected end" in str(error):
                raise UserError(
                    f"{path.name} is not a complete CSV file: the quotation mark in line {start} is never closed",
                    reason="the mark is wrong, or the end of the file is missing",
                    fix=f"correct line {start}; if the file is shorter than where it came from, copy it completely",
                ) from None
            raise UserError(
                f"{path.name} has a broken quotation in line {start}",
                reason=f"{error}: what follows cannot be cut into cells",
                fix=f'correct line {start}: a quotation mark inside a quoted cell is written twice ("")',
            ) from None


def _other_form(path: Path, needed: Sequence[str]) -> UserError | None:
    """Why the first line is no header: it is cut at other marks, or another line is, or this is no table; or None."""
    with path.open("rb") as file:
        head = file.read(sniff.HEAD)
    needed = [_key(name) for name in needed]
    whole = next(csv.reader(head.decode("utf-8-sig", "replace").splitlines()[:1]), [])
    if len(whole) == 1 and {_key(cell) for cell in next(csv.reader(whole), [])}.issuperset(needed):
        kind = sniff.Kind(
            "a table whose lines are quoted as a whole",
            _converted("csv.reader(row[0] for row in csv.reader(sys.stdin) if row)"),
        )
        return kind.error(path, WANTED)
    other = sniff.text_kind(head)
    if other is not None and other != sniff.TABLE and other.name in _ROWS:
        named = {_key(name) for name in _names(head.decode("utf-8-sig", "replace"))}
        fix = _converted(_ROWS[other.name]) if named.issuperset(needed) else other.fix
        return sniff.Kind(other.name, fix).error(path, WANTED)
    for number, line in enumerate(head.decode("utf-8-sig", "replace").splitlines()[:_SEARCHED], 1):
        for mark, name in _DELIMITERS.items():
            if not {_key(cell) for cell in next(csv.reader([line], delimiter=mark), [])}.issuperset(needed):
                continue
            if number == 1 and mark == ",":
                return None
            if number > 1:
                kind = sniff.Kind(f"a table whose header is line {number}", sniff.in_place(f"tail -n +{number}"))
                return kind.error(path, "one that starts with its header")
            kind = sniff.Kind(f"a table separated by {name}", _converted(f"csv.reader(sys.stdin, delimiter={mark!r})"))
            return kind.error(path, "one separated by commas")
    return None if other is None or other == sniff.TABLE else other.error(path, WANTED)


def _names(text: str) -> list[str]:
    """The columns of a table in JSON, JSON Lines or Markdown, by its first row."""
    if text.lstrip().startswith("|"):
        return [name.strip() for name in text.lstrip().split("\n", 1)[0].split("|")]
    try:
        first, _ = json.JSONDecoder().raw_decode(text.lstrip().removeprefix("[").lstrip())
    except (ValueError, RecursionError):
        return []
    return list(first) if isinstance(first, dict) else []


def _converted(rows: str) -> str:
    """The command that writes a table anew, with commas: `rows` is the Python that reads it from `sys.stdin`."""
    code = (
        f"import csv, json, sys; csv.field_size_limit({_ANY}); "
        "sys.stdin.reconfigure(encoding='utf-8-sig', newline=''); "
        f"sys.stdout.reconfigure(encoding='utf-8', newline=''); csv.writer(sys.stdout).writerows({rows})"
    )
    return sniff.in_place(f'python3 -c "{code}"')


def _no_columns(
    path: Path, header: Sequence[str], needed: Sequence[str], optional: Sequence[str], otherwise: str
) -> UserError:
    written = {_key(cell): value_of(cell) for cell in header}
    first = ", ".join(filter(None, map(value_of, header)))[:_SHOWN] or "nothing"
    known = {_key(name) for name in (*needed, *optional)}
    row = known.isdisjoint(written) and any(_VALUE.fullmatch(cell) for cell in written.values())
    lacking = [name for name in needed if _key(name) not in written]
    free = [key for key in written if key not in known]
    near = {name: written[key] for name in lacking for key in difflib.get_close_matches(_key(name), free, 1)}
    closest = "; closest: " + ", ".join(f"{found} for {name}" for name, found in near.items())
    other = _other_form(path, needed) if sniff.kind_of(path) is None else None
    return other or UserError(
        f"{path.name} lacks columns: {', '.join(lacking)}",
        reason=f"its first line is a row of values, not the header: {first}"
        if row
        else f"its first line has: {first}{closest[:_SHOWN] if near else ''}",
        fix="add a line before it to name these columns and the others, in their order"
        if row
        else f"name these columns in the first line{otherwise}",
    )


def _key(name: str) -> str:
    """A column's name as it is compared."""
    return re.sub(r"[\s_-]+", "", unicodedata.normalize("NFKC", name).strip(HIDDEN).casefold())
