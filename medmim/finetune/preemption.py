"""SIGTERM while a training runs: a scheduler wants the machine back, and gives a grace period in which to save.

The process that gets it sets an event, or leaves FILE in the folder that driver and workers share; the workers look
between two steps (`pace`). Nothing is killed: they save, and end by themselves.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event
from types import FrameType

from medmim import progress, store
from medmim.errors import UserError

FILE = ".stop"
_LOOK_EVERY = 1.0  # s
_AGAIN = 2.0  # s in which another SIGTERM is the same one


@contextmanager
def on_sigterm(act: Callable[[], None]) -> Iterator[Event]:
    """Within the block SIGTERM calls `act`, once, and ends nothing; a later one does what it would do outside.

    Python lets only the main thread do that: in another one, and where SIGTERM is ignored, the block changes nothing.

    Returns:
        An event that is set once it has come.
    """
    came = Event()
    outside = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or outside in (signal.SIG_IGN, None):
        yield came
        return
    owner, first = os.getpid(), 0.0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal first
        now = time.monotonic()
        if os.getpid() == owner and not came.is_set():
            first = now
            came.set()
            act()
        elif os.getpid() != owner or now - first > _AGAIN:
            signal.signal(number, outside)
            os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, handle)
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, outside)


def ask(folder: str) -> None:
    """Ask the workers that look at a folder, local or in the store, to stop. Returns at once: it may be far away."""

    def write() -> None:
        try:
            store.open_store(folder).write(FILE, b"")
        except UserError as error:
            progress.say(f"the workers cannot be told to stop: {error}")

    progress.say("SIGTERM: the training saves after this step and stops")
    threading.Thread(target=write, daemon=True).start()


def forget(folder: str) -> None:
    """Remove what `ask` has left."""
    store.open_store(folder).delete(FILE)


@contextmanager
def watching(folder: str) -> Iterator[Event]:
    """Within the block an event that is set once `ask` was called for this folder, on any machine."""
    stop, over = Event(), Event()

    def look() -> None:
        while not over.wait(_LOOK_EVERY):
            with suppress(UserError):  # a store that does not answer now may do so the next time
                if store.open_store(folder).exists(FILE):
                    stop.set()
                    return

    threading.Thread(target=look, daemon=True).start()
    try:
        yield stop
    finally:
        over.set()
