"""What all workers decide alike between two steps: whether to save, and whether to stop."""

import time
from threading import Event

import torch

from medmim.errors import Unavailable
from medmim.finetune import distributed
from medmim.recipe.schema import Finetune

_UNITS = {"s": 1, "m": 60, "h": 3600}


class Preempted(Unavailable):
    """A scheduler wants the machine back: the training has stopped, and the same command resumes it."""

    def __init__(self, done: int, steps: int) -> None:
        super().__init__(
            f"the training was told to stop (SIGTERM), after step {done:,} of {steps:,}",
            reason="a checkpoint of this step is written" if done else "it had not begun, so there is no checkpoint",
            fix="run the same command again" + (": it resumes from there" if done else ""),
        )


class Pace:
    """When to save and to stop.

    Args:
        settings: `save_every`.
        steps: Of the whole training.
        stop: Set on any worker, all of them stop after the step.
        rank: This worker: the clock of the first one counts.
        world: Number of workers.
        device: Of the flags that the workers exchange.
    """

    def __init__(
        self, settings: Finetune, steps: int, stop: Event, rank: int, world: int, device: torch.device
    ) -> None:
        every = settings.save_every
        self.every = every if isinstance(every, int) else None
        self.seconds = 0 if isinstance(every, int) else int(every[:-1]) * _UNITS[every[-1]]
        self.steps, self.stop, self.rank, self.world, self.device = steps, stop, rank, world, device
        self.saved_at = time.monotonic()

    def after(self, done: int) -> tuple[bool, bool]:
        """Whether to save and whether to stop after so many steps. Every worker calls it."""
        late = self.every is None and self.rank == 0 and time.monotonic() - self.saved_at >= self.seconds
        flags = [int(late), int(self.stop.is_set())]
        if self.world > 1:
            flags = distributed.sum_counts(flags, self.device)
        save, stop = map(bool, flags)
        if self.every is not None:
            save = done % self.every == 0
        if save := save or stop or done == self.steps:
            self.saved_at = time.monotonic()
        return save, stop
