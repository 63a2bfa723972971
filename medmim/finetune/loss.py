"""The forward pass of a row: the cross-entropy over its trained tokens."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from medmim.finetune.batch import Row


def row_loss(model: Any, row: Row, reduction: str = "sum") -> Tensor:
    """Sum of the cross-entropy over the targets of a row; logits are computed only where there is one.

    Args:
        model: `LlavaForConditionalGeneration`.
        row: On the device of the model.
        reduction: `none` for the loss of each target, which is what a minus makes of its log-likelihood.
    """
    borders = row.cu_seq_lens
    packed = {
        "position_ids": row.position_ids,
        "cu_seq_lens_q": borders,
        "cu_seq_lens_k": borders,
        "max_length_q": max(row.lengths),
        "max_length_k": max(row.lengths),
        "segments": row.lengths,
    }
    # No attention mask in either case: padding is on the right, which causal attention never reads.
    hidden = model.model(
        input_ids=row.input_ids, pixel_values=row.pixel_values, use_cache=False, **(packed if row.packed else {})
    ).last_hidden_state
    logits = model.lm_head(hidden.flatten(0, 1)[row.predicts])
    return cross_entropy(logits.float(), row.targets, reduction=reduction)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Without dropout and gradients inside the block; training goes on behind it."""
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train()
