"""Parts of one training in two workers of torchrun, each by its own engine, stopped or killed: `run` starts them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from threading import Event
from typing import Any

from medmim.finetune import checkpoint
from medmim.finetune.distributed import process_group, wait_for_all
from medmim.finetune.pace import Preempted
from medmim.finetune.worker import Job, run_worker
from medmim.recipe.schema import Finetune


@dataclass(frozen=True)
class Leg:
    """A part of a training.

    Attributes:
        zero: ZeRO stage.
        until: The step after which it stops, as after SIGTERM; 0: it goes on to the end.
        killed: Where a worker is killed with SIGKILL: before or after which call of `checkpoint`, such as
            `before commit`; else empty.
        rank: Of that worker.
        step: Of that save.
    """

    zero: int
    until: int = 0
    killed: str = ""
    rank: int = 0
    step: int = 0


def job_of(job: Job, **changes: object) -> Job:
    """The job with other settings."""
    settings = Finetune.model_validate_json(job.settings).model_copy(update=changes)
    return replace(job, settings=settings.model_dump_json())


def go(job: Job, leg: Leg, rank: int = 0) -> None:
    """Do a part, in this process."""
    stop = Event()
    if leg.killed and leg.rank == rank:
        _kill(*leg.killed.split(), leg.step)
    with suppress(Preempted):
        run_worker(
            job_of(job, zero=leg.zero), "cpu", stop=stop,
            on_step=lambda line: stop.set() if line["step"] == leg.until else None,
        )  # fmt: skip


def run(job: Job, legs: Sequence[Leg]) -> int:
    """Do the parts in turn in two workers; returns the exit code of torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    given = json.dumps([asdict(job), [asdict(leg) for leg in legs]])
    done = subprocess.run(
        [*command, "-m", "tests.support.legs", given],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0 or any(leg.killed for leg in legs), done.stderr
    return done.returncode


def _kill(when: str, call: str, step: int) -> None:
    real: Callable[..., Any] = getattr(checkpoint, call)
    name = f"step-{step:08d}"

    def act(folder: Any, *rest: Any) -> Any:
        due = rest[0] == step if call == "save" else call == "prune" and (folder / name).exists() or folder.name == name
        if due and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        found = real(folder, *rest)
        if due:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    setattr(checkpoint, call, act)


def main(job: Job, legs: Sequence[Leg]) -> None:
    """A worker."""
    with process_group() as (rank, _):
        for leg in legs:
            go(job, leg, rank)
            wait_for_all()  # until the first worker has committed what all resume from


if __name__ == "__main__":
    _job, _legs = json.loads(sys.argv[1])
    main(Job(**_job), [Leg(**leg) for leg in _legs])
