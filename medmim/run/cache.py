"""The step cache: `step_key` computes the key, `cached_step` finds a finished step by it, or makes or resumes it."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medmim import hints, store
from medmim.errors import TRY_AGAIN, Unavailable, UserError, wrap_os_errors
from medmim.progress import say
from medmim.recipe.schema import Recipe
from medmim.run.lock import locked, remove_idle
from medmim.run.provenance import provenance
from medmim.run.step_lock import Held, is_held, step_lock
from medmim.run.workspace import Workspace
from medmim.sample import digest_of
from medmim.store import Artifact
from medmim.store.removal import claim
from medmim.terms import UNKNOWN, Terms

_entered = threading.local()


def cached_step(
    ws: Workspace,
    name: str,
    revision: int,
    section: Any,
    parents: Mapping[str, str],
    make: Callable[[Path], Mapping[str, Any]],
    kind: str = "",
    recipe: Recipe | None = None,
    terms: Terms = UNKNOWN,
    more: Mapping[str, Any] | None = None,
    clear: Callable[[], None] | None = None,
) -> tuple[Artifact, bool]:
    """The artifact of this step, found by its key or made now, by one process at a time (`step_lock`).

    Args:
        ws: The workspace.
        name: Step name.
        revision: Bumped when the step's bytes change for equal settings.
        section: The settings that decide the content; JSON-able.
        parents: Name -> digest of what goes in.
        make: Fills a folder and returns the manifest's counts. The folder outlives a kill: the next try gets it
            with what is in it, so that `make` can resume. Names that start with `.` and the folder `resume/` are
            for that and are not published.
        kind: First part of the artifact's address; the step name by default.
        recipe: Written to `provenance.json`.
        terms: Of all that goes in; written to `provenance.json`, too.
        more: For `provenance.json`; read after `make`, which may fill it.
        clear: Removes what `make` has left in the store to resume from.

    Returns:
        The artifact, and whether it was found.

    Raises:
        UserError: Whatever `make` raises.
        Unavailable: Another process has taken this step over, or runs it in this very folder; or the store does not
            answer. What is done so far is kept.
    """
    key = step_key(name, revision, section, parents)
    kind = kind or name
    known = finished(ws, name, key, kind)
    if known is not None:
        # left by a kill between the last lines of this function; what somebody still works with stays his
        folder = _folder(ws, name, key)
        remove_idle(folder)
        if clear is not None and not is_held(store.open_store(ws.store), folder.name):
            clear()
        return known, True
    with working(ws, name, key) as (folder, lock):
        known = finished(ws, name, key, kind)  # by the process that had the lock
        if known is not None:
            return known, True
        folder.mkdir(exist_ok=True)
        counts = make(folder)
        made_from = {**provenance(name, revision, parents, recipe, terms), **(more or {})}
        lock.check()
        artifact = store.publish(folder, ws.store, kind, counts, made_from)
        lock.check()
        remember(ws, name, key, artifact)
        shutil.rmtree(folder, ignore_errors=True)
        if clear is not None:
            lock.check()  # whoever takes the lock from now on finds the step finished, and needs nothing of it
            clear()
    return artifact, False


@contextmanager
def working(ws: Workspace, name: str, key: str) -> Iterator[tuple[Path, Held]]:
    """The folder in which the step of this key is made, for this process alone, and its lock; waits for others.

    The folder need not exist. Within the block, the same thread may enter it again.

    Raises:
        Unavailable: Another process has taken the step over, or works in this very folder, on another store; or the
            disk is full.
    """
    folder = _folder(ws, name, key)
    mine: dict[Path, Held] = vars(_entered).setdefault("mine", {})
    if folder in mine:
        yield folder, mine[folder]
        return

    def busy(holder: str) -> UserError:
        return Unavailable(f"{holder} is running this very step in {folder}", fix="wait for it, or give another --home")

    with (
        wrap_os_errors(f"running the step {name}"),
        step_lock(store.open_store(ws.store), folder.name, ws.run) as lock,
    ):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder, busy):
            mine[folder] = lock
            try:
                yield folder, lock
            finally:
                del mine[folder]


def _folder(ws: Workspace, name: str, key: str) -> Path:
    return ws.home / "work" / f"{name}-{key[:16]}"


def step_key(name: str, revision: int, section: Any, parents: Mapping[str, str]) -> str:
    """Key of a finished step: its name, revision, own settings and its parents' digests."""
    settings = json.dumps(section, sort_keys=True)
    return digest_of([name, str(revision), settings, *(f"{k}={parents[k]}" for k in sorted(parents))])


def remember(ws: Workspace, name: str, key: str, artifact: Artifact) -> None:
    """Let `finished` find an artifact by a key. The first one stays, as long as it exists: no other replaces it."""
    place, index = store.open_store(ws.store), _index(name, key)
    text = json.dumps({"digest": artifact.digest}).encode()
    if place.create(index, text) or (known := _indexed(place, index)) in ("", artifact.digest):
        return
    if store.find(f"{ws.store}/{artifact.kind}/{known}") is not None:
        say(f"{index} names {known[:12]}, which this step made before: {artifact.digest[:12]} is not found by it")
        return
    try:
        place.delete(index)  # a step on a cluster may not
    except UserError as error:
        if error.exit_code == TRY_AGAIN:
            raise
        say(
            f"{index} names {known[:12]}, which is gone: the step is run again until `{hints.command('gc')}` removes it"
        )
    else:
        place.create(index, text)


def finished(ws: Workspace, name: str, key: str, kind: str = "") -> Artifact | None:
    """The artifact that the step of this key made; None where it did not finish."""
    place = store.open_store(ws.store)
    digest = _indexed(place, _index(name, key))
    if not digest:
        return None
    claim(place, f"{kind or name}/{digest}")
    return store.find(f"{ws.store}/{kind or name}/{digest}")  # the index holds no address, so that a store can be moved


def made_before(ws: Workspace, name: str, key: str, kind: str = "") -> Artifact | None:
    """As `finished`, for who only looks: it is not marked as used, which takes the right to write."""
    digest = _indexed(store.open_store(ws.store), _index(name, key))
    return store.find(f"{ws.store}/{kind or name}/{digest}") if digest else None


def _indexed(place: store.Store, index: str) -> str:
    """The digest that an entry of the index names; empty where there is none."""
    try:
        return str(json.loads(place.read_unchanged(index))["digest"])
    except FileNotFoundError:
        return ""


def _index(name: str, key: str) -> str:
    return f"steps/{name}/{key}.json"
