"""Says what a file is that is not what it should be, and what to do about it: tables, images, recipes, checkpoints.

What lies under a name such as `metadata.csv` or `model.safetensors` is often something that a tool left in its place: a
pointer (Git LFS, git-annex, DVC), an archive, a web page, a DICOM file, text of another encoding.
"""

import json
import re
import shlex
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from medmim.errors import UserError, from_os_error

HEAD = 1 << 16  # bytes that `identify` needs
_SHORT = 2048  # no pointer and no server's error text is longer
_PADDED = 16  # zero bytes at the end of a text that was being copied
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Kind:
    """What a file is: `name` with its article, and `fix`, where FILE stands for the file."""

    name: str
    fix: str

    def fix_of(self, path: Path) -> str:
        """What to do about this file."""
        only = _PRINTED.get(self.name)
        fix = f"`{only} > FILE.new && mv FILE.new FILE`" if only and _holds_one_file(path, self) else self.fix
        places = {"FILE": _typed(path), "FOLDER": _typed(path.parent)}
        return re.sub("FILE|FOLDER", lambda found: places[found[0]], fix)

    def error(self, path: Path, wanted: str) -> UserError:
        """The error for a file that should have been `wanted`, such as "a CSV table"."""
        return UserError(
            f"{path} is {self.name}, not {wanted}",
            reason=f"medmim reads it as {wanted}",
            fix=self.fix_of(path),
        )


def _typed(path: Path) -> str:
    """A path as a shell reads it, which a program takes for no option."""
    return shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))


def _holds_one_file(path: Path, kind: Kind) -> bool:
    """Whether a zip or tar archive holds a single file, as what is sent packed under its own name does."""
    import tarfile
    import zipfile

    try:
        if kind.name == "a zip archive":
            with zipfile.ZipFile(path) as packed:
                return sum(not item.is_dir() for item in packed.infolist()) == 1
        with tarfile.open(path, "r:") as tape:
            return sum(1 for _ in islice((item for item in tape if item.isfile()), 2)) == 1
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile, tarfile.TarError):
        return False


def in_place(command: str) -> str:
    """A shell command that replaces FILE by what `command` makes of it."""
    return f"`{command} < FILE > FILE.new && mv FILE.new FILE`"


