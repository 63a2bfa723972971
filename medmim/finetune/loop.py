"""The training loop, in plain torch. It runs bare, under torchrun and under Ray Train, with the same losses.

The gradient of an optimizer step is the mean over all trained tokens of its batch, whatever the split into rows and
workers (see `distributed`).
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from medmim import progress
from medmim.errors import UserError
from medmim.finetune import attention, checkpoint, distributed, optim, throughput
from medmim.finetune.batch import Batch, Row
from medmim.finetune.record import Record, TrainResult
from medmim.lvlm import memory
from medmim.lvlm.checkpoint import Lvlm, not_finite, save
from medmim.recipe.schema import Finetune
from medmim.sample import digest_of


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
        batch_at: Step (from 0) -> this worker's share of the batch. A pure function; called in a thread, a step ahead.
        steps: Optimizer steps.
        settings: Optimizer, schedule, precision, how often to save.
        folder: Receives the weights, `losses.jsonl` (a line for every step) and, during training, `resume/`.
        on_step: Called on rank 0 with the record of each step.
        on_save: Called on every rank after a checkpoint was written, with the steps done and, on rank 0, its folder.
        evaluate: Called on rank 0 at every checkpoint; its metrics are reported.
        rank: This worker.
        world: Number of workers; more than one needs a process group (see `distributed.process_group`).

    Raises:
        UserError: The loss, the gradient or a weight is not finite, the memory is used up, or `folder` holds
            another training.
    """
    model: Any = lvlm.model
    device = next(model.parameters()).device
    if settings.freeze_vision:
        model.model.vision_tower.requires_grad_(False)
    bf16 = settings.precision == "bf16" or (
        settings.precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()
    )
    autocast: Any = torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()
    optimizers = optim.optimizers(model, settings)
    params = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]

    identity = _identity(steps, settings, world)
    first_step, tokens_seen = _resume(folder, model, optimizers, identity, rank)
    peak_flops = throughput.peak_flops(device, bf16)
    record = Record(folder, rank, steps, first_step, on_step)
    packed_attention = attention.packed(model) if settings.packing else nullcontext()
    if rank == 0 and settings.packing and device.type == "cuda" and attention.dropout(model):
        progress.say("the base has attention dropout, which the flash kernel lacks: attention takes a slower way")
    model.train()
    with packed_attention, ThreadPoolExecutor(1) as loader, record:
        next_batch = loader.submit(batch_at, first_step) if first_step < steps else None
        for step in range(first_step, steps):
            assert next_batch is not None  # noqa: S101  there is a batch for each step
            asked_at = time.perf_counter()
            batch = next_batch.result()
            waited = time.perf_counter() - asked_at
            next_batch = loader.submit(batch_at, step + 1) if step + 1 < steps else None

            torch.manual_seed(_seed(settings, step, rank))  # dropout, where a base has it, resumes exactly
            lr = optim.set_lr(optimizers, optim.factor(step, steps, settings))
            pass_memory = _one_pass(settings, step)
            with memory.reporting(*pass_memory):
                loss, (_, tokens) = _gradients(model, batch, params, autocast, world)
            # Loss, gradient and weights are the same on all workers, so that all of them stop in the same step
            diverged = partial(_diverged, folder, step, lr, rank)
            if not math.isfinite(loss):
                raise _invalid_base(lvlm, folder, loss, step == first_step) or diverged(f"the loss is {loss}")
            with memory.reporting(*pass_memory):
                grad_norm = float(torch.nn.utils.clip_grad_norm_(params, settings.clip))
            if not math.isfinite(grad_norm):  # the update would make every weight NaN
                raise diverged(f"the norm of the gradient is {grad_norm}")
            with memory.reporting(*_update(settings, step)):  # AdamW's state is allocated in the first
                for optimizer in optimizers:
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)

            tokens_seen += tokens
            record.add(
                step,
                loss=loss,
                lr=lr,
                grad_norm=grad_norm,
                tokens=tokens,
                tokens_seen=tokens_seen,
                flops=throughput.step_flops(model.config, batch, settings.freeze_vision) * world,
                peak_flops=None if peak_flops is None else peak_flops * world,
                waited=waited,
            )
            if (step + 1) % settings.save_every == 0 or step + 1 == steps:
                if names := not_finite(model):  # a finite gradient times a huge rate
                    raise diverged(f"{len(names)} weights are not finite", names)
                path = None
                if rank == 0:
                    state = {"tokens": tokens_seen, "identity": identity}
                    path = checkpoint.save(folder / "resume", step + 1, model, optimizers, state)
                    if evaluate is not None:
                        model.eval()
                        progress.emit("step", step=step + 1, **evaluate(lvlm, step + 1))
                        model.train()
                if on_save is not None:
                    on_save(step + 1, path)
    model.eval()
    if rank == 0:
        save(lvlm, folder)
    return record.result(tokens_seen)


