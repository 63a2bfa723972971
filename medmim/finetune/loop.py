"""The training loop, in plain torch. It runs bare, under torchrun and under Ray Train, with the same losses.

The gradient of an optimizer step is the mean over all trained tokens of its batch, whatever the split into rows and
workers (see `distributed`).
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import torch

from medmim import progress
from medmim.errors import UserError
from medmim.finetune import attention, checkpoint, optim, throughput, trainable, validation
from medmim.finetune.batch import Batch
from medmim.finetune.engines.engine import Engine
from medmim.finetune.engines.plain import Plain
from medmim.finetune.pace import Pace, Preempted
from medmim.finetune.record import Record, TrainResult
from medmim.finetune.saving import Saves
from medmim.finetune.validation import Validated
from medmim.lvlm import adapters, memory, weights
from medmim.lvlm.llava import Lvlm
from medmim.lvlm.saving import save, save_adapters
from medmim.recipe.schema import NOT_CONTENT, Finetune

_LESS = (
    "set finetune.zero: 3 with more workers, finetune.offload: optimizer or finetune.lora, or take more memory: "
    "the plan of finetune (--dry-run) shows what each needs"
)
_FEWER_PICTURES = "take more memory, or lower finetune.batch_size: the pictures of two steps are in host memory"


def train(
    lvlm: Lvlm,
    batch_at: Callable[[int], Batch],
    steps: int,
    settings: Finetune,
    folder: Path,
    *,
    on_step: Callable[[Mapping[str, Any]], None] | None = None,
    on_save: Callable[[int, Path], None] | None = None,
    validate: Callable[[Engine, int], Validated] | None = None,
    fetch: Callable[[int], Path] | None = None,
    stop: Event | None = None,
    rank: int = 0,
    world: int = 1,
) -> TrainResult:
    """Train, from the newest checkpoint in `folder/resume` if there is one, and write the model into `folder`.

    Args:
        lvlm: The base; its weights are changed in place.
        batch_at: Step (from 0) -> this worker's share of the batch. A pure function; called in a thread, a step ahead.
        steps: Optimizer steps.
        settings: Optimizer, schedule, precision, how often to save.
        folder: Receives the weights, `losses.jsonl` (a line for every step), `validation.jsonl` and, during training,
            `resume/`.
        on_step: Called on rank 0 with the record of each step.
        on_save: Called on every rank when a checkpoint is whole, with its steps and its folder; a few steps later,
            since it is written meanwhile. Then none is written after the last step.
        validate: Called on every rank when a validation is due, with the engine and the steps done.
        fetch: Step -> folder with the files of all workers of its checkpoint; by default `folder` has them.
        stop: Set on any worker, the training ends with a checkpoint after the step.
        rank: This worker.
        world: Number of workers; more than one needs a process group (see `distributed.process_group`).

    Raises:
        UserError: The loss, the gradient or a weight is not finite, the memory is used up, or `folder` holds
            another training.
        Preempted: `stop` was set.
    """
    model: Any = lvlm.model
    device = next(model.parameters()).device
    bf16 = trainable.computes_in_bf16(settings, device)
    with memory.reporting("while the training was set up", _LESS):
        adapted = trainable.prepare(model, settings)
        engine = _engine(model, settings, bf16, rank, world)

    identity = _identity(steps, settings)
    with memory.reporting("while a checkpoint was read", _LESS):
        first_step, tokens_seen, ran, good = _resume(folder, engine, identity, rank)
    here = {"workers": world, "zero": settings.zero, "offload": settings.offload, "device": device.type}
    if not ran or {**ran[-1], **here} != ran[-1]:
        ran.append({"from_step": first_step, **here})

    def whole(done: int, path: Path) -> None:
        if on_save is not None:
            on_save(done, path)
        checkpoint.prune(folder / "resume", settings.keep_checkpoints, [_kept(record, settings, done)])

    saves = Saves(folder / "resume", good, whole, _LESS, device, rank, world)
    pace = Pace(settings, steps, stop or Event(), rank, world, device)
    peak_flops = throughput.peak_flops(device, bf16)
    record = Record(folder, rank, steps, first_step, on_step)
    packed_attention = attention.packed(model) if settings.packing else nullcontext()
    if rank == 0 and settings.packing and device.type == "cuda" and attention.dropout(model):
        progress.say("the base has attention dropout, which the flash kernel lacks: attention takes a slower way")
    if first_step < steps and pace.after(first_step)[1]:
        raise Preempted(first_step, steps)
    model.train()
    with packed_attention, ThreadPoolExecutor(1) as loader, record, saves:
        next_batch = loader.submit(batch_at, first_step) if first_step < steps else None
        validated = any(one.step == first_step for one in record.validations)
        if validate is not None and validation.is_due(first_step, steps, settings) and not validated:
            _validate(record, partial(validate, engine, first_step), first_step, settings)
        for step in range(first_step, steps):
            assert next_batch is not None  # noqa: S101  there is a batch for each step
            asked_at = time.perf_counter()
            with memory.reporting(f"while the pictures of step {step + 1} were prepared", _FEWER_PICTURES):
                batch = next_batch.result()
            waited = time.perf_counter() - asked_at
            next_batch = loader.submit(batch_at, step + 1) if step + 1 < steps else None

            torch.manual_seed(_seed(settings, step, rank))  # dropout, where a base has it, resumes exactly
            with memory.reporting(*_one_pass(settings, step)):
                loss, tokens = engine.gradients(batch)
            # Loss, gradient and weights are the same on all workers, so that all of them stop in the same step
            share = optim.factor(step, steps, settings)
            diverged = partial(_diverged, saves, step, share * settings.lr, rank)
            if not math.isfinite(loss):
                raise _invalid_base(engine, lvlm, folder, loss, step == first_step) or diverged(f"the loss is {loss}")
            with memory.reporting(*_update(settings, step)):  # AdamW's state is allocated in the first
                lr, grad_norm = engine.update(share)
            if not math.isfinite(grad_norm):
                raise diverged(f"the norm of the gradient is {grad_norm}")

            tokens_seen += tokens
            record.add(
                step,
                loss=loss,
                lr=lr,
                grad_norm=grad_norm,
                tokens=tokens,
                tokens_seen=tokens_seen,
                flops=throughput.step_flops(model.config, batch, settings) * world,
                peak_flops=None if peak_flops is None else peak_flops * world,
                waited=waited,
            )
            saves.look()
            save_now, stop_now = pace.after(step + 1)
            # a scheduler that stops the training does not wait long: what resumes it validates
            validate_now = validation.is_due(step + 1, steps, settings) and not stop_now
            if (save_now or validate_now) and (names := engine.not_finite()):  # a finite gradient times a huge rate
                raise diverged(f"{len(names)} weights are not finite", names)
            if validate is not None and validate_now:
                found = _validate(record, partial(validate, engine, step + 1), step + 1, settings)
                if not math.isfinite(found.loss):
                    raise diverged(f"the dev loss is {found.loss}")
                save_now |= settings.keep == "best" and validation.best(record.validations) == found
            # the last one would be uploaded for nothing: the model, which comes now, ends the training
            if save_now and (on_save is None or stop_now or step + 1 < steps):
                state = {"tokens": tokens_seen, "settings": identity, "ran": ran}
                record.sync()
                saves.begin(step + 1, engine.fragments(), state)
            if stop_now:
                saves.finish()
                raise Preempted(step + 1, steps)
        saves.finish()
    model.eval()
    kept = _kept(record, settings, steps)
    if kept != steps:
        best = checkpoint.path_of(folder / "resume", kept) if fetch is None else fetch(kept)
        with checkpoint.reader(best) as read:
            engine.restore(read)
        if rank == 0:
            progress.say(f"the dev loss was lowest after step {kept:,}: that is the model that is kept")
    with memory.reporting("while the model was written", _LESS):
        _publish(lvlm, adapted, engine, folder, rank, settings, bf16)
    return record.result(tokens_seen, kept, ran)


def _engine(model: Any, settings: Finetune, bf16: bool, rank: int, world: int) -> Engine:
    if not settings.zero:
        return Plain(model, settings, bf16, rank, world)
    from medmim.finetune.engines.deepspeed import Zero

    return Zero(model, settings, bf16, rank, world)


def _validate(record: Record, measure: Callable[[], Validated], step: int, settings: Finetune) -> Validated:
    fix = f"lower finetune.max_tokens (now {settings.max_tokens}), the tokens of one forward pass"
    with memory.reporting(f"in the validation after step {step}", fix):
        return record.validate(step, measure)


def _kept(record: Record, settings: Finetune, done: int) -> int:
    """The step whose model comes out, as far as `done` steps show: with `keep: best` that of the lowest dev loss."""
    known = [one for one in record.validations if one.step <= done]
    best = validation.best(known) if settings.keep == "best" else None
    return record.steps if best is None else best.step


def _seed(settings: Finetune, step: int, rank: int) -> int:
    """Of the random numbers of a step: others in each step and on each worker. A CPU's generator takes 32 bits."""
    return ((settings.seed * 1_000_003 + step) * 8_191 + rank) % 2**32


