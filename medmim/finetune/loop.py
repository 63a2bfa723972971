"""The training loop: pure torch. Runs bare, under torchrun and under Ray Train, with the same losses.

One optimizer step follows the mean over ALL trained tokens of its batch, whatever the split into rows and workers.
Gradients are summed by hand, not by DistributedDataParallel: workers may hold different numbers of rows (even none),
a text-only step leaves the vision tower out, and the mean must be over tokens, not over workers.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from medmim import progress
from medmim.errors import UserError
from medmim.finetune import attention, checkpoint, optim, throughput
from medmim.finetune.batch import Batch, Row
from medmim.finetune.record import Record, TrainResult
from medmim.lvlm.checkpoint import Lvlm, save
from medmim.recipe.schema import Finetune
from medmim.sample import digest_of

_BUCKET = 1 << 25  # numbers summed over the workers at once


@contextmanager
def distributed() -> Iterator[tuple[int, int]]:
    """Rank and world of this process: of a group that exists (Ray), of torchrun's environment, or alone."""
    if dist.is_initialized():
        yield dist.get_rank(), dist.get_world_size()
    elif int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        try:
            yield dist.get_rank(), dist.get_world_size()
        finally:
            dist.destroy_process_group()
    else:
        yield 0, 1


def train(
    lvlm: Lvlm,
    batch_at: Callable[[int], Batch],
    steps: int,
    settings: Finetune,
    folder: Path,
    *,
    on_step: Callable[[Mapping[str, Any]], None] | None = None,
    on_save: Callable[[int, Path | None], None] | None = None,
    evaluate: Callable[[Lvlm, int], Mapping[str, float]] | None = None,
    rank: int = 0,
    world: int = 1,
) -> TrainResult:
    """Train, from the newest checkpoint in `folder/resume` if there is one, and write the model into `folder`.

    Args:
        lvlm: The base; its weights are changed in place.
        batch_at: Step (from 0) -> this worker's share of it. A pure function; called from a thread, one step ahead.
        steps: Optimizer steps.
        settings: Optimizer, schedule, precision, how often to save.
        folder: Gets the weights, `losses.jsonl` (a line for every step) and, while it trains, `resume/`.
        on_step: Called on rank 0 with the record of each step.
        on_save: Called on every rank when a checkpoint was written: steps done, and its folder on rank 0.
        evaluate: Called on rank 0 at every checkpoint; its figures go on the screen.
        rank: This worker.
        world: Workers; more than one needs a process group (see `distributed`).

    Raises:
        UserError: The loss is not a number, the GPU's memory is too small, or `folder` holds another training.
    """
    model: Any = lvlm.model
    device = next(model.parameters()).device
    if settings.freeze_vision:
        model.model.vision_tower.requires_grad_(False)
    bf16 = settings.precision == "bf16" or (
        settings.precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()
    )
    cast: Any = torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()
    found = optim.optimizers(model, settings)
    params = [p for optimizer in found for group in optimizer.param_groups for p in group["params"]]
    begin, seen = _resume(folder, model, found, _identity(steps, settings, world), rank)
    peak = throughput.peak_flops(device, bf16)
    record = Record(folder, rank, steps, begin, on_step)
    attend = attention.packed(model) if settings.packing else nullcontext()
    model.train()
    with attend, ThreadPoolExecutor(1) as ahead, record:
        coming = ahead.submit(batch_at, begin) if begin < steps else None
        for step in range(begin, steps):
            assert coming is not None  # noqa: S101  there is a batch for each step
            batch = coming.result()
            coming = ahead.submit(batch_at, step + 1) if step + 1 < steps else None
            torch.manual_seed(settings.seed * 1_000_003 + step)  # dropout, where a base has it, resumes exactly
            lr = optim.set_lr(found, optim.factor(step, steps, settings))
            try:
                loss, counts = _gradients(model, batch, params, cast, world)
            except torch.OutOfMemoryError as error:
                raise _out_of_memory(error, settings, step) from None
            if not loss == loss or loss == float("inf"):
                raise _not_a_number(folder, step, lr, loss)
            norm = torch.nn.utils.clip_grad_norm_(params, settings.clip)
            for optimizer in found:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            seen += counts[1]
            flops = throughput.step_flops(model.config, batch, settings.freeze_vision) * world
            record.add(step, loss, lr, float(norm), counts[1], seen, flops, peak and peak * world)
            if (step + 1) % settings.save_every == 0 or step + 1 == steps:
                _save(folder, step + 1, lvlm, found, seen, _identity(steps, settings, world), rank, on_save, evaluate)
    model.eval()
    if rank == 0:
        save(lvlm, folder)
    return record.result(seen)


