"""Values that several threads need again, as far as memory allows: each is made once while it is kept."""

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock
from typing import Generic, TypeVar

from medmim.lvlm import memory

T = TypeVar("T")

_SHARE, _MOST = 8, 8 << 30


def budget() -> int:
    """Bytes that one of these may take: an eighth of the memory that the process may use, at most 8 GiB."""
    return min(_MOST, memory.of_machine() // _SHARE)


class Kept(Generic[T]):
    """Values by name; where they take more than the budget, the one that was not used for longest goes.

    Args:
        room: Bytes that they may take.
        weigh: Value -> its bytes.
    """

    def __init__(self, room: int, weigh: Callable[[T], int]) -> None:
        self._room, self._weigh = room, weigh
        self._found: OrderedDict[str, Future[T]] = OrderedDict()
        self._lock = Lock()

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def get(self, name: str, make: Callable[[], T]) -> T:
        """The value of a name. While a thread makes it, the others wait for it; they raise what `make` raises."""
        with self._lock:
            mine = name not in self._found
            found = self._found.setdefault(name, Future())
            self._found.move_to_end(name)
        if not mine:
            return found.result()
        try:
            value = make()
        except BaseException as error:  # else those that wait for it would wait without end
            with self._lock:
                del self._found[name]
            found.set_exception(error)
            raise
        found.set_result(value)
        with self._lock:
            self._room -= self._weigh(value)
            while self._room < 0:
                oldest = next((one for one, known in self._found.items() if known.done()), None)
                if oldest is None:
                    break
                self._room += self._weigh(self._found.pop(oldest).result())
        return value

    def drop(self, name: str) -> None:
        """Forget the value of a name, if there is one."""
        with self._lock:
            known = self._found.get(name)
            if known is not None and known.done():
                del self._found[name]
                self._room += self._weigh(known.result())
