"""What a file is that is not what it should be; and text that only begins like such a file is left alone."""

import base64
import bz2
import gzip
import io
import json
import lzma
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmim import sniff
from medmim.errors import UserError

PLAIN = [
    "mdatftyp,sex\n1,F\n", "moovftyp\n", "abcdmoov,1\n", "abcdftypheic,1\n", "abcdftypavif,1\n", "PAR1,PAR2\n1,2\n",
    "FEA1,FEA2\n", "ARROW1;ARROW2\n", "8BPS,x\n", "MATLAB 5 features,x\n", "\tPNG\n1\ta.png\n", "401 patients\n",
    "404,not found\n1,2\n", "500 films of 200 patients", "429\n", "410 rows: see below", "403 b", "502-a,b",
    "<patient>,b\n1,2\n", "<id>;<sex>\n", "<id>\t<sex>\n", "<500 mL,finding\n1,2\n", "Gone fishing,1\n",
    "x" * 128 + "DICM,1\n", "x" * 257 + "ustar,2\n", "BZh91AY,b\n",
    '{"message": "a", "rows": []}', '{"error": 0.1, "auc": 0.9}', '{"detail": "x", "images": ["a.png"]}',
    '{"title": "Cohort", "type": "table"}', '{"status": "done"}', '{"message": 7}', "{}",
]  # fmt: skip


@pytest.mark.parametrize("text", PLAIN)
def test_text_is_not_taken_for_another_kind_of_file(text: str) -> None:
    assert sniff.identify(text.encode()) is None


REFUSALS = {
    "GitHub": '{"message": "Not Found", "documentation_url": "https://docs", "status": "404"}',
    "FastAPI": '{"detail": "Not authenticated"}',
    "Hugging Face": '{"error": "Repository not found"}',
    "Google": '{"error": {"code": 403, "message": "The caller does not have permission", "status": "DENIED"}}',
    "Zenodo": '{"status": 410, "message": "PID has been deleted."}',
    "Spring": '{"timestamp": 1, "status": 401, "error": "Unauthorized", "path": "/files"}',
    "problem details": '{"type": "about:blank", "title": "Forbidden", "status": 403, "detail": "no access"}',
    "OAuth": '{"error": "invalid_token", "error_description": "expired"}',
    "plain": "404: Not Found", "with its phrase": "403 Forbidden", "bracketed": "(401) Unauthorized: sign in first",
    "proxy": "502 Bad Gateway", "server": "500 Internal Server Error\n", "busy": "503 Service Unavailable",
    "words": "Access to dataset x is restricted. You must be authenticated", "hub": "Entry not found",
    "too many": "429 Too Many Requests", "limit": "Rate limit exceeded",
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_the_refusal_of_a_server_is_known_and_quoted(name: str) -> None:
    found = sniff.identify(REFUSALS[name].encode())
    assert found is not None and found.name.startswith("the error of a server")


BINARY = {
    "a video": [b"\0\0\0\x20ftypisom\0\0\2\0", b"\0\0\0\x14ftypqt  ", b"\0\0\0\x08mdat", b"\1\2\3\4moov"],
    "a HEIC image": [b"\0\0\0\x18ftypheic\0\0\0\0", b"\0\0\0\x1cftypmif1"],
    "an AVIF image": [b"\0\0\0\x1cftypavif", b"\0\0\0\x20ftypavis"],
    "a Parquet or Arrow file": [b"PAR1\x15\4\x15", b"ARROW1\0\0\xff\xff", b"FEA1\0\0\0\0"],
    "a DICOM file": [b"\0" * 128 + b"DICM\2\0\0\0UL", b"\x08\0\5\0CS\n\0ISO_IR 100"],
    "a tar archive": [b"a.png".ljust(257, b"\0") + b"ustar\x0000", b"a.png".ljust(257, b"\0") + b"ustar  \0"],
    "a Photoshop file": [b"8BPS\0\1\0\0"],
    "a MATLAB file": [b"MATLAB 5.0 MAT-file, Platform: GLNXA64"],
    "a bzip2 file": [b"BZh91AY&SY\x11\x22"],
}  # fmt: skip


@pytest.mark.parametrize("name", BINARY)
def test_what_programs_write_is_known_by_its_first_bytes(name: str) -> None:
    for head in BINARY[name]:
        found = sniff.identify(head)
        assert found is not None and found.name == name, head


@given(
    st.lists(st.text("abcdefghijklmnopqrstuvwxyzPARFEmdatoftyp019 _", min_size=1, max_size=12), min_size=2, max_size=6)
)
def test_a_header_of_any_words_is_plain_text(names: list[str]) -> None:
    assert sniff.identify((",".join(names) + "\n1,2\n").encode()) is None


@given(st.dictionaries(st.text(max_size=8), st.none() | st.integers() | st.lists(st.integers()), min_size=1))
def test_json_that_says_nothing_is_no_refusal(values: dict[str, object]) -> None:
    assert sniff.identify(json.dumps(values).encode()) is None


@pytest.mark.parametrize("code", ["utf-8", "utf-8-sig"])
def test_text_is_read_with_a_mark_or_without(tmp_path: Path, code: str) -> None:
    (tmp_path / "a.txt").write_text("n\u00e4me: x\n", encoding=code)
    assert sniff.read_text(tmp_path / "a.txt", "a recipe") == "n\u00e4me: x\n"


@pytest.mark.parametrize("code", ["utf-16", "utf-32", "utf-16-le", "cp1252", "gb18030"])
def test_text_of_another_encoding_is_refused_with_the_command_that_converts_it(tmp_path: Path, code: str) -> None:
    path = tmp_path / "it's a.txt"
    path.write_bytes("name: \u00fc\u00e4 and more words\n".encode(code))
    with pytest.raises(UserError, match="not a recipe") as caught:
        sniff.read_text(path, "a recipe")
    assert "iconv -f" in caught.value.fix and str(path) in caught.value.fact


def test_a_folder_and_a_file_that_is_gone_are_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match=path.name):
            sniff.read_text(path, "a recipe")


