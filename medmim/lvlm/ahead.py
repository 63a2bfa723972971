"""Prepare what comes next by threads, while what came before is used."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from threading import Event
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")

MOST_THREADS = 8  # half of the cores, up to so many: each is at work on one of the things that come next


class Ended(Exception):
    """Nobody waits for this any more."""


def prepared(
    things: Iterable[T], prepare: Callable[[T, Callable[[], None]], U], most: int = MOST_THREADS
) -> Generator[U, None, None]:
    """What `prepare` makes of each thing, in order.

    At most as many as there are threads are made ahead of the one that is used, and one more. A generator that is
    closed, or interrupted, leaves no thread behind: it waits for the steps that are under way.

    Args:
        things: What to prepare; taken by the thread that uses the generator.
        prepare: (thing, check) -> what is made of it. It calls `check` between its steps, which raises `Ended` where
            nobody waits any more.
        most: Threads, where there are cores for them.

    Raises:
        Exception: What `prepare` raises, where its thing would come.
    """
    from joblib import cpu_count

    ended = Event()

    def check() -> None:
        if ended.is_set():
            raise Ended

    left = iter(things)
    threads = max(1, min(most, cpu_count() // 2))
    first = list(islice(left, 2))
    if len(first) < 2:
        yield from (prepare(thing, check) for thing in first)  # nothing to be ahead of
        return
    pool = ThreadPoolExecutor(threads, "medmim-ahead")
    try:
        made: deque[Future[U]] = deque(
            pool.submit(prepare, thing, check) for thing in (*first, *islice(left, threads - 1))
        )
        while made:
            found = made.popleft().result()
            made.extend(pool.submit(prepare, thing, check) for thing in islice(left, 1))
            yield found
    finally:
        ended.set()
        pool.shutdown(cancel_futures=True)
