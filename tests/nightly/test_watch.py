"""A night's notes, beside its alarms: too few patients, another data set."""

import json
from pathlib import Path

import pytest

from medmim import store
from medmim.nightly import watch
from medmim.nightly.records import Night
from medmim.run.workspace import Workspace


@pytest.mark.parametrize(
    ("small", "notes"),
    [
        ((), []),
        (("token_f1",), ["held_out, token_f1: under 20 patients, not tested for a regression"]),
        (("accuracy", "token_f1"), ["held_out: under 20 patients, not tested for a regression"]),
    ],
)
def test_what_is_too_small_is_named_and_nothing_else(small: tuple[str, ...], notes: list[str]) -> None:
    board = [
        {"model": model, "group": group, "metric": metric, "low": None if (group, metric) in own else 0.1}
        for own in ({("held_out", metric) for metric in small},)
        for model in ("champion", "base")
        for group in ("all", "held_in", "held_out")
        for metric in ("accuracy", "token_f1")
    ]
    assert watch._too_few_patients(board) == notes


def test_another_data_set_is_noted_with_the_questions_in_common(tmp_path: Path) -> None:
    ws = Workspace(tmp_path, str(tmp_path / "store"), "")

    def benched(ids: range) -> str:
        folder = tmp_path / f"{ids}"
        folder.mkdir()
        (folder / "predictions.jsonl").write_text("".join(json.dumps({"id": str(i)}) + "\n" for i in ids))
        return store.publish(folder, ws.store, "bench", {}, {}).digest

    def night(date: str, data: str, bench: str) -> Night:
        return Night(date=date, run="", data=data, bench=bench, models={}, scores=[])

    tonight = {"data": "b", "bench": benched(range(10))}
    older = night("2026-06-01", "b", tonight["bench"])
    assert watch._other_data(ws, tonight, []) == watch._other_data(ws, tonight, [older]) == []
    before = [older, night("2026-06-02", "a", benched(range(7, 12)))]
    (note,) = watch._other_data(ws, tonight, before)
    assert note == "another data set than the night before (2026-06-02): 3 of 10 questions in common"
    (note,) = watch._other_data(ws, tonight, [night("2026-06-02", "a", "f" * 64)])
    assert note == "another data set than the night before (2026-06-02)"
