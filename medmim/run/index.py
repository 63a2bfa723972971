"""Indexes of artifacts in SQLite, for what is asked again and again: made once by one process, then only read.

    HOME/console/DIGEST.sqlite     whole or absent; `about` says of which form, and of which list of erased patients
    HOME/console/DIGEST.lock       whoever makes it holds it; the kernel releases it when that process ends
    HOME/console/.part-DIGEST...   what is being made

Making takes seconds, in a thread of its own: until it ends, `opened` raises NotReady. What is damaged, or of another
form, is made again. The least recently used ones are dropped above 20.
"""

import os
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from medmim.errors import as_user_error
from medmim.store import Artifact
from medmim.store.flock import NO_LOCKS, sign, try_lock
from medmim.store.folder import PART

KEPT = 20  # indexes of a home
_FOLDER = "console"
_AT_ONCE = 3  # that one process makes
_TOUCHED = 60.0  # s between two marks of use
_STALE = 86400.0  # s


class NotReady(Exception):
    """An index is being made; `share` of it is done, None where another process makes it."""

    def __init__(self, share: float | None) -> None:
        super().__init__("an index is being made")
        self.share = share


@dataclass(frozen=True)
class Form:
    """What an index holds.

    Attributes:
        name: With a number that goes up whenever the content changes for equal artifacts: `items 1`.
        schema: SQL that makes the tables.
        fill: (artifact, connection, tell): fills them; calls `tell` with the share that is done.
    """

    name: str
    schema: str
    fill: Callable[[Artifact, sqlite3.Connection, Callable[[float], None]], None]


@dataclass
class _Making:
    share: float | None = 0.0
    error: Exception | None = None
    done: threading.Event = field(default_factory=threading.Event)


_making: dict[Path, _Making] = {}
_lock = threading.Lock()


@contextmanager
def opened(
    home: Path, artifact: Artifact, form: Form, mark: str = "", patience: float = 1.0
) -> Iterator[sqlite3.Connection]:
    """The index of an artifact, to read.

    Args:
        home: The home.
        artifact: What it is of.
        form: What it holds.
        mark: What it depends on besides; an index with another mark is made again.
        patience: How long to wait for one that is being made, in seconds.

    Raises:
        NotReady: It is being made; ask again.
        UserError: It could not be made: whatever `form.fill` raised, once; the next call tries again.
    """
    path = _path(home, artifact.digest)
    connection = _open(path, form, mark)
    if connection is None:
        _make(path, artifact, form, mark, patience)
        connection = _open(path, form, mark)
        if connection is None:
            raise NotReady(None)
    with closing(connection):
        try:
            yield connection
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise
            path.unlink(missing_ok=True)
            raise NotReady(0.0) from None


def clear(home: Path) -> None:
    """Remove all, as after an erasure."""
    shutil.rmtree(home / _FOLDER, ignore_errors=True)


def _path(home: Path, digest: str) -> Path:
    return home / _FOLDER / f"{digest}.sqlite"


def _open(path: Path, form: Form, mark: str) -> sqlite3.Connection | None:
    """The index, or None where it is absent, damaged or another one."""
    if not path.exists():
        return None
    # it is never written again, so nothing needs to be locked
    connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True, check_same_thread=False)
    with suppress(sqlite3.Error, OSError):
        if dict(connection.execute("SELECT key, value FROM about").fetchall()) == {"form": form.name, "mark": mark}:
            if time.time() - path.stat().st_mtime > _TOUCHED:
                os.utime(path)
            return connection
    connection.close()
    return None


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR)


def _make(path: Path, artifact: Artifact, form: Form, mark: str, patience: float) -> None:
    """Wait for the index, which is made in a thread."""
    with _lock:
        making = _making.get(path)
        if making is None:
            ended = [one for one, job in _making.items() if job.done.is_set()]  # which nobody has asked for since
            if len(_making) - len(ended) >= _AT_ONCE:
                raise NotReady(None)
            for one in ended:
                del _making[one]
            making = _making[path] = _Making()
            # a daemon: nobody who ends this process waits for it
            threading.Thread(target=_run, args=(path, artifact, form, mark, making), daemon=True).start()
    if not making.done.wait(patience):
        raise NotReady(making.share)
    with _lock:
        if _making.get(path) is making:
            del _making[path]
    if making.error is not None:
        raise making.error


def _run(path: Path, artifact: Artifact, form: Form, mark: str, making: _Making) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _alone(path.with_suffix(".lock"), making):
            made = _open(path, form, mark)
            if made is not None:  # by the process that had the lock
                made.close()
                return
            making.share = 0.0
            _write(path, artifact, form, mark, making)
            _drop(path.parent)
    except Exception as error:
        making.error = as_user_error(error, f"making the index {path}", path.parents[1])
    finally:
        making.done.set()


@contextmanager
def _alone(path: Path, making: _Making) -> Iterator[None]:
    """Hold a lock between the processes of this machine, as far as the file system knows locks."""
    try:
        while (lock := try_lock(path)) is None:
            making.share = None
            time.sleep(0.2)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        yield
        return
    with lock:
        sign(lock)
        try:
            for part in path.parent.glob(f"{PART}{path.stem}*"):  # of a process that was killed
                part.unlink(missing_ok=True)
            yield
        finally:
            path.unlink(missing_ok=True)


def _write(path: Path, artifact: Artifact, form: Form, mark: str, making: _Making) -> None:
    def tell(share: float) -> None:
        making.share = share

    handle, name = tempfile.mkstemp(prefix=f"{PART}{artifact.digest}", dir=path.parent)
    part = Path(name)
    try:
        with closing(sqlite3.connect(part, isolation_level=None)) as connection:
            connection.executescript(
                "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; BEGIN;"
                f"CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT); {form.schema}"
            )
            form.fill(artifact, connection, tell)
            connection.executemany("INSERT INTO about VALUES (?, ?)", [("form", form.name), ("mark", mark)])
            connection.execute("COMMIT")
        os.fsync(handle)
        part.replace(path)
    finally:
        os.close(handle)
        part.unlink(missing_ok=True)


def _drop(folder: Path) -> None:
    """Remove the indexes that were not used for longest, and what was never finished."""
    found = {path: path.stat().st_mtime for path in folder.glob("*.sqlite") if path.exists()}
    for path in sorted(found, key=lambda path: -found[path])[KEPT:]:
        path.unlink(missing_ok=True)
    for path in folder.glob(f"{PART}*"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _STALE:
                path.unlink()