DICOM = "a DICOM file"
NIFTI = "a NIfTI volume"
IMAGES = "give a PNG, JPEG, WebP, TIFF, BMP, GIF or PPM file"
_OTHER_FILE = "put the right file under this name"
_TO_PNG = "convert it to PNG"
_TO_CSV = "open it in its program and save it as CSV in UTF-8"
_EXPORT = "export its table as CSV in UTF-8"
_SLICES = "export its slices as PNG"
_BINARY = "copy it again in binary mode"
_DATA_URL = "`sed 's/^data:[^,]*,//' FILE | base64 -d > FILE.new && mv FILE.new FILE`"
_PRINTED = {"a zip archive": "unzip -p FILE", "a tar archive": "tar -xOf FILE"}  # the content of their only file
_DICOM = f"{_TO_PNG}, for example by DCMTK: `dcmj2pnm +on FILE FILE.png`"
_POINTERS = (
    (rb"version https://(git-lfs|hawser)\.github\.com", "a Git LFS pointer", "`git lfs pull` in FOLDER"),
    (rb"# xet version", "a Xet pointer", "`hf download` gets what it stands for"),
    (rb"\S{0,900}annex/objects/\S+\s*$", "a git-annex pointer", "`git annex get FILE` in its repository"),
    (rb"(outs:\s*\n\s*- |md5: [0-9a-f]{32}\s*\n)", "a DVC pointer", "`dvc pull` in its repository"),
    (rb"(\.\./)+[^\n]{1,900}\s*$", "the text of a symbolic link", "copy or check it out again with links"),
)
_MAGIC = (  # each has a byte that no text holds, or more letters than a text begins with by chance
    (128, rb"DICM(?![\w,;|\s-])", DICOM, _DICOM),
    (0, rb"[\x02\x08]\x00[\x00\x01\x05\x08\x16\x18]\x00(UL|OB|CS|UI|.\x00\x00\x00)", DICOM, _DICOM),
    (0, rb"\x1f\x8b", "a gzip file", in_place("gunzip")),
    (0, rb"BZh[1-9]1AY&SY", "a bzip2 file", in_place("bunzip2")),
    (0, rb"\xfd7zXZ\x00", "an xz file", in_place("unxz")),
    (0, rb"\x28\xb5\x2f\xfd", "a Zstandard file", in_place("zstd -d")),
    (0, rb"PK\x03\x04.{0,4000}(xl/|\[Content_Types\]\.xml)", "an Excel workbook", _TO_CSV),
    (0, rb"PK\x03\x04.{26}mimetypeapplication/vnd\.oasis", "an OpenDocument file", _TO_CSV),
    (0, rb"PK(\x03\x04|\x05\x06|\x07\x08)", "a zip archive", "`mv FILE FILE.zip && unzip FILE.zip -d FOLDER`"),
    (0, rb"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "`mv FILE FILE.7z && 7z x -oFOLDER FILE.7z`"),
    (0, rb"Rar!\x1a\x07", "a RAR archive", "`mv FILE FILE.rar && unrar x FILE.rar FOLDER/`"),
    (257, rb"ustar(\x00|  \x00)", "a tar archive", "`mv FILE FILE.tar && tar -xf FILE.tar -C FOLDER`"),
    (0, rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Office file of the old formats (xls, doc)", _TO_CSV),
    (0, rb"\{\\rtf", "an RTF document", _TO_CSV),
    (0, rb"\x00\x05\x16[\x00\x07]", "a macOS resource fork", "copy the file of this name without `._`"),
    (0, rb"%PDF-", "a PDF", _OTHER_FILE),
    (0, rb"%!PS|\xc5\xd0\xd3\xc6", "a PostScript file", _TO_PNG),
    (0, rb"\x89HDF\r\n|CDF[\x01\x02]", "an HDF5 or NetCDF file", _OTHER_FILE),
    (0, rb"\x93NUMPY", "a NumPy array", _OTHER_FILE),
    (0, rb"MATLAB 5\.0 MAT-file", "a MATLAB file", _OTHER_FILE),
    (0, rb"(PAR1|ARROW1|FEA1)(?![\w,;|\s-])", "a Parquet or Arrow file", _EXPORT),
    (0, rb"SQLite format 3\0", "an SQLite database", _EXPORT),
    (0, rb"\x80[\x02-\x05][\x95}\](cX\x8c]", "a Python pickle", _OTHER_FILE),
    (344, rb"(n\+1|ni1)\0", NIFTI, _SLICES),
    (0, rb"NRRD000|ObjectType\s*=", "an NRRD or MetaImage volume", _SLICES),
    (0, rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51", "a JPEG 2000 image", _TO_PNG),
    (0, rb"\xff\x0a|\x00\x00\x00\x0cJXL ", "a JPEG XL image", _TO_PNG),
    (0, rb"[\x00-\x08].{3}ftyp(heic|heix|hevc|mif1|msf1)", "a HEIC image", _TO_PNG),
    (0, rb"[\x00-\x08].{3}ftypavi[fs]", "an AVIF image", _TO_PNG),
    (0, rb"[\x00-\x08].{3}(ftyp|moov|mdat)|RIFF.{4}AVI |\x1aE\xdf\xa3", "a video", "export its frames as PNG"),
    (0, rb"8BPS\x00[\x01\x02]", "a Photoshop file", _TO_PNG),
    (0, rb"v/1\x01", "an OpenEXR image", _TO_PNG),
    (0, rb"\x89PNG\r\n\x1a\n", "a PNG image", _OTHER_FILE),
    (0, rb"\xff\xd8\xff", "a JPEG image", _OTHER_FILE),
    (0, rb"GIF8[79]a", "a GIF image", _OTHER_FILE),
    (0, rb"RIFF.{4}WEBP", "a WebP image", _OTHER_FILE),
    (0, rb"II[\x2a\x2b]\x00|MM\x00[\x2a\x2b]", "a TIFF image", _OTHER_FILE),
    (
        0,
        rb"(\x89|\xef\xbf\xbd|\xc2\x89|\t)PNG\r?\n\x1a",
        "a PNG image that was copied as text, which changed it",
        _BINARY,
    ),
    (0, rb"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd", "a binary file that was copied as text, which changed it", _BINARY),
    (0, rb"data:image/[^,]{1,99};base64,", "an image in base64 text", f"decode it: {_DATA_URL}"),
    (0, rb"data:image/", "an image in a data URL", _TO_PNG),
    (0, rb"iVBORw0KGgo|/9j/4", "an image in base64 text", "decode it: " + in_place("base64 -d")),
    (0, rb"\xff\xfe\0\0|\0\0\xfe\xff", "UTF-32 text", in_place("iconv -f UTF-32 -t UTF-8")),
    (0, rb"\xff\xfe|\xfe\xff", "UTF-16 text", in_place("iconv -f UTF-16 -t UTF-8")),
)
JSON = Kind("JSON", _OTHER_FILE)
JSON_LINES = Kind("JSON Lines (one row a line)", _OTHER_FILE)
MARKDOWN = Kind("a table in Markdown", _OTHER_FILE)
TABLE = Kind("a table (CSV)", _OTHER_FILE)
UNKNOWN = Kind("a binary file of an unknown kind", _OTHER_FILE)
_RASTER = ("a PNG image", "a JPEG image", "a GIF image", "a WebP image", "a TIFF image")
_ACCESS = "check its address and your access to the data set, then save the file itself under this name"
_MARKUP = re.compile(rb"\s*<(!doctype|\?xml|!--|[a-z][a-z0-9:]*(>(?!\s*[,;\t|])|[\s/]))", re.IGNORECASE)
_CODE = re.compile(rb"<Error>.*?<Code>(\w{1,60})</Code>", re.DOTALL)
_ANSWER_KEYS = {  # of the JSON with which servers refuse, in lower case without `_` and `-`
    "message", "msg", "error", "errors", "errormessage", "errorcode", "errordescription", "detail", "details", "code",
    "status", "statuscode", "title", "type", "reason", "success", "ok", "path", "instance", "timestamp", "requestid",
    "traceid", "documentationurl",
}  # fmt: skip
_ANSWER_TEXT = ("message", "msg", "error", "errorMessage", "error_description", "detail")
_REFUSAL = re.compile(  # what an answer of HTTP says; a number alone says nothing
    r"(\(?[45]\d\d\)?\W{1,3}(client error|server error|bad request|gone|payment required|internal server error"
    r"|bad gateway|(service )?(temporarily )?unavailable|(gateway |request )?time-?out)"
    r"|(\(?[45]\d\d\)?\W{1,3})?((entry|repository|revision|file|page|object|resource) )?(not found|forbidden"
    r"|unauthori[sz]ed|invalid username|rate limit|too many requests|access .{0,60}(denied|restricted)))\b.{0,200}$",
    re.IGNORECASE,
)


def identify(head: bytes) -> Kind | None:
    """What a file is, by its first `HEAD` bytes; None for plain text and for what is not known.

    JSON and tables are plain text here: see `text_kind`.
    """
    if not head:
        return Kind("empty (0 bytes)", "copy it again from where it is complete")
    if not head.strip(b"\0"):
        return Kind("a file of zero bytes, as an interrupted copy leaves it", "copy it again, completely")
    if found := _pointer(head):
        return found
    for at, pattern, name, fix in _MAGIC:
        if re.compile(pattern, re.DOTALL).match(head, at):
            return Kind(name, fix)
    return _markup(head.removeprefix(_BOM)) or _server_error(head.removeprefix(_BOM)) or _binary(head)


def pointer(path: Path) -> Kind | None:
    """What stands in place of a file whose repository was cloned without its content; None for a file that is there.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return _pointer(file.read(_SHORT))


def _pointer(head: bytes) -> Kind | None:
    short = len(head) < _SHORT
    return next((Kind(name, fix) for pattern, name, fix in _POINTERS if short and re.match(pattern, head)), None)


def is_raster(kind: Kind) -> bool:
    """Whether medmim reads such images, so that not the kind of the file is wrong but what it holds."""
    return kind.name in _RASTER


def not_an_image(path: Path, head: bytes) -> UserError | None:
    """The error for a file that should have been an image, by its first `HEAD` bytes; None where it may be one."""
    kind = identify(head) or text_kind(head)
    if kind is None or is_raster(kind):
        return None
    fix = IMAGES if kind.fix in (_OTHER_FILE, _TO_CSV, _EXPORT) else kind.fix_of(path)
    return UserError(f"{path} is {kind.name}, not an image", reason="medmim reads it as an image", fix=fix)


def kind_of(path: Path) -> Kind | None:
    """What a file is, by its first bytes: see `identify`.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return identify(file.read(HEAD))


def require_text(path: Path, wanted: str) -> None:
    """Refuse what is known to be something else than text.

    Args:
        path: A file that must be there.
        wanted: What it should be, with its article.

    Raises:
        UserError: It is not text, or a folder, or it cannot be read.
    """
    require_file(path, wanted)
    try:
        kind = kind_of(path)
    except OSError as error:
        raise from_os_error(error, f"reading {path.name}") from error
    if kind is not None:
        raise kind.error(path, wanted)


def read_text(path: Path, wanted: str, pipe: bool = False) -> str:
    """The text of a file in UTF-8, with a byte order mark or without.

    Args:
        path: A file that must be there.
        wanted: What it should be, with its article.
        pipe: Whether it may be a pipe; it is opened once.

    Raises:
        UserError: It is not text, or text of another encoding, or a folder, or it cannot be read.
    """
    require_file(path, wanted, pipe)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise from_os_error(error, f"reading {path.name}") from error
    return decoded(data, path, wanted)


def decoded(data: bytes, path: Path, wanted: str) -> str:
    """The text in the bytes of a file; arguments and errors as of `read_text`."""
    kind = identify(data[:HEAD])
    if kind is not None:
        raise kind.error(path, wanted)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise encoding_kind(data, error).error(path, wanted) from None


def require_file(path: Path, wanted: str, pipe: bool = False) -> None:
    """Refuse a folder, and what can be read without end or not at all: a pipe that nobody writes, a device, a socket.

    Args:
        path: A file that must be there.
        wanted: What it should be, with its article.
        pipe: Whether it may be a pipe.

    Raises:
        UserError: It is no file.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder, not {wanted}", reason=f"medmim reads it as {wanted}", fix=_OTHER_FILE)
    if path.exists() and not path.is_file() and not (pipe and path.is_fifo()):
        name = "a pipe" if path.is_fifo() else "a device or a socket"
        raise Kind(name, _OTHER_FILE).error(path, wanted)


def encoding_kind(data: bytes, error: UnicodeDecodeError) -> Kind:
    """What a text is that is not UTF-8: its likely encoding, and how its first such word reads in it."""
    at = error.start
    line = data.count(b"\n", 0, at) + 1
    if error.reason == "unexpected end of data":
        return Kind(f"cut off inside a character at its end (line {line})", "copy it again, completely")
    text = data.decode("utf-8", "replace")
    wrong = text.count("\ufffd")
    if sum(not char.isascii() for char in text) > 3 * wrong:
        return Kind(f"UTF-8 text with {wrong:,} wrong bytes, the first in line {line}", "correct these characters")
    before, after = re.search(rb"[^\s,;\"]*$", data[max(0, at - 40) : at]), re.match(rb"[^\s,;\"]*", data[at : at + 40])
    name = _encoding(data)
    reads = b"".join(part[0] for part in (before, after) if part).decode(name, "replace")
    return Kind(
        f"probably text in {name} ('{reads}' in line {line})",
        in_place(f"iconv -f {name} -t UTF-8") + f", or from another encoding if '{reads}' is not what was written",
    )


def text_kind(head: bytes) -> Kind | None:
    """What a text is that lacks the form it should have; None where that is not known."""
    text = head.removeprefix(_BOM).decode("utf-8", "replace").lstrip()
    if re.match(r"\{[^\n]*\}[ \t\r]*\n\s*\{", text):
        return JSON_LINES
    if text.startswith(("{", "[")):
        return JSON
    if re.match(r"\|.*\|\s*\n\s*\|[ :|-]*-[ :|-]*\n", text):
        return MARKDOWN
    if re.match(r"(---|(- )?[\w-]+:(\s|$))", text):
        return Kind("YAML", _OTHER_FILE)
    if re.match(r"[^\n{}\[\]]*[,;\t][^\n{}\[\]]*\n", text):
        return TABLE
    return None


def _encoding(data: bytes) -> str:
    """Runs of two and more high bytes are East Asian text, where they decode; single ones are letters with accents."""
    runs = re.findall(rb"[\x80-\xff]+", data)
    if sum(len(run) > 1 for run in runs) * 2 > len(runs):
        for name in ("GB18030", "SHIFT_JIS", "EUC-KR", "BIG5"):
            if _decodes(data, name):
                return name
    others = ("SHIFT_JIS", "GB18030") if any(len(run) > 1 for run in runs) else ()
    names: tuple[str, ...] = ("WINDOWS-1252", *others, "CP850")
    return next(name for name in names if _decodes(data, name))


def _decodes(data: bytes, name: str) -> bool:
    try:
        data.decode(name)
    except UnicodeDecodeError:
        return False
    return True


def _markup(text: bytes) -> Kind | None:
    if not _MARKUP.match(text):
        return None
    failed = _CODE.search(text)
    if failed:
        return Kind(f"the error of a server ({failed[1].decode()})", _ACCESS)
    if re.search(rb"<svg[\s>]", text[:_SHORT], re.IGNORECASE):
        return Kind("an SVG drawing", _TO_PNG)
    return Kind("a web page (HTML or XML), often a sign-in or an error page", _ACCESS)


def _server_error(text: bytes) -> Kind | None:
    if len(text) > _SHORT:
        return None
    message = text.decode("utf-8", "replace").strip()
    if message.startswith("{"):
        message = _answer(message)
        if not message:
            return None
    elif not _REFUSAL.match(message):
        return None
    return Kind(f"the error of a server ('{message[:80]}')", _ACCESS)


def _answer(text: str) -> str:
    """The message in the JSON of a server that refuses; empty for any other JSON."""
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    if not {re.sub("[_-]", "", key.lower()) for key in answer} <= _ANSWER_KEYS:
        return ""
    found = [answer[key] for key in _ANSWER_TEXT if key in answer]
    texts = [value.get("message") if isinstance(value, dict) else value for value in found]
    return next((value for value in texts if isinstance(value, str)), "")


def _binary(head: bytes) -> Kind | None:
    text = head.rstrip(b"\0")
    if len(head) - len(text) >= _PADDED and not any(code in text for code in range(9)):
        return Kind("text with zero bytes behind it, as an interrupted copy leaves it", "copy it again, completely")
    zeros = [head[i::2].count(0) * 2 / len(head) for i in (0, 1)]
    if len(head) > 8 and max(zeros) > 0.7 and min(zeros) < 0.3:
        name = "UTF-16LE" if zeros[1] > zeros[0] else "UTF-16BE"
        return Kind(f"{name} text", in_place(f"iconv -f {name} -t UTF-8"))
    controls = sum(head.count(code) for code in range(32) if code not in b"\t\n\f\r\x1a\x1b")
    return UNKNOWN if controls > len(head) / 20 else None
