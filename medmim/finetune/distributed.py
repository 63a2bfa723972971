"""Several workers in one training: rank and world size, and gradients summed over the workers.

Gradients are summed by hand, not by DistributedDataParallel: workers may have different numbers of rows (even none), a
text-only step leaves the vision tower out, and the mean must be over tokens, not over workers.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from medmim.errors import UserError

# While one worker waits for the upload of the checkpoint before, the others wait in the next step
TIMEOUT = timedelta(hours=1)
_BUCKET = 1 << 25  # numbers that one all-reduce sums


@contextmanager
def process_group(always: bool = False) -> Iterator[tuple[int, int]]:
    """Rank and world size: of the group that exists (Ray), of torchrun's environment, or 0 and 1 without either.

    Args:
        always: Create a group also for one worker alone, as DeepSpeed needs it.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if dist.is_initialized():
        yield dist.get_rank(), dist.get_world_size()
        return
    if not (several or always):
        yield 0, 1
        return
    with TemporaryDirectory() as folder:
        if several:
            join("env://")
        else:
            join(f"file://{folder}/meet", 0, 1)
        try:
            yield dist.get_rank(), dist.get_world_size()
        finally:
            dist.destroy_process_group()


def join(rendezvous: str, rank: int = -1, world: int = -1) -> None:
    """Create the process group.

    Args:
        rendezvous: Where the workers meet, such as `env://` or `file://PATH`.
        rank: This worker; by default what the environment says.
        world: Number of workers; likewise.
    """
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, rendezvous, TIMEOUT, world_size=world, rank=rank)


def pick_device(name: str, environ: Mapping[str, str], gpus: int) -> str:
    """The device of this worker: torchrun starts one for each GPU and numbers them by LOCAL_RANK.

    Args:
        name: `auto` to choose, or a device.
        environ: The process's environment.
        gpus: GPUs of this machine that the process may use.

    Raises:
        UserError: LOCAL_RANK is no number, or there are fewer GPUs.
    """
    if name not in ("auto", "cuda"):
        return name
    if not gpus:
        return "cpu"
    text = environ.get("LOCAL_RANK", "0")
    if not text.isdecimal() or int(text) >= gpus:
        raise UserError(
            f"LOCAL_RANK is {text}, but this machine has {gpus} GPU{'s' * (gpus > 1)}",
            reason="each worker needs a GPU of its own, numbered from 0",
            fix=f"start at most {gpus} worker{'s' * (gpus > 1)} on a machine: torchrun --nproc-per-node {gpus}",
        )
    return f"cuda:{int(text)}"


def check_gpus(device: str) -> None:
    """Check that the workers have GPUs of one kind: the fast ones would wait in each step, and the plan is for one.

    Raises:
        UserError: They have not.
    """
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, name)
    if len(set(found)) > 1:
        raise UserError(
            "the workers have GPUs of different kinds",
            reason="in each step the faster ones would wait for the others",
            fix="set platform.pods.accelerator to one kind, or start on machines of one kind",
            problems=[f"worker {rank}: {kind}" for rank, kind in enumerate(found)],
        )


def sum_counts(counts: list[int], device: torch.device) -> list[int]:
    """Sums of some counts over all workers."""
    total = torch.tensor(counts, device=device)
    dist.all_reduce(total)
    summed: list[int] = total.tolist()
    return summed


def sum_numbers(numbers: list[float], device: torch.device) -> list[float]:
    """Sums of some numbers over all workers."""
    total = torch.tensor(numbers, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    summed: list[float] = total.tolist()
    return summed


def largest(count: int, device: torch.device) -> int:
    """The largest of the workers' counts."""
    found = torch.tensor(count, device=device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


def wait_for_all() -> None:
    """Wait until every worker has come here."""
    dist.barrier()


def sum_gradients(params: list[Any], loss: Tensor) -> None:
    """Sum `.grad` of every parameter, and the loss, over all workers, in place.

    A parameter that no worker used stays without gradient, as it would on one worker.
    """
    used = torch.tensor([p.grad is not None for p in params], dtype=torch.int32, device=loss.device)
    dist.all_reduce(used)
    dist.all_reduce(loss)
    bucket: list[Any] = []
    for param, workers_that_used_it in zip(params, used.tolist(), strict=True):
        if not workers_that_used_it:
            continue
        if param.grad is None:
            param.grad = torch.zeros_like(param)
        bucket.append(param.grad)
        if sum(grad.numel() for grad in bucket) >= _BUCKET:
            _sum_bucket(bucket)
            bucket = []
    if bucket:
        _sum_bucket(bucket)


def _sum_bucket(grads: list[Tensor]) -> None:
    flat = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(flat)
    for grad, part in zip(grads, torch.split(flat, [grad.numel() for grad in grads]), strict=True):
        grad.copy_(part.view_as(grad))
