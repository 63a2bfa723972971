"""Tables in Excel workbooks: the rows of the same table in CSV, and what is refused."""

import csv
import io
import zipfile
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmim.data.sources import table, workbook
from medmim.errors import UserError

NEEDED, OPTIONAL = ("id", "leftfundus"), ("age",)
ROWS: list[list[Any]] = [
    ["ID", "Left-Fundus", "Age"],
    [0, "0_left.jpg", 69],
    [None, None, None],
    ["1", " 1_left.jpg ", 57.5],
    [2, "", None],
    [3, "3_left.jpg", "unknown"],
]


def write(path: Path, rows: list[list[Any]]) -> Path:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.save(path)
    return path


def test_a_workbook_reads_as_the_same_table_in_csv(tmp_path: Path) -> None:
    with (tmp_path / "t.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(ROWS)
    from_csv = list(table.rows(tmp_path / "t.csv", NEEDED, OPTIONAL))
    assert list(workbook.rows(write(tmp_path / "t.xlsx", ROWS), NEEDED, OPTIONAL)) == from_csv
    assert [(row.number, row["id"], row["leftfundus"], row["age"]) for row in from_csv] == [
        (2, "0", "0_left.jpg", "69"),
        (4, "1", "1_left.jpg", "57.5"),
        (5, "2", "", ""),
        (6, "3", "3_left.jpg", "unknown"),
    ]


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    path = write(tmp_path / "t.xlsx", [["ID", "Right-Fundus"], [0, "0_right.jpg"]])
    with pytest.raises(UserError, match="t.xlsx lacks columns: leftfundus") as caught:
        list(workbook.rows(path, NEEDED))
    assert "Right-Fundus" in str(caught.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "a Git LFS pointer"),
        (b"ID,Left-Fundus\n0,0_left.jpg\n", "a table \\(CSV\\)"),
        (b"<html><body>sign in</body></html>", "a web page"),
        (b"", "empty"),
        (b"PK\x03\x04" + b"\0" * 40, "cannot be read as a workbook"),
    ],
)
def test_what_is_no_workbook_is_named(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "t.xlsx").write_bytes(data)
    with pytest.raises(UserError, match=words):
        list(workbook.rows(tmp_path / "t.xlsx", NEEDED))


def repacked(path: Path, name: str, data: bytes) -> Path:
    """The workbook with another content of one of its parts."""
    out = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for part in old.namelist():
            new.writestr(part, data if part == name else old.read(part))
    path.write_bytes(out.getvalue())
    return path


def test_a_workbook_that_unpacks_to_more_than_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workbook, "MAX_BYTES", 1 << 20)
    path = repacked(write(tmp_path / "t.xlsx", ROWS), "xl/theme/theme1.xml", b" " * (2 << 20))
    assert path.stat().st_size < 20_000
    with pytest.raises(UserError, match="bytes unpacked"):
        list(workbook.rows(path, NEEDED))


def test_a_row_that_claims_to_be_the_last_of_a_sheet_costs_no_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "t.xlsx", ROWS)
    with zipfile.ZipFile(path) as parts:
        sheet = parts.read("xl/worksheets/sheet1.xml").decode()
    wide = sheet.replace('r="6"', 'r="20000"').replace("A6", "A20000").replace('r="B6"', 'r="XFD20000"')
    rows = list(workbook.rows(repacked(path, "xl/worksheets/sheet1.xml", wide.encode()), NEEDED, OPTIONAL))
    assert [row.number for row in rows] == [2, 4, 5, 20_000]


JUNK = (b"<row r='99999999'/>", b"<c t='s'><v>7777</v></c>", b"<c t='d'><v>x</v></c>", b"<c t='e'><v>#REF!</v></c>")


def test_a_row_beyond_the_last_of_a_sheet_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t.xlsx", ROWS)
    with zipfile.ZipFile(path) as parts:
        sheet = parts.read("xl/worksheets/sheet1.xml").decode()
    far = sheet.replace('r="6"', 'r="99999999"').replace("A6", "A99999999")
    with pytest.raises(UserError, match="a row beyond"):
        list(workbook.rows(repacked(path, "xl/worksheets/sheet1.xml", far.encode()), NEEDED, OPTIONAL))


@settings(max_examples=40)
@given(
    part=st.sampled_from(["xl/worksheets/sheet1.xml", "xl/workbook.xml", "xl/styles.xml", "[Content_Types].xml"]),
    cut=st.floats(0, 1),
    junk=st.one_of(st.binary(max_size=8), st.sampled_from(JUNK)),
    rest=st.booleans(),
)
def test_a_mutated_workbook_is_read_or_refused_with_its_name(
    part: str, cut: float, junk: bytes, rest: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write(tmp_path_factory.mktemp("mutated") / "t.xlsx", ROWS)
    with zipfile.ZipFile(path) as parts:
        whole = parts.read(part)
    at = int(len(whole) * cut)
    repacked(path, part, whole[:at] + junk + (whole[at:] if rest else b""))
    try:
        list(workbook.rows(path, NEEDED, OPTIONAL))
    except UserError as error:
        assert "t.xlsx" in str(error)
