"""Figures for pages: each is drawn once, by one request at a time, and the last ones are kept."""

import threading
from collections import OrderedDict
from collections.abc import Callable

_KEPT = 64  # figures, of 100 kB or less
_drawn: OrderedDict[tuple[str, ...], str] = OrderedDict()
_lock = threading.Lock()


def svg(key: tuple[str, ...], draw: Callable[[], str]) -> str:
    """The SVG of a figure.

    Args:
        key: What decides it; a digest is in it.
        draw: Draws it.
    """
    with _lock:
        if key not in _drawn:
            _drawn[key] = draw()
            while len(_drawn) > _KEPT:
                _drawn.popitem(last=False)
        _drawn.move_to_end(key)
        return _drawn[key]
