"""The data loader: optimizer step -> batch, by the packing plan of its epoch; preprocessed images are cached."""

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from medmim.finetune import batch, packing
from medmim.finetune.batch import Batch
from medmim.finetune.examples import Examples
from medmim.lvlm.ask_hf import pixels
from medmim.lvlm.checkpoint import Lvlm
from medmim.recipe.schema import Finetune

_PIXEL_CACHE = 512 << 20  # bytes of preprocessed images that a worker caches


def total_steps(settings: Finetune, samples: int) -> int:
    """Optimizer steps of a training on `samples` samples."""
    return settings.steps or max(1, round(settings.epochs * math.ceil(samples / settings.batch_size)))


def loader(
    lvlm: Lvlm, examples: Examples, images: Mapping[str, Any], settings: Finetune, rank: int = 0, world: int = 1
) -> Callable[[int], Batch]:
    """A function that builds this worker's share of the batch of any step.

    Args:
        lvlm: The model, for its image processor and padding token.
        examples: What to train on.
        images: Image id -> RGB image.
        settings: Batch size, tokens of a row, seed.
        rank: This worker.
        world: Number of workers.
    """
    lengths = examples.lengths
    per_epoch = math.ceil(len(lengths) / settings.batch_size)

    @lru_cache(maxsize=2)
    def epoch_plan(epoch: int) -> list[list[int]]:
        return packing.plan(lengths, settings.max_tokens, settings.batch_size, settings.seed, epoch)

    size = lvlm.model.config.vision_config.image_size
    bytes_per_image: int = 3 * size * size * 4

    @lru_cache(maxsize=_PIXEL_CACHE // bytes_per_image)
    def preprocess(name: str) -> Tensor:
        return pixels(lvlm, [images[name]])

    def batch_at(step: int) -> Batch:
        chosen = epoch_plan(step // per_epoch)[step % per_epoch]

        def pixels_of(i: int) -> Tensor | None:
            names = examples.images[chosen[i]]
            return torch.cat([preprocess(name) for name in names]) if names else None

        return batch.build(
            [examples.encoded[i] for i in chosen],
            pixels_of,
            max_tokens=settings.max_tokens,
            packed=settings.packing,
            pad=lvlm.tokenizer.pad_token_id or 0,
            rank=rank,
            world=world,
        )

    return batch_at
