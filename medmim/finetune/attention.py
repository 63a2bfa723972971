"""Attention for packed rows: each sample attends only to itself, exactly as if it were alone in the row.

Transformers builds a mask for every attention function it knows. It does not know this one, so it builds none and
passes the borders of the samples (`cu_seq_lens_q`) on; with a dense mask the flash kernel could not be used.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

NAME = "medmim_packed"


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    segments: tuple[int, ...] = (),
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each segment of a packed row.

    Args:
        module: The attention layer; unused, but part of the interface.
        query: `[1, heads, tokens, head size]`.
        key: `[1, key heads, tokens, head size]`.
        value: Like `key`.
        attention_mask: Must be None.
        scaling: Factor on the logits.
        dropout: Attention dropout, 0 outside training. The flash kernel has none, so others compute it.
        sliding_window: How far back a token attends; must not be below the longest segment.
        cu_seq_lens_q: Borders of the segments, int32 `[segments + 1]`.
        max_length_q: Tokens of the longest segment.
        segments: Lengths of the segments, on the host: reading them from the GPU would stall it in every layer.

    Returns:
        `[1, tokens, heads, head size]`, and None for the weights.

    Raises:
        ValueError: A mask is given, the borders are missing, or a segment exceeds the sliding window.
    """
    if attention_mask is not None or cu_seq_lens_q is None or max_length_q is None:
        raise ValueError(f"{NAME} takes packed rows only: their borders, and no mask")
    if sliding_window is not None and max_length_q > sliding_window:
        raise ValueError(f"a segment of {max_length_q} tokens exceeds the sliding window of {sliding_window}")
    shared_keys = query.shape[1] != key.shape[1]
    # under autocast only the value arrives in half precision: rotary embeddings are computed in fp32
    query, key = query.to(value.dtype), key.to(value.dtype)
    if flash(query.device.type, query.dtype, dropout):
        return flash_attention(
            module, query, key, value, None, scaling, cu_seq_lens_q=cu_seq_lens_q, max_length_q=max_length_q
        )
    # adjacent segments of equal length are computed together
    runs = [(length, len(list(run))) for length, run in groupby(segments)]
    tokens = [length * count for length, count in runs]
    # split, not slices: the gradient of each slice would be a whole row, zero outside the slice
    pieces = zip(*(torch.split(x[0], tokens, dim=1) for x in (query, key, value)), strict=True)
    parts = []
    for (length, count), piece in zip(runs, pieces, strict=True):
        q, k, v = (x.unflatten(1, (count, length)).transpose(0, 1) for x in piece)
        part = scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scaling, dropout_p=dropout, enable_gqa=shared_keys
        )
        parts.append(part.transpose(1, 2).flatten(0, 1))
    return torch.cat(parts)[None], None


def flash_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    *,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    **_: Any,
) -> tuple[Tensor, None]:
    """The same by the flash kernel, see `flash`."""
    from torch.nn.attention.varlen import varlen_attn

    out = varlen_attn(
        query.to(value.dtype)[0].transpose(0, 1),
        key.to(value.dtype)[0].transpose(0, 1),
        value[0].transpose(0, 1),
        cu_seq_lens_q,
        cu_seq_lens_q,
        max_length_q,
        max_length_q,
        scale=scaling,
        window_size=(-1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(out, Tensor)  # noqa: S101  a tuple only when auxiliary outputs are asked for
    return out[None], None


def flash(device: str, dtype: torch.dtype, dropout: float) -> bool:
    """Whether the flash kernel takes a packed row: half precision on a GPU, without dropout."""
    return device == "cuda" and dtype in (torch.bfloat16, torch.float16) and not dropout


def dropout(model: Any) -> float:
    """Attention dropout of the language model of a LLaVA in training."""
    return float(getattr(model.config.text_config, "attention_dropout", 0.0))


@contextmanager
def packed(model: Any, function: Callable[..., tuple[Tensor, None]] = packed_attention) -> Iterator[None]:
    """Switch the language model of a LLaVA to packed attention; the vision tower keeps its own."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, function)
    before = model.config.text_config._attn_implementation
    model.set_attn_implementation({"text_config": NAME})
    try:
        yield
    finally:
        model.set_attn_implementation({"text_config": before or "sdpa"})
