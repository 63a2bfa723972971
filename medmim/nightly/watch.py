"""watch: tonight beside the last nights; the record, a row in MLflow, and an alarm where something got worse."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from medmim.bench import run as bench
from medmim.bench import stats, tasks
from medmim.errors import Refused, UserError
from medmim.nightly import mlflow_night, rebench, records, regressions
from medmim.nightly.records import Night
from medmim.nightly.regressions import Answers
from medmim.progress import say
from medmim.recipe.schema import Recipe
from medmim.run.provenance import current_user
from medmim.run.stage import Outcome, stage
from medmim.run.workspace import Workspace

_SHOWN = 50
_BY_WEIGHTS = ("challenger", "candidate-")
_ROW = ("model", "group", "metric", "value", "low", "high", "n", "patients")


def run(recipe: Recipe, ws: Workspace, night: str) -> Outcome:
    """The stage.

    Args:
        recipe: `nightly` says what is compared and what is an alarm.
        ws: The workspace.
        night: URI of what `rebench` made.

    Returns:
        Facts: the record as a `Night` has it.

    Raises:
        Refused: An alarm: a drop, or an engine that drifted. Everything is written by then.
        UserError: The night is another run's.
        Unavailable: MLflow or the store does not answer; the same run goes on from there.
    """
    with stage(ws, "watch") as outcome:
        name = recipe.name
        tonight = rebench.read(ws, night)
        before = [one for one in records.read(ws, name) if one.date < tonight["date"]]
        seen = records.record(ws, name, _look(recipe, ws, tonight, before))
        mlflow_night.log(ws, name, [*before[-recipe.nightly.nights :], seen])
        outcome.facts = seen.__dict__
        if seen.alarms:
            raise Refused(
                f"the night of {seen.date} of recipe {name} raises {len(seen.alarms)} alarm"
                + "s" * (len(seen.alarms) > 1),
                problems=seen.alarms,
                fix="look at the trend page. A worse champion: `medmim registry rollback`. A drifted engine: pin its "
                "version. A drop that is right: set nightly.since to the next day",
            )
    return outcome


def _look(recipe: Recipe, ws: Workspace, tonight: Mapping[str, Any], before: Sequence[Night]) -> Night:
    settings = recipe.nightly
    window = [one for one in before if not settings.since or one.date >= settings.since][-settings.nights :]
    notes: list[str] = []
    pairs, changed = {}, {}
    for role, own in tonight["models"].items():
        known = _others(ws, role, own, window, notes)
        if not known:  # a quiet night reads no answers
            continue
        ours = answers(ws, tonight["date"], tonight["bench"], role)
        pairs[role] = (ours, [one for one in known if _meets(role, ours, one, notes)])
        if known[-1].date == before[-1].date:
            changed[role] = regressions.changed(ours, known[-1])[:_SHOWN]
    scored = bench.scores(ws, f"{ws.store}/bench/{tonight['bench']}")
    rows = regressions.differences(pairs, recipe.bench.resamples, settings.significance, settings.drop)
    board = [{key: row[key] for key in _ROW} for row in scored["leaderboard"] if _shown(row)]
    notes += [*_few(board), *_other_data(ws, tonight, before)]
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
        alarms=[*_drifts(tonight["canary"]), *_drops(rows)],
        notes=list(dict.fromkeys(notes)),
        window=settings.nights,
        who=current_user(),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _others(
    ws: Workspace, role: str, own: Mapping[str, str], window: Sequence[Night], notes: list[str]
) -> list[Answers]:
    """Each distinct set of answers that this line gave in the window and that is not tonight's; its last night."""
    found: dict[str, tuple[Night, str]] = {}
    for night in window:
        for name, known in night.models.items():
            follows = known["weights"] == own["weights"] if role.startswith(_BY_WEIGHTS) else name == role
            if follows and known["answers"] != own["answers"]:
                found[known["answers"]] = (night, name)
    loaded = []
    for night, name in sorted(found.values(), key=lambda pair: pair[0].date):
        try:
            loaded.append(answers(ws, night.date, night.bench, name))
        except UserError as error:
            notes.append(f"{role} is not compared with the night of {night.date}: {error.fact}")
    return loaded


def _meets(role: str, ours: Answers, theirs: Answers, notes: list[str]) -> bool:
    shared = bool(ours.rows.keys() & theirs.rows.keys())
    if not shared:
        notes.append(f"{role} is not compared with the night of {theirs.date}: no question in common, another data set")
    return shared


def answers(ws: Workspace, date: str, digest: str, role: str) -> Answers:
    """What a model said in a night, from the scores of that digest.

    Raises:
        UserError: They are gone.
    """
    return regressions.answers(date, bench.predictions(ws, f"{ws.store}/bench/{digest}"), role)


def _few(board: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where a drop could not be told, by group; metrics are named where the others of the group have enough."""
    told = []
    for group in tasks.DOMAINS:
        rows = [row for row in board if row["group"] == group]
        small = {row["metric"] for row in rows if row["low"] is None}
        enough = {row["metric"] for row in rows} - small
        where = f"{group}, {' and '.join(sorted(small))}" if enough else group
        if small:
            told.append(f"{where}: under {stats.MIN_PATIENTS} patients, so no drop can be told from chance")
    return told


def _other_data(ws: Workspace, tonight: Mapping[str, Any], before: Sequence[Night]) -> list[str]:
    """Whether the data set is another one than the night before, and how many of tonight's questions it had."""
    if not before or before[-1].data == tonight["data"]:
        return []
    told = f"another data set than the night before ({before[-1].date})"
    try:
        ours, theirs = (
            {row["id"] for row in bench.predictions(ws, f"{ws.store}/bench/{digest}")}
            for digest in (tonight["bench"], before[-1].bench)
        )
    except UserError:  # its answers were collected
        return [told]
    return [f"{told}: {len(ours & theirs):,} of {len(ours):,} questions in common"]


def _shown(row: Mapping[str, Any]) -> bool:
    return row["metric"] in regressions.METRICS and not row["group"].startswith("source:")


def _drifts(canaries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [
        f"{role} drifted: {seen['changed']} of {seen['asked']} answers asked anew are not those of before "
        f"(p {seen['p']:.2g}): its weights are the same by all we know, so its engine, libraries or server changed"
        for role, seen in canaries.items()
        if seen["drifted"]
    ]


def _drops(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sentence for each model, group and metric, by the night that it fell most against."""
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