def _identity(steps: int, settings: Finetune) -> dict[str, Any]:
    """What must be equal for a checkpoint to be resumed: key of `finetune` -> value; a key of a section has a dot."""
    plain = settings.model_dump(mode="json", exclude={*NOT_CONTENT, *validation.excluded(settings), "epochs"})
    flat = {name: value for name, value in plain.items() if not isinstance(value, dict)}
    for name, section in plain.items():
        if isinstance(section, dict):
            flat |= {f"{name}.{key}": value for key, value in section.items()}
    return {**flat, "steps": steps}


def _resume(
    folder: Path, engine: Engine, identity: Mapping[str, Any], rank: int
) -> tuple[int, int, list[dict[str, Any]], Path | None]:
    """Load the newest checkpoint, if any; returns steps and tokens done, with what, and its folder."""
    state = checkpoint.newest(folder / "resume", quiet=rank > 0)
    if state is None:
        return 0, 0, [], None
    before = state.get("settings", {})
    if before != identity:
        raise UserError(
            f"{folder / 'resume'} holds a checkpoint of another training",
            reason="its recipe differs",
            fix="give another folder, or delete this one",
            problems=[
                f"finetune.{key}: {_shown(before, key)} in the checkpoint, {_shown(identity, key)} in the recipe"
                for key in sorted({*before, *identity})
                if _shown(before, key) != _shown(identity, key)
            ],
        )
    with checkpoint.reader(state["path"]) as read:
        engine.restore(read)
    if rank == 0:
        progress.say(f"resuming from step {state['step']:,}")
    return state["step"], state["tokens"], state["ran"], state["path"]


