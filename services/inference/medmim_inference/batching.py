"""Dynamic batching: what waits when the model becomes free is asked together; nothing waits for others to come."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from medmim.errors import UserError
from medmim.lvlm.ask import Question, Reply
from medmim.registry.chat import Refused
from medmim_inference.replica import Replica

Answered = tuple[Reply, Replica]


@dataclass
class _Waiting:
    question: Question
    new_tokens: int
    answered: "Future[Answered]" = field(default_factory=Future)


class Batcher:
    """The questions that wait, and the threads that ask them.

    Args:
        replica: Gives the model for the next batch; a switch waits for no batch, and no batch for a switch.
        size: Questions in one batch at most.
        threads: Batches at once: one for a model in this process, more where a server of its own batches them.
        most: Questions that may wait.
        on_batch: Called with the size of each batch.
    """

    def __init__(
        self,
        replica: Callable[[], Replica],
        size: int,
        threads: int,
        most: int,
        on_batch: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._replica, self._size, self._most, self._on_batch = replica, size, most, on_batch
        self._waiting: deque[_Waiting] = deque()
        lock = threading.Lock()
        self._arrived = threading.Condition(lock)  # a question, or the end; two, so that `notify` wakes who asks it
        self._freed = threading.Condition(lock)
        self._asking: list[Replica] = []  # one of each batch that is under way
        self._ended = False
        self._threads = [threading.Thread(target=self._run, name=f"model-{n}", daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    def __len__(self) -> int:
        """Questions that wait."""
        return len(self._waiting)

    def ask(self, question: Question, new_tokens: int) -> "Future[Answered]":
        """Ask a question; cancelled before its batch begins, it is not asked.

        Args:
            question: The question.
            new_tokens: Longest answer.

        Raises:
            Refused: 429, too many wait already; 503, the server is ending.
        """
        one = _Waiting(question, new_tokens)
        with self._arrived:
            if self._ended:
                raise Refused(503, "the server is ending", retry=1)
            if len(self._waiting) >= self._most:
                raise Refused(429, f"{self._most} requests wait for the model already", retry=1)
            self._waiting.append(one)
            self._arrived.notify()
        return one.answered

    def wait_until_free(self, replica: Replica) -> None:
        """Return when no batch is being asked of a model."""
        with self._freed:
            self._freed.wait_for(lambda: all(one.engine is not replica.engine for one in self._asking))

    def end(self) -> None:
        """Answer what waits, and take nothing more."""
        with self._arrived:
            self._ended = True
            self._arrived.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while batch := self._next():
            self._on_batch(len(batch))
            with self._freed:
                replica = self._replica()
                self._asking.append(replica)
            try:
                for one, reply in zip(batch, _replies(replica, batch), strict=True):
                    if isinstance(reply, UserError):
                        one.answered.set_exception(reply)
                    else:
                        one.answered.set_result((reply, replica))
            except BaseException as error:  # of a thread: the requests get it, and the next batch is asked
                for one in batch:
                    if not one.answered.done():
                        one.answered.set_exception(error)
            finally:
                with self._freed:
                    self._asking.remove(replica)
                    self._freed.notify_all()

    def _next(self) -> list[_Waiting]:
        """The oldest questions with an equal longest answer; empty at the end."""
        with self._arrived:
            while True:
                batch: list[_Waiting] = []
                rest: deque[_Waiting] = deque()
                while self._waiting and len(batch) < self._size:
                    one = self._waiting.popleft()
                    if batch and one.new_tokens != batch[0].new_tokens:
                        rest.append(one)
                    elif one.answered.set_running_or_notify_cancel():
                        batch.append(one)
                self._waiting.extendleft(reversed(rest))
                if batch or (self._ended and not self._waiting):
                    return batch
                self._arrived.wait()


def _replies(replica: Replica, batch: Sequence[_Waiting]) -> Iterator[Reply | UserError]:
    """Where a batch fails as a whole, because it needs too much memory, each question is asked alone."""
    questions, longest = [one.question for one in batch], batch[0].new_tokens
    try:
        yield from list(replica.ask(questions, longest))
    except UserError:
        if len(batch) == 1:
            raise
        for question in questions:
            try:
                yield from list(replica.ask([question], longest))
            except UserError as error:
                yield error
