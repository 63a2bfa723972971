"""Passes what ends a worker to the driver: if it were raised, Ray would take it for a lost worker and retry.

What a lost worker or node causes in the others, and a GPU or link that fails, is raised all the same, and retried.
"""

import json
import traceback

from medmim import store
from medmim.errors import UserError, out_of_memory

_FILE = ".error.json"
_TRACEBACK = "traceback"
_ASSERT = "device-side assert"  # a kernel was called with what it must not be: a fault of ours, the same each time


def write(folder: str, error: Exception, rank: int = 0) -> None:
    """Write what ended a worker into a folder, local or in the store, that driver and workers share.

    Where several fail at once, the first worker's error stands: it alone has written checkpoints and can name one.

    Raises:
        Exception: The error itself, where Ray, another worker or a GPU was lost.
    """
    if isinstance(error, UserError):
        facts = error.as_dict()
    elif _of_a_lost_peer(error) or _of_a_lost_device(error):
        raise error
    else:
        message = f"{type(error).__name__}: {error}"
        facts = {"fact": message, _TRACEBACK: "".join(traceback.format_exception(error))}
    shared, text = store.open_store(folder), json.dumps(facts).encode()
    if rank == 0:
        shared.write(_FILE, text)
    else:
        shared.create(_FILE, text)


def exists(folder: str) -> bool:
    """Whether a worker has written one."""
    return store.open_store(folder).exists(_FILE)


def pop(folder: str) -> Exception | None:
    """Read and delete the error; None where there is none. An exception that was no UserError is a RuntimeError."""
    shared = store.open_store(folder)
    try:
        facts = json.loads(shared.read(_FILE))
    except FileNotFoundError:
        return None
    shared.delete(_FILE)
    if _TRACEBACK not in facts:
        return UserError(**facts)
    error = RuntimeError(f"{facts['fact']} (in a training worker)")
    error.add_note(facts[_TRACEBACK])
    return error


def _of_a_lost_peer(error: Exception) -> bool:
    """Whether Ray or torch.distributed raised it: their messages do not say reliably that a worker was lost."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    module = str(frame.f_globals.get("__name__"))
    if module.startswith("ray."):
        return True
    return isinstance(error, RuntimeError) and module.startswith("torch.distributed") and not out_of_memory(error)


def _of_a_lost_device(error: Exception) -> bool:
    """Whether a GPU failed, or NCCL: CUDA reports it in whichever of our calls comes next, far from where it was."""
    import torch

    if not isinstance(error, RuntimeError) or out_of_memory(error) or _ASSERT in str(error):
        return False
    kinds = torch.AcceleratorError, torch.distributed.DistBackendError
    return isinstance(error, kinds) or any(words in str(error) for words in ("CUDA error", "NCCL"))
