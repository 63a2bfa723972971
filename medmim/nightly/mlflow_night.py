"""One run a night in MLflow: a projection of the nights' records, made good by the next night where it was cut off."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime

from medmim import tracking
from medmim.nightly.records import Night
from medmim.run.workspace import Workspace

EXPERIMENT = "-nightly"  # after the recipe's name
NIGHT = "medmim.night"


def log(ws: Workspace, name: str, seen: Sequence[Night]) -> None:
    """Log the nights that are not there yet, or not whole.

    Args:
        ws: The workspace.
        name: The recipe's; the experiment is NAME-nightly.
        seen: The nights.
    """
    from mlflow.entities import Metric, RunStatus, RunTag

    api = tracking.client(ws)
    with tracking.answering(ws.tracking):
        experiment = tracking.experiment(ws, name + EXPERIMENT)
        listed = api.search_runs([experiment], max_results=1000, order_by=["attributes.start_time DESC"])
        known = {run.data.tags.get(NIGHT, ""): run for run in listed}
        for night in seen:
            made = known.get(night.date)
            if made is not None and made.info.status == RunStatus.to_string(RunStatus.FINISHED):
                continue
            tags = {
                NIGHT: night.date,
                "medmim.bench": night.bench,
                "medmim.data": night.data,
                "medmim.run": night.run,
                "medmim.verdict": "alarm" if night.alarms else "quiet",
                **{f"medmim.model.{_plain(role)}": own["weights"] for role, own in night.models.items()},
            }
            if night.alarms:
                tags["mlflow.note.content"] = "\n".join(f"- {text}" for text in night.alarms)
            when = int(datetime.fromisoformat(f"{night.date}T00:00:00").replace(tzinfo=UTC).timestamp() * 1000)
            run = made.info.run_id if made else api.create_run(experiment, when, tags, night.date).info.run_id
            values = _values(night)
            metrics = [Metric(key, value, when, 0) for key, value in values.items()]
            api.log_batch(run, metrics, tags=[RunTag(key, value) for key, value in tags.items()])
            api.set_terminated(run, RunStatus.to_string(RunStatus.FINISHED))


def _values(night: Night) -> dict[str, float]:
    """`ROLE/GROUP/METRIC` -> value, as a training run has them; `ROLE/canary_changed` and `alarms`."""
    found = {_plain(f"{row['model']}/{row['group']}/{row['metric']}"): float(row["value"]) for row in night.scores}
    for role, seen in night.canary.items():
        found[_plain(f"{role}/canary_changed")] = seen["changed"] / seen["asked"] if seen["asked"] else 0.0
    return found | {"alarms": float(len(night.alarms))}


def _plain(key: str) -> str:
    return re.sub(r"[^\w./ -]", "/", key)
