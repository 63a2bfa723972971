"""What the look-alikes of all sources share: ids, tables as text, and what was written."""

import csv
import gzip
import io
import math
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from medmim.data.seeds import fraction

Row = Mapping[str, object]
Done = Callable[[], object]  # called once a patient is written

_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass
class Written:
    """What a folder of one source holds; `dirty` counts the rows, by what is wrong with them."""

    source: str
    patients: int
    rows: int = 0
    images: int = 0
    dirty: Counter[str] = field(default_factory=Counter)


def write(path: Path, content: bytes) -> None:
    """Write a file, and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def columns(text: str) -> list[str]:
    """The names in a text, with blanks between them."""
    return text.split()


def csv_text(header: Sequence[str], rows: Iterable[Row], bom: bool = False, cut: bool = False) -> bytes:
    """A comma-separated table; a column that a row lacks is blank there.

    Args:
        header: The columns in their order.
        rows: What stands in them.
        bom: Whether the text begins with a byte order mark.
        cut: Whether a row may have more columns.

    Raises:
        ValueError: A row has more, and may not.
    """
    out = io.StringIO()
    table = csv.DictWriter(out, header, restval="", extrasaction="ignore" if cut else "raise", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return out.getvalue().encode("utf-8-sig" if bom else "utf-8")


def gz(content: bytes) -> bytes:
    """Compressed, without the time, so that equal contents give equal bytes."""
    return gzip.compress(content, 6, mtime=0)


def xlsx(sheet: str, header: Sequence[str], rows: Iterable[Row]) -> bytes:
    """An Excel file of one sheet, without the times of its making."""
    from openpyxl import Workbook

    book = Workbook()
    book.active.title = sheet
    book.active.append(list(header))
    for row in rows:
        book.active.append([row.get(column) for column in header])
    book.properties.created = datetime(2020, 1, 1)
    made, fixed = io.BytesIO(), io.BytesIO()
    book.save(made)
    with zipfile.ZipFile(made) as source, zipfile.ZipFile(fixed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "docProps/core.xml":  # openpyxl writes the time of saving here
                content = re.sub(rb"(<dcterms:modified[^>]*>)[^<]*", rb"\g<1>2020-01-01T00:00:00Z", content)
            target.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return fixed.getvalue()


def turn(kinds: Sequence[str], number: int) -> str:
    """What is wrong with patient `number`: one kind after the other, then nothing for two rounds as long."""
    return "" if number // len(kinds) % 3 else kinds[number % len(kinds)]


def number_of(index: int, low: int, high: int, *names: object) -> int:
    """The number in [low, high) of item `index`: spread over the range, different for each of a million items.

    Args:
        index: From 0.
        low: Smallest number.
        high: Above the largest; the range holds 3 times as many numbers as there are items.
        names: What is numbered; the seed shifts all numbers.
    """
    return low + int((index * _GOLDEN + fraction(*names)) % 1 * (high - low))
