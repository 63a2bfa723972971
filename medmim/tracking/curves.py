"""The curves of a training in its MLflow run: loss, learning rate, gradient and speed by step, and the machine's load.

While the training goes on a process beside it reads what it writes, `losses.jsonl` and `validation.jsonl`; what is
missing after a kill, or where MLflow was away, `register` adds. A step is logged once: MLflow says which it has.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from medmim.errors import as_user_error, within
from medmim.recipe.schema import Recipe
from medmim.run.workspace import Workspace
from medmim.tracking import training_run
from medmim.tracking.mlflow_client import client
from medmim.tracking.training_run import CURVES, optional, tell

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

FILES = {  # name -> key of a line -> name of the metric
    "losses.jsonl": {"loss": "train/loss", "lr": "train/lr", "grad_norm": "train/grad_norm", "tokens": "train/tokens"},
    "validation.jsonl": {"loss": "eval/loss", "accuracy": "eval/accuracy"},
}
SPEED = "train/tokens_per_s"
SYSTEM = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"  # MLflow's own switch
_EVERY, _LOAD_EVERY = 5.0, 10.0  # s between two looks at the files, and at the machine
_PATIENCE, _AT_END = 20.0, 90.0  # s for an MLflow that does not answer; for a process that may still be starting
_BATCH = 1000  # metrics in one call; MLflow's limit


def log(api: "MlflowClient", run: str, files: Mapping[str, bytes], tokens_per_s: float | None = None) -> None:
    """Log what a run has not got of a finished training.

    Args:
        api: The client.
        run: Id of the MLflow run.
        files: Those of `FILES` that the training wrote, by name.
        tokens_per_s: Of the whole training; logged where nothing measured it by step.
    """
    lines = {name: [json.loads(line) for line in text.splitlines()] for name, text in files.items()}
    metrics = [one for name, rows in lines.items() for one in _points(name, rows, _last_steps(api, run, name))]
    steps = [int(row["step"]) for row in lines.get("losses.jsonl", [])]
    if tokens_per_s and steps and not api.get_metric_history(run, SPEED):
        metrics.append(_metric(SPEED, tokens_per_s, steps[-1]))
    _send(api, run, metrics)


@dataclass(frozen=True)
class Followed:
    """What a process needs to log a training, as plain values.

    Attributes:
        home: Of the workspace, as the next two.
        store: Its URI.
        tracking: MLflow's tracking URI.
        folder: Where `FILES` are written.
        mlflow_run: Id of the MLflow run; empty: the one that `training_run.begin` gives.
        run: Name of the run that trains.
        recipe: As `Recipe.dump`; for `training_run.begin`, as the next.
        key: Of the training's step.
    """

    home: str
    store: str
    tracking: str
    folder: str
    mlflow_run: str = ""
    run: str = ""
    recipe: str = ""
    key: str = ""


@contextmanager
def following(training: Followed) -> Iterator[list[str]]:
    """Log the curves of a training that writes into a folder of this machine, until the block ends.

    It is done by a process: MLflow starts slowly, and nothing of it is to delay or to end the training. Only its end
    waits for the last lines, `_AT_END` at most.

    Yields:
        After the block, the id of the MLflow run, where there is one.
    """
    found = list[str]()
    child = subprocess.Popen([sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    with suppress(BrokenPipeError):
        child.stdin.write(json.dumps(asdict(training)).encode() + b"\n")
        child.stdin.flush()
    try:
        yield found
    finally:
        try:
            said, _ = child.communicate(timeout=_AT_END)
            found += said.decode().split()
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()


def _main() -> None:
    """The process: follow the training that the first line of stdin names, until stdin is closed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # sent to all processes: the training says when
        signal.signal(number, signal.SIG_IGN)
    training = Followed(**json.loads(sys.stdin.readline()))
    ended = Event()

    def wait() -> None:
        sys.stdin.read()
        ended.set()

    Thread(target=wait, daemon=True).start()
    ws = Workspace(Path(training.home), training.store, training.tracking, training.run)
    try:
        run = training.mlflow_run
        if not run:
            recipe = Recipe.model_validate_json(training.recipe)
            run = training_run.begin_if_there(ws, recipe, training.key)
        if run:
            sys.stdout.write(f"{run}\n")
            sys.stdout.flush()
            follow(ws, run, Path(training.folder), ended)
    except Exception as error:  # its traceback is in the log that the line names, and the training needs none of this
        tell(ws, CURVES, str(as_user_error(error, "logging to MLflow", ws.home)))


