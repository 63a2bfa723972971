"""Tables as programs, spreadsheets and copies leave them: read row by row, or refused with what they are."""

import csv
import gzip
import io
import json
import os
import re
import shlex
import socket
import subprocess
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmim import sniff
from medmim.data.sources import large_table, table
from medmim.errors import UserError

NEEDED = ("patientid", "filename")
PLAIN = "patientid,note,filename\n1,first,a.png\n2,second,b.png\n"


Reader = Callable[[Path, Sequence[str], Sequence[str]], Iterator[table.Row]]
READERS: dict[str, Reader] = {"any": table.rows, "large": large_table.rows}
each_reader = pytest.mark.parametrize("reader", READERS.values(), ids=READERS)


def read(path: Path, text: str | bytes, reader: Reader = table.rows) -> list[table.Row]:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return list(reader(path, NEEDED, ("sex",)))


def refusal(path: Path, text: str | bytes, reader: Reader = table.rows) -> UserError:
    with pytest.raises(UserError) as caught:
        read(path, text, reader)
    return caught.value


SAME: dict[str, str | bytes] = {
    "plain": PLAIN,
    "byte order mark": "\ufeff" + PLAIN,
    "CRLF": PLAIN.replace("\n", "\r\n"),
    "CR": PLAIN.replace("\n", "\r"),
    "no line end": PLAIN.rstrip(),
    "header in capitals": PLAIN.replace("patientid", "PatientID"),
    "header with blanks": PLAIN.replace("patientid", " patient id ").replace("filename", "File Name"),
    "header with marks": PLAIN.replace("patientid", "patient_id").replace("filename", "file-name\u00a0"),
    "full-width header": PLAIN.replace("patientid", "\uff50atientid"),
    "trailing commas": PLAIN.replace("\n", ",,,\n"),
    "blank cells beyond the header": PLAIN.replace(".png\n", ".png, ,\n"),
    "blank lines at the end": PLAIN + "\n,,\n , \n\n",
    "end of file of DOS": PLAIN + "\x1a",
    "quoted": PLAIN.replace("first", '"first, ""quoted"""'),
    "quoted line break": PLAIN.replace("first", '"line 1\nline 2\r\nline 3"'),
    "index of pandas": "\n".join(f"{i},{line}" for i, line in enumerate(PLAIN.splitlines())).replace("0,p", ",p"),
    "long note": PLAIN.replace("first", "x " * 80_000),
    "long quoted note": PLAIN.replace("first", '"' + "x,\n" * 60_000 + '"'),
    "zero byte in a note": PLAIN.replace("first", "fir\0st"),
    "column twice with equal cells": "patientid,filename,patientid\n1,a.png,1\n2,b.png,2\n",
    "zero byte behind a value": PLAIN.replace("a.png", "a.png\0"),
}


@each_reader
@pytest.mark.parametrize("name", SAME)
def test_a_sound_table_gives_its_rows(tmp_path: Path, name: str, reader: Reader) -> None:
    rows = read(tmp_path / "t.csv", SAME[name], reader)
    assert [(row["patientid"], row["filename"], row.problems) for row in rows] == [
        ("1", "a.png", ()),
        ("2", "b.png", ()),
    ]
    assert [row.number for row in rows] == [2, 3]


BAD_ROW: dict[str, tuple[str, str]] = {
    "comma outside quotation marks": (PLAIN.replace("first", "Hanoi, Vietnam"), "1 cells more than the header"),
    "cut row": (PLAIN.replace("1,first,a.png", "1,first"), "ends before this column"),
    "header again": (PLAIN.replace("1,first,a.png", "patientid,note,filename"), "header again"),
    "long cell that is used": (PLAIN.replace("a.png", "x" * 160_000), "more than 4,096 characters"),
    "zero byte inside a value": (PLAIN.replace("a.png", "a\0.png"), "control characters"),
    "escape inside a value": (PLAIN.replace("a.png", "a\x1b[31m.png"), "control characters"),
    "column twice with other cells": (
        "patientid,filename,Patient ID\n1,a.png,7\n2,b.png,2\n",
        "have this name and differ",
    ),
}


@each_reader
@pytest.mark.parametrize("name", BAD_ROW)
def test_a_bad_row_has_its_reason_and_the_next_is_read(tmp_path: Path, name: str, reader: Reader) -> None:
    text, words = BAD_ROW[name]
    first, second = read(tmp_path / "t.csv", text, reader)
    assert (first.number, [words in reason for _, reason in first.problems]) == (2, [True])
    assert (second.number, second["patientid"], second.problems) == (3, "2", ())


