"""The workers under Ray Train's TorchTrainer: on a Ray of our own on loopback, or on a cluster that is there."""

import json
import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medmim.errors import Unavailable, UserError
from medmim.finetune.ray_session import FOLDER, session
from medmim.finetune.record import TrainResult
from medmim.finetune.work import Job, work

_ERROR = ".error.json"
_RETRIES = 2  # lost workers that a training survives


def launch(job: Job, home: Path, workers: int, address: str = "local") -> TrainResult:
    """Train with Ray and wait for the end; a lost worker resumes from the newest checkpoint.

    Args:
        job: The training.
        home: Gets Ray's HOME; nothing else is written outside `job.folder` but a temporary folder that goes.
        workers: How many.
        address: `local`, or a running cluster that shares `job.folder` (`auto`, `HOST:6379`).

    Raises:
        UserError: What a worker raised.
        Unavailable: Workers were lost more often than is mended, or the cluster does not answer.
    """
    if address.startswith("ray://"):
        raise UserError(
            f"platform.ray is {address}",
            reason="Ray Client (ray://) is not made for Ray Train",
            fix="run on a node of the cluster with platform.ray: auto",
        )
    error = Path(job.folder) / _ERROR
    error.unlink(missing_ok=True)
    with session(home, workers, address):
        result = _fit(job, workers, address == "local")
    if error.is_file():
        told = json.loads(error.read_text())
        error.unlink()
        raise UserError(told["fact"], told["reason"], told["fix"], told["problems"], told["exit_code"])
    if isinstance(result, TrainResult):
        return result
    raise Unavailable(
        "the training lost its workers",
        reason=str(result).strip().splitlines()[-1][:300],
        fix="run the same command again: it goes on from the newest checkpoint",
    )


def _fit(job: Job, workers: int, local: bool) -> TrainResult | Exception:
    import torch
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.backend import Backend
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    class Loopback(TorchConfig):  # type: ignore[misc]  # Ray's own rendezvous listens on every address
        @property
        def backend_cls(self) -> Any:
            return Backend

    storage = Path(job.folder) / "resume" / "ray"
    shutil.rmtree(storage, ignore_errors=True)  # of a driver that died; the loop's own checkpoints lie beside it
    trainer = TorchTrainer(
        _worker,
        train_loop_config={**asdict(job), "local": local},
        torch_config=Loopback() if local else TorchConfig(),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=torch.cuda.is_available()),
        run_config=RunConfig(
            name="train",
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=_RETRIES),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    try:
        result: object = trainer.fit().return_value
    except TrainingFailedError as error:
        return RuntimeError(str(error))
    if not isinstance(result, TrainResult):
        return RuntimeError("the first worker returned nothing")
    return result


def _worker(config: dict[str, Any]) -> TrainResult | None:
    """One worker. A UserError goes through a file: raised here, Ray would take it for a lost worker and try again."""
    import ray.train
    import ray.train.torch

    from medmim.lvlm.zoo import quiet_transformers

    quiet_transformers()
    local = config.pop("local")
    job = Job(**config)
    error = Path(job.folder) / _ERROR
    if error.is_file():
        return None

    def on_save(step: int, path: Path | None) -> None:
        checkpoint = None if path is None else ray.train.Checkpoint.from_directory(path)
        ray.train.report({"step": step}, checkpoint=checkpoint)

    try:
        if local:
            _meet()
        return work(job, str(ray.train.torch.get_device()), on_save)
    except UserError as told:
        part = error.with_name(f"{_ERROR}.{os.getpid()}")
        part.write_text(json.dumps({**told.__dict__, "problems": list(told.problems)}))
        part.replace(error)
        if ray.train.get_context().get_world_size() > 1:
            raise  # the others may be waiting for this one; the new group sees the file and ends
        return None


def _meet() -> None:
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
