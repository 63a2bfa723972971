"""The data sets that a command of `bench` asks about."""

import json

from medmim import hints, store
from medmim.errors import UserError
from medmim.run.workspace import Workspace


def newest(ws: Workspace) -> str:
    """URI of the data set of the store that was built last.

    Raises:
        UserError: There is none.
    """
    found = newest_if_any(ws)
    if found is None:
        raise UserError(
            f"there is no data set in {ws.store}",
            fix=f"build one with `{hints.command('data', 'build', 'RECIPE')}`, or give --data URI",
        )
    return found


def newest_if_any(ws: Workspace) -> str | None:
    """URI of the data set of the store that was built last; None where there is none."""
    where = store.open_store(ws.store)
    keys = [key for key in where.list("data/") if key.endswith(f"/{store.PROVENANCE}")]
    if not keys:
        return None
    last = max(keys, key=lambda key: (json.loads(where.read(key))["time"], key))
    return f"{where.uri}/{last.rpartition('/')[0]}"
