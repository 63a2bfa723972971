"""One training worker: loads the base, builds its batches, trains. The same bare, under torchrun and under Ray."""

import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import torch

from medmim import progress, shards
from medmim.errors import Unavailable
from medmim.finetune import loop, memory_plan, trainable, validation
from medmim.finetune.batch import Batch
from medmim.finetune.distributed import check_gpus, pick_device, process_group
from medmim.finetune.engines.engine import Engine
from medmim.finetune.examples import Examples
from medmim.finetune.loader import loader, total_steps
from medmim.finetune.preemption import on_sigterm
from medmim.finetune.record import TrainResult
from medmim.finetune.validation import Validated
from medmim.lvlm import llava, memory
from medmim.recipe.schema import Finetune

EXAMPLES, DEV = ".examples.safetensors", ".dev.safetensors"
_PATIENCE, _LOOK_EVERY = 60.0, 1.0  # s


@dataclass(frozen=True)
class Job:
    """A training as plain values, so that it crosses process borders.

    On a cluster the driver's job has the base, data and folder that all nodes share; `ray.exchange.fetch_job` makes a
    worker's own of it.

    Attributes:
        base: Folder of the base, or a shipped base or the URI of a model.
        data: Folder of the data set, or its URI.
        folder: Receives the model; holds `EXAMPLES`, and `DEV` where there are dev items. Or
            `STORE/resume/finetune-KEY`.
        settings: `Finetune` as JSON.
        threads: CPU threads of a worker.
    """

    base: str
    data: str
    folder: str
    settings: str
    threads: int


def run_worker(
    job: Job,
    device: str = "auto",
    on_save: Callable[[int, Path], None] | None = None,
    on_step: Callable[[Mapping[str, Any]], None] | None = None,
    stop: Event | None = None,
    fetch: Callable[[int], Path] | None = None,
) -> TrainResult:
    """Train; every worker calls this.

    Args:
        job: The training.
        device: `auto` is the GPU that LOCAL_RANK numbers, where there is one.
        on_save: As for `loop.train`.
        on_step: As for `loop.train`.
        stop: As for `loop.train`; SIGTERM sets it, where this is the main thread.
        fetch: As for `loop.train`.

    Raises:
        UserError: See `loop.train` and `distributed.pick_device`; or an image does not decode.
        Unavailable: Other processes hold memory of the GPU that the training needs.
    """
    device = pick_device(device, os.environ, torch.cuda.device_count())
    if device.startswith("cuda"):
        torch.cuda.set_device(device)  # before anything touches CUDA: it would take memory of GPU 0
    torch.set_num_threads(job.threads)
    settings = Finetune.model_validate_json(job.settings)
    folder = Path(job.folder)
    examples = Examples.load(folder / EXAMPLES)
    validated = settings.validation.items > 0 and (folder / DEV).is_file()
    dev = Examples.load(folder / DEV) if validated else None
    shown = len(examples.images) or (dev is not None and len(dev.images))
    images: Mapping[str, Any] = shards.Images(Path(job.data)) if shown else {}
    if settings.zero:  # DeepSpeed takes the device that it numbers
        os.environ["LOCAL_RANK"] = str(torch.device(device).index or 0)
    stop = stop or Event()
    with on_sigterm(stop.set), process_group(always=bool(settings.zero)) as (rank, world):
        if world > 1:
            check_gpus(device)
        check_memory(Path(job.base), settings, examples, device, world)
        lvlm = trainable.load(Path(job.base), settings, device)
        with ExitStack() as opened:

            def batches(of: Examples) -> Callable[[int], Batch]:
                return opened.enter_context(
                    loader(lvlm, of, images, settings, rank, world, threads=job.threads, data=job.data)
                )

            def validate(engine: Engine, step: int) -> Validated:
                return validation.measure(engine, dev_at, dev_batches, step, rank, world)

            batch_at = batches(examples)
            if dev is not None:
                dev_at, dev_batches = batches(dev), math.ceil(len(dev) / settings.batch_size)
            return loop.train(
                lvlm,
                batch_at,
                total_steps(settings, len(examples)),
                settings,
                folder,
                on_step=on_step,
                on_save=on_save,
                stop=stop,
                validate=None if dev is None else validate,
                fetch=fetch,
                rank=rank,
                world=world,
            )


def check_memory(base: Path, settings: Finetune, examples: Examples, device: str, world: int) -> None:
    """Refuse a training that does not fit into this worker's device, or into the memory that it shares.

    Raises:
        UserError: With the parts, what there is, and the nearest setting that fits.
        Unavailable: It would fit into the GPU, but other processes hold too much of that.
    """
    config = llava.load_config(base)
    gpu = device.startswith("cuda")
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    has = f"{torch.cuda.get_device_name(device)} or its machine" if gpu else "this machine"
    row = memory_plan.largest_row(examples, settings, world)
    bf16 = trainable.computes_in_bf16(settings, device)
    room = memory_plan.Room(torch.cuda.mem_get_info(device)[1] if gpu else None, memory.of_machine(), has)
    memory_plan.check(config, settings, world, row, room, gpu=gpu, bf16=bf16, sharing=sharing)
    if not gpu:
        return
    for quick in (True, False):
        needed = memory_plan.need(config, settings, world, row, gpu=gpu, bf16=bf16, quick=quick).device
        if needed <= torch.cuda.mem_get_info(device)[0]:
            return
    _wait_for_memory(needed, device)


def _wait_for_memory(needed: int, device: str) -> None:
    """Wait until so many bytes of a GPU are free: a process that was just killed holds its own for some seconds.

    Raises:
        Unavailable: They are not, after `_PATIENCE`.
    """
    progress.say(f"waiting for memory of {device} that other processes hold")
    last = time.monotonic() + _PATIENCE
    while (free := torch.cuda.mem_get_info(device)[0]) < needed:
        if time.monotonic() > last:
            total = torch.cuda.mem_get_info(device)[1]
            raise Unavailable(
                f"of {device} {memory_plan.gib(free)} of {memory_plan.gib(total)} are free, "
                f"and a worker needs {memory_plan.gib(needed)}",
                reason=f"other processes hold the rest, for {_PATIENCE:.0f} s since this worker has begun to wait",
                fix="end them (`nvidia-smi` lists them), then run the same command again",
            )
        time.sleep(_LOOK_EVERY)
