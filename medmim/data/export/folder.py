"""The folder of an export: there whole or not at all, and never in the place of anything else.

export.json    marks a folder as an export: for what, of which data set, with which files
pictures/      where an export has its pictures as files; the mark has digests of their names and sizes
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from medmim.errors import UserError, wrap_os_errors
from medmim.run.lock import remove_killed, scratch
from medmim.store.flock import try_lock

MARK = "export.json"
PICTURES = "pictures"
_PART = ".medmim-export-"  # begins the name of an unfinished one
_EARLIER = "earlier"  # in it: what was in the place, under its name


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A folder to write an export into, which takes its place when the block ends; an earlier export there is replaced.

    A kill leaves what was there, here or in a hidden folder beside: the next export puts it back, and removes what the
    killed one has written. So does an erasure, where the place was announced before (`records.announce`).

    Args:
        folder: Its place; is created.

    Raises:
        UserError: The place holds something else than an export, or the disk does not take it.
    """
    refuse_other(folder)
    with wrap_os_errors("writing the export"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _put_back(folder)
        with scratch(folder.parent, _PART) as work:
            part = work / "export"  # not the work folder itself, which is its owner's alone
            part.mkdir()
            yield part
            _put(part, folder, work / _EARLIER / folder.name)


def write_mark(folder: Path, facts: dict[str, Any]) -> str:
    """Mark a folder as an export, when all its files are there; returns the mark's text.

    Args:
        folder: The folder.
        facts: What it is: `for`, `data` and more, the same for equal content.
    """
    files = list(_files(folder))
    listed = sorted(name for name in files if not name.startswith(f"{PICTURES}/"))
    said = {**facts, "files": listed, "pictures": len(files) - len(listed)}
    held = " ".join(sorted(_held(folder, name) for name in files))  # one text: a line each would be a long file
    text = json.dumps({**said, "held": held}, indent=1) + "\n"
    (folder / MARK).write_text(text, encoding="utf-8")
    return text


def mark(folder: Path) -> dict[str, Any]:
    """What the mark of an export says; empty where there is none."""
    try:
        found = json.loads((folder / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and "for" in found and isinstance(found.get("files"), list) else {}


def others(folder: Path) -> list[str]:
    """Files of an export's folder that it did not write, or whose size has changed; none that are gone."""
    said = mark(folder)
    known = {*said.get("files", ()), MARK}
    found = [name for name in _files(folder) if "__pycache__" not in name.split("/")]
    if isinstance(said.get("held"), str):
        held = set(said["held"].split())
        return sorted(name for name in found if name != MARK and _held(folder, name) not in held)
    # the mark of an earlier version has the number of the pictures only
    pictures = sorted(name for name in found if name.startswith(f"{PICTURES}/") and name not in known)
    rest = sorted(name for name in found if name not in known and not name.startswith(f"{PICTURES}/"))
    return rest if len(pictures) <= said.get("pictures", 0) else [*rest, f"{PICTURES}/"]


def remove(folder: Path) -> None:
    """Remove an export; its mark last, so that a killed removal is found again.

    Args:
        folder: Its place, or a link there to where it was moved: then both are removed. No link inside is followed.

    Raises:
        UserError: Some of it cannot be removed; its mark is still there.
    """
    with wrap_os_errors(f"removing {folder}"):
        place = folder.resolve()
        for path in place.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != MARK:
                path.unlink()
        (place / MARK).unlink()
    with suppress(OSError):  # empty by now, and holds nobody: a mount, or in a folder that may not be written
        place.rmdir()
        if folder.is_symlink():
            folder.unlink()


def unfinished(folder: Path) -> list[Path]:
    """Hidden folders in which exports into a place, or beside it, are being written or were when they were killed."""
    found: list[Path] = []
    for parent in (folder.parent, folder):
        with suppress(OSError):
            found += [path for path in parent.iterdir() if path.name.startswith(_PART) and path.suffix != ".lock"]
    return sorted(found)


def remove_unfinished(folder: Path) -> None:
    """Remove those that no process writes."""
    for parent in (folder.parent, folder):
        with suppress(OSError):
            remove_killed(parent, _PART)


def refuse_other(folder: Path) -> None:
    """Refuse a folder that would be lost: whatever is no export."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UserError(f"{folder} is not a folder", fix="name a folder, which is created")
    if os.path.ismount(folder):
        raise UserError(
            f"{folder} is a mount point", reason="no finished folder can be moved into its place",
            fix="name a new folder below it",
        )  # fmt: skip
    if folder.is_dir() and any(folder.iterdir()):
        more = others(folder)
        if not mark(folder) or more:
            raise UserError(
                f"{folder} holds what is no export of medmim",
                reason=f"it would be lost: {', '.join(more[:5])}" if mark(folder) else f"it has no {MARK}",
                fix="name a new folder",
            )


def _files(folder: Path) -> Iterator[str]:
    """Paths of all files in a folder, links to folders too; as texts: a hundred thousand `Path`s would take seconds."""
    for place, below, names in os.walk(folder):
        inner = os.path.relpath(place, folder)
        names += [name for name in below if os.path.islink(os.path.join(place, name))]
        yield from names if inner == "." else (f"{inner}/{name}" for name in names)


def _held(folder: Path, name: str) -> str:
    """Stands for a file with its size in the mark, which is not to have names of patients in it."""
    size = os.lstat(f"{folder}/{name}").st_size
    return hashlib.blake2b(f"{size} {name}".encode(errors="surrogateescape"), digest_size=8).hexdigest()


def _put(part: Path, folder: Path, earlier: Path) -> None:
    """Move a finished folder to its place, and what was there out of the way; no folder is replaced in one step.

    A kill between the two leaves no folder there; see `_put_back`.
    """
    if folder.exists():
        earlier.parent.mkdir()
        os.replace(folder, earlier)
    try:
        os.replace(part, folder)
    except OSError:
        if earlier.exists() and not folder.exists():
            os.replace(earlier, folder)
        raise


def _put_back(folder: Path) -> None:
    """Put back what a killed export has moved out of the way, so that it is there should the next one fail."""
    for work in unfinished(folder):
        earlier = work / _EARLIER / folder.name
        with suppress(OSError), ExitStack() as undo:
            if earlier.is_dir() and (lock := try_lock(work.with_name(f"{work.name}.lock"))):
                undo.enter_context(lock)
                if not folder.exists():
                    os.replace(earlier, folder)
