"""Trains with Ray Train on the nodes of a running cluster, which share nothing but the store."""

import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medmim import progress, ray_nodes
from medmim.errors import wrap_os_errors
from medmim.finetune.ray import errors, exchange
from medmim.finetune.ray.exchange import SharedJob
from medmim.finetune.ray.local import RETRIES, fit, workers_lost
from medmim.finetune.record import LOSSES, TrainResult
from medmim.finetune.worker import run_worker


def launch(shared: SharedJob, folder: Path, workers: int, address: str) -> TrainResult:
    """Train on the nodes of a cluster and wait for the end; a lost worker's group resumes from the newest checkpoint.

    Args:
        shared: The training; its examples are in the store.
        folder: Gets the finished files.
        workers: How many, each with `shared.threads` CPUs, and a GPU where the cluster has any.
        address: `auto` or `HOST:6379`.

    Raises:
        UserError: What a worker raised.
        RuntimeError: A worker raised an exception that nobody expects; it is not retried.
        Unavailable: Workers were lost more than RETRIES times, too few joined, or the cluster does not answer.
    """
    # a worker's pod that is replaced may take as long as its first one
    with (
        ray_nodes.environment({"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(ray_nodes.join_timeout())}),
        ray_nodes.joined(address),
    ):
        errors.pop(shared.folder)  # left by a driver that died
        gpu = ray_nodes.wait_for_workers(workers, shared.threads)
        progress.say(f"training on {workers} worker{'s' * (workers > 1)} of the Ray cluster")
        result = _fit(shared, workers, gpu)
        error = errors.pop(shared.folder)
    if error is not None:
        raise error
    if isinstance(result, Exception):
        raise workers_lost(result)
    trained, uri = result
    exchange.download_model(uri, folder)
    return trained


def _fit(shared: SharedJob, workers: int, gpu: bool) -> tuple[TrainResult, str] | Exception:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    with tempfile.TemporaryDirectory(prefix="medmim-train-") as storage:  # of Ray's controller, which runs on this node
        trainer = TorchTrainer(
            _worker,
            train_loop_config=asdict(shared),
            torch_config=TorchConfig(),
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=gpu,
                resources_per_worker={"CPU": shared.threads, **({"GPU": 1} if gpu else {})},
                placement_strategy="SPREAD",
            ),
            run_config=RunConfig(
                name="train",
                storage_path=storage,
                failure_config=FailureConfig(max_failures=RETRIES, controller_failure_limit=RETRIES),
                worker_runtime_env={"env_vars": ray_nodes.worker_environment(shared.threads)},
            ),
        )
        return fit(trainer, tuple)


def _worker(config: dict[str, Any]) -> tuple[TrainResult, str] | None:
    import ray.train
    import ray.train.torch
    from ray.train.collective import broadcast_from_rank_zero

    from medmim.lvlm.checkpoint import quiet_transformers

    quiet_transformers()
    shared = SharedJob(**config)
    if errors.exists(shared.folder):
        return None
    context = ray.train.get_context()
    rank = context.get_world_rank()
    job = None

    def on_save(step: int, path: Path | None) -> None:
        if path is not None:
            exchange.upload_checkpoint(shared.folder, path, path.parents[1] / LOSSES)

    try:
        # one worker looks for all: they might find different ones while a dying worker still writes
        checkpoint = broadcast_from_rank_zero(exchange.newest_checkpoint(shared.folder) if rank == 0 else "")
        with wrap_os_errors("fetching what is trained on"):
            job = exchange.fetch_job(shared, rank, checkpoint)
        with wrap_os_errors("training"):
            result = run_worker(job, str(ray.train.torch.get_device()), on_save)
        return (result, exchange.upload_model(shared.folder, Path(job.folder))) if rank == 0 else None
    except Exception as error:
        errors.write(shared.folder, error)
        if context.get_world_size() > 1:
            raise  # the others may be waiting for this one; the new group sees the error and ends
        return None
    finally:
        if job is not None:
            shutil.rmtree(job.folder, ignore_errors=True)
