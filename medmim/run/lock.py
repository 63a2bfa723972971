"""Lock a work folder: one process at a time, and the lock ends with its process."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

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