@each_reader
@pytest.mark.parametrize("blank", ["\n,,\n", ",,\n,,\n", " , ,\n,,\n"])
def test_a_row_behind_blank_lines_has_the_number_that_a_spreadsheet_shows(
    tmp_path: Path, blank: str, reader: Reader
) -> None:
    text = PLAIN.replace("1,first", f"{blank}1,first")
    assert [row.number for row in read(tmp_path / "t.csv", text, reader)] == [4, 5]


@each_reader
def test_an_optional_column_may_be_absent_or_hold_cells(tmp_path: Path, reader: Reader) -> None:
    assert read(tmp_path / "a.csv", PLAIN, reader)[0]["sex"] == ""
    assert read(tmp_path / "b.csv", PLAIN.replace("note", "Sex"), reader)[0]["sex"] == "first"


@each_reader
def test_columns_are_asked_for_in_any_spelling_and_cells_have_that_name(tmp_path: Path, reader: Reader) -> None:
    (tmp_path / "t.csv").write_text(PLAIN.replace("filename", "File-Name"), "utf-8")
    (first, _) = reader(tmp_path / "t.csv", ["PATIENT id"], ["file_name"])
    assert first.cells == {"PATIENT id": "1", "file_name": "a.png"}


@each_reader
def test_missing_columns_are_named_with_those_found_and_the_closest(tmp_path: Path, reader: Reader) -> None:
    text = PLAIN.replace("patientid", "patient").replace("filename", "file names")
    reason = refusal(tmp_path / "t.csv", text, reader).reason
    assert "patient, note, file names" in reason
    assert reason.endswith("closest: patient for patientid, file names for filename")


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.lists(st.text(max_size=9) | st.just(""), min_size=3, max_size=3), max_size=30),
    line_end=st.sampled_from(["\n", "\r\n"]),
)
def test_the_reader_of_large_tables_gives_the_same_rows(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], line_end: str
) -> None:
    path = tmp_path_factory.mktemp("t") / "t.csv"
    with path.open("w", newline="", encoding="utf-8", errors="replace") as file:
        csv.writer(file, lineterminator=line_end).writerows([["patientid", "note", "filename"], *rows])

    def outcome(reader: Reader) -> object:
        try:
            return list(reader(path, NEEDED, ("note",)))
        except UserError as error:
            return str(error)

    assert outcome(large_table.rows) == outcome(table.rows)


def test_a_large_table_is_not_read_by_the_slow_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(table, "rows")
    monkeypatch.setattr(large_table, "_BLOCK", 4096)  # so that there are several, cut inside quotation marks, too
    lines = [f'{i},"a, ""b""\n{i}",{i}.png' for i in range(1000)]
    rows = read(tmp_path / "t.csv", "\n".join(["\ufeffpatientid,note,filename", *lines]), large_table.rows)
    assert [(row.number, row["filename"]) for row in rows] == [(i + 2, f"{i}.png") for i in range(1000)]


def zipped(name: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, PLAIN)
    return out.getvalue()


