"""Taking an artifact out of a store beside processes that use or publish the very same content.

Whoever is about to use or make an artifact first writes `STORE/used/KIND/DIGEST` and then looks for
`STORE/removing/KIND/DIGEST`. Whoever removes one writes the latter first and then looks how old the former is. Stores
are strongly consistent, so at least one of the two sees the other: a removal spares what was claimed a moment ago, and
no publisher finds "already there" what is half removed, nor puts files where they are still being deleted.
"""

import shutil
import time
from typing import TYPE_CHECKING

from medmim.errors import Unavailable, patience
from medmim.store.folder import FolderStore

if TYPE_CHECKING:
    from medmim.store import Store

MANIFEST = "manifest.json"
USED, REMOVING = "used", "removing"
_REMOVAL = 10.0  # s; taking one artifact away takes less


def claim(store: "Store", name: str) -> None:
    """Say that an artifact is about to be used or made, before looking whether it is there.

    Args:
        store: Where it lies.
        name: `KIND/DIGEST`.

    Raises:
        Unavailable: It is being removed at this moment.
    """
    store.write(f"{USED}/{name}", b"")
    last = time.monotonic() + _REMOVAL + patience()
    while store.exists(f"{REMOVING}/{name}"):
        if time.monotonic() > last:
            raise Unavailable(
                f"{store.uri}/{name} is being removed",
                reason="`medmim gc` or `medmim data erase` is at it, or was killed while it was",
                fix="wait for it, or let `medmim gc --yes` finish it; then run the same command again",
            )
        time.sleep(0.5)


def remove(store: "Store", name: str, used_before: float | None = None) -> bool:
    """Remove an artifact, its manifest first; killed at any moment, the next call ends it. One caller at a time.

    Args:
        store: Where it lies.
        name: `KIND/DIGEST`.
        used_before: Spare it where it was claimed at or after this time (s since 1970); None removes it all the same.

    Returns:
        False where it was spared.
    """
    store.write(f"{REMOVING}/{name}", b"")
    used, _ = store.ages(f"{USED}/{name}").get(f"{USED}/{name}", (0.0, 0))
    spared = used_before is not None and used >= used_before
    if not spared:
        store.delete(f"{name}/{MANIFEST}")
        clear(store, name)
        store.delete(f"{USED}/{name}")
    store.delete(f"{REMOVING}/{name}")
    return not spared


def finish(store: "Store", used_before: float | None = None) -> None:
    """End the removals that a kill cut off; what had lost nothing yet stays."""
    for key in list(store.list(f"{REMOVING}/")):
        name = key.partition("/")[2]
        if store.exists(f"{name}/{MANIFEST}"):
            store.delete(key)
        else:
            remove(store, name, used_before)


def clear(store: "Store", name: str, last: str = "") -> None:
    """Delete everything below a name; the object `last` after all others."""
    for key in sorted(store.list(f"{name}/"), key=lambda key: key == f"{name}/{last}"):
        store.delete(key)
    if isinstance(store, FolderStore):
        shutil.rmtree(store.root / name, ignore_errors=True)  # empty folders, and files that a kill left in the making
