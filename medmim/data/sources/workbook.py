"""Reads a table from an Excel workbook (xlsx), with the same rows and problems as `table` gives for CSV.

A workbook is a zip archive of XML that may come from anywhere: its size unpacked, its columns and its cells are limited
before they are read. Cells are the stored values, not the formulas; a whole number is written without a point.
"""

import datetime
import zipfile
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from medmim import sniff
from medmim.data.sources import table
from medmim.data.sources.files import one_line
from medmim.errors import UserError, from_os_error, require

MAX_BYTES = 256 << 20  # of all parts of the archive, unpacked: shared texts are held in memory
MAX_COLUMNS = 256
MAX_ROWS = 100_000  # a row may claim any number, and those before it are then empty; the real tables have some thousand
_WANTED = "an Excel workbook (xlsx)"
_KINDS = ("an Excel workbook", "a zip archive")


def rows(path: Path, needed: Sequence[str], optional: Sequence[str] = ()) -> Iterator[table.Row]:
    """Read the first sheet of a workbook, its header in the first row.

    Args:
        path: The file.
        needed: Columns that it must have, as of `table.rows`.
        optional: Columns that it may have.

    Raises:
        UserError: It is no workbook, is broken or too large, or lacks columns.
    """
    _require_workbook(path)
    yield from table.of_records(path, _records(path), needed, optional)


def _require_workbook(path: Path) -> None:
    sniff.require_file(path, _WANTED)
    try:
        kind = sniff.kind_of(path)
        if kind is None or kind.name not in _KINDS:
            with path.open("rb") as file:
                known = kind or sniff.text_kind(file.read(sniff.HEAD)) or sniff.UNKNOWN
            raise known.error(path, _WANTED)
        with zipfile.ZipFile(path) as parts:
            size = sum(part.file_size for part in parts.infolist())
    except OSError as error:
        raise from_os_error(error, f"reading {path.name}") from error
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise _broken(path, error) from None
    if size > MAX_BYTES:
        raise UserError(
            f"{path.name} has {size:,} bytes unpacked, more than {MAX_BYTES:,}",
            reason="such a workbook is no table of a data set, or fills the memory",
            fix="save the sheet as CSV in UTF-8 and name that file in the recipe",
        )


def _records(path: Path) -> Iterator[list[str]]:
    openpyxl = require("openpyxl", "data")
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True, keep_links=False)
        sheet = book.worksheets[0]
        sheet.reset_dimensions()  # what the file says of its own size may be wrong
        cells = sheet.iter_rows(max_col=MAX_COLUMNS, values_only=True)
    except Exception as error:  # what openpyxl, its XML reader or zipfile runs into on a broken or hostile archive
        raise _broken(path, error) from None
    width: int | None = None
    for number in count(1):
        try:
            values = next(cells, None)
        except Exception as error:  # each row is read, and may be broken, only now
            raise _broken(path, error) from None
        if values is None:
            break
        if number > MAX_ROWS:
            raise _broken(path, ValueError(f"a row beyond {MAX_ROWS:,}"))
        record = [_text(value) for value in values] if any(value is not None for value in values) else []
        if width is None:
            width = max((at for at, cell in enumerate(record, 1) if cell), default=0)
        yield [*record[:width], *(cell for cell in record[width:] if cell)]
    book.close()


def _text(value: Any) -> str:
    """A cell as CSV would have it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, datetime.datetime | datetime.date):
        return value.isoformat()
    return str(value)


def _broken(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path.name} cannot be read as a workbook",
        reason=one_line(error),
        fix="copy it again, completely; or save its sheet as CSV in UTF-8 and name that file in the recipe",
    )
