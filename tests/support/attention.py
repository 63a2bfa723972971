"""A kernel for packed rows by its documentation: it stands in for that of a GPU."""

import torch


def documented(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
    cu_seq_q: torch.Tensor, cu_seq_k: torch.Tensor, max_q: int, max_k: int,
    *, scale: float, window_size: tuple[int, int], enable_gqa: bool,
) -> torch.Tensor:  # fmt: skip
    """`varlen_attn`, from its documentation: `[tokens, heads, size]`, `(-1, 0)` is causal, segments end at `cu_seq`."""
    assert query.dtype == key.dtype == value.dtype == torch.bfloat16
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32 and window_size == (-1, 0)
    groups = query.shape[1] // key.shape[1]
    assert enable_gqa == (groups > 1)
    segment = torch.bucketize(torch.arange(len(query)), cu_seq_q[1:], right=True)
    lengths = cu_seq_q.diff()
    assert max_q == max_k == int(lengths.max()) and torch.equal(cu_seq_q, cu_seq_k)
    q, k, v = (x.float() for x in (query, key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)))
    scores = scale * torch.einsum("qhd,khd->hqk", q, k)
    allowed = (segment[:, None] == segment[None]) & torch.ones(len(query), len(query), dtype=torch.bool).tril()
    weights = scores.masked_fill(~allowed, float("-inf")).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, v).to(query.dtype)
