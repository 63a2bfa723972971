"""Log a registered model's scores and loss curve to its MLflow run and to the logged model."""

import json
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from medmim import store
from medmim.store import Artifact

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

_TRAIN, _DEV = ("loss", "lr", "grad_norm"), ("loss", "accuracy")  # keys of `losses.jsonl` and `validation.jsonl`
_BATCH = 1000  # metrics in one call; MLflow's limit


def log(api: "MlflowClient", run: str, model: str | None, bench: Artifact, tuned: Artifact) -> None:
    """Log scores and loss curve, and end the run.

    Args:
        api: The client.
        run: Id of the MLflow run.
        model: Id of the logged model that gets the scores as well.
        bench: The bench artifact: `scores.json`, and its digest as the data set of the scores.
        tuned: The model artifact; of its files `losses.jsonl` and `validation.jsonl`, the curves, are read if it has
            them.
    """
    from mlflow.entities import Metric, RunStatus

    now = int(time.time() * 1000)
    metrics = [
        Metric(key, value, now, 0, model_id=model, dataset_name="bench", dataset_digest=bench.digest[:36])
        for key, value in _leaderboard(store.read_file(bench, "scores.json")).items()
    ]
    if "losses.jsonl" in tuned.files:
        metrics += _curve(store.read_file(tuned, "losses.jsonl"), now, {k: f"train/{k}" for k in _TRAIN})
    if "validation.jsonl" in tuned.files:
        metrics += _curve(store.read_file(tuned, "validation.jsonl"), now, {k: f"dev/{k}" for k in _DEV})
    for begin in range(0, len(metrics), _BATCH):
        api.log_batch(run, metrics=metrics[begin : begin + _BATCH])
    api.set_terminated(run, RunStatus.to_string(RunStatus.FINISHED))


def metric_key(*parts: str) -> str:
    """`ROLE/GROUP/METRIC`, with `/` for every character that MLflow or its charts do not take, `:` included."""
    return re.sub(r"[^\w./ -]", "/", "/".join(parts))


def _leaderboard(text: bytes) -> dict[str, float]:
    """Metric key -> value; the score without images ends in `_blind`, the share right both ways in `_swap`."""
    found: dict[str, float] = {}
    rows: list[dict[str, Any]] = json.loads(text)["leaderboard"]
    for row in rows:
        key = metric_key(row["model"], row["group"], row["metric"])
        found[key] = row["value"]
        for probe in ("blind", "swap"):
            if row.get(probe) is not None:
                found[f"{key}_{probe}"] = row[probe]
    return found


def _curve(text: bytes, now: int, names: Mapping[str, str]) -> "list[Metric]":
    """The values of some keys of each line, by the names that they get."""
    from mlflow.entities import Metric

    lines = [json.loads(line) for line in text.splitlines()]
    return [
        Metric(name, float(line[key]), now, int(line["step"]))
        for line in lines
        for key, name in names.items()
        if line.get(key) is not None
    ]
