"""One image of a published data set, wherever it lies: by an index (`run.index`) of where each is stored.

Of a data set in S3, the index reads ids alone, and an image its row group: 1 MiB, never the data set.
"""

import sqlite3
from collections.abc import Callable, Iterable

from medmim import shards, store
from medmim.errors import UserError
from medmim.run import index
from medmim.run.workspace import Workspace
from medmim.shards import Place
from medmim.store import Artifact

_SCHEMA = "CREATE TABLE images (id TEXT PRIMARY KEY, file TEXT, part INTEGER, row INTEGER) WITHOUT ROWID;"
_KINDS = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


def stored(ws: Workspace, data: Artifact, names: Iterable[str]) -> dict[str, Place]:
    """Those of some image ids that a data set has, and where each is stored.

    Args:
        ws: The workspace.
        data: The data set.
        names: Image ids.

    Raises:
        index.NotReady: The index is being made; ask again.
        UserError: The data set has no pixels, or is damaged.
    """
    found = {}
    with index.opened(ws.home, data, index.Form("images 1", _SCHEMA, _fill)) as connection:
        for name in dict.fromkeys(names):
            row = connection.execute("SELECT file, part, row FROM images WHERE id = ?", (name,)).fetchone()
            if row:
                found[name] = Place(*row)
    return found


def read(data: Artifact, place: Place) -> tuple[bytes, str]:
    """An image as it is stored, and its type: `image/png` or `image/jpeg`.

    Args:
        data: The data set.
        place: From `stored`.

    Raises:
        UserError: It is damaged.
    """
    with store.ranged(data) as ranged:
        found = shards.stored_at(data.uri, place, data.files[place.file]["bytes"], ranged)
    kind = next((kind for begin, kind in _KINDS.items() if found.startswith(begin)), "")
    if not kind:
        raise UserError(
            f"an image of {data.uri}/{place.file} is neither PNG nor JPEG",
            reason=f"row {place.row} of its row group {place.group} begins with {found[:8]!r}",
            fix="the file is damaged: build the data set again",
        )
    return found, kind


def _fill(data: Artifact, connection: sqlite3.Connection, tell: Callable[[float], None]) -> None:
    sizes = {name: facts["bytes"] for name, facts in data.files.items()}
    with store.ranged(data) as ranged:
        for name, place in shards.image_places(data.uri, sizes, ranged):
            row = (name, place.file, place.group, place.row)
            connection.execute("INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?)", row)
    tell(1.0)
