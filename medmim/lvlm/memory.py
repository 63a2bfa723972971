"""Memory that is used up while a model is loaded, asked or trained: one error of the user's settings."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medmim.errors import out_of_memory, used_up


@contextmanager
def reporting(doing: str, fix: str) -> Iterator[None]:
    """Turn an allocation that fails, on the GPU or beside it, into an error that says what to lower.

    Args:
        doing: As in "the GPU ran out of memory DOING".
        fix: What to change; the same command would fail again.

    Raises:
        UserError: The memory is used up.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        where = out_of_memory(error)
        if where is None:
            raise
        raise used_up(where, doing, error, fix) from None


def of_machine() -> int:
    """Bytes of memory that this process may use: the machine's, or what its container is limited to."""
    found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # absent, or the word `max`
            found = min(found, int(Path(limit).read_text(encoding="utf-8")))
    return found
