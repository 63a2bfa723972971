"""Log each night as one MLflow run, from the nights' records; the next night repeats what a kill cut off."""

from collections.abc import Sequence
from datetime import UTC, datetime

from medmim import tracking
from medmim.nightly.records import Night
from medmim.registry.mlflow_run import headlines
from medmim.run.workspace import Workspace
from medmim.tracking.training_run import metric_key

EXPERIMENT = "-nightly"  # after the recipe's name
NIGHT = "medmim.night"


def log(ws: Workspace, name: str, nights: Sequence[Night]) -> None:
    """Log the nights whose run is missing or not finished.

    Args:
        ws: The workspace.
        name: The recipe's; the experiment is NAME-nightly.
        nights: Their records.
    """
    from mlflow.entities import Metric, RunStatus, RunTag

    api = tracking.client(ws)
    with tracking.answering(ws.tracking):
        experiment = tracking.experiment(ws, name + EXPERIMENT)
        listed = api.search_runs([experiment], max_results=1000, order_by=["attributes.start_time DESC"])
        runs = {run.data.tags.get(NIGHT, ""): run for run in listed}
        for night in nights:
            existing = runs.get(night.date)
            if existing is not None and existing.info.status == RunStatus.to_string(RunStatus.FINISHED):
                continue
            tags = {
                NIGHT: night.date,
                "medmim.bench": night.bench,
                "medmim.data": night.data,
                "medmim.run": night.run,
                "medmim.verdict": "alarm" if night.alarms else "quiet",
                **{f"medmim.model.{metric_key(role)}": own["weights"] for role, own in night.models.items()},
            }
            if night.alarms:
                tags["mlflow.note.content"] = "\n".join(f"- {text}" for text in night.alarms)
            when = int(datetime.fromisoformat(f"{night.date}T00:00:00").replace(tzinfo=UTC).timestamp() * 1000)
            run = existing.info.run_id if existing else api.create_run(experiment, when, tags, night.date).info.run_id
            metrics = [Metric(key, value, when, 0) for key, value in _metrics(night).items()]
            api.log_batch(run, metrics, tags=[RunTag(key, value) for key, value in tags.items()])
            api.set_terminated(run, RunStatus.to_string(RunStatus.FINISHED))


def _metrics(night: Night) -> dict[str, float]:
    """The headlines of the bench, as a training run has them, of the champion; `canary/ROLE` and `alarms`."""
    main = "champion" if "champion" in night.models else next(iter(night.models), "")
    found = headlines(night.scores, (), main)
    for role, canary in night.canary.items():
        changed = canary["changed"] / canary["asked"] if canary["asked"] else 0.0
        found[metric_key("canary", role)] = changed
    return found | {"alarms": float(len(night.alarms))}
