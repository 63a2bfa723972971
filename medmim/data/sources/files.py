"""Finds the files that a data set names below its root; a path that leaves the root is refused.

Data sets are downloaded, unpacked by hand and often incomplete. DVC, git-annex and the Hugging Face cache keep the
bytes elsewhere and put symlinks in their place: `data.link_roots` names the folders that such links may lead into.
"""

import json
import os
import re
import shlex
import stat
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path

from medmim import hints, sniff
from medmim.data.sources import names
from medmim.data.sources.source import BadImage
from medmim.errors import TRY_AGAIN, UserError, from_os_error

MAX_BYTES = 256 << 20
_SHOWN = 100  # characters of a path that is no folder
_NARROW = 3  # parts of the path of a folder that may be opened for all links below it: / home name
_LISTED = 10  # folders in one fix
_ENOUGH = 10_000  # paths from which a fix is known
_PACKED = {
    ".dvc": "dvc pull", ".zip": "unzip", ".tar": "tar -xf", ".tar.gz": "tar -xf", ".tgz": "tar -xf", ".gz": "gunzip",
    ".bz2": "bunzip2", ".xz": "unxz", ".zst": "zstd -d", ".7z": "7z x", ".rar": "unrar x",
}  # fmt: skip
_IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".pgm", ".ppm", ".dcm", ".dicom")
_URL = re.compile(r"(?:^|/)(?P<name>(?:[a-z][a-z0-9+.-]+:/|data:image/).+)", re.IGNORECASE | re.DOTALL)
_ABSOLUTE = re.compile(r"^(?:[^/]*/)??(?P<name>(?:/|[a-z]:[/\\]|\\|~[\w.-]*/).+)", re.IGNORECASE | re.DOTALL)
_LOOKED_UP = 1_000  # names for which a similar one is searched
_NAMED = 3  # of them in one fix
_LEAVES = "the path leaves the image root through a symlink, and not into a folder of data.link_roots"


def folder(text: str, key: str) -> Path:
    """The folder that a recipe's key names.

    Raises:
        UserError: There is none, or two whose names look the same, or it may not be opened.
    """
    path = hints.expanded(text)
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    fix = _set(key, ["FOLDER"] if key == "data.link_roots" else "FOLDER")
    try:
        if not path.is_dir():
            path = names.find(Path(path.anchor), str(path.relative_to(path.anchor)))
        is_folder, exists = path.is_dir(), path.exists()
    except BadImage as error:
        raise UserError(f"{key}: {shown} names two folders", reason=str(error), fix=f"rename one, or {fix}") from None
    except OSError as error:
        found = from_os_error(error, f"opening {key}")
        if found.exit_code == TRY_AGAIN:
            raise found from None
        raise UserError(f"{key}: {shown} cannot be opened", reason=one_line(error), fix=fix) from None
    if is_folder:
        return path
    if exists:
        raise UserError(
            f"{key}: {shown} is a file, not a folder",
            reason="the folder that holds the files is meant, unpacked",
            fix=_set(key, str(path.parent)),
        )
    raise UserError(f"{key}: {shown} is not a folder", fix=fix)


def link_roots(places: Sequence[str]) -> tuple[Path, ...]:
    """The real folders of `data.link_roots`.

    Raises:
        UserError: One is not a folder, or is the root of the file system.
    """
    found = tuple(Path(os.path.realpath(folder(text, "data.link_roots"))) for text in places)
    if any(path == Path(path.anchor) for path in found):
        raise UserError(
            "data.link_roots allows the whole file system",
            reason="a data set could then read any file of this machine",
            fix="name the folder that holds what the links lead to",
        )
    return found


def locate(root: Path, relative: str, allowed: Sequence[Path] = (), largest: int = MAX_BYTES) -> Path:
    """The real file of a path that a data set names, in either normal form of Unicode.

    Args:
        root: Where paths start.
        relative: The path.
        allowed: Real folders outside `root` that symlinks may lead into.
        largest: Bytes that the file may have.

    Raises:
        FileNotFoundError: There is no such file.
        BadImage: The path is empty, absolute, leads out of `root` (by `..` or by a symlink), names two files, or is not
            a regular file.
    """
    if not relative.strip():
        raise BadImage("the image path is empty")
    if escapes(relative):
        raise BadImage("the path leaves the image root")
    try:
        real = os.path.realpath(names.find(root, relative), strict=True)
        found = os.stat(real)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(relative) from None
    except (OSError, ValueError) as error:  # no permission, a loop of symlinks, a zero byte in the name
        raise BadImage(f"the file cannot be opened ({one_line(error)})") from None
    if not any(Path(real).is_relative_to(place) for place in (Path(os.path.realpath(root)), *allowed)):
        raise BadImage(_LEAVES)
    _require_readable(found, largest)
    return Path(real)


