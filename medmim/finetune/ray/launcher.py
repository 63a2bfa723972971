"""Trains with Ray Train: in a private session on this machine, or on nodes of a cluster that share only the store."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from medmim import progress, ray_nodes
from medmim.errors import Unavailable, wrap_os_errors
from medmim.finetune import distributed, preemption, validation
from medmim.finetune.pace import Preempted
from medmim.finetune.ray import errors, exchange
from medmim.finetune.ray.session import FOLDER, session
from medmim.finetune.record import LOSSES, TrainResult
from medmim.finetune.worker import Job, run_worker
from medmim.recipe.schema import Finetune
from medmim.tracking import curves

RETRIES = 2  # lost workers that a training survives


@dataclass(frozen=True)
class Tracked:
    """The MLflow run that the first worker logs to: MLflow's tracking URI, and the run's id."""

    tracking: str
    run: str


def launch(
    job: Job, folder: Path, workers: int, home: Path, address: str = "local", tracked: Tracked | None = None
) -> TrainResult:
    """Train with Ray and wait for the end; a lost worker resumes from the newest checkpoint.

    Where a node of the cluster leaves, all workers save first, and go on when another node has joined.

    Args:
        job: The training. On a cluster base and data are references, and its folder is `exchange.shared_folder`'s,
            with the examples in it.
        folder: Gets the finished files.
        workers: How many, each with `job.threads` CPUs, and a GPU where there are any.
        home: Gets Ray's HOME; else a session on this machine writes only a temporary folder, and removes it.
        address: `local`, or of a cluster: `auto` or `HOST:6379`.
        tracked: Where the first worker of a cluster logs the training as it goes on.

    Raises:
        UserError: What a worker raised; after SIGTERM, that it has saved and stopped (exit code 75).
        NodeLeaves: The same, because the driver's own node leaves the cluster.
        RuntimeError: A worker raised an exception that nobody expects; it is not retried.
        Unavailable: Workers were lost more than RETRIES times, too few joined, or the cluster does not answer.
    """
    with _nodes(address, workers, job.threads, home) as gpu:
        while (outcome := _fit(job, workers, gpu, address != "local", home, tracked)) is None:
            progress.say("a node leaves the Ray cluster: the training goes on when there is another one")
    if isinstance(outcome, Exception):
        raise outcome
    result, uri = outcome
    if uri:
        exchange.download_model(uri, folder)
    return result


@contextmanager
def _nodes(address: str, workers: int, cpus: int, home: Path) -> Iterator[bool]:
    """Ray with room for the workers inside the block; whether each gets a GPU."""
    if address == "local":
        import torch

        with session(home, workers):
            yield torch.cuda.is_available()
        return
    # a worker's pod that is replaced may take as long as its first one
    patience = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(ray_nodes.join_timeout())}
    with ray_nodes.environment(patience), ray_nodes.joined(address):
        gpu = ray_nodes.wait_for_workers(workers, cpus)
        progress.say(f"training on {workers} worker{'s' * (workers > 1)} of the Ray cluster")
        yield gpu


def _fit(
    job: Job, workers: int, gpu: bool, on_cluster: bool, home: Path, tracked: Tracked | None
) -> tuple[TrainResult, str] | Exception | None:
    """What the first worker returned, or the error that ended the training; None where a node of a worker leaves."""
    from ray.exceptions import RayError
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.backend import Backend
    from ray.train.torch import TorchConfig, TorchTrainer

    class Loopback(TorchConfig):  # type: ignore[misc]  # Ray's own rendezvous listens on every address
        @property
        def backend_cls(self) -> Any:
            return Backend

    errors.pop(job.folder)  # left by a driver that died
    preemption.forget(job.folder)
    # of Ray's controller, which runs on this node; of a private session below its folder, which the next one sweeps
    with tempfile.TemporaryDirectory(prefix="medmim-train-", dir=os.environ.get(FOLDER)) as storage:
        trainer = TorchTrainer(
            _worker,
            train_loop_config={
                "job": asdict(job),
                "on_cluster": on_cluster,
                "tracked": tracked and asdict(tracked),
            },  # fmt: skip
            torch_config=TorchConfig(timeout_s=int(distributed.TIMEOUT.total_seconds())) if on_cluster else Loopback(),
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=gpu,
                resources_per_worker={"CPU": job.threads if on_cluster else 1, **({"GPU": 1} if gpu else {})},
                placement_strategy="SPREAD",
            ),
            run_config=RunConfig(
                name="train",
                storage_path=storage,
                failure_config=FailureConfig(max_failures=RETRIES, controller_failure_limit=RETRIES),
                worker_runtime_env={"env_vars": ray_nodes.worker_environment(job.threads)} if on_cluster else None,
            ),
        )
        trainer._register_sigint_handler = lambda controller: None  # Ray's own ends the process, with exit code 0
        lost: Exception
        stop = partial(preemption.ask, job.folder)
        with (
            preemption.on_sigterm(stop) as told,
            ray_nodes.leaving(home, stop) if on_cluster else nullcontext(Event()) as left,
        ):
            try:
                returned = trainer.fit().return_value
                lost = RuntimeError("the first worker returned nothing")
            except (TrainingFailedError, RayError) as error:
                returned, lost = None, error
    preemption.forget(job.folder)
    failed = errors.pop(job.folder)
    if failed is None and isinstance(returned, dict):
        if told.is_set():
            return Unavailable(**returned)
        return ray_nodes.NodeLeaves(**returned) if left.is_set() else None
    return failed or returned or _workers_lost(lost)


def _workers_lost(error: Exception) -> Unavailable:
    return Unavailable(
        "the training lost its workers",
        reason=str(error).strip().splitlines()[-1][:300],
        fix="run the same command again: it resumes from the newest checkpoint",
    )


def _worker(config: dict[str, Any]) -> tuple[TrainResult, str] | dict[str, str] | None:
    """Train; where all workers have saved and stopped, returns that error's arguments; where one failed, nothing."""
    import ray.train
    import ray.train.torch

    from medmim.lvlm.llava import quiet_transformers

    quiet_transformers()
    job = Job(**config["job"])
    if errors.exists(job.folder):
        return None
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = str(ray.train.torch.get_device())
    os.environ["LOCAL_WORLD_SIZE"] = str(context.get_local_world_size())  # they share the memory of the machine
    try:
        if not config["on_cluster"]:
            _meet_in_a_file(rank, world)
            with wrap_os_errors("training"), _told_to_stop(job, rank) as stop:
                return run_worker(job, device, stop=stop), ""
        tracked = Tracked(**config["tracked"]) if config["tracked"] and rank == 0 else None
        return _train_on_node(job, rank, world, device, tracked)
    except Preempted as error:
        return {"fact": error.fact, "reason": error.reason, "fix": error.fix}
    except Exception as error:  # the driver reads it from there: Ray hands on a text, not what kind of error it is
        errors.write(job.folder, error, rank)
        if world > 1:
            raise  # the others may be waiting for this one; the new group sees the error and ends
        return None


