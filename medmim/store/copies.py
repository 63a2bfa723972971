"""Local copies of artifacts that lie in S3: fetched once, whichever processes of a machine ask, and used by all.

    CACHE/DIGEST/           a copy: its files and, written last, `manifest.json`
    CACHE/DIGEST-FILES/     a copy of some of its files, the digest of which begins with FILES
    CACHE/DIGEST.lock       whoever makes the copy holds it; the kernel releases it when that process ends
    CACHE/.part-DIGEST/     what is fetched so far; the next process goes on from there

A process holds a shared lock on the manifest of every copy that it uses, until it ends. Copies without such a lock are
removed, the least recently used first, when the disk or MEDMIM_CACHE_GIB is too small for another one; once a day also
those that the store does not have any more. The last use is the time of the folder.
"""

import errno
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO
from uuid import uuid4

from medmim.errors import Unavailable, UserError, from_os_error
from medmim.progress import say
from medmim.store import ranges
from medmim.store.artifact import (
    Artifact,
    as_json,
    content_digest,
    file_digest,
    locate,
    manifest,
    refuse_damaged,
)
from medmim.store.flock import NO_LOCKS, holder, sign, try_lock
from medmim.store.folder import PART, FolderStore, write_atomically
from medmim.store.interface import Store
from medmim.store.removal import MANIFEST

LIMIT = "MEDMIM_CACHE_GIB"
_SAY_AFTER = 3.0  # s of waiting
_BEAT = 1.0  # s
_STOPPED = 120.0  # s without a beat after which a process is taken for stopped
_STALE = 7 * 86400.0  # s after which an unfinished copy is removed
_SWEEP_EVERY = 86400.0  # s
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_used: dict[Path, IO[str]] = {}  # locks of the copies that this process uses


def fetch(artifact: Artifact, cache: Path, only: Sequence[str] | None = None) -> Path:
    """A local folder with the artifact's files, checked against the manifest.

    A folder store is read in place; a file that changed after the manifest was written is checked by its SHA-256. From
    S3, files are copied below `cache`, once for each digest and by one process at a time, and checked as they are
    copied. A copy that was cut off is continued.

    Args:
        artifact: As `get` gives it.
        cache: The folder of the copies; made if absent.
        only: Globs (`*` stands for slashes too) of the files that are needed. The folder holds the others as well
            where all of them are at hand: in a folder store, or in a whole copy. [default: all files]

    Raises:
        UserError: A file is missing or its content is not what the manifest says (all are named), the artifact was
            removed meanwhile, the disk is too small, or the cache cannot be written.
        Unavailable: The store does not answer, or the process that makes the copy is stopped.
    """
    store, name = locate(artifact.uri)
    if isinstance(store, FolderStore):
        folder = store.root / name
        refuse_damaged(artifact, _changed_files(artifact, folder))
        return folder

    copy = cache / artifact.digest
    if _use(artifact, copy):
        return copy
    if only is not None:
        artifact, copy = _part_of(artifact, only, copy)
        if _use(artifact, copy):
            return copy
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / f"{copy.name}.lock", artifact) as alone:
            if _use(artifact, copy):  # made by the process that had the lock
                return copy
            _copy(artifact, store, name, copy, alone)
            _use(artifact, copy)
    except ranges.DiskError as failed:
        raise _disk_error(failed.error, artifact, cache) from None
    except OSError as error:
        raise _disk_error(error, artifact, cache) from None
    sweep(cache)
    return copy


def discard(digest: str, cache: Path) -> None:
    """Remove all copies of an artifact, those of some of its files and unfinished ones too, whoever uses them."""
    for copy in cache.glob(f"*{digest}*"):
        shutil.rmtree(copy, ignore_errors=True)


def sweep(cache: Path, every: float = _SWEEP_EVERY) -> None:
    """Remove copies whose artifact was removed from its store, and unfinished ones that nobody continued for a week.

    Args:
        cache: The folder.
        every: Seconds; nothing is done if less have passed since the last time.
    """
    mark = cache / ".swept"
    try:
        if mark.exists() and 0 <= time.time() - mark.stat().st_mtime < every:  # a clock may have been set back
            return
        mark.touch()
    except OSError:
        return
    for one in _entries(cache):
        if one.unfinished:
            if time.time() - one.time > _STALE:
                _evict(one)
        elif one.uri:
            with suppress(UserError):  # a store that we cannot ask says nothing
                store, name = locate(one.uri)
                if not store.exists(f"{name}/{MANIFEST}"):
                    _evict(one)


