"""Passes what ends a worker to the driver: if it were raised, Ray would take it for a lost worker and retry.

What a lost worker or node causes in the others is raised all the same, and retried.
"""

import json
import traceback

from medmim import store
from medmim.errors import UserError

_FILE = ".error.json"
_TRACEBACK = "traceback"


def write(folder: str, error: Exception, rank: int = 0) -> None:
    """Write what ended a worker into a folder, local or in the store, that driver and workers share.

    Where several fail at once, the first worker's error stands: it alone has written checkpoints and can name one.

    Raises:
        Exception: The error itself, where Ray or another worker was lost.
    """
    if isinstance(error, UserError):
        facts = error.as_dict()
    elif _of_a_lost_peer(error):
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
    return module.startswith("ray.") or (isinstance(error, RuntimeError) and module.startswith("torch.distributed"))
