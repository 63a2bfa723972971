"""What a training reports: the share of the time that it waited for data, which is no content of the model."""

import itertools
import json
import time
from pathlib import Path

import pytest

from medmim import progress
from medmim.finetune import batch, loop, record
from medmim.lvlm.llava import Lvlm
from tests.support.finetune import SETTINGS, copy_of, make_encoded, make_pixels


def test_the_step_line_says_how_much_of_the_time_was_spent_waiting_for_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[dict[str, object]] = []
    monkeypatch.setattr(progress, "forward", lambda event, to=None: lines.append(event))
    clock = itertools.count()  # the steps are 1 s apart
    monkeypatch.setattr(record.time, "perf_counter", lambda: float(next(clock)))
    kept = record.Record(tmp_path, 0, 4, 0, None)
    with kept:
        for step in range(4):
            kept.add(
                step, loss=1.0, lr=0.1, grad_norm=1.0, tokens=9, tokens_seen=9, flops=1.0, peak_flops=None, waited=0.25
            )
    steps = [event for event in lines if event["kind"] == "step"]
    assert len(steps) == 4
    assert all(0 < int(str(event["data_wait"]).removesuffix("%")) <= 25 for event in steps)
    assert f"data_wait {steps[-1]['data_wait']}" in progress.render(steps[-1])
    result = kept.result(36, 4)
    assert result.data_wait == pytest.approx(4 * 0.25 / result.seconds, abs=1e-3)
    written = [json.loads(line) for line in (tmp_path / record.LOSSES).read_text().splitlines()]
    assert [set(line) for line in written] == [{"step", "loss", "lr", "grad_norm", "tokens"}] * 4


def test_the_loop_counts_what_it_waits_for_a_batch(lvlm: Lvlm, tmp_path: Path) -> None:
    encoded = make_encoded(lvlm, 2)

    def batch_at(step: int) -> batch.Batch:
        time.sleep(0.2 if step == 0 else 0.0)  # nothing is there to be done meanwhile
        return batch.build(encoded, lambda i: make_pixels(encoded[i]), max_tokens=10_000)

    result = loop.train(copy_of(lvlm), batch_at, 2, SETTINGS, tmp_path)
    assert 0.19 <= result.data_wait * result.seconds <= result.seconds