def _part_of(artifact: Artifact, only: Sequence[str], copy: Path) -> tuple[Artifact, Path]:
    """The artifact with some of its files only, and the folder of their copy; itself where that is all of them."""
    files = {name: facts for name, facts in artifact.files.items() if any(fnmatchcase(name, glob) for glob in only)}
    if len(files) == len(artifact.files):
        return artifact, copy
    digest = content_digest(files)
    return replace(artifact, digest=digest, files=files), copy.with_name(f"{copy.name}-{digest[:16]}")


def _copy(artifact: Artifact, store: Store, name: str, copy: Path, alone: bool) -> None:
    """Make the copy. Without a lock (`alone`) others may be making the same one: then in a folder of its own."""
    if alone:
        part = copy.with_name(f"{PART}{copy.name}")
        part.mkdir(exist_ok=True)
    else:
        part = Path(tempfile.mkdtemp(prefix=PART, dir=copy.parent))
    keep = alone
    try:
        _make_room(artifact, copy, ranges.missing_bytes(artifact.files, part))
        label = f"fetching {artifact.kind} {copy.name[:12]}"
        damaged = ranges.download(store, name, artifact.files, part, label)
        if damaged:
            keep = False
            _refuse_removed(artifact, store, name)
            refuse_damaged(artifact, damaged)
        write_atomically(part / MANIFEST, [as_json({**manifest(artifact), "uri": artifact.uri})])
        shutil.rmtree(copy, ignore_errors=True)  # damaged, or it would have been used
        try:
            part.rename(copy)
        except OSError:  # without a lock another process may be first; both copies are equal
            if alone or not copy.is_dir():
                raise
        ranges.forget(copy)  # not earlier: a kill before the renaming would cost the whole download
    except ranges.DiskError as failed:
        keep = keep and failed.error.errno not in _FULL
        raise
    finally:
        if not keep:
            shutil.rmtree(part, ignore_errors=True)


def _use(artifact: Artifact, copy: Path) -> bool:
    """Whether there is a whole copy; if so, no process removes it before this one ends."""
    path = copy / MANIFEST
    try:
        lock = try_lock(path, shared=True, mode="r")
    except OSError as error:
        if error.errno not in NO_LOCKS:
            return False
        lock = path.open(encoding="utf-8")
    if lock is None or _changed_files(artifact, copy):
        return False
    with suppress(OSError):  # a cache that may only be read
        os.utime(copy)
    _used[copy] = lock
    return True


@contextmanager
def _locked(path: Path, artifact: Artifact) -> Iterator[bool]:
    """Hold the lock of a copy, and touch its file meanwhile; False where the file system knows no locks."""
    lock = _wait_for_lock(path, artifact)
    if lock is None:
        say(f"{path.parent} is on a file system without locks: each process fetches its own copy of {artifact.uri}")
        yield False
        return
    done = threading.Event()

    def beat() -> None:
        while not done.wait(_BEAT):
            with suppress(OSError):
                os.utime(lock.fileno())

    with lock:
        sign(lock)
        beating = threading.Thread(target=beat, daemon=True)
        beating.start()
        try:
            yield True
        finally:
            done.set()
            beating.join()
            path.unlink(missing_ok=True)


def _wait_for_lock(path: Path, artifact: Artifact) -> IO[str] | None:
    """The lock; None where the file system knows none.

    Raises:
        Unavailable: Its holder is stopped.
    """
    begin = since = time.monotonic()
    last, said = 0, False
    while True:
        try:
            lock = try_lock(path)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            path.unlink(missing_ok=True)
            return None
        if lock is not None:
            return lock
        now = time.monotonic()
        with suppress(OSError):  # released just now
            touched = path.stat().st_mtime_ns
            if touched != last:
                last, since = touched, now
        if not said and now - begin > _SAY_AFTER:
            said = True
            say(f"waiting for {artifact.uri}: {holder(path)} is fetching it")
        if now - since > _STOPPED:
            raise Unavailable(
                f"{holder(path)} has not moved for {now - since:.0f} s, and is fetching {artifact.uri}",
                reason=f"it is stopped, and holds {path}, so that no other process fetches the same",
                fix="let it go on, or kill it (`kill -9`); the next one goes on where it was",
            )
        time.sleep(0.1)


@dataclass(frozen=True)
class _Entry:
    """A copy, or the beginning of one."""

    path: Path
    time: float  # of the last use
    size: int
    uri: str
    unfinished: bool


