"""When a training saves and stops: by steps or by time, and the same on all workers."""

import time
from threading import Event

import pytest
import torch

from medmim.finetune.pace import Pace
from medmim.recipe.schema import Finetune

CPU = torch.device("cpu")


def saves(every: int | str, seconds_per_step: float, steps: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps that are saved, by a clock that goes on by so much in each."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pace = Pace(Finetune(save_every=every), steps, Event(), 0, 1, CPU)
    found = []
    for done in range(1, steps + 1):
        now[0] += seconds_per_step
        save, stop = pace.after(done)
        assert not stop
        found += [done] * save
    return found


@pytest.mark.parametrize(
    ("every", "seconds", "expected"),
    [(3, 1e6, [3, 6, 8]), ("45s", 10, [5, 8]), ("1m", 20, [3, 6, 8]), ("2h", 3600, [2, 4, 6, 8]), ("2h", 60, [8])],
)
def test_it_saves_by_steps_or_by_time_and_after_the_last_step(
    every: int | str, seconds: float, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert saves(every, seconds, 8, monkeypatch) == expected


def test_what_is_told_to_stop_saves_first() -> None:
    stop = Event()
    pace = Pace(Finetune(save_every="2h"), 100, stop, 0, 1, CPU)
    assert pace.after(1) == (False, False)
    stop.set()
    assert pace.after(2) == (True, True)