def _require_readable(found: os.stat_result, largest: int = MAX_BYTES) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise BadImage("not a regular file but a folder")
    if not stat.S_ISREG(found.st_mode):
        raise BadImage("not a regular file")
    if found.st_size == 0:
        raise BadImage("the file is empty (0 bytes)")
    if found.st_size > largest:
        raise BadImage(f"the file has {found.st_size:,} bytes, more than {largest:,}")


def escapes(relative: str) -> bool:
    """Whether the text of a path points outside its root (on Windows, too)."""
    parts = relative.replace("\\", "/").split("/")
    return ".." in parts or relative.startswith(("/", "\\")) or (len(parts[0]) == 2 and parts[0].endswith(":"))


def read_bytes(root: Path, relative: str, allowed: Sequence[Path] = ()) -> bytes:
    """The original bytes of one image file below `root`: the `Source.read` of a source that reads files.

    Raises:
        FileNotFoundError: There is no such file.
        BadImage: It must not be read (see `locate`), or it is not readable.
    """
    return read_image(locate(root, relative, allowed))


def read_image(path: Path, size: int = -1) -> bytes:
    """The bytes of an image file that a person names, wherever it lies and whatever link leads there.

    Args:
        path: The file.
        size: At most so many of its first bytes; all of them where it is negative.

    Raises:
        BadImage: Not a regular file (reading a pipe or a device may never end), empty, too large, or not readable.
    """
    try:
        _require_readable(path.stat())
        with path.open("rb") as file:
            return file.read(size)
    except OSError as error:
        raise BadImage(f"the file cannot be read ({one_line(error)})") from None


def identity(root: Path, relative: str, allowed: Sequence[Path] = ()) -> str:
    """Place, size and time of change of a file below `root`: the `Source.identity` of a source that reads files."""
    try:
        path = locate(root, relative, allowed)
        found = path.stat()
    except (OSError, BadImage):
        return ""
    return f"{path} {found.st_size} {found.st_mtime_ns}"


def is_missing(root: Path, relative: str, allowed: Sequence[Path] = ()) -> bool:
    """Whether there is no such file; one that exists and is bad is reported when the build reads it."""
    try:
        locate(root, relative, allowed)
    except FileNotFoundError:
        return True
    except BadImage:
        pass
    return False


def fix_for(root: Path, paths: Iterable[str]) -> str:
    """What to do about images that are missing or cannot be used: the `Source.fix_for` of a source that reads files.

    Returns:
        As of `fetching`, and what is wrong with their names; empty where nothing is known.
    """
    some = list(islice(paths, _ENOUGH))
    found: list[str] = []
    for path in some[:_LOOKED_UP]:
        if len(found) < _NAMED and (wrong := wrong_name(root, path)):
            found.append(wrong)
    return "; ".join(filter(None, (fetching(root, some), *found)))


def wrong_name(root: Path, path: str) -> str:
    """What is wrong with the name of an image that is missing, and which image is there; empty where that is not known.

    Lists come from other machines: their names may be absolute, URLs, of another case or form, or start elsewhere.
    """
    try:
        if escapes(path) or not root.is_dir() or os.path.lexists(names.find(root, path)):
            return ""
        there = _similar_image(root, path)
    except (BadImage, OSError, ValueError):
        return ""
    url, absolute = _URL.search(path), _ABSOLUTE.search(path)
    named = next((found["name"] for found in (url, absolute) if found), "")
    if not named:
        return f"there is {there}, not {path}" if there else ""
    what = "a URL" if url else "an absolute path"
    other = f"save what it leads to below {root}, and name that file" if url else f"name files as seen from {root}"
    return f"'{named[:_SHOWN]}' is {what}: {f'there is {there}' if there else other}"


def _similar_image(root: Path, path: str) -> str:
    """The image that is meant by a path, without leading folders if need be; empty where there is none, or several."""
    parts = [part for part in re.split(r"[/\\]+", path.split("?")[0]) if part not in ("", ".")]
    for start in range(len(parts)):
        for tried in (parts[start:], [parts[0], *parts[start:]]):
            at, found = root, ""
            for number, part in enumerate(tried, 1):
                same = _alike(at, part, number == len(tried))
                found = same if number == 1 or not same else f"{found}/{same}"
                at = at / same
                if not same:
                    break
            else:
                if at.is_file():
                    return found
    return ""


def _alike(folder: Path, name: str, last: bool) -> str:
    """The entry of a folder that has this name in any case, or of images also with any ending; empty for none."""
    exact, cased, stems = _entries(str(folder), folder.stat().st_mtime_ns) if folder.is_dir() else (set(), {}, {})
    name = names.nfc(name)
    if name in exact:
        return name
    found = cased.get(name.casefold(), [])
    if not found and last:
        found = stems.get(_stem(name), [])
    return found[0] if len(found) == 1 else ""


