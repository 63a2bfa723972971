"""A lock on a file, between the processes of a machine: it ends with its process, however that ends."""

import errno
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import IO

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # of a file system that knows none


def try_lock(path: Path, shared: bool = False, mode: str = "a+") -> IO[str] | None:
    """The open, locked file, or None while another process holds it.

    Args:
        path: The file; made where it does not exist, unless `mode` is for reading.
        shared: Several may hold it at once, as long as none holds it alone.
        mode: How to open it. A file that may only be read can be locked, but not everywhere (NFS).

    Raises:
        OSError: The file cannot be opened, or its file system knows no locks.
    """
    import fcntl

    lock = path.open(mode, encoding="utf-8")
    try:
        fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock.fileno()), path.stat()):  # else its holder has just ended and removed it
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        lock.close()
        raise
    lock.close()
    return None


def sign(lock: IO[str]) -> None:
    """Write into a file that this process has locked, and that holds nothing else, whose lock it is."""
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}")
    lock.flush()


def holder(path: Path) -> str:
    """Who has signed a lock, for a message: `process 123 on HOST`, or `another process`."""
    with suppress(OSError, ValueError):
        return path.read_text(encoding="utf-8") or "another process"
    return "another process"