def _gradients(model: Any, batch: Batch, params: list[Any], cast: Any, world: int) -> tuple[float, list[int]]:
    """Leave in `.grad` the gradient of the mean over the trained tokens of all workers; returns that mean."""
    device = params[0].device
    counts = [batch.trained, batch.tokens]
    if world > 1:
        total = torch.tensor(counts, device=device)
        dist.all_reduce(total)
        counts = total.tolist()
    loss = torch.zeros((), device=device)
    for row in batch.rows:
        with cast:
            part = _loss(model, row.to(device)) / max(counts[0], 1)
        torch.autograd.backward(part)
        loss += part.detach()
    if world > 1:
        _sum_over_workers(params, loss)
    return float(loss), counts


def _loss(model: Any, row: Row) -> Tensor:
    """Sum of the cross-entropy over the trained tokens; logits are computed only where something is trained."""
    borders = row.cu_seq_lens
    packed = {
        "position_ids": row.position_ids,
        "cu_seq_lens_q": borders,
        "cu_seq_lens_k": borders,
        "max_length_q": max(row.lengths),
        "max_length_k": max(row.lengths),
        "segments": row.lengths,
    }
    # No attention mask in either case: padding stands to the right, where causal attention never looks.
    hidden = model.model(
        input_ids=row.input_ids, pixel_values=row.pixel_values, use_cache=False, **(packed if row.packed else {})
    ).last_hidden_state
    logits = model.lm_head(hidden.flatten(0, 1)[row.predicts])
    return cross_entropy(logits.float(), row.targets, reduction="sum")


def _sum_over_workers(params: list[Any], loss: Tensor) -> None:
    """Sum gradients and loss. A parameter that no worker used stays without gradient, as it would on one worker."""
    used = torch.tensor([p.grad is not None for p in params], dtype=torch.int32, device=loss.device)
    dist.all_reduce(used)
    dist.all_reduce(loss)
    bucket: list[Any] = []
    for p, n in zip(params, used.tolist(), strict=True):
        if not n:
            continue
        if p.grad is None:
            p.grad = torch.zeros_like(p)
        bucket.append(p.grad)
        if sum(g.numel() for g in bucket) >= _BUCKET:
            _sum_bucket(bucket)
            bucket = []
    if bucket:
        _sum_bucket(bucket)


def _sum_bucket(grads: list[Tensor]) -> None:
    flat = torch.cat([g.flatten() for g in grads])
    dist.all_reduce(flat)
    for g, part in zip(grads, torch.split(flat, [g.numel() for g in grads]), strict=True):
        g.copy_(part.view_as(g))


def _identity(steps: int, settings: Finetune, world: int) -> str:
    return digest_of([str(steps), settings.model_dump_json(exclude={"save_every"}), str(world)])


def _resume(folder: Path, model: Any, found: list[Optimizer], identity: str, rank: int) -> tuple[int, int]:
    state = checkpoint.newest(folder / "resume")
    if state is None:
        return 0, 0
    if state["identity"] != identity:
        raise UserError(
            f"{folder / 'resume'} holds a checkpoint of another training",
            reason="its recipe or its number of workers differ",
            fix="give another folder, or delete this one",
        )
    checkpoint.load(state["path"], model, found)
    if rank == 0:
        progress.say(f"resuming from step {state['step']:,}")
    return state["step"], state["tokens"]


def _save(
    folder: Path,
    step: int,
    lvlm: Lvlm,
    found: list[Optimizer],
    seen: int,
    identity: str,
    rank: int,
    on_save: Callable[[int, Path | None], None] | None,
    evaluate: Callable[[Lvlm, int], Mapping[str, float]] | None,
) -> None:
    path = None
    if rank == 0:
        path = checkpoint.save(folder / "resume", step, lvlm.model, found, {"tokens": seen, "identity": identity})
        if evaluate is not None:
            lvlm.model.eval()
            progress.emit("step", step=step, **evaluate(lvlm, step))
            lvlm.model.train()
    if on_save is not None:
        on_save(step, path)


def _not_a_number(folder: Path, step: int, lr: float, loss: float) -> UserError:
    good = checkpoint.newest(folder / "resume")
    where = f"the last good checkpoint is {good['path']}" if good else "no checkpoint was written before"
    return UserError(
        f"the loss is {loss} in step {step + 1}, at a learning rate of {lr:.3g}",
        reason=f"training diverged; {where}",
        fix="lower finetune.lr (and finetune.muon_lr), raise finetune.warmup or lower finetune.clip",
    )


def _out_of_memory(error: Exception, settings: Finetune, step: int) -> UserError:
    return UserError(
        f"the GPU ran out of memory in step {step + 1}",
        reason=str(error).split(". ")[0],
        fix=f"lower finetune.max_tokens (now {settings.max_tokens}), the tokens of one forward pass; "
        f"finetune.batch_size (now {settings.batch_size}) only changes how many passes make a step",
    )
