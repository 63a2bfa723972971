"""The curves of a training: as it goes on, by a process beside it; each step once, also after a resume."""

import json
import time
from pathlib import Path
from threading import Event, Thread

import pytest

from medmim import tracking
from medmim.recipe.schema import Recipe
from medmim.run.workspace import Workspace
from medmim.tracking import curves, training_run


def lines(first: int, last: int) -> str:
    rows = [{"step": n, "loss": 1 / n, "lr": 1e-3, "grad_norm": 1.0, "tokens": 100 * n} for n in range(first, last + 1)]
    return "".join(json.dumps(row) + "\n" for row in rows)


def steps(ws: Workspace, run: str, key: str = "train/loss") -> list[int]:
    return [point.step for point in tracking.client(ws).get_metric_history(run, key)]


def test_a_process_logs_a_training_while_it_writes(ws: Workspace, recipe: Recipe, tmp_path: Path) -> None:
    training = curves.Followed(
        str(ws.home), ws.store, ws.tracking, str(tmp_path), run="demo-1", recipe=recipe.dump(), key="k"
    )
    with curves.following(training) as found:
        (tmp_path / "losses.jsonl").write_text(lines(1, 5) + '{"step": 6, "lo')
    (run,) = found
    assert steps(ws, run) == steps(ws, run, "train/lr") == [1, 2, 3, 4, 5]
    known = tracking.client(ws).get_run(run)
    assert known.info.status == "RUNNING" and known.data.tags["medmim.run"] == "demo-1"
    assert {key for key in known.data.metrics if key.startswith("system/")} >= {"system/cpu_utilization_percentage"}
    assert len(known.data.metrics) < 60

    (tmp_path / "losses.jsonl").write_text(lines(1, 7))
    told = curves.Followed(str(ws.home), ws.store, ws.tracking, str(tmp_path), run)  # as a worker of a cluster is
    with curves.following(told) as again:
        pass
    assert again == [run] and steps(ws, run) == [*range(1, 8)]


def test_what_was_logged_before_a_resume_is_not_logged_twice(
    ws: Workspace, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(curves.SYSTEM, "false")
    monkeypatch.setattr(curves, "_EVERY", 0.05)
    run, file = training_run.begin(ws, recipe, "k"), tmp_path / "losses.jsonl"
    file.write_text(lines(1, 7))
    over = Event()
    over.set()
    curves.follow(ws, run, tmp_path, over)
    file.write_text(lines(1, 4))  # cut off at the checkpoint
    again = Event()
    thread = Thread(target=curves.follow, args=(ws, run, tmp_path, again))
    thread.start()
    time.sleep(0.5)
    with file.open("a") as out:
        out.write(lines(5, 9))
    (tmp_path / "validation.jsonl").write_text('{"step": 9, "loss": 1.5, "accuracy": null}\n')
    time.sleep(0.5)
    again.set()
    thread.join()
    assert steps(ws, run) == [*range(1, 10)]
    assert (steps(ws, run, "eval/loss"), steps(ws, run, "eval/accuracy")) == ([9], [])
    assert not [key for key in tracking.client(ws).get_run(run).data.metrics if key.startswith("system/")]
    # what `register` does in the end
    curves.log(tracking.client(ws), run, {"losses.jsonl": lines(1, 12).encode()}, 50.0)
    assert steps(ws, run) == [*range(1, 13)]


def test_the_speed_is_measured_between_two_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [json.loads(line) for line in lines(1, 20).splitlines()]
    now = iter((10.0, 15.0))
    monkeypatch.setattr(curves.time, "monotonic", lambda: next(now))
    none, seen = curves._speed(rows[:10], (0, 0.0, 0.0))
    (point,), _ = curves._speed(rows, seen)
    assert none == [] and (point.key, point.value, point.step) == ("train/tokens_per_s", 1000 / 5.0, 20)


def test_an_mlflow_that_is_away_ends_no_training(
    recipe: Recipe, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    gone = curves.Followed(
        str(tmp_path), str(tmp_path / "store"), "http://127.0.0.1:9", str(tmp_path), recipe=recipe.dump(), key="k"
    )
    with curves.following(gone) as found:
        pass
    assert found == []
    assert "has not got the curves of this training as it goes on" in capfd.readouterr().err
