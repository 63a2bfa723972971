"""Runs a command and all that it starts for as long as stdin is open: `python child.py COMMAND...`.

Whoever starts this holds the other end of stdin, which the system closes when that process is gone, even by kill -9.
So no server stays behind. It imports nothing of medmim, to start at once.

The work is done by a second process like it: Ray kills the children of a worker that ends, not theirs.
"""

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

_GRACE = 20.0  # s from SIGTERM to SIGKILL
_SECOND = "--"


def main(command: list[str]) -> int:
    """Run the command in a process group of its own.

    Returns:
        Its exit code, or 128 and the signal that ended it.

    The first process only waits for the second.
    """
    if command[0] != _SECOND:
        return subprocess.call([sys.executable, __file__, _SECOND, *command], start_new_session=True)
    child = subprocess.Popen(command[1:], stdin=subprocess.DEVNULL, start_new_session=True)

    def end_with_parent() -> None:
        while os.read(0, 1):  # not by sys.stdin, whose lock this thread would hold when Python ends
            pass
        _signal(child.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE)
        _signal(child.pid, signal.SIGKILL)

    threading.Thread(target=end_with_parent, daemon=True).start()
    code = child.wait()
    _signal(child.pid, signal.SIGKILL)  # what it has left behind
    return code if code >= 0 else 128 - code


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):  # macOS gives the latter for a group that is gone
        os.killpg(group, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
