"""Optimizers (AdamW, Muon) and learning-rate schedules, as the recipe configures them."""

import math
from collections import defaultdict

from torch import nn
from torch.optim import AdamW, Optimizer

from medmim.finetune.muon import Muon
from medmim.recipe.schema import Finetune


def optimizers(model: nn.Module, settings: Finetune) -> list[Optimizer]:
    """AdamW for everything, or Muon for the block matrices and AdamW for the rest.

    Muon is meant for the matrices of hidden layers (Keller Jordan's post on Muon); embeddings, the output layer,
    norms and biases stay with AdamW. Weight decay applies to matrices only.
    """
    named = [(name, param) for name, param in model.named_parameters() if param.requires_grad]
    inner = [param for name, param in named if in_muon(name, param, settings)]
    by_muon = set(inner)
    # equal rates share a group: the norm of the gradient, summed by group, stays what it is without them
    groups: dict[tuple[float, bool], list[nn.Parameter]] = defaultdict(list)
    for name, param in named:
        if param not in by_muon:
            groups[_rate(name, settings), _is_matrix(param)].append(param)
    rates = dict.fromkeys([settings.lr, *(rate for rate, _ in groups)])
    decay = settings.weight_decay
    found: list[Optimizer] = [
        AdamW(
            [
                {"params": groups[rate, matrix], "lr": rate, "weight_decay": decay if matrix else 0.0}
                for rate in rates
                for matrix in (True, False)
                if groups[rate, matrix]
            ],
            lr=settings.lr,
            betas=settings.betas,
            fused=True,
        )
    ]
    if inner:
        lr = settings.muon_lr or 2 * settings.lr
        found.append(Muon(inner, lr=lr, weight_decay=decay))
    for optimizer in found:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return found


def in_muon(name: str, param: nn.Parameter, settings: Finetune) -> bool:
    """Whether Muon updates a parameter."""
    return settings.optimizer == "muon" and param.ndim == 2 and (".layers." in name or "multi_modal_projector" in name)


def _rate(name: str, settings: Finetune) -> float:
    """Peak learning rate of a parameter."""
    if "vision_tower." in name:
        return settings.tower_lr or settings.lr
    if "multi_modal_projector." in name:
        return settings.projector_lr or settings.lr
    return settings.lr


def _is_matrix(param: nn.Parameter) -> bool:
    """ZeRO-3 leaves an empty vector in place of each parameter."""
    return len(getattr(param, "ds_shape", param.shape)) > 1


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