QUOTED = "".join(",".join(f'"{cell}"' for cell in line.split(",")) + "\n" for line in PLAIN.splitlines())
UMLAUT = PLAIN.replace("first", "f\u00fcr")
CHINESE = PLAIN.replace("first", "\u8001\u5e74\u6027\u767d\u5185\u969c\uff0c\u6b63\u5e38")
OBJECTS = [{"patientid": 1, "note": 'a, "b"', "filename": "a.png"}, {"patientid": 2, "filename": "b.png"}]
OTHER: dict[str, tuple[str | bytes, str, str]] = {
    "empty": (b"", r"empty \(0 bytes\)", "copy it again from where it is complete"),
    "zero bytes": (b"\0" * 5_000, "zero bytes", "completely"),
    "semicolons": (PLAIN.replace(",", ";"), "separated by semicolons", "delimiter=';'"),
    "tabs": (PLAIN.replace(",", "\t"), "separated by tabs", r"delimiter='\t'"),
    "vertical bars": (PLAIN.replace(",", "|"), "separated by vertical bars", "delimiter='|'"),
    "write.csv2 of R": (QUOTED.replace(",", ";"), "separated by semicolons", "delimiter=';'"),
    "write.table of R": (QUOTED.replace(",", "\t"), "separated by tabs", r"delimiter='\t'"),
    "quoted, vertical bars": (QUOTED.replace(",", "|"), "separated by vertical bars", "delimiter='|'"),
    "quoted with a mark": ("\ufeff" + QUOTED.replace(",", ";"), "separated by semicolons", "delimiter=';'"),
    "quoted with row names": (
        "\n".join(f'"{i or ""}";{line}' for i, line in enumerate(QUOTED.replace(",", ";").splitlines())),
        "separated by semicolons", "delimiter=';'",
    ),
    "quoted, CRLF": (QUOTED.replace(",", ";").replace("\n", "\r\n"), "separated by semicolons", "delimiter=';'"),
    "quoted, header alone": (QUOTED.replace(",", ";").replace('"1"', "1"), "separated by semicolons", "delimiter=';'"),
    "semicolons and a long cell": (
        PLAIN.replace(",", ";").replace("first", "x" * 160_000), "separated by semicolons", "delimiter=';'",
    ),
    "quoted tabs and a long cell": (
        QUOTED.replace(",", "\t").replace("first", "x" * 160_000), "separated by tabs", "delimiter",
    ),
    "semicolons and line breaks": (
        QUOTED.replace(",", ";").replace("first", "a\r\nb\nc"), "separated by semicolons", "delimiter",
    ),
    "comment with an open mark": ('"Export of 2020\n' + QUOTED.replace(",", ";"), "header is line 2", "tail -n +2"),
    "lines quoted as a whole": (
        "".join('"' + line.replace('"', '""') + '"\n' for line in PLAIN.splitlines()), "quoted as a whole", "row[0]",
    ),
    "lines quoted as a whole, mark and quotes": (
        "\ufeff" + "".join('"' + line.replace('"', '""') + '"\n' for line in QUOTED.splitlines()),
        "quoted as a whole", "row[0]",
    ),
    "text padded with zero bytes": (PLAIN.encode() + bytes(4096), "text with zero bytes behind it", "completely"),
    "Shift JIS": (
        PLAIN.replace("first", "\u80ba\u708e\u6240\u898b").encode("shift_jis"), "SHIFT_JIS", "iconv -f SHIFT_JIS",
    ),
    "DOS": (UMLAUT.encode("cp850"), r"CP850 \('f\u00fcr' in line 2\)", "iconv -f CP850"),
    "broken header": ('patientid,"no"te",filename\n1,first,a.png\n', "broken quotation in line 1", "correct line 1"),
    "open mark in the header": ('patientid,filename,"note\n1,a.png,b\n', "line 1 is never closed", "correct line 1"),
    "comment before the header": ("# made by hand\n" + PLAIN, "header is line 2", "tail -n +2"),
    "three lines before the header": ("Cohort;2020\n\nexported\n" + PLAIN, "header is line 4", "tail -n +4"),
    "separator line of Excel": ("sep=;\n" + PLAIN.replace(",", ";"), "header is line 2", "tail -n +2"),
    "blank first line": ("\n" + PLAIN, "header is line 2", "tail -n +2"),
    "Windows-1252": (UMLAUT.encode("cp1252"), r"WINDOWS-1252 \('f\u00fcr' in line 2\)", "iconv -f WINDOWS-1252"),
    "Latin-1": (UMLAUT.encode("latin-1"), "WINDOWS-1252", "iconv"),
    "GB18030": (CHINESE.encode("gb18030"), "GB18030 \\('\u8001\u5e74", "iconv -f GB18030"),
    "UTF-16 with a mark": (UMLAUT.encode("utf-16"), "UTF-16 text", "iconv -f UTF-16 "),
    "UTF-16 without a mark": (UMLAUT.encode("utf-16-le"), "UTF-16LE text", "iconv -f UTF-16LE"),
    "big-endian UTF-16": (b"\xfe\xff" + UMLAUT.encode("utf-16-be"), "UTF-16 text", "iconv -f UTF-16 "),
    "UTF-32": (UMLAUT.encode("utf-32"), "UTF-32 text", "iconv -f UTF-32"),
    "UTF-8 with one wrong byte": ((UMLAUT * 9).encode() + b"\xff", "1 wrong bytes, the first in line 28", "correct"),
    "cut inside a character": (UMLAUT.encode()[: UMLAUT.encode().index(b"\xc3") + 1], "cut off inside", "completely"),
    "Git LFS": (
        "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12\n",
        "Git LFS pointer", "git lfs pull",
    ),
    "git-annex": ("/annex/objects/SHA256E-s9--" + "0" * 64 + ".csv\n", "git-annex pointer", "git annex get"),
    "git-annex link as text": ("../.git/annex/objects/9/x/SHA256E-s9.csv", "git-annex pointer", "git annex get"),
    "link as text": ("../../blobs/0123456789abcdef", "symbolic link", "with links"),
    "DVC": ("outs:\n- md5: 0123456789abcdef0123456789abcdef\n  path: metadata.csv\n", "DVC pointer", "dvc pull"),
    "gzip": (gzip.compress(PLAIN.encode()), "gzip", "gunzip"),
    "zip": (zipped("metadata.csv"), "zip archive", "unzip"),
    "Excel": (zipped("xl/workbook.xml"), "Excel workbook", "save it as CSV"),
    "old Excel": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, "Office file", "save it as CSV"),
    "sign-in page": ("<!DOCTYPE html>\n<html><head><title>Sign in, please</title>", "web page", "access"),
    "page without a type": ("\n <html lang=en>", "web page", "access"),
    "error of S3": (
        "<?xml version='1.0'?>\n<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>",
        r"error of a server \(AccessDenied\)", "access",
    ),
    "error of GitHub": ("404: Not Found", r"error of a server \('404: Not Found'\)", "access"),
    "error of Hugging Face": ("Entry not found", "error of a server", "access"),
    "error in JSON": ('{"message": "Requires authentication", "status": "401"}', "Requires authentication", "access"),
    "JSON": (json.dumps(OBJECTS, indent=1), "is JSON", "json.load(sys.stdin)"),
    "JSON Lines": ("\n".join(map(json.dumps, OBJECTS)), "is JSON Lines", "json.loads(line)"),
    "JSON that is no such table": ('[{"id": 1}]', "is JSON", "right file"),
    "JSON Lines that are no such table": ('{"id": 1}\n{"id": 2}\n', "is JSON Lines", "right file"),
    "Markdown": (
        "| patientid | note | filename |\n|---:|:---|---|\n| 1 | first | a.png |\n| 2 || b.png |\n",
        "is a table in Markdown", "split('|')",
    ),
    "Markdown that is no such table": ("| id | Note It |\n|---|---|\n| 1 | x |\n", "in Markdown", "right file"),
    "YAML": ("---\npatientid: 1\n", "is YAML", "right file"),
    "YAML list": ("- patientid: 1\n  filename: a.png\n", "is YAML", "right file"),
    "PDF": (b"%PDF-1.7\n...", "a PDF", "right file"),
    "PNG": (b"\x89PNG\r\n\x1a\n....", "a PNG image", "right file"),
    "Parquet": (b"PAR1....", "Parquet", "CSV"),
    "pickle": (b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x03", "pickle", "right file"),
    "SQLite": (b"SQLite format 3\0...", "SQLite", "CSV"),
    "binary": (bytes(range(32)) * 40, "binary file of an unknown kind", "right file"),
    "another table": ("First Name,b\n1,2\n", "line has: First Name, b", "name these columns"),
    "no header": ("1,first,A_1.png\n2,b,c.png\n", "a row of values, .*: 1, first, A_1.png", "add a line before it"),
    "open quotation mark": (PLAIN.replace("first", '"first'), "line 2 is never closed", "correct line 2"),
    "mark inside quotation marks": (PLAIN.replace("first", '"a "b" c"'), "broken quotation in line 2", "written twice"),
    "backslash before a mark": (PLAIN.replace("second", r'"a \"b\" c"'), "broken quotation in line 3", "written twice"),
}  # fmt: skip


