"""Model FLOPs of a step and peak FLOP/s of the device; together the MFU (model FLOPs utilisation) of a training."""

import time
from functools import lru_cache
from typing import Any

import torch

from medmim.finetune.batch import Batch
from medmim.lvlm.encode import tokens_per_image
from medmim.recipe.schema import Finetune

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
_MEASURED_FOR = 1.0  # seconds


def step_flops(config: Any, batch: Batch, settings: Finetune) -> float:
    """FLOPs of the forward and backward passes of a batch; the optimizer is not counted.

    Matrix products only, two FLOPs a multiply-add (PaLM, arXiv 2204.02311, appendix B). The backward pass of a product
    is one for the gradient of its input and one for that of its weight, so that a trained layer costs three times its
    forward pass and a frozen one that passes gradients on, as under LoRA, twice. Causal attention counts the lower
    triangle, the output layer trained positions only. What activation checkpointing computes again is not counted, nor
    is padding. With `lora.train_projector: false` the first decoder layer costs a little less than this says.

    Args:
        config: A `LlavaConfig`.
        batch: The batch.
        settings: What is trained.
    """
    text, vision, lora = config.text_config, config.vision_config, settings.lora
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    width, inner = text.hidden_size, text.intermediate_size
    queries, keys = text.num_attention_heads * head, text.num_key_value_heads * head
    shapes = {
        "q_proj": (width, queries),
        "k_proj": (width, keys),
        "v_proj": (width, keys),
        "o_proj": (queries, width),
        "gate_proj": (width, inner),
        "up_proj": (width, inner),
        "down_proj": (inner, width),
    }
    layer = sum(a * b for a, b in shapes.values())
    adapters = 0 if lora is None else lora.rank * sum(sum(shapes[target]) for target in lora.targets)
    decoder = 3 if lora is None else 2  # passes through its weights, of the size of the forward pass

    patches = (vision.image_size // vision.patch_size) ** 2
    positions = patches + int(vision.model_type == "clip_vision_model")
    tower_layer = 4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.intermediate_size
    depth = config.vision_feature_layer
    used = vision.num_hidden_layers + 1 + depth if isinstance(depth, int) and depth < 0 else vision.num_hidden_layers
    blocks = used * positions * (2 * tower_layer + 4 * positions * vision.hidden_size)
    embed = 2 * patches * vision.num_channels * vision.patch_size**2 * vision.hidden_size
    projector = [2 * tokens_per_image(config) * size * width for size in (vision.hidden_size, width)]
    # nothing wants the gradient of pixels, nor of what a frozen tower gives
    if settings.freeze_vision or lora is not None:
        image = blocks + embed
        image += sum(projector) if lora and not lora.train_projector else 2 * projector[0] + 3 * projector[1]
    else:
        image = 3 * blocks + 2 * embed + 3 * sum(projector)

    total = 0.0
    for row in batch.rows:
        tokens, squares = sum(row.lengths), sum(n * n for n in row.lengths)
        images = 0 if row.pixel_values is None else len(row.pixel_values)
        weights = 2 * tokens * text.num_hidden_layers * (decoder * layer + 3 * adapters)
        scores = 3 * text.num_hidden_layers * 2 * squares * queries
        output = decoder * 2 * width * text.vocab_size * len(row.targets)
        total += weights + scores + output + images * image
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
    """Of ever larger products, until they take long: without instructions for bf16 a large one takes seconds."""
    best, size, end = 0.0, 128, time.perf_counter() + _MEASURED_FOR
    while size <= 1024:
        a = torch.ones(size, size, dtype=torch.bfloat16 if bf16 else torch.float32)
        for _ in range(4):
            begin = time.perf_counter()
            if begin > end:
                return best
            a @ a
            best = max(best, 2 * size**3 / (time.perf_counter() - begin))
        size *= 2
    return best
