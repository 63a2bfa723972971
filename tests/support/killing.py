"""Simulates SIGKILL at a chosen call of a store: that call and all later ones do not happen."""

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import pytest


class Killed(BaseException):
    """Simulates SIGKILL: a BaseException, which no handler catches."""


def killed_at(number: int, kind: type, calls: Sequence[str], do: Callable[[], object]) -> bool:
    """Run a function, and kill it at one of its calls of the store.

    Args:
        number: Number of the call, from 0.
        kind: Class of the store.
        calls: Names of the methods that are counted.
        do: The function.

    Returns:
        False if it finished before that call.
    """
    made = count()

    def killing(real: Callable[..., Any]) -> Callable[..., Any]:
        def act(*arguments: Any) -> Any:
            if next(made) >= number:
                raise Killed
            return real(*arguments)

        return act

    with pytest.MonkeyPatch.context() as patch:
        for call in calls:
            patch.setattr(kind, call, killing(getattr(kind, call)))
        try:
            do()
        except Killed:
            return True
    return False
