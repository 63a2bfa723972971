"""The Muon optimizer, orthogonalising in the precision of the weights, all matrices of one shape at once.

`torch.optim.Muon` orthogonalises matrix by matrix in bfloat16. On a CPU without bfloat16 units that takes longer than
the whole forward and backward pass of a small model; this takes a tenth of the time.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # quintic Newton-Schulz iteration of Keller Jordan's Muon
_ITERATIONS = 5


def orthogonalize(matrices: Tensor) -> Tensor:
    """Bring the singular values of each matrix close to 1.

    Args:
        matrices: `[count, rows, columns]`.
    """
    a, b, c = _COEFFICIENTS
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if wide else matrices.mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT


class Muon(Optimizer):
    """Momentum, orthogonalised; updates scaled to AdamW's (`match_rms_adamw`, Moonlight, arXiv 2502.16982).

    Args:
        params: Matrices only.
        lr: Learning rate, in AdamW's scale.
        momentum: Nesterov momentum.
        weight_decay: Decoupled.
    """

    def __init__(self, params: Iterable[Any], lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    shapes[p.shape].append(p)
            for shape, params in shapes.items():
                updates = orthogonalize(torch.stack([self._momentum(p, group["momentum"]) for p in params]))
                scale = 0.2 * max(shape) ** 0.5
                for p, update in zip(params, updates, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] * scale)

    def _momentum(self, p: Tensor, momentum: float) -> Tensor:
        assert p.grad is not None  # noqa: S101  `step` passes only parameters with a gradient
        buffer: Tensor = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
        buffer.lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(buffer, momentum)
