"""Checkpoints that are written while training goes on."""

import errno
from collections.abc import Mapping
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch

from medmim.finetune import checkpoint, loop
from medmim.finetune.engines.engine import WEIGHT, Fragment
from medmim.finetune.pace import Preempted
from medmim.finetune.saving import Saves
from medmim.lvlm.llava import Lvlm
from medmim.recipe.schema import Finetune
from tests.support.finetune import batches, copy_of

SETTINGS = Finetune(batch_size=4, max_tokens=400, lr=1e-2, save_every=2, precision="fp32")
SAVE = checkpoint.save


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> Event:
    """No checkpoint is written before this is set."""
    event = Event()

    def save(*given: Any) -> Path:
        assert event.wait(120), "nothing went on"
        return SAVE(*given)

    monkeypatch.setattr(checkpoint, "save", save)
    return event


def train(lvlm: Lvlm, folder: Path, steps: int = 5, **more: Any) -> None:
    loop.train(lvlm, batches(lvlm, SETTINGS), steps, SETTINGS, folder, **more)


def test_training_goes_on_and_what_is_written_is_of_the_step_that_was_saved(
    lvlm: Lvlm, tmp_path: Path, release: Event
) -> None:
    tuned = copy_of(lvlm)
    weights: dict[int, dict[str, torch.Tensor]] = {}
    whole: list[tuple[int, int]] = []

    def on_step(line: Mapping[str, Any]) -> None:
        weights[line["step"]] = {name: p.detach().clone() for name, p in tuned.model.named_parameters()}
        if line["step"] == 3:
            release.set()

    def on_save(step: int, path: Path) -> None:
        whole.append((step, max(weights)))
        with checkpoint.reader(path) as read:
            for name, p in tuned.model.named_parameters():
                if p.requires_grad:
                    assert torch.equal(read(name).fields[WEIGHT][:], weights[step][name].flatten())

    train(tuned, tmp_path, on_step=on_step, on_save=on_save)
    assert [step for step, _ in whole] == [2, 4] and whole[0][1] >= 3


def test_the_checkpoint_that_a_training_leaves_when_it_is_told_to_stop_is_whole(
    lvlm: Lvlm, tmp_path: Path, release: Event
) -> None:
    stop = Event()

    def on_step(line: Mapping[str, Any]) -> None:
        if line["step"] == 3:
            stop.set()
            release.set()

    with pytest.raises(Preempted):
        train(copy_of(lvlm), tmp_path, on_step=on_step, stop=stop)
    newest = checkpoint.newest(tmp_path / "resume")
    assert newest is not None and newest["step"] == 3


@pytest.mark.parametrize("steps", [2, 5])
def test_a_disk_that_is_full_ends_the_training_at_the_next_step_or_at_its_end(
    lvlm: Lvlm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    done: list[int] = []

    def save(*_: Any) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", save)
    with pytest.raises(OSError, match="No space left"):
        train(copy_of(lvlm), tmp_path, steps, on_step=lambda line: done.append(line["step"]))
    assert done in ([1, 2], [1, 2, 3], [1, 2, 3, 4]) and checkpoint.newest(tmp_path / "resume") is None


def test_one_checkpoint_is_written_at_a_time_and_the_next_one_waits(tmp_path: Path, release: Event) -> None:
    whole: list[int] = []
    with Saves(tmp_path, None, lambda step, _: whole.append(step), "", torch.device("cpu"), 0, 1) as saves:
        saves.begin(1, [Fragment("a", 0, {WEIGHT: torch.ones(2)}, {})], {})
        saves.look()
        assert whole == [] and saves.good is None and checkpoint.newest(tmp_path) is None
        release.set()
        saves.begin(2, [Fragment("a", 0, {WEIGHT: torch.ones(2)}, {})], {})
        assert whole == [1] and saves.good == checkpoint.path_of(tmp_path, 1)
        saves.finish()
        saves.finish()
    assert whole == [1, 2]
