"""A worker's UserError on its way to the driver: raised, Ray would take it for a lost worker and try again."""

import json

from medmim import store
from medmim.errors import UserError

_FILE = ".error.json"


def write(place: str, error: UserError) -> None:
    """Leave an error in a folder or store that driver and workers share."""
    store.open_store(place).write(_FILE, json.dumps(error.as_dict()).encode())


def there(place: str) -> bool:
    """Whether a worker has left one."""
    return store.open_store(place).exists(_FILE)


def take(place: str) -> UserError | None:
    """The error, which is gone from there afterwards."""
    where = store.open_store(place)
    try:
        error = UserError(**json.loads(where.read(_FILE)))
    except FileNotFoundError:
        return None
    where.delete(_FILE)
    return error
