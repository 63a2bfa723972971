"""The forward pass of a row: the cross-entropy over its trained tokens."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from medmim.finetune.batch import Row


def row_loss(model: Any, row: Row, always_tower: bool = False) -> Tensor:
    """Sum of the cross-entropy over the trained tokens; logits are computed only where a token is trained.

    Args:
        model: `LlavaForConditionalGeneration`.
        row: On the device of the model.
        always_tower: Run vision tower and projector for a row without images as well, on a blank one times zero.
            Where weights are gathered from all workers for each forward pass, all must run the same modules: one whose
            row has no image would leave the others waiting (DeepSpeed issue 7170).
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
    blank = _blank_image(model, row.input_ids.device) if always_tower and row.pixel_values is None else 0.0
    # No attention mask in either case: padding is on the right, which causal attention never reads.
    hidden = model.model(
        input_ids=row.input_ids, pixel_values=row.pixel_values, use_cache=False, **(packed if row.packed else {})
    ).last_hidden_state
    logits = model.lm_head(hidden.flatten(0, 1)[row.predicts])
    return cross_entropy(logits.float(), row.targets, reduction="sum") + blank


def _blank_image(model: Any, device: torch.device) -> Tensor:
    """Zero, that depends on all weights that an image passes through."""
    size = model.config.vision_config.image_size
    channels = model.config.vision_config.num_channels
    features = model.model.get_image_features(pixel_values=torch.zeros(1, channels, size, size, device=device))
    return 0.0 * torch.cat(tuple(features.pooler_output)).float().sum()
