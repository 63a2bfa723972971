"""What the workers of a benchmark are given: batches by their place in the data, in chunks that shrink as work ends."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

Set = tuple[str, str, str]  # role, protocol, probe
_LONGEST = 4  # places of the data in a chunk
_ROUNDS = 4  # chunks that each worker gets of what is left


@dataclass(frozen=True)
class Batch:
    """Questions that are asked together.

    Attributes:
        set: Whose answers they become.
        place: In the data.
        ids: Of the samples, in the order of asking.
    """

    set: Set
    place: int
    ids: tuple[str, ...]


class Queue:
    """The batches that nobody asks yet.

    Args:
        by_place: Role -> the batches on each place in the data. The roles take turns in this order.
    """

    def __init__(self, by_place: Mapping[str, Iterable[Sequence[Batch]]]) -> None:
        self._left = {role: deque(batches for batches in own if batches) for role, own in by_place.items()}
        self._dropped: set[str] = set()

    @property
    def roles(self) -> list[str]:
        """In the order of their turns."""
        return list(self._left)

    def __len__(self) -> int:
        """Places with anything left."""
        return sum(map(len, self._left.values()))

    def take(self, held: str, workers: int) -> list[Batch]:
        """The next chunk, for one of so many workers: place by place in the order of the data.

        Args:
            held: The model in its memory: another one's come only when none of these are left.
            workers: How many there are.
        """
        own = self._left.get(held) or next(left for left in self._left.values() if left)
        count = max(1, min(_LONGEST, len(own), len(self) // (_ROUNDS * workers)))
        return sorted((batch for _ in range(count) for batch in own.popleft()), key=attrgetter("place"))

    def drop(self, role: str) -> None:
        """Nothing more is asked of a model."""
        self._left[role].clear()
        self._dropped.add(role)

    def put_back(self, batches: Sequence[Batch]) -> None:
        """What a lost worker has left of its chunk comes next."""
        if batches and batches[0].set[0] not in self._dropped:
            self._left[batches[0].set[0]].appendleft(list(batches))


def by_place(leading: Sequence[Sequence[str]], sets: Mapping[Set, Sequence[Sequence[str]]]) -> list[list[Batch]]:
    """The batches of the sets of a model by their place in the data.

    Args:
        leading: A place each: the sample ids of batches that hold each question.
        sets: The sample ids of the batches to ask; one is where its first question is.
    """
    place = {name: number for number, batch in enumerate(leading) for name in batch}
    found: list[list[Batch]] = [[] for _ in leading]
    for one, batches in sets.items():
        for batch in batches:
            where = place[batch[0]]
            found[where].append(Batch(one, where, tuple(batch)))
    return found
