"""Death at a chosen moment: a store's calls, of which one and all that follow never come to pass."""

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import pytest


class Killed(BaseException):
    """Stands for SIGKILL: nothing on the way catches it."""


def killed_at(number: int, kind: type, calls: Sequence[str], do: Callable[[], object]) -> bool:
    """Do something, and kill it at one of its calls.

    Args:
        number: Of the call, from 0.
        kind: The store's class.
        calls: Names of the methods that count.
        do: What is killed.

    Returns:
        False where it ended before.
    """
    made = count()

    def deadly(real: Callable[..., Any]) -> Callable[..., Any]:
        def act(*arguments: Any) -> Any:
            if next(made) >= number:
                raise Killed
            return real(*arguments)

        return act

    with pytest.MonkeyPatch.context() as patch:
        for call in calls:
            patch.setattr(kind, call, deadly(getattr(kind, call)))
        try:
            do()
        except Killed:
            return True
    return False
