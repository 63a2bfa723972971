"""Finds the files that a data set names below its root; a path that leaves the root is refused.

Data sets are downloaded, unpacked by hand and often incomplete. DVC, git-annex and the Hugging Face cache keep the
bytes elsewhere and put symlinks in their place: `data.link_roots` names the folders that such links may lead into.
"""

import json
import os
import shlex
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from medmim.data.sources import names
from medmim.data.sources.source import BadImage
from medmim.errors import UserError
from medmim.recipe.schema import Data

MAX_BYTES = 256 << 20
_LEAVES = "the path leaves the image root through a symlink, and not into a folder of data.link_roots"


def folder(text: str, key: str) -> Path:
    """The folder that a recipe's key names.

    Raises:
        UserError: There is none.
    """
    path = Path(text).expanduser()
    if not path.is_dir() and path.is_absolute():
        path = names.find(Path(path.anchor), str(path.relative_to(path.anchor)))
    if path.is_dir():
        return path
    if path.exists():
        raise UserError(
            f"{key}: {text} is a file, not a folder",
            reason="the folder that holds the files is meant, unpacked",
            fix=f"--set {shlex.quote(f'{key}={path.parent}')}",
        )
    raise UserError(f"{key}: {text} is not a folder", fix=f"--set {key}=FOLDER")


def link_roots(data: Data) -> tuple[Path, ...]:
    """The real folders of `data.link_roots`.

    Raises:
        UserError: One is not a folder, or is the root of the file system.
    """
    found = tuple(Path(os.path.realpath(folder(text, "data.link_roots"))) for text in data.link_roots)
    if any(path == Path(path.anchor) for path in found):
        raise UserError(
            "data.link_roots allows the whole file system",
            reason="a data set could then read any file of this machine",
            fix="name the folder that holds what the links lead to",
        )
    return found


def locate(root: Path, relative: str, allowed: Sequence[Path] = ()) -> Path:
    """The real file of a path that a data set names, in either normal form of Unicode.

    Args:
        root: Where paths start.
        relative: The path.
        allowed: Real folders outside `root` that symlinks may lead into.

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
        mode = os.stat(real).st_mode
        size = os.stat(real).st_size
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(relative) from None
    except (OSError, ValueError) as error:  # no permission, a loop of symlinks, a zero byte in the name
        raise BadImage(f"the file cannot be opened ({short(error)})") from None
    if not any(Path(real).is_relative_to(place) for place in (Path(os.path.realpath(root)), *allowed)):
        raise BadImage(_LEAVES)
    if stat.S_ISDIR(mode):
        raise BadImage("not a regular file but a folder")
    if not stat.S_ISREG(mode):
        raise BadImage("not a regular file")
    if size == 0:
        raise BadImage("the file is empty (0 bytes)")
    if size > MAX_BYTES:
        raise BadImage(f"the file has {size:,} bytes, more than {MAX_BYTES:,}")
    return Path(real)


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
    path = locate(root, relative, allowed)
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadImage(f"the file cannot be read ({short(error)})") from None


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
        The setting that allows their links, or what fetches the content of pointers; empty where neither helps.
    """
    outside: set[Path] = set()
    commands: dict[str, None] = {}
    for path in paths:
        try:
            named = names.find(root, path)
            target = Path(os.path.realpath(named))
            if target.is_file() and not target.is_relative_to(os.path.realpath(root)) and not escapes(path):
                outside.add(target.parent)
            elif Path(f"{named}.dvc").is_file():
                commands["`dvc pull`"] = None
            elif os.path.islink(named) and not target.exists():
                commands[_fetch(target.as_posix())] = None
        except (BadImage, OSError, ValueError):  # a path that no link can help
            continue
    fixes = [f"fetch the images: {', '.join(commands)}"] if commands else []
    if outside:
        value = json.dumps([str(place) for place in _above(outside)], ensure_ascii=False)
        fixes.append(f"--set {shlex.quote(f'data.link_roots={value}')} allows the links")
    return "; ".join(fixes)


def short(error: Exception) -> str:
    """An error as one line without the path: the quarantine names the file already."""
    text = (error.strerror if isinstance(error, OSError) and error.strerror else str(error)).split("\n")[0]
    return text[:120] or type(error).__name__


def _fetch(target: str) -> str:
    """What brings the content of a link whose target is missing."""
    if "annex/objects" in target:
        return "`git annex get`"
    return (
        "`dvc pull`"
        if ".dvc/" in target or "/files/md5/" in target
        else f"the links lead to {target}, which is missing"
    )


def _above(places: set[Path]) -> list[Path]:
    """Few folders that hold all of these, none of them the root of the file system."""
    tops: dict[tuple[str, ...], list[Path]] = {}
    for place in sorted(places):
        tops.setdefault(place.parts[:2], []).append(place)
    return [Path(os.path.commonpath(below)) for below in tops.values()]