# What is odd in a column that nobody asks for does not matter to the reader of large tables.
NOT_ASKED_FOR = {
    "DOS", "Windows-1252", "Latin-1", "GB18030", "Shift JIS", "mark inside quotation marks", "backslash before a mark",
}  # fmt: skip


@each_reader
@pytest.mark.parametrize("name", OTHER)
def test_what_is_no_such_table_is_named_with_its_fix(tmp_path: Path, name: str, reader: Reader) -> None:
    text, words, fix = OTHER[name]
    if reader is large_table.rows and name in NOT_ASKED_FOR:
        assert [row["filename"] for row in read(tmp_path / "t.csv", text, reader)][:2] == ["a.png", "b.png"]
        return
    error = refusal(tmp_path / "metadata.csv", text, reader)
    with pytest.raises(UserError, match=words):
        raise error
    assert "metadata.csv" in error.fact and error.reason and fix in error.fix
    assert "ownload it again" not in str(error) and "etch it again" not in str(error)


@pytest.mark.parametrize(
    "name",
    ["semicolons", "tabs", "vertical bars", *(name for name in OTHER if "quoted" in name or "semicolons" in name),
     "write.csv2 of R", "write.table of R", "Shift JIS", "DOS",
     "comment before the header", "three lines before the header",
     "Windows-1252", "GB18030", "UTF-16 with a mark", "UTF-16 without a mark", "big-endian UTF-16", "UTF-32", "gzip",
     "JSON", "JSON Lines", "Markdown"],
)  # fmt: skip
def test_the_command_that_the_fix_names_makes_the_table_readable(tmp_path: Path, name: str) -> None:
    path = tmp_path / "my 'data'" / "meta data.csv"
    path.parent.mkdir()
    command = refusal(path, OTHER[name][0]).fix.split("`")[1]
    assert shlex.split(command)
    subprocess.run(["sh", "-c", command], check=True, cwd="/")
    assert [row["filename"] for row in table.rows(path, NEEDED)] == ["a.png", "b.png"]


