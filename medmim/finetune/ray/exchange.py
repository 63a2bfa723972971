"""A training whose workers share no disk: its inputs, checkpoints and results go through the store.

    STORE/resume/finetune-KEY/examples.safetensors, quarantine.jsonl    what is trained on
    STORE/resume/finetune-KEY/step-00000100/DIGEST/                     a checkpoint, with losses.jsonl up to it
    STORE/resume/finetune-KEY/model/DIGEST/                             the finished files, for the driver

Checkpoints are artifacts: their manifest comes last, so a half one is none. There is no pointer to the newest, which a
worker that was taken for dead could set back: the newest is the one of the highest step.
"""

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from medmim import ray_nodes, store
from medmim.finetune import distributed
from medmim.finetune.record import LOSSES
from medmim.finetune.worker import EXAMPLES, Job
from medmim.lvlm.checkpoint import resolve
from medmim.run.workspace import Workspace
from medmim.store.folder import FolderStore

_KEEP = 2  # the newest, and the one that a new group of workers may just be fetching
_EXAMPLES, _QUARANTINE = "examples.safetensors", "quarantine.jsonl"


def shared_folder(ws: Workspace, step: str) -> str:
    """URI of the folder in the store that the workers and the driver of a step share."""
    return f"{ws.store}/resume/{step}"


def upload_examples(work: Path, folder: str) -> None:
    """Copy the prepared examples from the work folder to the shared one, whole or not at all."""
    shared = store.open_store(folder)
    if not shared.exists(_EXAMPLES):
        shared.upload(_QUARANTINE, work / _QUARANTINE)
        shared.upload(_EXAMPLES, work / EXAMPLES)


def download_examples(work: Path, folder: str) -> None:
    """Copy the prepared examples to the work folder, where an earlier driver has uploaded them."""
    shared = store.open_store(folder)
    if shared.exists(_EXAMPLES):
        shared.download(_QUARANTINE, work / _QUARANTINE)
        shared.download(_EXAMPLES, work / EXAMPLES)


def newest_checkpoint(folder: str) -> str:
    """URI of the newest checkpoint; empty where there is none."""
    found = _checkpoints(folder)
    return f"{folder}/{found[-1]}" if found else ""


def fetch_job(job: Job, rank: int, checkpoint: str) -> Job:
    """Fetch what a worker needs into the home of its node, and the checkpoint that all of them resume from.

    Returns:
        The same job with local folders, one of them the worker's own.

    Raises:
        UserError: Something is missing or damaged in the store.
    """
    ws = ray_nodes.node_workspace(job.folder)
    base = resolve(job.base, ws)
    data = ws.fetch(job.data)
    work = ws.home / "work" / f"{job.folder.rpartition('/')[2]}-worker-{rank}"
    shutil.rmtree(work, ignore_errors=True)  # of a worker that was killed
    (work / "resume").mkdir(parents=True)
    store.open_store(job.folder).download(_EXAMPLES, work / EXAMPLES)
    if checkpoint:
        copy = work / "resume" / checkpoint.split("/")[-2]
        _link(ws.fetch(checkpoint), copy)
        shutil.copyfile(copy / LOSSES, work / LOSSES)
        (copy / LOSSES).unlink()
        store.sweep(ws.cache, 0)  # the checkpoint that an earlier group of workers resumed from
    return replace(job, base=str(base), data=str(data), folder=str(work))


def upload_checkpoint(folder: str, checkpoint: Path, losses: Path, rank: int, world: int) -> None:
    """Publish a checkpoint in the shared folder, with the losses up to it, and remove the old ones.

    Every worker calls it: the first one publishes the files of all.
    """
    shared, parts = store.open_store(folder), f"parts/{checkpoint.name}"
    if rank > 0:
        (mine,) = checkpoint.glob(f"rank-{rank:05d}-*")
        shared.upload(f"{parts}/{mine.name}", mine)
    if world > 1:
        distributed.wait_for_all()
    if rank > 0:
        return
    for key in shared.list(f"{parts}/"):
        shared.download(key, checkpoint / key.rpartition("/")[2])
    os.link(losses, checkpoint / LOSSES)
    store.publish(checkpoint, folder, checkpoint.name, {}, {})
    (checkpoint / LOSSES).unlink()
    _remove(folder, shared.list("parts/"))
    for old in _checkpoints(folder)[:-_KEEP]:
        _remove(folder, shared.list(f"{old}/"))


def upload_model(folder: str, work: Path) -> str:
    """Publish the finished files in the shared folder; returns their URI."""
    return store.publish(work, folder, "model", {}, {}).uri


def download_model(uri: str, work: Path) -> None:
    """Copy the finished files into the driver's folder."""
    _copy(uri, work, work)


def clear(folder: str) -> None:
    """Remove all that a finished training has left in its shared folder."""
    shared = store.open_store(folder)
    _remove(folder, shared.list())
    if isinstance(shared, FolderStore):  # a bucket has no folders
        shutil.rmtree(shared.root, ignore_errors=True)
        with suppress(OSError):  # it holds the folders of other steps
            shared.root.parent.rmdir()


def _checkpoints(folder: str) -> list[str]:
    """`step-00000100/DIGEST` of all whole ones, oldest first."""
    found = store.open_store(folder).list("step-")
    return [key.removesuffix(f"/{store.MANIFEST}") for key in found if key.endswith(f"/{store.MANIFEST}")]


def _remove(folder: str, keys: Iterable[str]) -> None:
    """The manifests first: what is half removed is no artifact any more."""
    shared = store.open_store(folder)
    for key in sorted(keys, key=lambda key: not key.endswith(f"/{store.MANIFEST}")):
        shared.delete(key)


def _link(found: Path, folder: Path) -> None:
    """Links to an artifact's files: all workers of a node read one copy, which stays as long as they do."""
    folder.mkdir()
    for path in found.iterdir():
        if path.name not in (store.MANIFEST, store.PROVENANCE):
            (folder / path.name).symlink_to(path)


def _copy(uri: str, goal: Path, work: Path) -> None:
    """Copy an artifact's files, checked; what S3 needs for that lies below `work` meanwhile."""
    cache = work / ".fetched"
    found = store.fetch(store.get(uri), cache)
    shutil.copytree(found, goal, ignore=shutil.ignore_patterns(store.MANIFEST, store.PROVENANCE), dirs_exist_ok=True)
    shutil.rmtree(cache, ignore_errors=True)
