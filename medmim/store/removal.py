"""Removes artifacts from a store safely while other processes use or publish the same content.

A process that is about to use or publish an artifact first writes `STORE/used/KIND/DIGEST` and then checks for
`STORE/removing/KIND/DIGEST`. A process that removes one writes the latter first and then checks the age of the former.
Stores are strongly consistent, so at least one of the two sees the other: a removal spares what was claimed a moment
ago, and no publisher takes a half-removed artifact for an existing one or writes files while they are being deleted.
"""

import shutil
import time

from medmim import hints
from medmim.errors import Unavailable, patience
from medmim.store.folder import FolderStore
from medmim.store.interface import Store

MANIFEST = "manifest.json"
USED, REMOVING = "used", "removing"
INVENTORY = f"{REMOVING}/inventory.json.gz"  # what garbage collection has read; here, since no step may write here
LOCK = f"{REMOVING}/lock"  # turns of what removes, as `run.step_lock` has them; here for the same reason
_REMOVAL = 10.0  # s; removing one artifact takes less


def claim(store: Store, name: str) -> None:
    """Announce that an artifact is about to be used or published, before checking whether it exists.

    Args:
        store: The store that holds it.
        name: `KIND/DIGEST`.

    Raises:
        Unavailable: It is being removed, and the removal does not end.
    """
    store.write(f"{USED}/{name}", b"")
    last = time.monotonic() + _REMOVAL + patience()
    while store.exists(f"{REMOVING}/{name}"):
        if time.monotonic() > last:
            raise Unavailable(
                f"{store.uri}/{name} is being removed",
                reason="`medmim gc` or `medmim data erase` is running, or was killed while it removed this artifact",
                fix=f"wait until it ends, or let `{hints.command('gc', '--yes')}` finish it; "
                "then run the same command again",
            )
        time.sleep(0.5)


def remove(store: Store, name: str, used_before: float | None = None) -> bool:
    """Remove an artifact, its manifest first; if killed, the next call finishes it. One caller at a time.

    Callers hold `LOCK`: of two, the first would take away the mark, and the second delete what was published since.

    Args:
        store: The store that holds it.
        name: `KIND/DIGEST`.
        used_before: Spare it if it was claimed at or after this time (s since 1970); None removes it in any case.

    Returns:
        False if it was spared.
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


def finish(store: Store, used_before: float | None = None) -> None:
    """Finish removals that were killed midway; an artifact that still has its manifest is kept."""
    for key in list(store.list(f"{REMOVING}/")):
        if key == INVENTORY or key.startswith(f"{LOCK}/"):
            continue
        name = key.partition("/")[2]
        if store.exists(f"{name}/{MANIFEST}"):
            store.delete(key)
        else:
            remove(store, name, used_before)


def clear(store: Store, name: str, last: str = "", written_before: float | None = None) -> bool:
    """Delete everything below `name`; the object `last` after all others.

    Args:
        store: The store that holds it.
        name: The common prefix of its keys.
        last: Name of an object below it.
        written_before: Spare it all if any of it was written at or after this time (s since 1970).

    Returns:
        False if it was spared.
    """
    if written_before is not None and any(when >= written_before for when, _ in store.ages(f"{name}/").values()):
        return False
    for key in sorted(store.list(f"{name}/"), key=lambda key: key == f"{name}/{last}"):
        store.delete(key)
    if isinstance(store, FolderStore):
        shutil.rmtree(store.root / name, ignore_errors=True)  # empty folders, and partial files of killed processes
    return True
