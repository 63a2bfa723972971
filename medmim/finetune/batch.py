"""The tensors of one optimizer step, built from tokenized samples: packed or padded rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from medmim.finetune import packing
from medmim.lvlm.encode import Encoded, tokens_per_image


@dataclass(frozen=True)
class Question:
    """The options of a closed question of a row, whose likelihoods are compared.

    Attributes:
        begin: Index into the row's `targets` of the token that stands for the first option; the others follow.
        right: Which of the options are right.
    """

    begin: int
    right: tuple[bool, ...]


@dataclass(frozen=True)
class Row:
    """The input of one forward pass.

    Attributes:
        input_ids: `[1, tokens]` when packed, `[samples, longest]` when padded.
        pixel_values: `[images, channels, height, width]`, in the order of the image tokens; None for text only.
        lengths: Tokens of each sample, without padding.
        predicts: Flat positions of `input_ids` whose next token is trained. No position predicts the first token of a
            sample, so the samples of a packed row do not depend on each other.
        targets: The tokens that these positions must predict.
        packed: Whether the samples are concatenated.
        questions: Only in validation: they have further `predicts` and `targets`, behind those that are trained, one
            position with each of its options.
    """

    input_ids: Tensor
    pixel_values: Tensor | None
    lengths: tuple[int, ...]
    predicts: Tensor
    targets: Tensor
    packed: bool
    questions: tuple[Question, ...] = ()

    @property
    def trained(self) -> int:
        """Number of tokens that the loss is taken over."""
        return self.questions[0].begin if self.questions else len(self.targets)

    @property
    def position_ids(self) -> Tensor | None:
        """Positions that restart with each sample of a packed row."""
        if not self.packed:
            return None
        return torch.cat([torch.arange(n, device=self.input_ids.device) for n in self.lengths])[None]

    @property
    def cu_seq_lens(self) -> Tensor:
        """Where each sample begins, and the end: int32 `[samples + 1]`."""
        return torch.tensor([0, *accumulate(self.lengths)], dtype=torch.int32, device=self.input_ids.device)

    def to(self, device: torch.device) -> "Row":
        """The row on another device."""
        if device == self.input_ids.device:
            return self
        pixels = None if self.pixel_values is None else self.pixel_values.to(device, non_blocking=True)
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            pixel_values=pixels,
            predicts=self.predicts.to(device),
            targets=self.targets.to(device),
        )


@dataclass(frozen=True)
class Batch:
    """A worker's share of one optimizer step."""

    rows: tuple[Row, ...]

    @property
    def tokens(self) -> int:
        """Number of tokens of the samples, without padding."""
        return sum(sum(row.lengths) for row in self.rows)

    @property
    def trained(self) -> int:
        """Number of tokens that the loss is taken over."""
        return sum(row.trained for row in self.rows)


def with_blank_image(row: Row, config: Any) -> Row:
    """A row without images, and a sample beside the others that is one blank image; any other row as it is.

    Nothing is trained on that sample and no other one sees it. Where weights are gathered from all workers for each
    forward pass, all workers must run the same modules in the same order: one whose row has no image would leave the
    others waiting for the vision tower (DeepSpeed issue 7170).

    Args:
        row: The row.
        config: A `LlavaConfig`.
    """
    if row.pixel_values is not None:
        return row
    count, vision = tokens_per_image(config), config.vision_config
    image = torch.full((1, count), config.image_token_id, dtype=row.input_ids.dtype)
    width = row.input_ids.shape[1]
    if row.packed:
        ids, predicts = torch.cat([row.input_ids, image], dim=1), row.predicts
    else:
        wide = max(width, count)
        ids = torch.cat([pad(row.input_ids, (0, wide - width)), pad(image, (0, wide - count))])
        predicts = row.predicts // width * wide + row.predicts % width
    pixels = torch.zeros(1, vision.num_channels, vision.image_size, vision.image_size)
    return replace(row, input_ids=ids, pixel_values=pixels, lengths=(*row.lengths, count), predicts=predicts)


def build(
    encoded: Sequence[Encoded],
    pixels: Callable[[int], Tensor | None],
    *,
    max_tokens: int,
    packed: bool = True,
    padding: int = 0,
    rank: int = 0,
    world: int = 1,
    announce: Callable[[Sequence[int]], None] | None = None,
) -> Batch:
    """Build a worker's share of the step that trains on `encoded`; here each `<image>` becomes all of its tokens.

    Args:
        encoded: The samples of the step, over all workers.
        pixels: Index into `encoded` -> `[images, channels, height, width]`, None for text only. Called only for the
            samples of this worker.
        max_tokens: Tokens of a row.
        packed: Concatenate samples, or pad them.
        padding: Token to pad with.
        rank: This worker.
        world: Number of workers.
        announce: Called first, with all the indices for which `pixels` will be called, in that order.
    """
    shares = packing.rows([len(e) for e in encoded], max_tokens, world, packed)[rank::world]
    if announce is not None:
        announce([i for share in shares for i in share])
    rows = (_row([encoded[i] for i in share], [pixels(i) for i in share], packed, padding) for share in shares)
    return Batch(tuple(rows))


def _row(samples: Sequence[Encoded], pixels: Sequence[Tensor | None], packed: bool, padding: int) -> Row:
    expanded = [sample.expand() for sample in samples]
    lengths = tuple(len(ids) for ids, _ in expanded)
    width = sum(lengths) if packed else max(lengths)
    input_ids = np.full((1 if packed else len(samples), width), padding, np.int64)
    flat = input_ids.reshape(-1)
    starts = list(accumulate(lengths, initial=0)) if packed else [i * width for i in range(len(samples))]
    predicts, targets = [], []
    for start, (ids, trained) in zip(starts, expanded, strict=False):
        flat[start : start + len(ids)] = ids
        before = np.flatnonzero(trained[1:])  # nothing predicts the first token
        predicts.append(start + before)
        targets.append(ids[before + 1])
    count, questions = sum(map(len, targets)), []
    for start, sample, length in zip(starts, samples, lengths, strict=False):
        if sample.options is not None:
            questions.append(Question(count, tuple(sample.options.right.tolist())))
            count += len(sample.options.tokens)
            position = start + length - sample.options.back - 1
            predicts.append(np.full(len(sample.options.tokens), position))
            targets.append(sample.options.tokens.astype(np.int64))
    images = [p for p in pixels if p is not None and len(p)]
    return Row(
        torch.from_numpy(input_ids),
        torch.cat(images) if images else None,
        lengths,
        torch.from_numpy(np.concatenate(predicts)),
        torch.from_numpy(np.concatenate(targets)),
        packed,
        tuple(questions),
    )
