"""Trains with Ray Train on this machine, in a private Ray session on loopback."""

import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from medmim.errors import Unavailable, wrap_os_errors
from medmim.finetune.ray import errors
from medmim.finetune.ray.session import FOLDER, session
from medmim.finetune.record import TrainResult
from medmim.finetune.worker import Job, run_worker

RETRIES = 2  # lost workers that a training survives
T = TypeVar("T")


def launch(job: Job, home: Path, workers: int) -> TrainResult:
    """Train with Ray and wait for the end; a lost worker resumes from the newest checkpoint.

    Args:
        job: The training.
        home: Gets Ray's HOME; else only a temporary folder is written outside `job.folder`, and removed.
        workers: How many.

    Raises:
        UserError: What a worker raised.
        RuntimeError: A worker raised an exception that nobody expects; it is not retried.
        Unavailable: Workers were lost more than RETRIES times.
    """
    errors.pop(job.folder)
    with session(home, workers):
        result = _fit(job, workers)
    error = errors.pop(job.folder)
    if error is not None:
        raise error
    if isinstance(result, Exception):
        raise workers_lost(result)
    return result


def fit(trainer: Any, kind: type[T]) -> T | Exception:
    """Run a trainer: what its first worker returned, of the type `kind`, or the error that ended it."""
    from ray.train.v2.api.exceptions import TrainingFailedError

    trainer._register_sigint_handler = lambda controller: None  # Ray's own ends the process, with exit code 0
    try:
        result: object = trainer.fit().return_value
    except TrainingFailedError as error:
        return RuntimeError(str(error))
    return result if isinstance(result, kind) else RuntimeError("the first worker returned nothing")


def workers_lost(error: Exception) -> Unavailable:
    """The error for a training that Ray has given up."""
    return Unavailable(
        "the training lost its workers",
        reason=str(error).strip().splitlines()[-1][:300],
        fix="run the same command again: it resumes from the newest checkpoint",
    )


def _fit(job: Job, workers: int) -> TrainResult | Exception:
    import torch
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.backend import Backend
    from ray.train.torch import TorchConfig, TorchTrainer

    class Loopback(TorchConfig):  # type: ignore[misc]  # Ray's own rendezvous listens on every address
        @property
        def backend_cls(self) -> Any:
            return Backend

    storage = Path(job.folder) / "resume" / "ray"
    shutil.rmtree(storage, ignore_errors=True)  # of a driver that died; the loop's own checkpoints lie beside it
    trainer = TorchTrainer(
        _worker,
        train_loop_config=asdict(job),
        torch_config=Loopback(),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=torch.cuda.is_available()),
        run_config=RunConfig(
            name="train",
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=RETRIES),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    return fit(trainer, TrainResult)


def _worker(config: dict[str, Any]) -> TrainResult | None:
    import ray.train
    import ray.train.torch

    from medmim.lvlm.checkpoint import quiet_transformers

    quiet_transformers()
    job = Job(**config)
    if errors.exists(job.folder):
        return None

    def on_save(step: int, path: Path | None) -> None:
        checkpoint = None if path is None else ray.train.Checkpoint.from_directory(path)
        ray.train.report({"step": step}, checkpoint=checkpoint)

    try:
        with wrap_os_errors("training"):
            _init_process_group()
            return run_worker(job, str(ray.train.torch.get_device()), on_save)
    except Exception as error:
        errors.write(job.folder, error)
        if ray.train.get_context().get_world_size() > 1:
            raise  # the others may be waiting for this one; the new group sees the error and ends
        return None


def _init_process_group() -> None:
    """Join the other workers of this machine through a file, so that nothing listens beyond loopback."""
    import ray.train
    import torch
    import torch.distributed as dist
    from ray.train.collective import broadcast_from_rank_zero

    context = ray.train.get_context()
    if context.get_world_size() == 1:
        return
    # a new one for each group: the file of a group that broke would confuse the next
    file = broadcast_from_rank_zero(tempfile.mktemp(prefix="meet-", dir=os.environ[FOLDER]))  # noqa: S306
    dist.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo",
        init_method=f"file://{file}",
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
    )