def follow(ws: Workspace, run: str, folder: Path, ended: Event) -> None:
    """Log the curves of a training, and the load of this machine, until `ended` is set; then a last time.

    Args:
        ws: The workspace.
        run: Id of the MLflow run.
        folder: Where `FILES` are written.
        ended: Set from outside.
    """
    last = None
    load, looked, seen, ends = _load(ws, run), -_LOAD_EVERY, (0, 0.0, 0.0), dict.fromkeys(FILES, 0)
    over = False
    while not over:
        over = ended.wait(_EVERY)
        with within(_PATIENCE), optional(ws, CURVES, away=True):
            api = client(ws)
            last = last or {name: _last_steps(api, run, name) for name in FILES}
            read = {name: _read(folder / name, ends[name]) for name in FILES}
            metrics = [one for name in FILES for one in _points(name, read[name][0], last[name])]
            speed, seen = _speed(read["losses.jsonl"][0], seen)
            _send(api, run, metrics + speed)
            ends = {name: end for name, (_, end) in read.items()}
            for one in metrics:
                last[_file_of(one.key)][one.key] = one.step
            if load is not None and (over or time.monotonic() - looked >= _LOAD_EVERY):
                looked = time.monotonic()
                load.collect_metrics()
                load.publish_metrics(load.aggregate_metrics())
                load.mlflow_logger.flush()


def _load(ws: Workspace, run: str) -> "SystemMetricsMonitor | None":
    """MLflow's own measure of processors, memory, disk, network and GPUs; None where MLflow is told not to."""
    if os.environ.get(SYSTEM, "").lower() in ("false", "0"):
        return None
    found = None
    with optional(ws, "the load of this machine", away=True):
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        found = SystemMetricsMonitor(run, resume_logging=True, tracking_uri=ws.tracking)
    return found


def _read(path: Path, begin: int) -> tuple[list[dict[str, Any]], int]:
    """The whole lines from a byte of a file on that is being written, and where they end.

    A training that resumes cuts the file off: then it is read from its beginning.
    """
    try:
        with path.open("rb") as file:
            file.seek(begin if begin <= path.stat().st_size else 0)
            text = file.read()
            end = file.tell()
    except FileNotFoundError:
        return [], 0
    lines = text.splitlines(keepends=True)
    torn = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
    try:
        return [json.loads(line) for line in lines], end - len(torn)
    except ValueError:  # cut off and written again since the last look
        return [], 0


def _speed(
    rows: Sequence[Mapping[str, Any]], seen: tuple[int, float, float]
) -> "tuple[list[Metric], tuple[int, float, float]]":
    """Tokens a second since the last look, at the newest step; `seen` is that look's step, tokens and time."""
    if not rows or rows[-1]["step"] == seen[0]:
        return [], seen
    now = (int(rows[-1]["step"]), float(rows[-1].get("tokens", 0)), time.monotonic())
    measured = seen[0] and now[0] > seen[0] and now[1] > seen[1]
    return [_metric(SPEED, (now[1] - seen[1]) / (now[2] - seen[2]), now[0])] if measured else [], now


def _last_steps(api: "MlflowClient", run: str, name: str) -> dict[str, int]:
    """The newest step of each metric of a file that a run has."""
    histories = {key: api.get_metric_history(run, key) for key in FILES[name].values()}
    return {key: max(point.step for point in points) for key, points in histories.items() if points}


def _points(name: str, rows: Sequence[Mapping[str, Any]], after: Mapping[str, int]) -> "list[Metric]":
    return [
        _metric(key, float(row[part]), int(row["step"]))
        for row in rows
        for part, key in FILES[name].items()
        if row.get(part) is not None and int(row["step"]) > after.get(key, -1)
    ]


def _metric(key: str, value: float, step: int) -> "Metric":
    from mlflow.entities import Metric

    return Metric(key, value, int(time.time() * 1000), step)


def _file_of(key: str) -> str:
    return next(name for name, keys in FILES.items() if key in keys.values())


def _send(api: "MlflowClient", run: str, metrics: "Sequence[Metric]") -> None:
    for at in range(0, len(metrics), _BATCH):
        api.log_batch(run, metrics=metrics[at : at + _BATCH])


if __name__ == "__main__":
    _main()
