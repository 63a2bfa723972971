"""What a training leaves behind and shows: a line for every step in `losses.jsonl`, step lines and a bar."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmim import progress

LOSSES = "losses.jsonl"
_TELL_EVERY = 0.4  # s between two step lines


@dataclass(frozen=True)
class TrainResult:
    """What a training came to.

    Attributes:
        steps: Optimizer steps in all.
        tokens: Tokens seen in all, padding not counted.
        loss: Mean over the last tenth of the steps.
        seconds: Time in the loop of this process; less than the whole training's after a resume.
        tokens_per_s: Over all workers, in this process's part.
        mfu: Model FLOPs utilisation in it; None where the device's peak is not known.
        resumed_from: The step this process began at.
    """

    steps: int
    tokens: int
    loss: float
    seconds: float
    tokens_per_s: float
    mfu: float | None
    resumed_from: int


class Record:
    """Rank 0's account of the steps; the other workers only count."""

    def __init__(
        self, folder: Path, rank: int, steps: int, begin: int, on_step: Callable[[Mapping[str, Any]], None] | None
    ) -> None:
        self.rank, self.steps, self.begin, self.on_step = rank, steps, begin, on_step
        self.bar = progress.Bar("finetune", steps - begin, "steps")
        self.losses: list[float] = []
        self.tokens, self.flops, self.told = 0, 0.0, 0.0
        self.peak: float | None = None
        self.path = folder / LOSSES
        self.start = time.perf_counter()
        if rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            self.losses = _cut(self.path, begin)

    def __enter__(self) -> None:
        self.file = self.path.open("a") if self.rank == 0 else None
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self.start
        if self.file:
            self.file.close()

    def add(
        self, step: int, loss: float, lr: float, norm: float, tokens: int, seen: int, flops: float, peak: float | None
    ) -> None:
        """Count one step and tell it, unless the last line is a moment ago."""
        self.losses.append(loss)
        self.tokens += tokens
        self.flops += flops
        self.peak = peak
        if self.file is None:
            return
        line = {"step": step + 1, "loss": loss, "lr": lr, "grad_norm": norm, "tokens": seen}
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        if self.on_step is not None:
            self.on_step(line)
        now = time.perf_counter()
        if now - self.told > _TELL_EVERY or step + 1 == self.steps:
            self.told = now
            speed, mfu = self._speed(now - self.start)
            shown = {} if mfu is None else {"mfu": f"{mfu:.0%}"}
            progress.emit("step", step=f"{step + 1}/{self.steps}", loss=loss, lr=lr, tokens_per_s=speed, **shown)
        self.bar.add()

    def _speed(self, seconds: float) -> tuple[float, float | None]:
        return self.tokens / max(seconds, 1e-9), self.peak and self.flops / max(seconds, 1e-9) / self.peak

    def result(self, seen: int) -> TrainResult:
        """What the training came to."""
        last = self.losses[-max(1, self.steps // 10) :] or [float("nan")]
        speed, mfu = self._speed(self.seconds)
        return TrainResult(self.steps, seen, sum(last) / len(last), self.seconds, speed, mfu, self.begin)


def _cut(path: Path, steps: int) -> list[float]:
    """Drop what a killed process wrote after its last checkpoint, a torn line included; returns the losses kept."""
    kept = path.read_text().splitlines(keepends=True)[:steps] if path.is_file() else []
    part = path.with_name(".part-losses")
    part.write_text("".join(kept))
    part.replace(path)
    return [json.loads(line)["loss"] for line in kept]
