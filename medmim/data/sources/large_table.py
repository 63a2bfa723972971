"""Reads a few columns of a large table: half a million rows of 150 columns in seconds, as `table.rows` would give them.

Arrow cuts the lines, and only the columns asked for become text. Where it cannot, or where a line is odd (empty, the
header again, of another length), `table` reads the file from its start and says what is wrong.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from medmim import sniff
from medmim.data.sources import table
from medmim.data.sources.table import Row

_BLOCK = 8 << 20  # bytes that are cut at a time; no line is longer


def rows(path: Path, needed: Sequence[str], optional: Sequence[str] = ()) -> Iterator[Row]:
    """Read a table in CSV: arguments, rows and errors are those of `table.rows`.

    The cells of columns that are not asked for may be in any encoding.
    """
    sniff.require_text(path, table.WANTED)
    found = _columns(path, needed, optional)
    if found is None:
        yield from table.rows(path, needed, optional)
        return
    number = 2
    for batch in found.to_batches():
        parts = [_cleaned(column) for column in batch.columns]
        bad = {name: problems for name, (_, problems) in zip(found.column_names, parts, strict=True) if problems}
        for at, cells in enumerate(zip(*(values for values, _ in parts), strict=True)):
            own = tuple((name, problems[at]) for name, problems in bad.items() if at in problems) if bad else ()
            yield Row(number + at, dict(zip(found.column_names, cells, strict=True)), own)
        number += batch.num_rows


def _columns(path: Path, needed: Sequence[str], optional: Sequence[str]) -> Any:
    """The wanted columns as an Arrow table of texts; None where `table` must read the file."""
    import pyarrow
    from pyarrow import compute, csv

    names = table.column_names(path)
    places = table.find(names, (*needed, *optional))
    if not needed or not places.keys() >= set(needed) or any(len(at) > 1 for at in places.values()):
        return None
    wanted = {name: str(at[0]) for name, at in places.items()}
    read = csv.ReadOptions(block_size=_BLOCK, column_names=[str(i) for i in range(len(names))], skip_rows_after_names=1)
    parse = csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False)
    convert = csv.ConvertOptions(
        include_columns=list(wanted.values()), column_types=dict.fromkeys(wanted.values(), pyarrow.string())
    )
    try:
        found = csv.read_csv(path, read_options=read, parse_options=parse, convert_options=convert)
    except (pyarrow.ArrowInvalid, OSError):
        return None
    found = found.rename_columns(list(wanted))
    first = compute.utf8_trim_whitespace(found[needed[0]])
    for odd in ("", names[places[needed[0]][0]]):  # an empty line, the header again
        if compute.any(compute.equal(first, odd)).as_py():
            return None
    return found


def _cleaned(column: Any) -> tuple[list[str], dict[int, str]]:
    """The values of a column of a batch, and at which of them there is a problem."""
    coded = column.dictionary_encode()
    texts: list[str] = coded.dictionary.to_pylist()
    codes: list[int] = coded.indices.to_pylist()
    values, problems = [], {}
    for code, text in enumerate(texts):
        plain = len(text) <= table.MAX_CELL and text.isascii() and text.isprintable()
        values.append(text.strip() if plain else table.value_of(text))
        if not plain and (problem := table.problem_of(text)):
            problems[code] = problem
    return [values[code] for code in codes], {at: problems[code] for at, code in enumerate(codes) if code in problems}
