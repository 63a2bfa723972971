"""What the training loop asks of an engine: gradients, an update, and the parts of its state that this worker holds."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from medmim.finetune.batch import Batch

WEIGHT = "weight"


@dataclass(frozen=True)
class Fragment:
    """What one worker holds of a trained parameter.

    Attributes:
        name: Of the parameter in `model.named_parameters()`.
        start: Index of the first value in the flattened parameter.
        fields: `weight` (in fp32) and what the optimizer keeps for each value, such as `exp_avg`: flat, of one length.
        counts: What it keeps once for the parameter: `step`.
    """

    name: str
    start: int
    fields: Mapping[str, Tensor]
    counts: Mapping[str, float]


class Values(Protocol):
    """The values of a field of a parameter, flat, put together from the fragments of all workers."""

    def __getitem__(self, wanted: slice) -> Tensor:
        """Read some of them; `[:]` reads all."""


@dataclass(frozen=True)
class Whole:
    """A trained parameter as a checkpoint has it."""

    fields: Mapping[str, Values]
    counts: Mapping[str, float]


class Engine(Protocol):
    """Holds the weights and the optimizer of one worker. Every worker calls every method, in the same order."""

    device: torch.device

    def gradients(self, batch: Batch) -> tuple[float, int]:
        """Compute the gradient of the mean loss over the trained tokens of all workers.

        Returns:
            The mean loss, and the tokens of all workers.
        """

    def losses(self, batch: Batch) -> list[Tensor]:
        """The loss of each target of this worker's rows, row by row, in fp32: without dropout and without a gradient.

        The weights are those of training, in its precision; no random number is drawn.
        """

    def update(self, share: float) -> tuple[float, float]:
        """Clip the gradient and take a step, unless the gradient is not finite: then the weights stay as they are.

        Args:
            share: Of the peak learning rates.

        Returns:
            The learning rate of the decoder, and the norm of the gradient before clipping.
        """

    def fragments(self) -> Iterable[Fragment]:
        """The fragments that this worker holds; those of all workers together are all trained parameters."""

    def restore(self, read: Callable[[str], Whole]) -> None:
        """Take weights and optimizer state from a checkpoint, whatever number of workers wrote it.

        Args:
            read: Name of a trained parameter -> what the checkpoint has of it.
        """

    def not_finite(self) -> list[str]:
        """Names of weights that hold NaN or infinity, on any worker."""

    def whole(self, name: str) -> Tensor:
        """A parameter or buffer of the model with all its values."""