def _seed(settings: Finetune, step: int, rank: int) -> int:
    """Of the random numbers of a step: others in each step and on each worker. A CPU's generator takes 32 bits."""
    return ((settings.seed * 1_000_003 + step) * 8_191 + rank) % 2**32


def _gradients(model: Any, batch: Batch, params: list[Any], autocast: Any, world: int) -> tuple[float, tuple[int, int]]:
    """Set `.grad` to the gradient of the mean loss over the trained tokens of all workers.

    Returns:
        The mean loss, and (trained tokens, tokens) over all workers.
    """
    device = params[0].device
    trained, tokens = batch.trained, batch.tokens
    if world > 1:
        trained, tokens = distributed.sum_counts([trained, tokens], device)
    loss = torch.zeros((), device=device)
    for row in batch.rows:
        with autocast:
            part = _loss(model, row.to(device)) / max(trained, 1)
        torch.autograd.backward(part)
        loss += part.detach()
    if world > 1:
        distributed.sum_gradients(params, loss)
    return float(loss), (trained, tokens)


def _loss(model: Any, row: Row) -> Tensor:
    """Sum of the cross-entropy over the trained tokens; logits are computed only where a token is trained."""
    borders = row.cu_seq_lens
    packed = {
        "position_ids": row.position_ids,
        "cu_seq_lens_q": borders,
        "cu_seq_lens_k": borders,
        "max_length_q": max(row.lengths),
        "max_length_k": max(row.lengths),
        "segments": row.lengths,
    }
    # No attention mask in either case: padding is on the right, which causal attention never reads.
    hidden = model.model(
        input_ids=row.input_ids, pixel_values=row.pixel_values, use_cache=False, **(packed if row.packed else {})
    ).last_hidden_state
    logits = model.lm_head(hidden.flatten(0, 1)[row.predicts])
    return cross_entropy(logits.float(), row.targets, reduction="sum")


def _identity(steps: int, settings: Finetune, world: int) -> str:
    """Digest of what must be equal for a checkpoint to be resumed."""
    return digest_of([str(steps), settings.model_dump_json(exclude={"save_every"}), str(world)])


def _resume(folder: Path, model: Any, optimizers: list[Optimizer], identity: str, rank: int) -> tuple[int, int]:
    """Load the newest checkpoint, if any; returns steps done and tokens seen."""
    state = checkpoint.newest(folder / "resume")
    if state is None:
        return 0, 0
    if state["identity"] != identity:
        raise UserError(
            f"{folder / 'resume'} holds a checkpoint of another training",
            reason="its recipe or its number of workers differ",
            fix="give another folder, or delete this one",
        )
    checkpoint.load(state["path"], model, optimizers)
    if rank == 0:
        progress.say(f"resuming from step {state['step']:,}")
    return state["step"], state["tokens"]


def _invalid_base(lvlm: Lvlm, folder: Path, loss: float, first: bool) -> UserError | None:
    """The error where the weights were not finite before the first update; None where they were."""
    names = not_finite(lvlm.model) if first else []
    if not names:
        return None
    resumed = checkpoint.newest(folder / "resume")
    origin = f"the checkpoint {resumed['path']}" if resumed else f"the base {lvlm.path}"
    return UserError(
        f"weights of {origin} are not finite",
        reason=f"the loss of the first step is {loss}, before any update",
        fix="delete this checkpoint" if resumed else "copy the base again, or take another one",
        problems=names,
    )


def _diverged(folder: Path, step: int, lr: float, rank: int, what: str, problems: Sequence[str] = ()) -> UserError:
    good = checkpoint.newest(folder / "resume")
    where = f"the last good checkpoint is {good['path']}" if good else "no checkpoint was written before"
    return UserError(
        f"{what} in step {step + 1}, at a learning rate of {lr:.3g}",
        # on a cluster the other workers have no checkpoints
        reason=f"training diverged; {where}" if rank == 0 else "training diverged",
        fix="lower finetune.lr (and finetune.muon_lr), raise finetune.warmup or lower finetune.clip",
        problems=problems,
    )


def _one_pass(settings: Finetune, step: int) -> tuple[str, str]:
    """(what was done, fix) where the passes of a step use up the memory."""
    return f"in step {step + 1}", (
        f"lower finetune.max_tokens (now {settings.max_tokens}), the tokens of one forward pass; "
        f"finetune.batch_size (now {settings.batch_size}) only changes how many passes make a step"
    )


def _update(settings: Finetune, step: int) -> tuple[str, str]:
    """(what was done, fix) where the update, with the state that an optimizer keeps for each weight, uses it up."""
    fix = "take a smaller base or more memory: the optimizer keeps two more values for each weight that is trained"
    if not settings.freeze_vision:
        fix = f"set finetune.freeze_vision, which leaves the vision tower as it is, or {fix}"
    return f"in the update of step {step + 1}", fix
