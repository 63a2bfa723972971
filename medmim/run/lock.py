"""Lock a work folder: one process at a time, and the lock ends with its process. A work folder of one process alone."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from medmim.errors import UserError
from medmim.store.flock import holder, sign, try_lock

_PATIENCE = 3.0  # s; a killed process ends within a second, which releases its lock


@contextmanager
def locked(folder: Path, busy: Callable[[str], UserError]) -> Iterator[None]:
    """Hold the lock of a folder. A folder that is empty at the end is removed.

    Args:
        folder: The folder to work in; its parent must exist.
        busy: Makes the error for a lock that another process holds, from what names that: `process 123 on HOST`.

    Raises:
        UserError: That of `busy`.
    """
    path = folder.with_name(f"{folder.name}.lock")
    last = time.monotonic() + _PATIENCE
    while (lock := try_lock(path)) is None:
        if time.monotonic() > last:
            raise busy(holder(path))
        time.sleep(0.1)
    with lock:
        try:
            sign(lock)
            yield
        finally:
            with suppress(OSError):
                folder.rmdir()
            path.unlink()


def remove_idle(folder: Path) -> None:
    """Remove a folder of `locked`, unless a process works in it."""
    if folder.exists():
        with suppress(OSError), ExitStack() as undo:
            if lock := try_lock(path := folder.with_name(f"{folder.name}.lock")):
                undo.enter_context(lock)
                shutil.rmtree(folder, ignore_errors=True)
                path.unlink()


@contextmanager
def scratch(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder that is removed at the end; what killed processes left is removed before.

    Args:
        parent: Where; it exists.
        prefix: Begins the names of such folders in `parent`, and no other name there.

    Raises:
        OSError: The folder cannot be made.
    """
    remove_killed(parent, prefix)
    with ExitStack() as undo:
        folder = _new(parent, prefix, undo)
        folder.mkdir(0o700)
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        yield folder


def remove_killed(parent: Path, prefix: str) -> None:
    """Remove the folders of `scratch` that killed processes left; those in use stay.

    Raises:
        OSError: The parent cannot be read.
    """
    for path in [path for path in parent.iterdir() if path.name.startswith(prefix) and path.suffix == ".lock"]:
        with suppress(OSError), ExitStack() as undo:
            if lock := try_lock(path):
                undo.enter_context(lock)
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                path.unlink()


def _new(parent: Path, prefix: str, undo: ExitStack) -> Path:
    """A path that no other process uses, locked before there is anything, as far as the file system knows locks."""
    while True:
        folder = parent / f"{prefix}{uuid4().hex}"
        path = folder.with_name(f"{folder.name}.lock")
        undo.callback(path.unlink, missing_ok=True)
        try:
            lock = try_lock(path)
        except OSError:  # without locks nobody removes it for us
            return folder
        if lock:  # else another process has just taken it for a killed one's
            undo.enter_context(lock)
            return folder
