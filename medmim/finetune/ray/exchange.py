"""A training whose workers share no disk: its inputs, checkpoints and results go through the store.

    STORE/resume/finetune-KEY/examples.safetensors, quarantine.jsonl    what is trained on
    STORE/resume/finetune-KEY/dev.safetensors                           what is validated on
    STORE/resume/finetune-KEY/step-00000100/GROUP/                      a checkpoint, with losses.jsonl and
                                                                        validation.jsonl up to it
    STORE/resume/finetune-KEY/step-00000100/GROUP/.worker-00001.json    what this worker has uploaded of it
    STORE/resume/finetune-KEY/model/DIGEST/                             the finished files, for the driver

Each worker uploads the file that it has written, while training goes on. Checkpoints are artifacts: the first worker
writes the manifest when all workers' records are there, so a half one is none. Each group of workers has a folder of
its own, so that one that was taken for dead changes no file of its successor. There is no pointer to the newest, which
it could set back: the newest is the one of the highest step.
"""

import json
import shutil
import time
from collections.abc import Collection, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

from medmim import progress, ray_nodes, store
from medmim.errors import Unavailable
from medmim.finetune import distributed
from medmim.finetune.checkpoint import STATE, step_of
from medmim.finetune.record import LOSSES
from medmim.finetune.validation import VALIDATION
from medmim.finetune.worker import DEV, EXAMPLES, Job
from medmim.lvlm.checkpoint import resolve
from medmim.run.workspace import Workspace
from medmim.store import removal
from medmim.store.folder import FolderStore

_LEAST_KEPT = 2  # the newest, and the one that a new group of workers may just be fetching
_POLL = 0.5  # s between two looks for the records of the other workers
_EXAMPLES, _DEV, _QUARANTINE = "examples.safetensors", "dev.safetensors", "quarantine.jsonl"


def shared_folder(ws: Workspace, step: str) -> str:
    """URI of the folder in the store that the workers and the driver of a step share."""
    return f"{ws.store}/resume/{step}"


def upload_examples(work: Path, folder: str) -> None:
    """Copy the prepared examples from the work folder to the shared one, whole or not at all."""
    shared = store.open_store(folder)
    if not shared.exists(_EXAMPLES):
        shared.upload(_QUARANTINE, work / _QUARANTINE)
        if (work / DEV).is_file():
            shared.upload(_DEV, work / DEV)
        shared.upload(_EXAMPLES, work / EXAMPLES)


def download_examples(work: Path, folder: str) -> None:
    """Copy the prepared examples to the work folder, where an earlier driver has uploaded them."""
    shared = store.open_store(folder)
    if shared.exists(_EXAMPLES):
        shared.download(_QUARANTINE, work / _QUARANTINE)
        if shared.exists(_DEV):
            shared.download(_DEV, work / DEV)
        shared.download(_EXAMPLES, work / EXAMPLES)


def newest_checkpoint(folder: str) -> str:
    """URI of the newest checkpoint of which no file is missing or cut off; empty where there is none."""
    for name in reversed(_checkpoints(folder)):
        if _is_whole(f"{folder}/{name}"):
            return f"{folder}/{name}"
    return ""


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
    shared = store.open_store(job.folder)
    shared.download(_EXAMPLES, work / EXAMPLES)
    if shared.exists(_DEV):
        shared.download(_DEV, work / DEV)
    if checkpoint:
        copy = work / "resume" / checkpoint.split("/")[-2]  # one copy a node, which all its workers read
        _link(ws.fetch(checkpoint), copy)
        for name in (LOSSES, VALIDATION):
            if (copy / name).is_file():
                shutil.copyfile(copy / name, work / name)
                (copy / name).unlink()
        store.sweep(ws.cache, 0)  # the checkpoint that an earlier group of workers resumed from
    return replace(job, base=str(base), data=str(data), folder=str(work))


def fetch_checkpoint(folder: str, step: int) -> Path:
    """Fetch the checkpoint of a step, with the files of all workers, into the home of this node; returns its folder.

    Raises:
        UserError: It is damaged in the store.
        FileNotFoundError: There is none.
    """
    for name in reversed(_checkpoints(folder)):
        if step_of(name.partition("/")[0]) == step and _is_whole(f"{folder}/{name}"):
            return ray_nodes.node_workspace(folder).fetch(f"{folder}/{name}")
    raise FileNotFoundError(f"{folder} has no checkpoint of step {step}")