@lru_cache(maxsize=64)
def _entries(folder: str, changed: int) -> tuple[set[str], dict[str, list[str]], dict[str, list[str]]]:
    """The names in a folder, by their folded form, and its images by their name without its ending."""
    exact = set(os.listdir(folder))
    cased: dict[str, list[str]] = {}
    stems: dict[str, list[str]] = {}
    for name in sorted(exact):
        cased.setdefault(names.nfc(name).casefold(), []).append(name)
        if name.lower().endswith(_IMAGES):
            stems.setdefault(_stem(names.nfc(name)), []).append(name)
    return exact, cased, stems


def _stem(name: str) -> str:
    """A name in folded form without the ending of an image."""
    folded = name.casefold()
    return next((folded.removesuffix(ending) for ending in _IMAGES if folded.endswith(ending)), folded)


def fetching(root: Path, paths: Iterable[str]) -> str:
    """The setting that allows the links of files, or what fetches or unpacks them; empty where nothing is known."""
    outside: set[Path] = set()
    commands: dict[str, None] = {}
    seen: set[Path] = set()
    for path in islice(paths, _ENOUGH):
        if escapes(path):
            continue
        try:
            named = names.find(root, path)
            target = Path(os.path.realpath(named))
            if target.is_file() and not target.is_relative_to(os.path.realpath(root)) and target.parent.name:
                outside.add(target.parent)
                continue
            for place in (named, *named.parents):
                if place == root or place in seen:
                    break
                seen.add(place)
                commands |= dict.fromkeys(_suggestions(place, place != named))
        except (BadImage, OSError, ValueError):  # a path that nothing helps
            continue
    fixes = list(commands)[:3]
    if outside:
        places = [str(place) for place in _common_parents(outside)]
        some = f" into the first {_LISTED} of {len(places)} folders" if len(places) > _LISTED else ""
        fixes.append(f"{_set('data.link_roots', places[:_LISTED])} allows the links{some}")
    return "; ".join(fixes)


def _suggestions(place: Path, folder: bool) -> Iterator[str]:
    """What makes a file or folder of that which lies in its place or beside it."""
    if os.path.islink(place) and not place.exists():
        target = os.path.realpath(place)
        if os.path.islink(target):
            yield f"the link {place} leads back to itself: put the file in its place"
        elif "annex/objects" in target:
            yield "`git annex get` fetches what the links lead to"
        elif ".dvc/" in target or "/files/md5/" in target:
            yield "`dvc pull` fetches what the links lead to"
        else:
            yield f"the link {place} leads to {target}, which is missing"
    elif folder and place.is_file():
        kind = sniff.kind_of(place)
        yield f"{place} is {kind.name if kind else 'a file'} where a folder is meant"
    elif not place.exists():
        for suffix, command in _PACKED.items():
            if Path(f"{place}{suffix}").is_file():
                yield f"`cd {shlex.quote(str(place.parent))} && {command} {shlex.quote(place.name + suffix)}`"


def renaming(folder: Path, name: str) -> str:
    """The command that gives a file its right name, which it has in another case, with ` (1)` or with a second ending.

    Browsers add them, and Windows hides the last ending. Empty where none or several could be meant.
    """
    stem, ending = re.escape(Path(name).stem), re.escape(Path(name).suffix)
    written = re.compile(rf"{stem}( ?\(\d\d?\))?{ending}(\.txt|{ending})?", re.IGNORECASE)
    found = [path for path in folder.iterdir() if written.fullmatch(path.name) and path.is_file()]
    if len(found) != 1:
        return ""
    return f"`mv {shlex.quote(str(found[0]))} {shlex.quote(str(folder / name))}`"


def similar_names(root: Path, start: str) -> str:
    """The files of a folder whose names start so, in any case: for the error that one is missing."""
    found = sorted(
        path.name for path in root.iterdir() if path.name.lower().startswith(start.lower()) and path.exists()
    )
    return f"; there is {', '.join(found[:5])}" if found else ""


def one_line(error: Exception) -> str:
    """An error as one line without the path: the quarantine names the file already."""
    text = (error.strerror if isinstance(error, OSError) and error.strerror else str(error)).split("\n")[0]
    return text[:120] or type(error).__name__


def setting(key: str, name: str = "root") -> str:
    """What sets the folder of a source, `key` being the place of its section in the recipe."""
    return f"--set {key}.{name}=FOLDER" if key == "data" else f"set {name} in {key} of the recipe"


def _set(key: str, value: str | list[str]) -> str:
    """What sets a key: the option, or for a section of `data.sources`, which has none, the words."""
    written = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if key.startswith("data.sources."):
        return f"set {key} in the recipe to {written}"
    return f"--set {shlex.quote(f'{key}={written}')}"


def _common_parents(places: set[Path]) -> list[Path]:
    """Few folders that hold all of these, none of them as wide as /home, which holds what is no part of a data set."""
    tops: dict[tuple[str, ...], list[Path]] = {}
    for place in sorted(places):
        tops.setdefault(place.parts[:_NARROW], []).append(place)
    return [Path(os.path.commonpath(below)) for below in tops.values()]
