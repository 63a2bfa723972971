"""Downloads files of a store in ranges, several at once; what a killed process has fetched is not fetched again.

Beside the files lies a journal for each large one, in `.ranges`: the version that its bytes are of, then a line for
each range that is on the disk, with its CRC. A file of another version starts anew. The SHA-256 of a manifest decides
in the end; where it differs, the ranges whose CRC differs are fetched once more, or all, if the disk is not at fault.
What is no artifact has no manifest: its version in the store says what is read, and the CRCs decide.

Memory: a connection holds 2 MiB, at most, so 16 of them 32 MiB, whatever the size of the files.
"""

import hashlib
import os
import re
import shutil
import threading
import time
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medmim.progress import Bar
from medmim.store.artifact import file_digest
from medmim.store.folder import write_atomically
from medmim.store.interface import Store

RANGE = 16 << 20  # bytes; what uploads use as well, and S3 is fastest where the two are equal
CONNECTIONS = 16
_JOURNALS = ".ranges"
_TRIES = 2  # of a file whose digest differs
_SHOWN_AFTER = 3.0  # s
_LINE = re.compile(r"(\d+) ([0-9a-f]{8})")
_MB = 1_000_000


class DiskError(Exception):
    """What the local disk refused, apart from errors of the network: `error` is the operating system's."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class _Stopped(Exception):
    """Another thread has failed, or this process was interrupted."""


@dataclass
class _File:
    name: str
    key: str
    path: Path
    beside: Path  # its journal; of a file of one range, the part that is being written
    size: int
    sha256: str  # empty: not known
    version: str
    whole: bool  # of one range and of a known digest: there is no journal, and it is whole or absent
    missing: list[int] = field(default_factory=list)  # ranges
    left: int = 0  # jobs
    gone: bool = False


class _Progress:
    """Counts bytes of several threads and shows a bar once the download takes longer than _SHOWN_AFTER."""

    def __init__(self, label: str, total: int) -> None:
        self._bar = Bar(label, -(-total // _MB), "MB")
        self._bytes = 0
        self._lock = threading.Lock()
        self._shown_from = time.monotonic() + _SHOWN_AFTER

    def add(self, count: int) -> None:
        with self._lock:
            self._bytes += count
            self._bar.done = self._bytes // _MB
            if time.monotonic() > self._shown_from:
                self._bar.add(0)

    def end(self) -> None:
        with self._lock:
            self._bar.done = -(-self._bytes // _MB)
            if time.monotonic() > self._shown_from:
                self._bar.show()


def missing_bytes(files: Mapping[str, Mapping[str, Any]], folder: Path) -> int:
    """How much of the files is not on the disk yet."""
    needed = 0
    for name, facts in files.items():
        needed += facts["bytes"]
        path, journal = folder / name, _beside(folder, name)
        if not path.is_file():
            continue
        if _is_whole_or_absent(facts):
            needed -= path.stat().st_size
        else:
            version, present = _read_journal(journal)
            same = facts.get("version", version) == version
            needed -= sum(_length(facts["bytes"], index) for index in present if same)
    return max(0, needed)


def download(store: Store, prefix: str, files: Mapping[str, Mapping[str, Any]], folder: Path, label: str) -> list[str]:
    """Download the files that `folder` does not have yet, and check all of them.

    Args:
        store: Where they are.
        prefix: Their keys begin with it and a slash, unless it is empty.
        files: Name -> `bytes`, and `sha256` or, where that is not known, `version`, both as `Store.version` gives them.
        folder: Gets them; may hold what an earlier, killed download has left.
        label: Of the progress bar.

    Returns:
        Names of those that are missing in the store, or there differ from the manifest or the version.

    Raises:
        UserError: The store refuses or does not answer. What is fetched stays.
        DiskError: The disk is full, or may not be written.
    """
    progress = _Progress(label, missing_bytes(files, folder))
    left = list(files)
    for _ in range(_TRIES):
        left = _download(store, prefix, {name: files[name] for name in left}, folder, progress)
        if not left:
            break
    else:
        return left
    progress.end()
    return []


def forget(folder: Path) -> None:
    """Remove what only serves to go on with a download."""
    shutil.rmtree(folder / _JOURNALS, ignore_errors=True)


def _download(
    store: Store, prefix: str, files: Mapping[str, Mapping[str, Any]], folder: Path, progress: _Progress
) -> list[str]:
    """One try; the names of the files that are not what they should be."""
    stop, lock = threading.Event(), threading.Lock()

    def job(file: _File, index: int | None) -> str | None:
        if stop.is_set():
            raise _Stopped
        try:
            if index is not None:
                _fetch(store, file, index, progress, stop)
        except FileNotFoundError:
            file.gone = True
        with lock:
            file.left -= 1
            last = file.left == 0
        return None if not last or (not file.gone and _is_whole(file)) else file.name

    pool = ThreadPoolExecutor(CONNECTIONS, "medmim-fetch")
    try:
        jobs = []
        for name, facts in files.items():
            file = _plan(store, prefix, name, facts, folder)  # in this thread, where an interrupt ends its retries
            todo: Sequence[int | None] = [] if file.gone else file.missing
            todo = todo or [None]
            file.left = len(todo)
            jobs += [pool.submit(job, file, index) for index in todo]
        _wait(jobs)
        return [wrong for one in jobs if (wrong := one.result()) is not None]
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _wait(futures: Sequence[Any]) -> None:
    """Wait for all, or raise the first error."""
    done, _ = wait(futures, return_when=FIRST_EXCEPTION)
    for one in done:
        error = one.exception()
        if error is not None:
            raise error


def _plan(store: Store, prefix: str, name: str, facts: Mapping[str, Any], folder: Path) -> _File:
    """What of a file is missing, after what belongs to another version was thrown away."""
    size, key = facts["bytes"], f"{prefix}/{name}" if prefix else name
    sha256, version = facts.get("sha256", ""), facts.get("version", "")
    whole = _is_whole_or_absent(facts)
    file = _File(name, key, folder / name, _beside(folder, name), size, sha256, version, whole)
    try:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        file.beside.parent.mkdir(exist_ok=True)
        if file.whole:
            file.missing = [] if file.path.is_file() else [0]
            return file
        if sha256:
            try:
                found, file.version = store.version(file.key)
            except FileNotFoundError:
                found = -1
            if found != size:
                file.gone = True
                return file
        version, present = _read_journal(file.beside)
        if not version or version != file.version or not file.path.is_file():
            present = {}
            _write_journal(file, present)
            file.path.unlink(missing_ok=True)
        with file.path.open("ab") as out:
            out.truncate(size)
        file.missing = [index for index in range(max(1, -(-size // RANGE))) if index not in present]
    except OSError as error:
        raise DiskError(error) from None
    return file


def _fetch(store: Store, file: _File, index: int, progress: _Progress, stop: threading.Event) -> None:
    """Fetch one range and note it in the journal; a file of one range appears whole."""
    length = _length(file.size, index)
    path = file.beside if file.whole else file.path
    crc = written = 0

    def write(at: int, piece: bytes) -> None:
        nonlocal crc, written
        if stop.is_set():
            raise _Stopped
        if not piece:  # a try begins
            progress.add(-written)
            crc = written = 0
        try:
            os.pwrite(out, piece, index * RANGE + at)
        except OSError as error:
            raise DiskError(error) from None
        crc = zlib.crc32(piece, crc)
        written += len(piece)
        progress.add(len(piece))

    try:
        out = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    except OSError as error:
        raise DiskError(error) from None
    try:
        store.read_range(file.key, file.version, index * RANGE, length, write)
        if file.whole:
            os.ftruncate(out, length)
            path.rename(file.path)
        else:
            _append(file.beside, f"{index} {crc:08x}\n")
    finally:
        os.close(out)


def _is_whole(file: _File) -> bool:
    """Whether a file has the digest that is known, else the bytes that came.

    If so it is safe on the disk, else what is wrong is forgotten.
    """
    try:
        right = bool(file.sha256) and file_digest(file.path) == file.sha256
        if not right and not file.whole:
            present = _read_journal(file.beside)[1]
            kept = {index: crc for index, crc in present.items() if _crc(file, index) == crc}
            as_it_came = len(kept) == len(present)
            right = as_it_came and not file.sha256
            if not right:  # the disk is at fault, or, if it is not, what was sent: where, is not known then
                _write_journal(file, {} if as_it_came else kept)
        if right:
            with file.path.open("rb") as written:
                os.fsync(written.fileno())
        elif file.whole:
            file.path.unlink()
    except OSError as error:
        raise DiskError(error) from None
    return right


def _is_whole_or_absent(facts: Mapping[str, Any]) -> bool:
    """Whether a file is fetched in one range, and what is there may be trusted until its digest is taken."""
    return facts["bytes"] <= RANGE and "sha256" in facts


def _beside(folder: Path, name: str) -> Path:
    return folder / _JOURNALS / hashlib.sha256(name.encode()).hexdigest()


def _length(size: int, index: int) -> int:
    return min(RANGE, size - index * RANGE)


def _crc(file: _File, index: int) -> str:
    crc = 0
    with file.path.open("rb") as source:
        source.seek(index * RANGE)
        left = _length(file.size, index)
        while left:
            piece = source.read(min(_MB, left))
            if not piece:
                break
            crc, left = zlib.crc32(piece, crc), left - len(piece)
    return f"{crc:08x}"


def _read_journal(path: Path) -> tuple[str, dict[int, str]]:
    """The version, and range -> CRC of what is present; a line that a kill cut off does not count."""
    try:
        version, *lines = path.read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, ValueError):
        return "", {}
    found = (_LINE.fullmatch(line) for line in lines)
    return version, {int(one[1]): one[2] for one in found if one}


def _write_journal(file: _File, present: Mapping[int, str]) -> None:
    lines = [file.version, *(f"{index} {crc}" for index, crc in present.items())]
    write_atomically(file.beside, ["".join(f"{line}\n" for line in lines).encode()])


def _append(path: Path, line: str) -> None:
    with path.open("ab", buffering=0) as journal:  # one write of one line: those of several threads do not mix
        journal.write(line.encode())
