"""A training goes on with another ZeRO stage and number of workers, and after a kill at any moment around a save."""

import json
from pathlib import Path

import pytest

from medmim.finetune import checkpoint
from medmim.finetune.record import LOSSES
from medmim.lvlm.family import Family
from medmim.lvlm.llava_med import LLAVA_MED
from medmim.lvlm.mantis import MANTIS
from tests.support.finetune import SETTINGS, losses, make_job
from tests.support.legs import Leg, go, run

ADAMW = SETTINGS.model_copy(update={"optimizer": "adamw", "precision": "fp32", "save_every": 100})


@pytest.mark.long
@pytest.mark.timeout(900)
def test_stage_and_workers_change_and_the_losses_are_those_of_an_uninterrupted_plain_training(
    family: Family, tmp_path: Path
) -> None:
    """Plain with one worker, ZeRO-2 with two, ZeRO-3 with two, plain with one."""
    go(make_job(tmp_path, family, ADAMW), Leg(zero=0))
    (tmp_path / "out").rename(tmp_path / "whole")
    job = make_job(tmp_path, family, ADAMW)
    go(job, Leg(zero=0, until=3))
    run(job, [Leg(zero=2, until=6), Leg(zero=3, until=9)])
    go(job, Leg(zero=0))
    assert losses(tmp_path / "out") == pytest.approx(losses(tmp_path / "whole"), rel=1e-5)
    newest = checkpoint.newest(tmp_path / "out" / "resume")
    assert newest is not None
    assert [(entry["from_step"], entry["workers"], entry["zero"]) for entry in newest["ran"]] == [
        (0, 1, 0), (3, 2, 2), (6, 2, 3), (9, 1, 0),
    ]  # fmt: skip


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("family", "kills"),
    [
        (MANTIS, [("before save", 1), ("after save", 1), ("after commit", 0)]),
        (LLAVA_MED, [("after save", 0), ("before commit", 0), ("before prune", 1)]),
    ],
    ids=["mantis", "llava-med"],
)
def test_zero_2_of_two_workers_is_killed_around_each_save_and_equals_an_uninterrupted_training(
    family: Family, kills: list[tuple[str, int]], tmp_path: Path
) -> None:
    settings = ADAMW.model_copy(update={"steps": 8, "save_every": 2})
    job = make_job(tmp_path, family, settings)
    assert run(job, [Leg(zero=2)]) == 0
    (tmp_path / "out").rename(tmp_path / "whole")
    job = make_job(tmp_path, family, settings)
    for step, (where, rank) in zip((2, 4, 6), kills, strict=True):
        assert run(job, [Leg(zero=2, killed=where, rank=rank, step=step)]) != 0
        done = len((tmp_path / "out" / LOSSES).read_text().splitlines())
        assert step <= done <= step + 2  # the checkpoint is written meanwhile, and the next one waits for it
    assert run(job, [Leg(zero=2)]) == 0
    assert (tmp_path / "out" / LOSSES).read_bytes() == (tmp_path / "whole" / LOSSES).read_bytes()
    assert checkpoint.newest(tmp_path / "out" / "resume") is not None
    assert json.loads((tmp_path / "out" / LOSSES).read_text().splitlines()[-1])["step"] == 8
