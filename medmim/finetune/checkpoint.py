"""Training checkpoints, to resume from: weights, optimizer state and step, as safetensors and JSON, without pickle.

    FOLDER/resume/step-00000100/rank-00000-of-00002.safetensors, rank-00001-of-00002.safetensors, state.json

Each worker writes the fragments of the parameters that it holds; `state.json` comes last: without it there is no
checkpoint. What reads one puts the fragments together, so that any number of workers, with any engine, resumes from it.
The batches are a pure function of the step, so nothing else is needed to resume bit for bit.
"""

import errno
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from medmim import progress
from medmim.finetune.engines.engine import Fragment, Whole

STATE = "state.json"
_COUNTS = "counts"


def save(folder: Path, step: int, fragments: Iterable[Fragment], rank: int, world: int) -> Path:
    """Write this worker's file of a checkpoint; `commit` makes a checkpoint of the files of all workers.

    Args:
        folder: The `resume` folder.
        step: Optimizer steps done.
        fragments: What this worker holds.
        rank: This worker.
        world: Number of workers.

    Returns:
        The folder of the checkpoint.
    """
    final = path_of(folder, step)
    final.mkdir(parents=True, exist_ok=True)
    tensors, counts = {}, {}
    for fragment in fragments:
        counts[fragment.name] = dict(fragment.counts)
        for field, value in fragment.fields.items():
            tensors[f"{fragment.name}/{fragment.start}/{field}"] = value.contiguous()
    path = final / f"rank-{rank:05d}-of-{world:05d}.safetensors"
    part = path.with_suffix(".part")
    save_file(tensors, part, {_COUNTS: json.dumps(counts)})
    _sync(part)
    part.replace(path)
    _sync(final)
    return final


def copied(fragments: Iterable[Fragment]) -> list[Fragment]:
    """Copies in host memory, which training does not change."""
    return [
        replace(one, fields={field: value.to("cpu", copy=True) for field, value in one.fields.items()})
        for one in fragments
    ]


def commit(path: Path, state: Mapping[str, Any], world: int) -> None:
    """Make a checkpoint of the files that all workers have written.

    Args:
        path: Its folder.
        state: Plain JSON that `newest` returns.
        world: Number of workers. A killed save by another number may have left files here: they are removed.
    """
    for other in set(path.glob("rank-*")) - set(path.glob(f"rank-*-of-{world:05d}.safetensors")):
        other.unlink()
    part = path / ".part-state"
    part.write_text(json.dumps(dict(state), sort_keys=True), encoding="utf-8")
    _sync(part)
    part.replace(path / STATE)
    _sync(path)
    _sync(path.parent)  # else a crash of the machine could undo it, after older checkpoints are gone


def path_of(folder: Path, step: int) -> Path:
    """The folder of the checkpoint of a step."""
    return folder / f"step-{step:08d}"


def prune(folder: Path, keep: int, protected: Collection[int] = ()) -> None:
    """Remove old checkpoints, and what is left of saves that were killed before.

    Args:
        folder: The `resume` folder.
        keep: How many of the newest stay.
        protected: Steps of older ones that stay, too.
    """
    found = _newest_first(folder)
    whole = [path for path in found if (path / STATE).is_file()]
    for old in found[found.index(whole[0]) + 1 :] if whole else []:
        if old not in whole[:keep] and not (old in whole and step_of(old.name) in protected):
            shutil.rmtree(old, ignore_errors=True)


def step_of(name: str) -> int:
    """The step in the name of a checkpoint's folder, `step-00000100`."""
    return int(name.removeprefix("step-"))


def newest(folder: Path, quiet: bool = False) -> dict[str, Any] | None:
    """State of the newest undamaged checkpoint, with its `path` and `step`; None where there is none.

    Args:
        folder: The `resume` folder.
        quiet: Whether to say nothing of those that are damaged.

    Raises:
        OSError: The newest one cannot be read for now: other workers might, and would resume from another step.
    """
    for path in _newest_first(folder):
        if not (path / STATE).is_file():  # a save that was killed
            continue
        try:
            state = json.loads((path / STATE).read_text(encoding="utf-8"))
            for file in _files(path):
                with safe_open(file, "pt"):  # reads the header and checks the size of the file
                    pass
            return {**state, "path": path, "step": step_of(path.name)}
        except (OSError, ValueError, SafetensorError) as error:  # cut off by a crash of the machine: try an older one
            if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):
                raise
            if not quiet:
                progress.say(f"{path} is damaged, and an older checkpoint is taken: {error}")
    return None


@contextmanager
def reader(path: Path) -> Iterator[Callable[[str], Whole]]:
    """Within the block, a function: name of a parameter -> what the checkpoint has of it."""
    parts: dict[str, dict[str, list[tuple[int, Any]]]] = defaultdict(lambda: defaultdict(list))
    counts: dict[str, Mapping[str, float]] = {}
    with ExitStack() as opened:
        for file in _files(path):
            tensors = opened.enter_context(safe_open(file, "pt"))
            counts |= json.loads(tensors.metadata()[_COUNTS])
            for key in tensors.keys():  # noqa: SIM118  no dict
                name, start, field = key.rsplit("/", 2)
                parts[name][field].append((int(start), tensors.get_slice(key)))

        def read(name: str) -> Whole:
            return Whole({field: _InFiles(found) for field, found in parts[name].items()}, counts[name])

        yield read


class _InFiles:
    """See `Values`: what is not asked for is not read.

    Args:
        parts: Where each worker's fragment starts, and the fragment in its file.
    """

    def __init__(self, parts: Iterable[tuple[int, Any]]) -> None:
        self.parts = [(at, at + part.get_shape()[0], part) for at, part in sorted(parts, key=lambda one: one[0])]

    def __getitem__(self, wanted: slice) -> Tensor:
        begin, end, _ = wanted.indices(self.parts[-1][1])
        found = [
            part[max(begin - start, 0) : min(end, stop) - start]
            for start, stop, part in self.parts
            if start < end and begin < stop
        ]
        return torch.cat(found) if found else torch.empty(0)


def _files(path: Path) -> list[Path]:
    """The files of all workers.

    Raises:
        FileNotFoundError: One is missing.
    """
    found = sorted(path.glob("rank-*-of-*.safetensors"))
    world = max((int(file.stem.rpartition("-")[2]) for file in found), default=0)
    if not found or len(found) != world:
        raise FileNotFoundError(f"{path} has the files of {len(found)} of {world} workers")
    return found


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True)
