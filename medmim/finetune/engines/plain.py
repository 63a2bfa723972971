"""Plain torch: every worker holds all weights and the whole optimizer."""

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from medmim.finetune import distributed, optim
from medmim.finetune.batch import Batch
from medmim.finetune.engines.engine import WEIGHT, Fragment, Whole
from medmim.finetune.loss import evaluating, row_loss
from medmim.lvlm import soundness
from medmim.recipe.schema import Finetune


class Plain:
    """Gradients are summed over the workers (see `distributed`); each worker takes the same step.

    Args:
        model: `LlavaForConditionalGeneration`; its weights are changed in place.
        settings: Optimizer, clipping.
        bf16: Whether to compute in bf16 under autocast.
        rank: This worker.
        world: Number of workers.
    """

    def __init__(self, model: Any, settings: Finetune, bf16: bool, rank: int = 0, world: int = 1) -> None:
        self.model, self.clip, self.rank, self.world = model, settings.clip, rank, world
        self.optimizers = optim.optimizers(model, settings)
        self.params = [p for optimizer in self.optimizers for group in optimizer.param_groups for p in group["params"]]
        self.device = self.params[0].device
        # a weight's copy in bf16 is read once in a pass: the cache would only keep all of them through the forward
        self.autocast: Any = (
            torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False) if bf16 else nullcontext()
        )

    def gradients(self, batch: Batch) -> tuple[float, int]:
        """See `Engine`."""
        trained, tokens = batch.trained, batch.tokens
        if self.world > 1:
            trained, tokens = distributed.sum_counts([trained, tokens], self.device)
        loss = torch.zeros((), device=self.device)
        for row in batch.rows:
            with self.autocast:
                part = row_loss(self.model, row.to(self.device)) / max(trained, 1)
            torch.autograd.backward(part)
            loss += part.detach()
        if self.world > 1:
            distributed.sum_gradients(self.params, loss)
        return float(loss), tokens

    def losses(self, batch: Batch) -> list[Tensor]:
        """See `Engine`."""
        with evaluating(self.model), self.autocast:
            return [row_loss(self.model, row.to(self.device), reduction="none") for row in batch.rows]

    def update(self, share: float) -> tuple[float, float]:
        """See `Engine`."""
        lr = optim.set_lr(self.optimizers, share)
        norm = float(torch.nn.utils.clip_grad_norm_(self.params, self.clip))
        if math.isfinite(norm):
            for optimizer in self.optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        return lr, norm

    def fragments(self) -> Iterable[Fragment]:
        """All workers hold the same: each gives every `world`-th parameter."""
        owner = self._owners()
        named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        for name, p in named[self.rank :: self.world]:
            state = owner[p].state.get(p, {})
            flat = {field: value.detach().flatten() for field, value in state.items() if value.shape == p.shape}
            counts = {field: float(value) for field, value in state.items() if value.shape != p.shape}
            yield Fragment(name, 0, {WEIGHT: p.detach().flatten(), **flat}, counts)

    def restore(self, read: Callable[[str], Whole]) -> None:
        """See `Engine`."""
        owner = self._owners()
        for name, p in self.model.named_parameters():
            if not p.requires_grad:
                continue
            whole = read(name)
            with torch.no_grad():
                p.copy_(whole.fields[WEIGHT][:].view_as(p))
            state = {f: v[:].to(p.device).view_as(p).clone() for f, v in whole.fields.items() if f != WEIGHT}
            if state:
                # beside the weights, where the fused AdamW reads them
                counts = {field: torch.tensor(n, device=p.device) for field, n in whole.counts.items()}
                owner[p].state[p] = {**state, **counts}

    def not_finite(self) -> list[str]:
        """See `Engine`."""
        return soundness.not_finite(self.model)

    def whole(self, name: str) -> Tensor:
        """See `Engine`."""
        found: Tensor = self.model.state_dict()[name]
        return found

    def _owners(self) -> dict[Any, torch.optim.Optimizer]:
        return {p: optimizer for optimizer in self.optimizers for g in optimizer.param_groups for p in g["params"]}
