"""Records a training: a line for each step in `losses.jsonl`, validations, progress reports, and the final result."""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmim import progress
from medmim.finetune import validation
from medmim.finetune.validation import Validated

LOSSES = "losses.jsonl"
_REPORT_EVERY = 0.4  # s between two reported steps


@dataclass(frozen=True)
class TrainResult:
    """The result of a training.

    Attributes:
        steps: Optimizer steps, those before a resume included.
        tokens: Tokens seen, those before a resume included, without padding.
        loss: Mean over the last tenth of the steps.
        seconds: Time that this process spent in the loop, without validations; after a resume, less than the whole
            training took.
        tokens_per_s: Over all workers, in this process.
        mfu: Model FLOPs utilisation in this process; None where the peak of the device is not known.
        resumed_from: The step at which this process began.
        data_wait: Share of `seconds` that this process waited for its batches.
        kept: The step of the model that came out.
        ran: With what the steps were done: `from_step` (steps done before), `workers`, `zero`, `offload`, `device`; a
            new entry where any of them changed.
    """

    steps: int
    tokens: int
    loss: float
    seconds: float
    tokens_per_s: float
    mfu: float | None
    resumed_from: int
    data_wait: float
    kept: int
    ran: Sequence[Mapping[str, Any]] = ()


class Record:
    """Rank 0 writes and reports every step; the other workers only count tokens and FLOPs."""

    def __init__(
        self, folder: Path, rank: int, steps: int, begin: int, on_step: Callable[[Mapping[str, Any]], None] | None
    ) -> None:
        self.rank, self.steps, self.begin, self.on_step = rank, steps, begin, on_step
        self.bar = progress.Bar("finetune", steps - begin, "steps")
        self.losses: list[float] = []
        self.tokens, self.flops, self.waited, self.reported_at = 0, 0.0, 0.0, 0.0
        self.validating = 0.0
        self.peak: float | None = None
        self.path = folder / LOSSES
        self.validations = validation.until(folder / validation.VALIDATION, begin, truncate=rank == 0)
        self.start = time.perf_counter()
        if rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            self.losses = _truncate(self.path, begin)

    def __enter__(self) -> None:
        self.file = self.path.open("a", encoding="utf-8") if self.rank == 0 else None
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self.start - self.validating
        if self.file:
            self.file.close()

    def add(
        self,
        step: int,
        *,
        loss: float,
        lr: float,
        grad_norm: float,
        tokens: int,
        tokens_seen: int,
        flops: float,
        peak_flops: float | None,
        waited: float = 0.0,
    ) -> None:
        """Record one step; it is also reported, at most every `_REPORT_EVERY` seconds.

        Args:
            step: From 0.
            loss: Mean over the trained tokens of the step.
            lr: Learning rate.
            grad_norm: Norm of the gradient before clipping.
            tokens: Tokens of the step, over all workers.
            tokens_seen: Tokens of all steps so far.
            flops: Model FLOPs of the step, over all workers.
            peak_flops: FLOP/s that all workers together can reach; None where it is not known.
            waited: Seconds that this worker waited for its batch. They are reported and not written to `losses.jsonl`,
                which is content of the model: the same training must give the same bytes.
        """
        self.losses.append(loss)
        self.tokens += tokens
        self.flops += flops
        self.peak = peak_flops
        self.waited += waited
        if self.file is None:
            return
        line = {"step": step + 1, "loss": loss, "lr": lr, "grad_norm": grad_norm, "tokens": tokens_seen}
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        if self.on_step is not None:
            self.on_step(line)
        now = time.perf_counter()
        if now - self.reported_at > _REPORT_EVERY or step + 1 == self.steps:
            self.reported_at = now
            seconds = now - self.start - self.validating
            speed, mfu = self._speed(seconds)
            shown = {} if mfu is None else {"mfu": f"{mfu:.0%}"}
            shown["data_wait"] = f"{self._share(seconds):.0%}"
            shown |= self._measured()
            progress.emit("step", step=f"{step + 1}/{self.steps}", loss=loss, lr=lr, tokens_per_s=speed, **shown)
        self.bar.add()

    def sync(self) -> None:
        """Wait until all lines are on the disk: no crash of the machine is to leave a checkpoint without its lines."""
        if self.file is not None:
            os.fsync(self.file.fileno())

    def validate(self, step: int, measure: Callable[[], Validated]) -> Validated:
        """Record a validation; the time that it takes does not count as training.

        Args:
            step: Optimizer steps done.
            measure: Validates.
        """
        begin = time.perf_counter()
        found = measure()
        self.validating += time.perf_counter() - begin
        self.validations.append(found)
        if self.rank == 0:
            validation.append(self.path.with_name(validation.VALIDATION), found)
            progress.emit("step", step=f"{step}/{self.steps}", **self._measured())
        return found

    def _measured(self) -> dict[str, str]:
        """What the last validation has found, as it is shown."""
        if not self.validations:
            return {}
        last = self.validations[-1]
        accuracy = {} if last.accuracy is None else {"dev_accuracy": f"{last.accuracy:.1%}"}
        return {"dev_loss": f"{last.loss:.4g}", **accuracy}

    def _speed(self, seconds: float) -> tuple[float, float | None]:
        return self.tokens / max(seconds, 1e-9), self.peak and self.flops / max(seconds, 1e-9) / self.peak

    def _share(self, seconds: float) -> float:
        return min(1.0, self.waited / max(seconds, 1e-9))

    def result(self, tokens_seen: int, kept: int, ran: Sequence[Mapping[str, Any]] = ()) -> TrainResult:
        """The result of the training, with the model of the step `kept`; see `TrainResult`."""
        last = self.losses[-max(1, self.steps // 10) :] or [float("nan")]
        speed, mfu = self._speed(self.seconds)
        return TrainResult(
            self.steps,
            tokens_seen,
            sum(last) / len(last),
            self.seconds,
            speed,
            mfu,
            self.begin,
            round(self._share(self.seconds), 4),
            kept,
            ran,
        )


def _truncate(path: Path, steps: int) -> list[float]:
    """Remove what a killed process wrote after its last checkpoint, a torn line included; returns the losses kept."""
    kept = path.read_text(encoding="utf-8").splitlines(keepends=True)[:steps] if path.is_file() else []
    part = path.with_name(".part-losses")
    part.write_text("".join(kept), encoding="utf-8")
    part.replace(path)
    return [json.loads(line)["loss"] for line in kept]
