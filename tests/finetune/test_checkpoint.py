"""A checkpoint is whole, and on the disk, before older ones are removed; any number of workers reads it."""

import errno
import os
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medmim.finetune import checkpoint
from medmim.finetune.engines.engine import WEIGHT, Fragment

VALUES = torch.arange(12.0)


def save(folder: Path, step: int, *, ranks: Sequence[int] = (0, 1), commit: bool = True) -> Path:
    """The files of two workers, each with half of a parameter and a parameter of its own."""
    for rank in ranks:
        half = {WEIGHT: VALUES[6 * rank : 6 * rank + 6], "exp_avg": -VALUES[6 * rank : 6 * rank + 6]}
        own = Fragment(f"own/{rank}", 0, {WEIGHT: torch.full((3,), float(rank))}, {})
        path = checkpoint.save(folder, step, [Fragment("a.b", 6 * rank, half, {"step": step}), own], rank, 2)
    if commit:
        checkpoint.commit(path, {"tokens": 10 * step}, 2)
    return path


def test_fragments_of_all_workers_make_the_parameter(tmp_path: Path) -> None:
    path = save(tmp_path, 7)
    found = checkpoint.newest(tmp_path)
    assert found == {"tokens": 70, "step": 7, "path": path}
    with checkpoint.reader(path) as read:
        whole = read("a.b")
        assert torch.equal(whole.fields[WEIGHT][:], VALUES) and torch.equal(whole.fields["exp_avg"][:], -VALUES)
        assert whole.counts == {"step": 7}
        assert read("own/1").fields[WEIGHT][:].tolist() == [1, 1, 1]


@given(st.lists(st.integers(1, 11), unique=True, max_size=6), st.randoms(), st.integers(0, 12), st.integers(0, 13))
def test_any_part_of_a_parameter_is_read_whatever_the_order_of_its_fragments(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], rng: random.Random, begin: int, end: int
) -> None:
    edges = [0, *sorted(cuts), len(VALUES)]
    fragments = [Fragment("a", i, {WEIGHT: VALUES[i:j]}, {}) for i, j in zip(edges, edges[1:], strict=False)]
    rng.shuffle(fragments)
    folder = tmp_path_factory.mktemp("cuts")
    for rank, fragment in enumerate(fragments):
        path = checkpoint.save(folder, 1, [fragment], rank, len(fragments))
    with checkpoint.reader(path) as read:
        found = read("a").fields[WEIGHT]
        assert torch.equal(found[:], VALUES) and torch.equal(found[begin:end], VALUES[begin:end])


def test_a_copy_does_not_change_with_what_it_was_made_of() -> None:
    values = torch.ones(3)
    (copy,) = checkpoint.copied([Fragment("a", 2, {WEIGHT: values}, {"step": 1})])
    values.zero_()
    assert copy.fields[WEIGHT].tolist() == [1, 1, 1] and (copy.name, copy.start, copy.counts) == ("a", 2, {"step": 1})


def test_what_not_all_workers_have_written_or_none_has_committed_is_no_checkpoint(tmp_path: Path) -> None:
    good = save(tmp_path, 1)
    save(tmp_path, 2, commit=False)
    save(tmp_path, 3, ranks=[1])
    found = checkpoint.newest(tmp_path)
    assert found is not None and found["path"] == good


def test_a_disk_that_does_not_answer_is_no_damaged_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several workers this one alone would resume from an older step."""
    save(tmp_path, 1)
    save(tmp_path, 2)

    def unreadable(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(checkpoint, "safe_open", unreadable)
    with pytest.raises(OSError, match="Input/output error"):
        checkpoint.newest(tmp_path)


def test_the_newest_two_whole_ones_stay_and_so_do_files_of_a_save_under_way(tmp_path: Path) -> None:
    for step in (1, 3, 4):
        save(tmp_path, step)
    save(tmp_path, 2, commit=False)
    save(tmp_path, 5, ranks=[1], commit=False)
    checkpoint.prune(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step-0000000{step}" for step in (3, 4, 5)]


def test_a_protected_step_stays_as_long_as_it_is_whole(tmp_path: Path) -> None:
    for step in (1, 3, 4):
        save(tmp_path, step)
    save(tmp_path, 2, commit=False)
    checkpoint.prune(tmp_path, 1, protected=(1, 2))
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step-0000000{step}" for step in (1, 4)]


def test_what_a_killed_save_of_more_workers_left_is_no_part_of_a_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, 1, ranks=[1], commit=False)
    path = checkpoint.save(tmp_path, 1, [Fragment("a", 0, {WEIGHT: VALUES}, {})], 0, 1)
    checkpoint.commit(path, {}, 1)
    assert checkpoint.newest(tmp_path) == {"step": 1, "path": path}
    assert [file.name for file in path.glob("rank-*")] == ["rank-00000-of-00001.safetensors"]


def test_everything_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real, replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        synced.append(str(Path(os.readlink(f"/proc/self/fd/{descriptor}")).relative_to(tmp_path)))
        real(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        synced.append(f"{self.relative_to(tmp_path)} -> {target.name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", renamed)
    path = save(tmp_path, 1, ranks=[0])
    files = "rank-00000-of-00002"
    assert synced == [
        f"{path.name}/{files}.part", f"{path.name}/{files}.part -> {files}.safetensors", path.name,
        f"{path.name}/.part-state", f"{path.name}/.part-state -> state.json", path.name, ".",
    ]  # fmt: skip
