"""A training whose workers share no disk: what they need and what they make goes through the store.

    STORE/resume/finetune-KEY/examples.safetensors, quarantine.jsonl    what is trained on
    STORE/resume/finetune-KEY/step-00000100/DIGEST/                     a checkpoint, with losses.jsonl up to it
    STORE/resume/finetune-KEY/model/DIGEST/                             the finished files, on their way to the driver

Checkpoints are artifacts: their manifest comes last, so a half one is none. There is no pointer to the newest, which a
worker that was taken for dead could set back: the newest is the one of the highest step.
"""

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from medmim import ray_nodes, store
from medmim.finetune.record import LOSSES
from medmim.finetune.worker import EXAMPLES, Job
from medmim.lvlm.checkpoint import resolve
from medmim.run.workspace import Workspace
from medmim.store.folder import FolderStore

_KEEP = 2  # the newest, and the one that a new group of workers may just be fetching
_EXAMPLES, _QUARANTINE = "examples.safetensors", "quarantine.jsonl"


@dataclass(frozen=True)
class Order:
    """A training as plain values that mean the same on every node.

    Attributes:
        base: A shipped base or the URI of a model.
        data: URI of the data set.
        place: `STORE/resume/finetune-KEY`, where workers and driver meet.
        settings: `Finetune` as JSON.
        threads: CPUs of a worker.
    """

    base: str
    data: str
    place: str
    settings: str
    threads: int


def place(ws: Workspace, step: str) -> str:
    """Where the workers and the driver of a step meet."""
    return f"{ws.store}/resume/{step}"


def give_examples(folder: Path, where: str) -> None:
    """Put the prepared examples of the work folder into the store, whole or not at all."""
    meeting = store.open_store(where)
    if not meeting.exists(_EXAMPLES):
        meeting.upload(_QUARANTINE, folder / _QUARANTINE)
        meeting.upload(_EXAMPLES, folder / EXAMPLES)


def take_examples(folder: Path, where: str) -> None:
    """Get the prepared examples where a driver before this one has put them into the store."""
    meeting = store.open_store(where)
    if meeting.exists(_EXAMPLES):
        meeting.download(_QUARANTINE, folder / _QUARANTINE)
        meeting.download(_EXAMPLES, folder / EXAMPLES)


def newest(where: str) -> str:
    """URI of the newest checkpoint; empty where there is none."""
    found = _checkpoints(where)
    return f"{where}/{found[-1]}" if found else ""


def begin(order: Order, rank: int, checkpoint: str) -> Job:
    """Fetch what a worker needs into the home of its node, and the checkpoint that all of them go on from.

    Raises:
        UserError: Something is missing or damaged in the store.
    """
    ws = ray_nodes.node_workspace(order.place)
    base = resolve(order.base, ws)
    data = ws.fetch(order.data)
    folder = ws.home / "work" / f"{order.place.rpartition('/')[2]}-worker-{rank}"
    shutil.rmtree(folder, ignore_errors=True)  # of a worker that was killed
    (folder / "resume").mkdir(parents=True)
    store.open_store(order.place).download(_EXAMPLES, folder / EXAMPLES)
    if checkpoint:
        copy = folder / "resume" / checkpoint.split("/")[-2]
        _copy(checkpoint, copy, folder)
        (copy / LOSSES).rename(folder / LOSSES)
    return Job(str(base), str(data), str(folder), order.settings, order.threads)


def keep(where: str, checkpoint: Path, losses: Path) -> None:
    """Put a checkpoint into the store, with the losses up to it, and remove the old ones."""
    os.link(losses, checkpoint / LOSSES)
    store.publish(checkpoint, where, checkpoint.name, {}, {})
    (checkpoint / LOSSES).unlink()
    meeting = store.open_store(where)
    for old in _checkpoints(where)[:-_KEEP]:
        _remove(where, meeting.list(f"{old}/"))


def hand_back(where: str, folder: Path) -> str:
    """Put the finished files into the store; returns their URI."""
    return store.publish(folder, where, "model", {}, {}).uri


def receive(uri: str, folder: Path) -> None:
    """Get the finished files into the driver's folder."""
    _copy(uri, folder, folder)


def clear(where: str) -> None:
    """Remove everything that a finished training has left on its way."""
    meeting = store.open_store(where)
    _remove(where, meeting.list())
    if isinstance(meeting, FolderStore):  # a bucket has no folders
        shutil.rmtree(meeting.root, ignore_errors=True)
        with suppress(OSError):  # other steps are on their way
            meeting.root.parent.rmdir()


def _checkpoints(where: str) -> list[str]:
    """`step-00000100/DIGEST` of all whole ones, oldest first."""
    found = store.open_store(where).list("step-")
    return [key.removesuffix(f"/{store.MANIFEST}") for key in found if key.endswith(f"/{store.MANIFEST}")]


def _remove(where: str, keys: Iterable[str]) -> None:
    """The manifests first: what is half removed is no artifact any more."""
    meeting = store.open_store(where)
    for key in sorted(keys, key=lambda key: not key.endswith(f"/{store.MANIFEST}")):
        meeting.delete(key)


def _copy(uri: str, goal: Path, folder: Path) -> None:
    """Copy an artifact's files, checked; what S3 needs for that lies below `folder` for the while."""
    cache = folder / ".fetched"
    found = store.fetch(store.get(uri), cache)
    shutil.copytree(found, goal, ignore=shutil.ignore_patterns(store.MANIFEST, store.PROVENANCE), dirs_exist_ok=True)
    shutil.rmtree(cache, ignore_errors=True)
