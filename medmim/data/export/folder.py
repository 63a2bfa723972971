"""The folder of an export: there whole or not at all, and never in the place of anything else.

export.json    marks a folder as an export: for what, of which data set, with which files; digests of all of them
pictures/      where an export has its pictures as files
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from medmim import hints
from medmim.data.export import sums
from medmim.errors import UserError, wrap_os_errors
from medmim.run.lock import locked, remove_killed, scratch
from medmim.store import open_store
from medmim.store.flock import try_lock
from medmim.store.folder import FolderStore

MARK = "export.json"
PICTURES = "pictures"
_PART = ".medmim-export-"  # begins the name of an unfinished one
_NEW = "export"  # in it: what is written
_EARLIER = "earlier"  # in it: what was in the place, under its name
_MOVING = "moving.json"  # in it, at a mount point: names of what was there, once all is written and begins to move
_SYSTEM = "lost+found"  # at many mount points
_SCHEME = re.compile(r"(?:s3|file|gs|hf|https?|ssh):")


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A folder to write an export into, which takes its place when the block ends; `refuse_other` is called before.

    A kill leaves what was there, here or in a hidden folder beside: the next export puts it back, and removes what the
    killed one has written. So does an erasure, where the place was announced before (`records.announce`). In a mount
    point, whose place no folder can take, the hidden folder lies inside, and the files change place one by one, without
    a mark in the meantime: the next export, or erasure, ends what a killed one had begun of that.

    Args:
        folder: Its place; is created.

    Raises:
        UserError: The disk does not take it.
    """
    with wrap_os_errors("writing the export"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _put_back(folder)
        inside = os.path.ismount(folder)
        with scratch(folder if inside else folder.parent, _PART) as work:
            part = work / _NEW  # not the work folder itself, which is its owner's alone
            part.mkdir()
            yield part
            if inside:
                _pour(work, folder)
            else:
                _put(part, folder, work / _EARLIER / folder.name)


def write_mark(folder: Path, facts: dict[str, Any], known: Mapping[str, str] = MappingProxyType({})) -> str:
    """Mark a folder as an export, when all its files are there; returns the mark's text.

    Args:
        folder: The folder.
        facts: What it is: `for`, `data` and more, the same for equal content.
        known: Path of a file in it -> the sum of its content, where that was taken when it was written.
    """
    files = list(_files(folder))
    listed = sorted(name for name in files if not name.startswith(f"{PICTURES}/"))
    said = {**facts, "files": listed, "pictures": len(files) - len(listed)}
    found = {**known, **dict(sums.of_files(folder, [name for name in files if name not in known]))}
    held = [_held(name, found[name]) for name in files] + [_held(name, "") for name in _folders(folder)]
    # one text: a line each would be a long file
    text = json.dumps({**said, "sums": " ".join(sorted(held))}, indent=1) + "\n"
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
    """Files of an export's folder that it did not write, or whose content has changed; none that are gone.

    Every file is read, unless an earlier version wrote the mark: that has the sizes only.
    """
    said = mark(folder)
    known = {*said.get("files", ()), MARK}
    found = [name for name in _files(folder) if "__pycache__" not in name.split("/") and name != MARK]
    if isinstance(said.get("sums"), str):
        held = set(said["sums"].split())
        return sorted(name for name, told in sums.of_files(folder, found) if _held(name, told) not in held)
    if isinstance(said.get("held"), str):
        held = set(said["held"].split())
        return sorted(name for name in found if _held(name, str(os.lstat(f"{folder}/{name}").st_size)) not in held)
    # the mark of a version before has the number of the pictures only
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
        for path in [one for one in place.iterdir() if not _is_aside(place, one.name)]:
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
    """Remove those that no process writes; what was already moving into a mount point is moved to its end first."""
    with wrap_os_errors(f"moving an export into {folder}"):
        _end_moves(folder)
    for parent in (folder.parent, folder):
        with suppress(OSError):
            remove_killed(parent, _PART)


def refuse_place(folder: Path, store_uri: str) -> None:
    """Refuse a place where no export can be kept.

    Args:
        folder: The place, absolute.
        store_uri: The store of the data set.

    Raises:
        UserError: It is the address of a store or a server, or lies inside the store.
    """
    for at, part in enumerate(folder.parts[:-1], 1):  # `s3://bucket/out` has become `/where/we/are/s3:/bucket/out`
        if _SCHEME.fullmatch(part) and not os.path.lexists(Path(*folder.parts[:at])):
            raise UserError(
                f"{part}//{'/'.join(folder.parts[at:])} is not a folder",
                reason="an export is written on this machine",
                fix="name a folder; copy it to where it is to be",
            )
    store = open_store(store_uri)
    if isinstance(store, FolderStore) and folder.resolve().is_relative_to(store.root.resolve()):
        raise UserError(
            f"{folder} lies in the store {store_uri}",
            reason=f"what no step published there, `{hints.command('gc')}` removes",
            fix="name a folder elsewhere",
        )


def refuse_other(folder: Path, form: str, data: str, replace: bool = False) -> None:
    """Refuse a place that holds what would be lost; what a killed export has moved away is put back before.

    Args:
        folder: The place.
        form: For what the export is.
        data: Digest of its data set.
        replace: An export for something else, or of another data set, may be replaced, too.

    Raises:
        UserError: It holds something else than an export, one that was changed, or another one.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UserError(f"{folder} is not a folder", fix="name a folder, which is created")
    with wrap_os_errors(f"reading {folder}"):
        _put_back(folder)
        if not folder.is_dir() or all(_is_aside(folder, path.name) for path in folder.iterdir()):
            return
        said = mark(folder)
        held = set(str(said.get("sums", "")).split())
        empty = (name for name in _folders(folder, empty=True) if held and _held(name, "") not in held)
        more = [*others(folder), *empty]
    if not said:
        damaged = os.path.lexists(folder / MARK)
        raise UserError(
            f"{folder} holds what is no export of medmim",
            reason=f"its {MARK} is damaged, or of something else" if damaged else f"it has no {MARK}",
            fix="name a new folder",
        )
    if more:
        further = f" and {len(more) - 5:,} more" if len(more) > 5 else ""
        raise UserError(
            f"{folder} holds more than an export of medmim: what was added to it, or changed since",
            reason=f"it would be lost: {', '.join(more[:5])}{further}",
            fix="name a new folder",
        )
    if not replace and (said["for"], said.get("data")) != (form, data):
        other = "for another format" if said["for"] != form else "of another data set"
        its = str(said.get("data"))[:12]
        raise UserError(
            f"{folder} holds an export {other}",
            reason=f"it is for {said['for']}, of {its}; this one: for {form}, of {data[:12]}",
            fix="name a new folder, or have it replaced: --replace",
        )


def _is_aside(folder: Path, name: str) -> bool:
    """Whether something in a folder is no matter of an export there."""
    return (name == _SYSTEM or name.startswith(_PART)) and os.path.ismount(folder)


def _files(folder: Path) -> Iterator[str]:
    """Paths of all files in a folder, links to folders too; as texts: a hundred thousand `Path`s would take seconds."""
    for inner, below, names, place in _walk(folder):
        names += [name for name in below if os.path.islink(os.path.join(place, name))]
        yield from (f"{inner}{name}" for name in names)


def _folders(folder: Path, empty: bool = False) -> Iterator[str]:
    """Paths of all folders in a folder, with a stroke at the end; or of the empty ones."""
    return (inner for inner, below, names, _ in _walk(folder) if inner and not (empty and (below or names)))


def _walk(folder: Path) -> Iterator[tuple[str, list[str], list[str], str]]:
    for place, below, names in os.walk(folder):
        inner = os.path.relpath(place, folder)
        if inner == ".":
            inner, below[:] = "", [name for name in below if not _is_aside(folder, name)]
            names = [name for name in names if not _is_aside(folder, name)]
        yield inner and f"{inner}/", below, names, place


def _held(name: str, told: str) -> str:
    """Stands for a file with its content in the mark, which is not to have names of patients in it."""
    return hashlib.blake2b(f"{told} {name}".encode(errors="surrogateescape"), digest_size=8).hexdigest()


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


def _pour(work: Path, folder: Path) -> None:
    """Move what was written into a mount point, and what was there out of the way.

    The note of what was there is made last before the first move, and removed after the last: wherever a kill comes,
    `_move` ends it.
    """
    there = sorted((name for name in os.listdir(folder) if not _is_aside(folder, name)), key=lambda name: name != MARK)
    with locked(folder / f"{_PART}moving", _busy(folder)):
        note = work / f"{_MOVING}.part"
        note.write_text(json.dumps(there), encoding="utf-8")
        note.rename(work / _MOVING)
        _move(work, folder)


def _move(work: Path, folder: Path) -> None:
    new, earlier = work / _NEW, work / _EARLIER
    earlier.mkdir(exist_ok=True)
    moved: list[tuple[Path, Path]] = []
    try:
        for name in json.loads((work / _MOVING).read_text(encoding="utf-8")):  # the mark first
            if os.path.lexists(folder / name) and not os.path.lexists(earlier / name):
                os.replace(folder / name, earlier / name)
                moved.append((folder / name, earlier / name))
        for name in sorted(os.listdir(new), key=lambda name: name == MARK):
            os.replace(new / name, folder / name)
            moved.append((new / name, folder / name))
    except OSError:
        for before, after in reversed(moved):
            os.replace(after, before)
        raise
    (work / _MOVING).unlink()


def _busy(folder: Path) -> Callable[[str], UserError]:
    return lambda who: UserError(f"{folder} is being written", reason=f"by {who}", fix="wait until it is there")


def _put_back(folder: Path) -> None:
    """Put back what a killed export has moved out of the way, so that it is there should the next one fail."""
    _end_moves(folder)
    for work in _left(folder):
        earlier = work / _EARLIER / folder.name
        if earlier.is_dir() and not folder.exists():
            with suppress(OSError):
                os.replace(earlier, folder)


def _end_moves(folder: Path) -> None:
    """Move to its end what a killed export had begun to move into a mount point: with no mark, nobody would find it."""
    for work in _left(folder):
        if work.parent == folder and (work / _MOVING).exists():
            _move(work, folder)


def _left(folder: Path) -> Iterator[Path]:
    """Hidden folders of killed exports, each locked while it is the one."""
    for work in unfinished(folder):
        with suppress(OSError), ExitStack() as undo:
            if lock := try_lock(work.with_name(f"{work.name}.lock")):
                undo.enter_context(lock)
                yield work
