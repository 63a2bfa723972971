"""The loop takes the steps of a plain one, written here from torch's AdamW, and the formulas of Muon and schedules."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from medmim.finetune import batch, loop
from medmim.lvlm.encode import Encoded
from medmim.lvlm.llava import Lvlm
from medmim.recipe.schema import Finetune
from tests.support.finetune import copy_of, make_encoded, make_pixels, steps_of

STEPS, WARM, TAIL = 6, 2, 3
LR, CLIP, DECAY = 2e-3, 4.5, 0.1
MUON_LR = 1e-3  # not twice LR, which it would be by default
SAMPLES = 4
SETTINGS = Finetune(
    batch_size=SAMPLES, lr=LR, clip=CLIP, weight_decay=DECAY, optimizer="adamw", warmup=WARM / STEPS,
    decay_fraction=TAIL / STEPS, freeze_vision=False, precision="fp32", max_tokens=10_000,
)  # fmt: skip


def rate(step: int, schedule: str, peak: float = LR) -> float:
    if step < WARM:
        return peak * (step + 1) / WARM
    if schedule == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * (step - WARM) / (STEPS - WARM)))
    return peak * min(1.0, (STEPS - step) / TAIL)


def muon_step(p: torch.Tensor, momentum: torch.Tensor, lr: float, decay: float) -> None:
    """One matrix by Keller Jordan's post (Nesterov momentum 0.95, five Newton-Schulz steps), with Moonlight's scale."""
    assert p.grad is not None
    momentum.mul_(0.95).add_(0.05 * p.grad)
    x = 0.05 * p.grad + 0.95 * momentum
    x = x / torch.linalg.matrix_norm(x)
    for _ in range(5):
        squared = x @ x.T
        x = 3.4445 * x - 4.7750 * squared @ x + 2.0315 * squared @ (squared @ x)
    p.data = p.data - lr * decay * p.data - lr * 0.2 * math.sqrt(max(p.shape)) * x


def reference(model: Any, steps: list[list[Encoded]], schedule: str, muon: bool) -> tuple[list[float], list[float]]:
    """Losses, and norms of the gradients before they are clipped; every sample has a forward pass of its own."""
    inside = {
        id(layer.weight)
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and muon and "lm_head" not in name and "embed" not in name
    }
    inner = {id(p): (p, torch.zeros_like(p)) for p in model.parameters() if id(p) in inside}
    matrices = [p for p in model.parameters() if p.ndim > 1 and id(p) not in inner]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.98), eps=1e-8, foreach=False)
    losses, norms = [], []
    model.train()
    for step, samples in enumerate(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, schedule)
        rows = [row(sample) for sample in samples]
        trained = sum(len(one.targets) for one in rows)
        total = torch.zeros(())
        for one in rows:
            logits = model(input_ids=one.input_ids, pixel_values=one.pixel_values).logits[0, one.predicts]
            loss = cross_entropy(logits.float(), one.targets, reduction="sum") / trained
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        norm = torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        for p in model.parameters():
            if p.grad is not None:
                p.grad.mul_(min(1.0, CLIP / float(norm)))
        optimizer.step()
        for p, momentum in inner.values():
            muon_step(p, momentum, rate(step, schedule, MUON_LR), DECAY)
        model.zero_grad()
        losses.append(float(total))
        norms.append(float(norm))
    return losses, norms


def row(sample: Encoded) -> batch.Row:
    return batch.build([sample], lambda _: make_pixels(sample), max_tokens=10_000, packed=False).rows[0]


@pytest.mark.parametrize(("optimizer", "schedule"), [("adamw", "cosine"), ("muon", "linear")])
def test_the_loop_equals_a_plain_one_loss_by_loss_and_weight_by_weight(
    lvlm: Lvlm, tmp_path: Path, optimizer: str, schedule: str
) -> None:
    """In fp64: Adam divides small gradients by their size, and would make rounding errors as large as the others."""
    encoded = make_encoded(lvlm, SAMPLES * STEPS)
    steps = [encoded[i : i + SAMPLES] for i in range(0, len(encoded), SAMPLES)]
    plain, tuned = copy_of(lvlm), copy_of(lvlm)
    want, norms = reference(plain.model.double(), steps, schedule, optimizer == "muon")
    if optimizer == "adamw":
        assert min(norms) < CLIP < max(norms), "clipping must change some steps and not others"
    tuned.model.double()
    settings = SETTINGS.model_copy(update={"schedule": schedule, "optimizer": optimizer, "muon_lr": MUON_LR})

    def batch_at(step: int) -> batch.Batch:
        samples = steps[step]
        return batch.build(samples, lambda i: make_pixels(samples[i]), max_tokens=settings.max_tokens)

    loop.train(tuned, batch_at, STEPS, settings, tmp_path)
    lines = steps_of(tmp_path)
    assert [line["loss"] for line in lines] == pytest.approx(want, rel=1e-5)
    assert [line["grad_norm"] for line in lines] == pytest.approx(norms, rel=1e-4)
    assert [line["lr"] for line in lines] == pytest.approx([rate(step, schedule) for step in range(STEPS)])
    for (name, ours), theirs in zip(tuned.model.named_parameters(), plain.model.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=LR / 100), name
