"""watch: compare tonight with the last nights; the record, a run in MLflow, an alarm on a regression or a drift."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from medmim import hints, stats
from medmim.bench import run as bench
from medmim.bench import tasks
from medmim.errors import Refused, UserError
from medmim.nightly import mlflow_night, rebench, records, regressions
from medmim.nightly.records import Night
from medmim.nightly.regressions import Answers
from medmim.progress import say
from medmim.recipe.schema import Recipe
from medmim.run.person import current_user
from medmim.run.stage import Outcome, stage
from medmim.run.workspace import Workspace

_SHOWN = 50
_BY_WEIGHTS = ("challenger", "candidate-")
_ROW = ("model", "group", "metric", "value", "low", "high", "n", "patients")


def run(recipe: Recipe, ws: Workspace, night: str) -> Outcome:
    """The stage.

    Args:
        recipe: `nightly` says what is compared and what raises an alarm.
        ws: The workspace.
        night: URI of what `rebench` made.

    Returns:
        Facts: the record as a `Night` has it.

    Raises:
        Refused: An alarm: a regression, or an engine that drifted. Everything is written by then.
        UserError: Another run recorded the night.
        Unavailable: MLflow or the store does not answer; the same run resumes from there.
    """
    with stage(ws, "watch") as outcome:
        name = recipe.name
        tonight = rebench.read(ws, night)
        before = [one for one in records.read(ws, name) if one.date < tonight["date"]]
        recorded = records.record(ws, name, _compare(recipe, ws, tonight, before))
        mlflow_night.log(ws, name, [*before[-recipe.nightly.nights :], recorded])
        outcome.facts = recorded.__dict__
        alarms = recorded.alarms
        if alarms:
            rollback = hints.command("registry", "rollback", name, "--why", "...")
            raise Refused(
                f"the night of {recorded.date} of recipe {name} raises {len(alarms)} alarm{'s' * (len(alarms) > 1)}",
                problems=alarms,
                fix=f"look at the trend page. A worse champion: `{rollback}`. A drifted engine: pin its "
                "version. A regression that you accept: set nightly.since to the next day",
            )
    return outcome


def _compare(recipe: Recipe, ws: Workspace, tonight: Mapping[str, Any], before: Sequence[Night]) -> Night:
    """Tonight's record, from what `rebench` wrote and the nights before."""
    settings = recipe.nightly
    window = [one for one in before if not settings.since or one.date >= settings.since][-settings.nights :]
    notes: list[str] = []
    pairs, changed = {}, {}
    for role, own in tonight["models"].items():
        earlier = _earlier_answers(ws, role, own, window, notes)
        if not earlier:  # a quiet night reads no answers
            continue
        ours = answers(ws, tonight["date"], tonight["bench"], role)
        pairs[role] = (ours, [one for one in earlier if _has_common_questions(role, ours, one, notes)])
        if earlier[-1].date == before[-1].date:
            changed[role] = regressions.changed(ours, earlier[-1])[:_SHOWN]
    scored = bench.scores(ws, f"{ws.store}/bench/{tonight['bench']}")
    rows = regressions.differences(pairs, settings.significance, settings.drop)
    board = [{key: row[key] for key in _ROW} for row in scored["leaderboard"] if _is_recorded(row)]
    notes += [*_too_few_patients(board), *_other_data(ws, tonight, before)]
    for note in dict.fromkeys(notes):
        say(note)
    return Night(
        date=tonight["date"],
        run=ws.run,
        data=tonight["data"],
        bench=tonight["bench"],
        models=tonight["models"],
        scores=board,
        canary=tonight["canary"],
        differences=rows,
        changed=changed,
        alarms=[*_drift_alarms(tonight["canary"]), *_regression_alarms(rows)],
        notes=list(dict.fromkeys(notes)),
        window=settings.nights,
        who=current_user(),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _earlier_answers(
    ws: Workspace, role: str, own: Mapping[str, str], window: Sequence[Night], notes: list[str]
) -> list[Answers]:
    """Each distinct set of answers of this series in the window, but tonight's; each of the last night that had it."""
    found: dict[str, tuple[Night, str]] = {}
    for night in window:
        for name, known in night.models.items():
            same_series = known["weights"] == own["weights"] if role.startswith(_BY_WEIGHTS) else name == role
            if same_series and known["answers"] != own["answers"]:
                found[known["answers"]] = (night, name)
    loaded = []
    for night, name in sorted(found.values(), key=lambda pair: pair[0].date):
        try:
            loaded.append(answers(ws, night.date, night.bench, name))
        except UserError as error:
            notes.append(f"{role} is not compared with the night of {night.date}: {error.fact}")
    return loaded


def _has_common_questions(role: str, ours: Answers, theirs: Answers, notes: list[str]) -> bool:
    common = bool(ours.rows.keys() & theirs.rows.keys())
    if not common:
        notes.append(f"{role} is not compared with the night of {theirs.date}: no question in common, another data set")
    return common


def answers(ws: Workspace, date: str, digest: str, role: str) -> Answers:
    """A model's answers of a night, from the bench artifact of that digest.

    Raises:
        UserError: The artifact is gone.
    """
    return regressions.answers(date, bench.predictions(ws, f"{ws.store}/bench/{digest}"), role)


def _too_few_patients(board: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is not tested for a regression, by group; metrics are named where others of the group have enough."""
    notes = []
    for group in tasks.DOMAINS:
        rows = [row for row in board if row["group"] == group]
        small = {row["metric"] for row in rows if row["low"] is None}
        enough = {row["metric"] for row in rows} - small
        where = f"{group}, {' and '.join(sorted(small))}" if enough else group
        if small:
            notes.append(f"{where}: under {stats.MIN_PATIENTS} patients, not tested for a regression")
    return notes


def _other_data(ws: Workspace, tonight: Mapping[str, Any], before: Sequence[Night]) -> list[str]:
    """A note where the data set is not that of the night before, with the number of common questions."""
    if not before or before[-1].data == tonight["data"]:
        return []
    note = f"another data set than the night before ({before[-1].date})"
    try:
        ours, theirs = (
            {row["id"] for row in bench.predictions(ws, f"{ws.store}/bench/{digest}")}
            for digest in (tonight["bench"], before[-1].bench)
        )
    except UserError:  # garbage collection removed its answers
        return [note]
    return [f"{note}: {len(ours & theirs):,} of {len(ours):,} questions in common"]


def _is_recorded(row: Mapping[str, Any]) -> bool:
    return row["metric"] in regressions.METRICS and not row["group"].startswith("source:")


def _drift_alarms(canaries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [
        f"{role} drifted: {own['changed']} of {own['asked']} answers asked anew differ from the cached ones "
        f"(p {own['p']:.2g}): its weights are the same as far as is known, so its engine, libraries or server changed"
        for role, own in canaries.items()
        if own["drifted"]
    ]


def _regression_alarms(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sentence for each model, group and metric, against the night since which it fell most."""
    worst: dict[tuple[str, str, str], Mapping[str, Any]] = {}
    for row in rows:
        key = (row["model"], row["group"], row["metric"])
        if row["dropped"] and (key not in worst or row["value"] < worst[key]["value"]):
            worst[key] = row
    return [
        f"{model}: {metric} {group.replace('_', '-')} fell by {-100 * row['value']:.1f} points against "
        f"{row['against']} (95% interval {100 * row['low']:+.1f} to {100 * row['high']:+.1f}, "
        f"p {row['p_holm']:.2g} after Holm, "
        f"{row['n']:,} questions, {row['patients']:,} patients)"
        for (model, group, metric), row in worst.items()
    ]