def test_the_conversion_keeps_what_is_in_the_cells(tmp_path: Path) -> None:
    note = "x" * 200_000 + ' a;b,c \u00e9 \r\n "q" \n end'
    out = io.StringIO()
    csv.writer(out, delimiter=";", quoting=csv.QUOTE_ALL).writerows(
        [["patientid", "sex", "filename"], ["1", note, "a"]]
    )
    path = tmp_path / "t.csv"
    command = refusal(path, "\ufeff" + out.getvalue()).fix.split("`")[1]
    subprocess.run(["sh", "-c", command], check=True, env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0"})
    with path.open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file))[1] == ["1", note, "a"]


def test_two_tables_that_are_read_at_once_may_both_have_long_cells(tmp_path: Path) -> None:
    text = PLAIN.replace("second", "y" * 200_000)
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text(text)
    one, two = (table.rows(tmp_path / name, NEEDED) for name in ("a.csv", "b.csv"))
    assert next(one).number == next(two).number == 2
    assert [row.number for row in one] == [row.number for row in two] == [3]


def test_a_folder_where_the_table_is_meant_is_named(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").mkdir()
    with pytest.raises(UserError, match="metadata.csv is a folder"):
        list(table.rows(tmp_path / "metadata.csv", NEEDED))


MUTATIONS: list[Callable[[str, str, int], str]] = [
    lambda text, junk, at: text[:at] + junk + text[at:],
    lambda text, junk, at: text[:at],
    lambda text, junk, at: text[:at] + junk,
    lambda text, junk, at: text.replace(",", junk or ","),
]


@each_reader
@settings(max_examples=150, deadline=None)
@given(
    junk=st.text(max_size=6), at=st.integers(0, len(PLAIN)), change=st.sampled_from(MUTATIONS),
    code=st.sampled_from(["utf-8", "utf-16", "cp1252", "gb18030"]),
)  # fmt: skip
def test_any_text_gives_rows_or_one_refusal(
    tmp_path_factory: pytest.TempPathFactory,
    reader: Reader,
    junk: str,
    at: int,
    change: Callable[[str, str, int], str],
    code: str,
) -> None:
    data = change(PLAIN, junk, at).encode(code, "replace")
    try:
        rows = read(tmp_path_factory.getbasetemp() / "any.csv", data, reader)
    except UserError as error:
        assert "any.csv" in error.fact and error.fix
    else:
        assert all(row.problems or set(row.cells) >= set(NEEDED) for row in rows)


@each_reader
@pytest.mark.parametrize("kind", ["pipe", "device", "socket"])
def test_what_can_be_read_without_end_is_named_and_not_read(tmp_path: Path, kind: str, reader: Reader) -> None:
    path = tmp_path / "metadata.csv"
    with socket.socket(socket.AF_UNIX) as server:
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "device":
            path.symlink_to("/dev/zero")
        else:
            server.bind(os.path.relpath(path))
        with pytest.raises(UserError, match=f"metadata.csv is a .*{kind}.*, not a CSV table") as caught:
            list(reader(path, NEEDED, ()))
    assert caught.value.fix and caught.value.exit_code == 2


@given(st.binary(min_size=1, max_size=40).filter(lambda data: max(data) > 127))
def test_the_encoding_that_is_named_can_hold_the_text(data: bytes) -> None:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        fix = sniff.encoding_kind(data, error).fix
        named = re.search(r"iconv -f (\S+)", fix)
        if named:
            data.decode(named[1])
