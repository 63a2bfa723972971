"""Model FLOPs of a step and peak FLOP/s of the device; together the MFU (model FLOPs utilisation) of a training."""

import time
from functools import lru_cache
from typing import Any

import torch

from medmim.finetune.batch import Batch

# Dense bf16 tensor-core FLOP/s by the name that CUDA reports; NVIDIA data sheets.
_PEAK_BF16 = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "A30": 165e12,
    "A10G": 70e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
}


def step_flops(config: Any, batch: Batch, frozen_vision: bool) -> float:
    """FLOPs of the forward and backward passes of a batch; the optimizer is not counted.

    Matrix products only, two FLOPs a multiply-add, the backward pass twice the forward (PaLM, arXiv 2204.02311,
    appendix B), with these exceptions: causal attention counts the lower triangle, the output layer counts trained
    positions only, and a frozen tower has no backward pass.

    Args:
        config: A `LlavaConfig`.
        batch: The batch.
        frozen_vision: Whether the vision tower gets no gradient.
    """
    text, vision = config.text_config, config.vision_config
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    queries, keys = text.num_attention_heads * head, text.num_key_value_heads * head
    layer = text.hidden_size * (2 * queries + 2 * keys) + 3 * text.hidden_size * text.intermediate_size
    patches = (vision.image_size // vision.patch_size) ** 2
    tower_layer = 4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.intermediate_size
    depth = config.vision_feature_layer
    used = vision.num_hidden_layers + 1 + depth if isinstance(depth, int) and depth < 0 else vision.num_hidden_layers
    image = patches * (
        used * (2 * tower_layer + 4 * patches * vision.hidden_size)
        + 2 * vision.num_channels * vision.patch_size**2 * vision.hidden_size
    )
    project = 2 * patches * text.hidden_size * (vision.hidden_size + text.hidden_size)
    total = 0.0
    for row in batch.rows:
        squares = sum(n * n for n in row.lengths)
        images = 0 if row.pixel_values is None else len(row.pixel_values)
        language = text.num_hidden_layers * (2 * layer * sum(row.lengths) + 2 * squares * queries)
        output = 2 * text.hidden_size * text.vocab_size * len(row.targets)
        total += 3 * (language + output + images * project) + (1 if frozen_vision else 3) * images * image
    return total


def peak_flops(device: torch.device, bf16: bool) -> float | None:
    """Peak FLOP/s of the device; None where it is not known, rather than a wrong guess.

    GPUs: from the data sheet, for bf16 only. CPU: measured as the best of a few large matrix products, with the threads
    and the precision of the training.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        return next((peak for key, peak in _PEAK_BF16.items() if key in name), None) if bf16 else None
    return _measured_peak(torch.get_num_threads(), bf16) if device.type == "cpu" else None


@lru_cache(maxsize=8)
def _measured_peak(threads: int, bf16: bool) -> float:
    size = 1024
    a = torch.ones(size, size, dtype=torch.bfloat16 if bf16 else torch.float32)
    best = 0.0
    for _ in range(8):
        begin = time.perf_counter()
        a @ a
        best = max(best, 2 * size**3 / (time.perf_counter() - begin))
    return best
