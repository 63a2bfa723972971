"""Figures for pages: each is drawn once, by one request at a time, and the last ones are kept.

Whoever asks for one that is being drawn waits for it in a thread of the server. So few may wait at once, and not for
long: a slow figure holds up other figures, and never the other pages.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from medmim_console.site import Refusal

T = TypeVar("T")
_KEPT = 64  # figures, of 100 kB or less
_AT_ONCE = 2  # that are drawn
_WAITING = 12  # requests, of the 40 that the server answers at once
_PATIENCE = 20.0  # s
_drawn: OrderedDict[tuple[str, ...], Any] = OrderedDict()
_coming: dict[tuple[str, ...], Future[Any]] = {}
_lock = threading.Lock()
_drawing, _waiting = threading.BoundedSemaphore(_AT_ONCE), threading.BoundedSemaphore(_WAITING)


def once(key: tuple[str, ...], draw: Callable[[], T]) -> T:
    """What is drawn: the SVG of a figure, or some of them.

    Args:
        key: What decides it, with the names as they were resolved; a digest is in it, or a date.
        draw: Draws it.

    Raises:
        Refusal: 503: too many wait, or it takes too long.
    """
    with _lock:
        if key in _drawn:
            _drawn.move_to_end(key)
            found: T = _drawn[key]
            return found
    if not _waiting.acquire(blocking=False):
        raise _busy()
    try:
        return _made(key, draw)
    finally:
        _waiting.release()


def _made(key: tuple[str, ...], draw: Callable[[], T]) -> T:
    found: T
    with _lock:
        if key in _drawn:  # since
            found = _drawn[key]
            return found
        coming = _coming.get(key)
        ours = coming is None
        if coming is None:
            coming = _coming[key] = Future()
    if ours:
        try:
            coming.set_result(_with_room(key, draw))
        except BaseException as error:
            coming.set_exception(error)
            raise
        finally:
            with _lock:
                del _coming[key]
    try:
        found = coming.result(_PATIENCE)
    except TimeoutError:
        raise _busy() from None
    return found


def _with_room(key: tuple[str, ...], draw: Callable[[], T]) -> T:
    if not _drawing.acquire(timeout=_PATIENCE):
        raise _busy()
    try:
        found = draw()
    finally:
        _drawing.release()
    with _lock:
        _drawn[key] = found
        while len(_drawn) > _KEPT:
            _drawn.popitem(last=False)
    return found


def _busy() -> Refusal:
    return Refusal(503, "too many figures are being drawn", "ask for it again in some seconds")