def _entries(cache: Path) -> list[_Entry]:
    found = []
    for path in cache.iterdir():
        with suppress(OSError, ValueError, KeyError, TypeError):  # removed just now, or not ours
            if path.name.startswith(PART) and path.is_dir():
                stats = [one.stat() for one in path.rglob("*") if one.is_file()]
                newest = max([path.stat().st_mtime, *(one.st_mtime for one in stats)])
                found.append(_Entry(path, newest, sum(one.st_blocks * 512 for one in stats), "", True))
            elif (path / MANIFEST).is_file():
                known = json.loads((path / MANIFEST).read_bytes())
                size = sum(facts["bytes"] for facts in known["files"].values())
                found.append(_Entry(path, path.stat().st_mtime, size, known.get("uri", ""), False))
    return found


def _evict(entry: _Entry) -> bool:
    """Remove a copy, or the beginning of one; False where a process uses it."""
    name = entry.path.name.removeprefix(PART)
    path = entry.path.with_name(f"{name}.lock") if entry.unfinished else entry.path / MANIFEST
    gone = entry.path.with_name(f"{PART}removed-{uuid4().hex}")  # an earlier one may have been killed half-way
    try:
        lock = try_lock(path, mode="a+" if entry.unfinished else "r+")
        if lock is None:
            return False
        with lock:
            entry.path.rename(gone)
            if entry.unfinished:
                path.unlink()
    except OSError:
        return False
    shutil.rmtree(gone, ignore_errors=True)
    return True


def _make_room(artifact: Artifact, copy: Path, needed: int) -> None:
    """Remove copies until so many bytes fit.

    Raises:
        UserError: They do not, whatever is removed.
    """
    limit = _limit()
    cache, own = copy.parent, f"{PART}{copy.name}"
    if limit or shutil.disk_usage(cache).free < needed:
        entries = _entries(cache)
        total = sum(one.size for one in entries)
        removed = []
        for one in sorted((one for one in entries if one.path.name != own), key=lambda one: one.time):
            if not (limit and total + needed > limit) and shutil.disk_usage(cache).free >= needed:
                break
            if _evict(one):
                total -= one.size
                removed.append(one)
        if limit and total + needed > limit:
            say(f"{cache} will be larger than {LIMIT} allows: what is in use, or {artifact.uri} alone, needs more")
        if removed:
            size = sum(one.size for one in removed) / 1e6
            say(f"removed {len(removed)} copies, {size:,.0f} MB, from {cache}: the least recently used")
    free = shutil.disk_usage(cache).free
    if free < needed:
        raise UserError(
            f"the disk of {cache} is too small for {artifact.uri}",
            reason=f"{needed:,} bytes are needed, and {free:,} are free",
            fix="free some space, or set MEDMIM_CACHE to a folder on another disk; then run the same command",
        )


def _limit() -> int:
    """MEDMIM_CACHE_GIB in bytes; 0 where there is none."""
    given = os.environ.get(LIMIT) or "0"
    try:
        found = float(given)
    except ValueError:
        found = -1.0
    if not 0 <= found < float("inf"):
        raise UserError(f"{LIMIT} is '{given}'", fix="give a number of GiB, such as 200")
    return int(found * 2**30)


def _refuse_removed(artifact: Artifact, store: Store, name: str) -> None:
    if not store.exists(f"{name}/{MANIFEST}"):
        raise UserError(
            f"{artifact.uri} was removed while it was fetched",
            reason="`medmim gc` or `medmim data erase` has removed it from the store",
            fix="run the step that made it again",
        )


def _disk_error(error: OSError, artifact: Artifact, cache: Path) -> UserError:
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UserError(
            f"the cache {cache} cannot be written: {artifact.uri} is not in it yet",
            reason=f"{os.strerror(error.errno)}: {error.filename or cache}",
            fix=f"make it writable for user id {os.getuid()}, or set MEDMIM_CACHE to another folder",
        )
    return from_os_error(error, f"copying {artifact.uri} to {cache}")


def _changed_files(artifact: Artifact, folder: Path) -> list[str]:
    """Files that are missing or differ from the manifest.

    The manifest is the last file written, so only files that are younger have to be hashed.
    """
    try:
        published = (folder / MANIFEST).stat().st_mtime_ns
    except FileNotFoundError:
        return list(artifact.files)
    changed = []
    for name, facts in artifact.files.items():
        try:
            stat = (folder / name).stat()
        except (FileNotFoundError, NotADirectoryError):
            changed.append(name)
            continue
        touched = stat.st_mtime_ns >= published
        if stat.st_size != facts["bytes"] or (touched and file_digest(folder / name) != facts["sha256"]):
            changed.append(name)
    return changed