class Uploads:
    """Uploads this worker's part of one checkpoint at a time, in a thread. No thread here calls a collective.

    Left by an exception or at the end of the training, it waits for the file that is on its way, not for others': then
    the last checkpoint is needed no more.

    Args:
        folder: The shared folder.
        group: Of these workers: no other has the same.
        rank: This worker.
        world: Number of workers.
        keep: How many of the newest checkpoints stay.
        protected: Steps of older ones that stay, too; may change meanwhile.
    """

    def __init__(
        self, folder: str, group: str, rank: int, world: int, keep: int, protected: Collection[int] = ()
    ) -> None:
        self.folder, self.group, self.rank, self.world = folder, group, rank, world
        self.keep, self.protected = max(keep, _LEAST_KEPT), protected
        self.ended = Event()
        self.step, self.last = 0, Future[None]()
        self.last.set_result(None)

    def __enter__(self) -> "Uploads":
        self.pool = ThreadPoolExecutor(1, "upload")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.ended.set()
        self.pool.shutdown()
        failed = self.last.exception()
        if failed is not None and kind is None:
            progress.say(
                f"the checkpoint of step {self.step:,} was not uploaded ({failed}): the model needs it no more"
            )

    def begin(self, step: int, checkpoint: Path, losses: Path) -> None:
        """Begin to upload a checkpoint; waits for the end of the one before.

        Args:
            step: Its steps.
            checkpoint: Its folder.
            losses: Of the first worker, copied now with the validations beside it: training goes on writing.

        Raises:
            UserError: The one before failed.
        """
        if self.rank == 0 and not self.last.done():
            progress.say(
                f"waiting: the checkpoint of step {self.step:,} is still being uploaded; "
                "with a longer finetune.save_every nothing would wait"
            )
        self.finish()
        if self.rank == 0:
            for file in (losses, losses.with_name(VALIDATION)):
                if file.is_file():
                    shutil.copyfile(file, checkpoint / file.name)
        self.step, self.last = step, self.pool.submit(self._upload, checkpoint)

    def finish(self) -> None:
        """Wait until the last checkpoint is in the store: on the first worker, with the files of all.

        Raises:
            UserError: The store refuses.
            Unavailable: It does not answer, or a worker has not uploaded its file in time.
        """
        self.last.result()

    def _upload(self, checkpoint: Path) -> None:
        shared, prefix = store.open_store(self.folder), f"{checkpoint.name}/{self.group}"
        (own,) = checkpoint.glob(f"rank-{self.rank:05d}-of-{self.world:05d}.*")
        records = [path for path in (checkpoint / LOSSES, checkpoint / VALIDATION) if path.is_file()]
        paths = [own] if self.rank else [own, checkpoint / STATE, *records]
        record = {path.name: store.file_facts(path) for path in paths}
        for path in paths:
            shared.upload(f"{prefix}/{path.name}", path)
        shared.write(f"{prefix}/{_record(self.rank)}", json.dumps(record).encode())
        if self.rank:
            shutil.rmtree(checkpoint)  # it has no state, so that the loop does not know when it may go
            return
        for path in records:
            path.unlink()
        files = self._files_of_all(shared, prefix)
        if files is not None:
            store.seal(shared, prefix, "checkpoint", files, {"step": step_of(checkpoint.name)}, {})
            _remove_old(self.folder, checkpoint.name, self.keep, self.protected)

    def _files_of_all(self, shared: store.Store, prefix: str) -> dict[str, Any] | None:
        """What the workers' records say; None where the training ends before all are there."""
        files: dict[str, Any] = {}
        missing = {f"{prefix}/{_record(rank)}" for rank in range(self.world)}
        last = time.monotonic() + distributed.TIMEOUT.total_seconds()
        while True:
            over = self.ended.is_set()
            for key in missing & set(shared.list(f"{prefix}/")):
                files |= json.loads(shared.read(key))
                missing.remove(key)
            if not missing or over:
                return None if missing else files
            if time.monotonic() > last:
                raise Unavailable(
                    f"{len(missing)} of {self.world} workers have not uploaded their part of {self.folder}/{prefix}",
                    reason=f"{distributed.TIMEOUT} have passed",
                    fix="check the network between these workers and the store; then run the same command",
                    problems=sorted(missing),
                )
            self.ended.wait(_POLL)


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
    """`step-00000100/GROUP` of all whole ones, oldest first."""
    found = store.open_store(folder).list("step-")
    return [key.removesuffix(f"/{store.MANIFEST}") for key in found if key.endswith(f"/{store.MANIFEST}")]


def _record(rank: int) -> str:
    return f".worker-{rank:05d}.json"


def _is_whole(uri: str) -> bool:
    """Whether all files are there in their sizes; whoever reads them checks their content."""
    artifact, shared = store.find(uri), store.open_store(uri)
    try:
        return artifact is not None and all(
            shared.version(name)[0] == facts["bytes"] for name, facts in artifact.files.items()
        )
    except FileNotFoundError:
        return False


def _remove_old(folder: str, newest: str, keep: int, protected: Collection[int]) -> None:
    """Remove old checkpoints, and what killed workers have left of unfinished ones.

    Args:
        folder: The shared folder.
        newest: `step-00000100`, just finished; an unfinished one of a later step may be another group's at work.
        keep: As for `Uploads`.
        protected: As for `Uploads`.
    """
    shared, whole = store.open_store(folder), _checkpoints(folder)
    stay = {*whole[-keep:], *(name for name in whole if step_of(name.partition("/")[0]) in protected)}
    found = {"/".join(key.split("/")[:2]) for key in shared.ages("step-")}
    for name in sorted(found - stay):
        if name in whole or name.partition("/")[0] <= newest:
            shared.delete(f"{name}/{store.MANIFEST}")  # first: what is half removed is no artifact any more
            removal.clear(shared, name)


def _remove(folder: str, keys: Iterable[str]) -> None:
    """The manifests first: what is half removed is no artifact any more."""
    shared = store.open_store(folder)
    for key in sorted(keys, key=lambda key: not key.endswith(f"/{store.MANIFEST}")):
        shared.delete(key)


def _link(found: Path, folder: Path) -> None:
    """Links to an artifact's files: all workers of a node read one copy, which stays as long as they do."""
    folder.mkdir()
    for path in found.iterdir():
        if path.name not in (store.MANIFEST, store.PROVENANCE) and not path.name.startswith("."):
            (folder / path.name).symlink_to(path)


def _copy(uri: str, goal: Path, work: Path) -> None:
    """Copy an artifact's files, checked; what S3 needs for that lies below `work` meanwhile."""
    cache = work / ".fetched"
    found = store.fetch(store.get(uri), cache)
    shutil.copytree(found, goal, ignore=shutil.ignore_patterns(store.MANIFEST, store.PROVENANCE), dirs_exist_ok=True)
    shutil.rmtree(cache, ignore_errors=True)
