"""Wait for what another process or a cluster does."""

import time
from collections.abc import Callable
from typing import Any


def until(what: Callable[[], Any], seconds: float = 60, goal: str = "it") -> Any:
    """The first true answer; fails the test where none comes in time."""
    last, pause = time.monotonic() + seconds, 0.02
    while time.monotonic() < last:
        found = what()
        if found:
            return found
        time.sleep(pause)
        pause = min(0.5, 2 * pause)
    raise AssertionError(f"{goal} did not come to pass within {seconds} s")