def _shown(settings: Mapping[str, Any], key: str) -> str:
    return json.dumps(settings[key]) if key in settings else "not set"


def _publish(lvlm: Lvlm, adapted: Any, engine: Engine, folder: Path, rank: int, settings: Finetune, bf16: bool) -> None:
    """Write the model, on the first worker; all of them give their parts of the weights."""
    if settings.lora and not settings.lora.merge:
        trained = adapters.of_training(adapted, engine.whole)
        if rank == 0:
            save_adapters(lvlm, adapted, folder, trained)
        else:
            weights.take(trained, weights.ONE_FILE)
        return
    if settings.lora:
        model_weights = adapters.merged(adapted, engine.whole, bf16)
    else:
        model_weights = weights.of_model(lvlm.model, engine.whole, bf16)
    if rank == 0:
        save(lvlm, folder, model_weights)
    else:
        weights.take(model_weights)


def _invalid_base(engine: Engine, lvlm: Lvlm, folder: Path, loss: float, first: bool) -> UserError | None:
    """The error where the weights were not finite before the first update; None where they were."""
    names = engine.not_finite() if first else []
    if not names:
        return None
    resumed = checkpoint.newest(folder / "resume", quiet=True)
    origin = f"the checkpoint {resumed['path']}" if resumed else f"the base {lvlm.path}"
    return UserError(
        f"weights of {origin} are not finite",
        reason=f"the loss of the first step is {loss}, before any update",
        fix="delete this checkpoint" if resumed else "copy the base again, or take another one",
        problems=names,
    )


def _diverged(saves: Saves, step: int, lr: float, rank: int, what: str, problems: Sequence[str] = ()) -> UserError:
    saves.finish()
    where = f"the last good checkpoint is {saves.good}" if saves.good else "no checkpoint was written before"
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
