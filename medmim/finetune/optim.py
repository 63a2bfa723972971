"""Optimizers (AdamW, Muon) and learning-rate schedules, as the recipe configures them."""

import math

from torch import nn
from torch.optim import AdamW, Optimizer

from medmim.finetune.muon import Muon
from medmim.recipe.schema import Finetune

_BETAS = (0.9, 0.98)  # for short trainings: the second moment must adapt within 50 steps


def optimizers(model: nn.Module, settings: Finetune) -> list[Optimizer]:
    """AdamW for everything, or Muon for the block matrices and AdamW for the rest.

    Muon is meant for the matrices of hidden layers (Keller Jordan's post on Muon); embeddings, the output layer,
    norms and biases stay with AdamW. Weight decay applies to matrices only.
    """
    named = [(name, param) for name, param in model.named_parameters() if param.requires_grad]
    inner = [
        param
        for name, param in named
        if settings.optimizer == "muon" and param.ndim == 2 and (".layers." in name or "multi_modal_projector" in name)
    ]
    in_muon = set(inner)
    rest = [param for _, param in named if param not in in_muon]
    decay = settings.weight_decay
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    found: list[Optimizer] = [AdamW(groups, lr=settings.lr, betas=_BETAS, fused=True)]
    if inner:
        lr = settings.muon_lr or 2 * settings.lr
        found.append(Muon(inner, lr=lr, weight_decay=decay))
    for optimizer in found:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return found


def factor(step: int, steps: int, settings: Finetune) -> float:
    """Share of the peak learning rate in step `step` (from 0) of `steps`."""
    warm = max(1, round(settings.warmup * steps))
    if step < warm:
        return (step + 1) / warm
    if settings.schedule == "linear":
        tail = max(1, round(settings.decay_fraction * steps))
        return min(1.0, (steps - step) / tail)
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def set_lr(found: list[Optimizer], share: float) -> float:
    """Set every group to its share of its peak; returns the rate of AdamW."""
    for optimizer in found:
        for group in optimizer.param_groups:
            group["lr"] = share * group["peak"]
    return float(found[0].param_groups[0]["lr"])