def _train_on_node(job: Job, rank: int, world: int, device: str, tracked: Tracked | None) -> tuple[TrainResult, str]:
    """Train in a folder of this node; checkpoints and, in the end, the model go to the store."""
    from ray.train.collective import broadcast_from_rank_zero

    # one worker looks for all: they might find different ones while a dying worker still writes
    newest = broadcast_from_rank_zero(exchange.newest_checkpoint(job.folder) if rank == 0 else "")
    group = broadcast_from_rank_zero(secrets.token_hex(4))
    settings, protected = Finetune.model_validate_json(job.settings), set[int]()
    keep = settings.keep_checkpoints
    with wrap_os_errors("fetching what is trained on"):
        own = exchange.fetch_job(job, rank, newest)
    losses = Path(own.folder) / LOSSES

    def save(step: int, path: Path) -> None:
        known = validation.read(losses.with_name(validation.VALIDATION))
        best = validation.best([one for one in known if one.step <= step])  # a later one is not in the store yet
        stay = {best.step} if best is not None and settings.keep == "best" else set()
        protected.update(stay)
        uploads.begin(step, path, losses)
        protected.intersection_update(stay)  # only now: the upload before has removed what was not protected

    def fetch(step: int) -> Path:
        uploads.finish()
        if world > 1:
            distributed.wait_for_all()  # the first worker has seen the files of all
        return exchange.fetch_checkpoint(job.folder, step)

    try:
        home = ray_nodes.node_workspace(job.folder).home
        with (
            wrap_os_errors("training"),
            exchange.Uploads(job.folder, group, rank, world, keep, protected) as uploads,
            _told_to_stop(job, rank) as stop,
            ray_nodes.leaving(home, stop.set),
            _logged(job, Path(own.folder), tracked),
        ):
            try:
                result = run_worker(own, device, save, stop=stop, fetch=fetch)
            except Preempted:
                uploads.finish()
                raise
            return result, exchange.upload_model(job.folder, Path(own.folder)) if rank == 0 else ""
    finally:
        shutil.rmtree(own.folder, ignore_errors=True)


def _logged(job: Job, folder: Path, tracked: Tracked | None) -> AbstractContextManager[object]:
    """Logs what the first worker writes, as it writes it."""
    if tracked is None:
        return nullcontext()
    home = str(ray_nodes.node_workspace(job.folder).home)
    return curves.following(curves.Followed(home, job.folder, tracked.tracking, str(folder), tracked.run))


def _told_to_stop(job: Job, rank: int) -> AbstractContextManager[Event]:
    """The event for `run_worker`; one worker looks for all."""
    return nullcontext(Event()) if rank else preemption.watching(job.folder)


def _meet_in_a_file(rank: int, world: int) -> None:
    """Join the other workers of this machine through a file, so that nothing listens beyond loopback."""
    if world == 1:
        return
    from ray.train.collective import broadcast_from_rank_zero

    # a new one for each group: the file of a group that broke would confuse the next
    file = broadcast_from_rank_zero(tempfile.mktemp(prefix="meet-", dir=os.environ[FOLDER]))  # noqa: S306
    distributed.join(f"file://{file}", rank, world)
