"""Sequence packing: which samples form an optimizer step, and which of them share a row, by their lengths.

The plan depends on lengths and seed only, so every worker, and every resumed run, computes the same one.
"""

import math
from collections.abc import Sequence

import numpy as np


def plan(lengths: Sequence[int], max_tokens: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The optimizer steps of one epoch: indices of the samples in each, every sample once.

    Args:
        lengths: Tokens of each sample, image tokens included.
        max_tokens: Tokens of one row; a longer sample cannot be trained on.
        batch_size: Samples in a step, over all workers; the last step may have fewer.
        seed: Decides the order.
        epoch: Each epoch has its own order.

    Raises:
        ValueError: A sample is longer than a row.
    """
    if lengths and max(lengths) > max_tokens:
        raise ValueError(f"a sample of {max(lengths)} tokens does not fit a row of {max_tokens}")
    order = np.random.default_rng([seed, epoch]).permutation(len(lengths)).tolist()
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def rows(lengths: Sequence[int], max_tokens: int, world: int = 1, packing: bool = True) -> list[list[int]]:
    """Split the samples of one step into rows; worker `r` of `world` processes rows `[r::world]`.

    Packed rows have about equally many tokens (longest first, into the emptiest row), so that no worker waits for
    another. Within a row, samples are sorted from long to short, so that equal lengths are adjacent, which attention
    makes use of.

    Args:
        lengths: Tokens of each sample of the step.
        max_tokens: Tokens of a row, padding included.
        world: Number of workers.
        packing: False for rows of samples that are padded to the longest among them.

    Returns:
        Indices into `lengths`, row by row; fewer than `world` rows where there are fewer samples.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    if not packing:
        return _padded(order, lengths, max_tokens, world)
    count = world * math.ceil(sum(lengths) / max_tokens / world)
    while True:
        bins: list[list[int]] = [[] for _ in range(count)]
        filled = [0] * count
        for i in order:
            emptiest = filled.index(min(filled))
            bins[emptiest].append(i)
            filled[emptiest] += lengths[i]
        if max(filled, default=0) <= max_tokens:
            return [row for row in bins if row]
        count += world


def _padded(order: list[int], lengths: Sequence[int], max_tokens: int, world: int) -> list[list[int]]:
    most = math.ceil(len(order) / world)
    found: list[list[int]] = []
    for i in order:  # the first of a row is its longest
        if not found or len(found[-1]) == most or (len(found[-1]) + 1) * lengths[found[-1][0]] > max_tokens:
            found.append([])
        found[-1].append(i)
    return found
