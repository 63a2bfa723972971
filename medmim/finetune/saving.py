"""Checkpoints that are written while training goes on.

Between two steps what a worker holds is copied to host memory, and a thread writes the copy. Whether all workers have
written theirs is a collective, so the threads that train ask that between two steps, too; then it is a checkpoint.
"""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from medmim.finetune import checkpoint, distributed
from medmim.finetune.engines.engine import Fragment
from medmim.lvlm import memory


class Saves:
    """Writes one checkpoint at a time. Every worker calls every method, in the same order.

    Left by an exception, it waits until its own file is written.

    Args:
        folder: The `resume` folder.
        good: The checkpoint that the training was resumed from.
        whole: Called on every worker when a checkpoint is whole, with its steps and its folder.
        fix: What to change where the memory is used up.
        device: Of the flags that the workers exchange.
        rank: This worker.
        world: Number of workers.

    Attributes:
        good: The newest checkpoint that is whole.
    """

    def __init__(
        self,
        folder: Path,
        good: Path | None,
        whole: Callable[[int, Path], None],
        fix: str,
        device: torch.device,
        rank: int,
        world: int,
    ) -> None:
        self.folder, self.good, self.whole, self.fix = folder, good, whole, fix
        self.device, self.rank, self.world = device, rank, world
        self.step, self.state = 0, dict[str, Any]()
        self.writing: Future[Path] | None = None

    def __enter__(self) -> "Saves":
        self.pool = ThreadPoolExecutor(1, "checkpoint")
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown()

    def begin(self, step: int, fragments: Iterable[Fragment], state: Mapping[str, Any]) -> None:
        """Copy what this worker holds, and begin to write it; waits for the end of the checkpoint before.

        Args:
            step: Optimizer steps done.
            fragments: What this worker holds.
            state: See `checkpoint.commit`.

        Raises:
            OSError: The checkpoint before could not be written.
            UserError: The memory is used up.
        """
        self.finish()
        with memory.reporting(_writing(step), self.fix):
            copies = checkpoint.copied(fragments)
        self.step, self.state = step, dict(state)
        self.writing = self.pool.submit(checkpoint.save, self.folder, step, copies, self.rank, self.world)

    def look(self) -> None:
        """Take note, after each step, of what the thread has written meanwhile. Raises as `begin`."""
        if self.writing is None:
            return
        written = self.writing.done()
        if written:
            self._written(self.writing)
        if self.world > 1:
            (count,) = distributed.sum_counts([int(written)], self.device)
            written = count == self.world
        if written:
            self._commit(self.writing)

    def finish(self) -> None:
        """Wait until the checkpoint that is being written is whole. Raises as `begin`."""
        if self.writing is None:
            return
        self._written(self.writing)
        if self.world > 1:
            distributed.wait_for_all()
        self._commit(self.writing)

    def _written(self, writing: Future[Path]) -> Path:
        with memory.reporting(_writing(self.step), self.fix):
            return writing.result()

    def _commit(self, writing: Future[Path]) -> None:
        self.good, self.writing = writing.result(), None
        if self.rank == 0:
            checkpoint.commit(self.good, self.state, self.world)
        self.whole(self.step, self.good)


def _writing(step: int) -> str:
    return f"while the checkpoint of step {step} was written"