def zipped(*names: str) -> Callable[[bytes], bytes]:
    """A zip archive of files that all hold the same; a name that ends in a slash is a folder."""

    def pack(content: bytes) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in names:
                archive.writestr(name, b"" if name.endswith("/") else content)
        return out.getvalue()

    return pack


def taped(*names: str) -> Callable[[bytes], bytes]:
    """A tar archive, as `zipped`."""

    def pack(content: bytes) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            for name in names:
                item = tarfile.TarInfo(name)
                item.size = len(content)
                archive.addfile(item, io.BytesIO(content))
        return out.getvalue()

    return pack


def by(*command: str) -> Callable[[bytes], bytes]:
    """What a program makes of its standard input."""
    return lambda content: subprocess.run(command, input=content, check=True, capture_output=True).stdout


def sevened(content: bytes) -> bytes:
    """A 7-Zip archive of one file, which only its own program writes, and only to a file."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["7z", "a", f"{folder}/a.7z", "-si-name.csv"]
        subprocess.run(command, input=content, check=True, capture_output=True)
        return Path(folder, "a.7z").read_bytes()


PACKED: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gunzip", gzip.compress),
    "bzip2": ("bunzip2", bz2.compress),
    "xz": ("unxz", lzma.compress),
    "Zstandard": ("zstd", by("zstd", "-c")),
    "zip": ("unzip", zipped("-name.csv")),
    "zip of another name": ("unzip", zipped("deep/", "deep/other [1].csv")),
    "zip of several": ("unzip", zipped("-name.csv", "readme.txt")),
    "tar": ("tar", taped("-name.csv")),
    "tar of another name": ("tar", taped("other.csv")),
    "tar of several": ("tar", taped("readme.txt", "-name.csv")),
    "7-Zip": ("7z", sevened),
    "data URL": ("base64", lambda content: b"data:image/png;base64," + base64.b64encode(content)),
    "base64": ("base64", base64.encodebytes),
}


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("form", PACKED)
def test_the_command_for_a_packed_file_puts_its_content_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, relative: bool
) -> None:
    program, pack = PACKED[form]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    content = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9
    folder = tmp_path / "a FILE's FOLDER"
    folder.mkdir()
    (folder / "-name.csv").write_bytes(pack(content))
    monkeypatch.chdir(folder if relative else "/")
    path = Path("-name.csv") if relative else folder / "-name.csv"
    kind = sniff.kind_of(path)
    assert kind is not None
    command = kind.error(path, "a table").fix.split("`")[1]
    subprocess.run(["sh", "-c", command], check=True, stdin=subprocess.DEVNULL, capture_output=True)
    assert (folder / "-name.csv").read_bytes() == content


def test_a_broken_archive_has_a_fix_too(tmp_path: Path) -> None:
    for name, content in (("zip", zipped("a")(b"x")[:40]), ("tar", taped("a")(b"x" * 2000)[:300] + b"\xff" * 512)):
        (tmp_path / name).write_bytes(content)
        kind = sniff.kind_of(tmp_path / name)
        assert kind is not None and kind.name == f"a {name} archive"
        assert f"{tmp_path / name}.{name}" in kind.fix_of(tmp_path / name)


def test_a_data_url_that_is_no_base64_is_converted_by_a_program() -> None:
    found = sniff.identify(b"data:image/svg+xml,%3Csvg%20/%3E")
    assert found is not None and "base64" not in found.name + found.fix
