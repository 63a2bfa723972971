"""The peak memory of a command and its children, for the tables of the other scripts."""

import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

import psutil

_EVERY = 0.1  # s


def peak_of(command: Sequence[str]) -> tuple[str, float, int]:
    """Run a command.

    Returns:
        Its stdout, wall seconds, and the peak of `tree_pss` in bytes.

    Raises:
        SystemExit: It failed; what it said is on stderr.
    """
    begin = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8", errors="replace")
    peak = 0

    def watch() -> None:
        nonlocal peak
        while child.poll() is None:
            peak = max(peak, tree_pss(child.pid))
            time.sleep(_EVERY)

    watcher = threading.Thread(target=watch)
    watcher.start()
    out, _ = child.communicate()
    watcher.join()
    if child.returncode:
        sys.exit(f"exit code {child.returncode}: {shlex.join(command)}")
    return out, time.perf_counter() - begin, peak


def tree_pss(pid: int) -> int:
    """Summed proportional set size of a process and its descendants, bytes: shared pages count once."""
    total = 0
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in family:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total
