"""The data loader: optimizer step -> batch, by the packing plan of its epoch; images are prepared by several threads.

Memory of a worker beside the samples: the pixels of its share of two steps (one in training, the next one) and of a
row, and `_PIXEL_CACHE` where all images of the training fit into it. Fewer are not cached: in a random order, a cache
for a tenth of the images has 0.5% of the next ones.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from medmim.errors import UserError
from medmim.finetune import batch, packing
from medmim.finetune.batch import Batch
from medmim.finetune.examples import Examples
from medmim.lvlm.features import pixels
from medmim.lvlm.llava import Lvlm
from medmim.recipe.schema import Finetune

_PIXEL_CACHE = 512 << 20  # bytes
_MOST_THREADS = 16


def total_steps(settings: Finetune, samples: int) -> int:
    """Optimizer steps of a training on `samples` samples."""
    return settings.steps or max(1, round(settings.epochs * math.ceil(samples / settings.batch_size)))


@contextmanager
def loader(
    lvlm: Lvlm,
    examples: Examples,
    images: Mapping[str, Any],
    settings: Finetune,
    rank: int = 0,
    world: int = 1,
    *,
    threads: int = 1,
    data: str = "",
) -> Iterator[Callable[[int], Batch]]:
    """Within the block, a function that builds this worker's share of the batch of any step.

    It is to be called by one thread at a time. Each image of a step is decoded and preprocessed once.

    Args:
        lvlm: The model, for its image processor and padding token.
        examples: What to train on.
        images: Image id -> RGB image; read by several threads.
        settings: Batch size, tokens of a row, seed.
        rank: This worker.
        world: Number of workers.
        threads: CPUs of this worker; at least two threads prepare images, since some of the time they wait for a disk.
        data: The data set, for the error of an image that does not decode.

    Raises:
        UserError: (the function) An image does not decode.
    """
    lengths = examples.lengths
    per_epoch = math.ceil(len(lengths) / settings.batch_size)

    @lru_cache(maxsize=2)
    def epoch_plan(epoch: int) -> list[list[int]]:
        return packing.plan(lengths, settings.max_tokens, settings.batch_size, settings.seed, epoch)

    size = lvlm.config.vision_config.image_size
    caching = len(examples.names) * 3 * size * size * 4 <= _PIXEL_CACHE
    cache: dict[str, Tensor] = {}

    def preprocess(name: str, sample: int) -> Tensor:
        return pixels(lvlm, [_decoded(images, name, examples.ids[sample], data)])

    with ThreadPoolExecutor(min(_MOST_THREADS, max(2, threads)), "images") as pool:

        def batch_at(step: int) -> Batch:
            chosen = epoch_plan(step // per_epoch)[step % per_epoch]
            shown: dict[str, Tensor] = {}
            last: dict[str, int] = {}  # image -> the last sample that shows it

            def prepare(mine: Sequence[int]) -> None:
                last.update((name, i) for i in mine for name in examples.images_of(chosen[i]))
                first = {name: chosen[i] for i in reversed(mine) for name in examples.images_of(chosen[i])}
                shown.update((name, cache[name]) for name in first if name in cache)
                absent = [name for name in first if name not in shown]
                samples = [first[name] for name in absent]
                shown.update(zip(absent, pool.map(preprocess, absent, samples), strict=True))
                if caching:
                    cache.update(shown)

            def pixels_of(i: int) -> Tensor | None:
                names = examples.images_of(chosen[i])
                found = torch.cat([shown[name] for name in names]) if names else None
                for name in names:
                    if last[name] == i:
                        shown.pop(name, None)
                return found

            return batch.build(
                [examples[i] for i in chosen],
                pixels_of,
                max_tokens=settings.max_tokens,
                packed=settings.packing,
                padding=lvlm.tokenizer.pad_token_id or 0,
                rank=rank,
                world=world,
                announce=prepare,
            )

        yield batch_at


def _decoded(images: Mapping[str, Any], name: str, sample: str, data: str) -> Any:
    """An image of the data set.

    Raises:
        UserError: It does not decode.
        OSError: It cannot be read for now.
    """
    try:
        return images[name]
    except MemoryError:
        raise
    except Exception as error:  # a decoder may raise anything on hostile bytes
        if isinstance(error, OSError) and error.errno:  # Pillow's own have no number
            raise
        reason = "it is not in the data set" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
        raise UserError(
            f"image {name} of sample {sample} in {data} does not decode",
            reason=reason,
            fix="build the data set again: the data step decodes every image and quarantines what does not",
        ) from None
