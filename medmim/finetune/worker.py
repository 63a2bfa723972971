"""What one worker does: load the base, make the batches, train. The same bare, under torchrun and under Ray."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medmim import shards
from medmim.finetune import loop
from medmim.finetune.feed import feed, steps
from medmim.finetune.lengths import Examples
from medmim.finetune.record import TrainResult
from medmim.lvlm import checkpoint
from medmim.recipe.schema import Finetune

EXAMPLES = ".examples.safetensors"


@dataclass(frozen=True)
class Job:
    """A training as plain values, so that it crosses process borders.

    Attributes:
        base: Folder of the base.
        data: Folder of the data set.
        folder: Where the model goes; holds `EXAMPLES`.
        settings: `Finetune` as JSON.
        threads: CPU threads of a worker.
    """

    base: str
    data: str
    folder: str
    settings: str
    threads: int


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_worker(
    job: Job,
    device: str = "auto",
    on_save: Callable[[int, Path | None], None] | None = None,
    on_step: Callable[[Mapping[str, Any]], None] | None = None,
) -> TrainResult:
    """Train; called by every worker.

    Raises:
        UserError: See `loop.train`.
    """
    torch.set_num_threads(job.threads)
    settings = Finetune.model_validate_json(job.settings)
    folder = Path(job.folder)
    # fp32: with bf16 weights the small updates of a fine-tuning round away; autocast computes in bf16 where it can
    lvlm = checkpoint.load(Path(job.base), device, torch.float32)
    examples = Examples.load(folder / EXAMPLES)
    images: Mapping[str, Any] = shards.Images(Path(job.data)) if any(examples.images) else {}
    with loop.distributed() as (rank, world):
        batch_at = feed(lvlm, examples, images, settings, rank, world)
        return loop.train(
            lvlm,
            batch_at,
            steps(settings, len(examples.encoded)),
            settings,
            folder,
            on_step=on_step,
            on_save=on_save,
            rank=rank,
            world=world,
        )
