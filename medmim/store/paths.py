"""Paths in text: what a user or a server sends may be a path, and it may be a question of a thousand words."""

import errno
from pathlib import Path

# No name like it can exist: the parts are absent, or it is too long or not encodable for this file system.
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP, errno.EILSEQ)


def existing(text: str) -> Path | None:
    """The file or folder that a text names; `~` is the user's home.

    Returns:
        None where there is none, also for a text that cannot be a path: more than 255 bytes between two slashes, or a
        character that no path holds.

    Raises:
        PermissionError: A folder on the way may not be entered.
    """
    if not text:  # for which Path has the working directory
        return None
    try:
        path = Path(text).expanduser()
        path.stat()
    except (ValueError, RuntimeError):  # a NUL, half a surrogate pair; the home of nobody
        return None
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise
    return path
