"""Passes a worker's UserError to the driver: if it were raised, Ray would take it for a lost worker and retry."""

import json

from medmim import store
from medmim.errors import UserError

_FILE = ".error.json"


def write(folder: str, error: UserError) -> None:
    """Write an error into a folder, local or in the store, that driver and workers share."""
    store.open_store(folder).write(_FILE, json.dumps(error.as_dict()).encode())


def exists(folder: str) -> bool:
    """Whether a worker has written one."""
    return store.open_store(folder).exists(_FILE)


def pop(folder: str) -> UserError | None:
    """Read and delete the error; None where there is none."""
    shared = store.open_store(folder)
    try:
        error = UserError(**json.loads(shared.read(_FILE)))
    except FileNotFoundError:
        return None
    shared.delete(_FILE)
    return error
