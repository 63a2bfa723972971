"""One process at a time in a folder."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from medmim.errors import UserError

_PATIENCE = 3.0  # s; who was killed ends within a second, and lets the lock go


@contextmanager
def alone(folder: Path, otherwise: UserError) -> Iterator[None]:
    """Two processes must not fill one folder; the lock dies with its process. An empty folder does not stay.

    Args:
        folder: What is worked in; its parent must be there.
        otherwise: What is raised while another process has it.
    """
    path = folder.with_name(f"{folder.name}.lock")
    last = time.monotonic() + _PATIENCE
    while (lock := _lock(path)) is None:
        if time.monotonic() > last:
            raise otherwise
        time.sleep(0.1)
    with lock:
        try:
            yield
        finally:
            with suppress(OSError):
                folder.rmdir()
            path.unlink()


def _lock(path: Path) -> IO[str] | None:
    """The locked file, or None while another process has it."""
    import fcntl

    lock = path.open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock.fileno()), path.stat()):  # else its owner has just ended and unlinked it
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    lock.close()
    return None
