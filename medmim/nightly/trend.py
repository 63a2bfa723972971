"""trend: the nights as one page that needs nothing else; written however the night ended."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medmim import __version__
from medmim.bench import answers, leaderboard, tasks
from medmim.errors import UserError
from medmim.nightly import rebench, records, regressions, watch
from medmim.nightly.records import Night
from medmim.page import figures
from medmim.page.page import label, publish, templates
from medmim.recipe.schema import Recipe
from medmim.run.provenance import provenance
from medmim.run.stage import NIGHTLY, Outcome, outcomes, stage
from medmim.run.workspace import Workspace

REVISION = 1
_NIGHTS = 60  # drawn
_LISTED = 21
_OWN = 2  # champion and base, which the page of the nights shows
_ITEMS = 12  # shown of each model
_METRICS = {"accuracy": "accuracy", "token_f1": "token F1"}


def run(recipe: Recipe, ws: Workspace) -> Outcome:
    """Write the page: the nights' records, and how far tonight's stages came.

    Returns:
        Facts: `path` of the page in the home; `models` (path, uri), the page of tonight's benchmark, where more than
        two models were asked.

    Raises:
        UserError: The disk is full, or the store refuses.
    """
    with stage(ws, "trend") as outcome:
        before = {name: own for name, own in outcomes(ws, NIGHTLY).items() if name != "trend"}
        seen = records.read(ws, recipe.name)
        page = render(recipe, ws, before, seen)
        parents = {f"bench of {night.date}": night.bench for night in seen[-2:]}  # whose questions it shows
        publish(ws, page, path(recipe, ws), provenance("trend", REVISION, parents, recipe), outcome)
        scored = before["rebench"].facts.get("bench", "") if "rebench" in before else ""
        if scored and len(before["rebench"].facts["models"]) > _OWN:
            outcome.facts |= leaderboard.beside(ws, f"{ws.store}/bench/{scored}", path(recipe, ws))
    return outcome


def path(recipe: Recipe, ws: Workspace) -> Path:
    """The page's path: one page for all nights of a recipe."""
    return ws.home / "reports" / f"{recipe.name}-nightly.html"


def render(recipe: Recipe, ws: Workspace, found: Mapping[str, Outcome], seen: Sequence[Night]) -> str:
    """The page as HTML.

    Args:
        recipe: Whose nights.
        ws: The workspace, to read the answers.
        found: The records of tonight's stages; any may be absent.
        seen: All nights.
    """
    date = rebench.date_of(recipe)
    tonight = next((night for night in seen if night.date == date), None)
    drawn = [night for night in seen if night.date <= date][-_NIGHTS:]
    trends = [
        (f"{label(group).capitalize()} {_METRICS[metric]}", _trend(drawn, group, metric))
        for metric in regressions.METRICS
        for group in tasks.DOMAINS
    ]
    return (
        templates("medmim.nightly")
        .get_template("trend.html.j2")
        .render(
            recipe=recipe,
            run=ws.run,
            date=date,
            time=datetime.now(UTC).strftime("%-d %B %Y, %H:%M UTC"),
            version=__version__,
            verdict=_verdict(date, tonight, found),
            tonight=tonight,
            trends=[(title, figure) for title, figure in trends if figure],
            listed=drawn[-_LISTED:][::-1],
            items=_items(ws, tonight, drawn),
        )
    )


def _trend(nights: Sequence[Night], group: str, metric: str) -> str:
    """Every model's score in a group, night by night, and the alarms; empty where nothing was scored."""
    points = [
        figures.Point(row["model"], night.date, row["value"], row["low"], row["high"], row["n"], row["patients"])
        for night in nights
        for row in night.scores
        if (row["group"], row["metric"]) == (group, metric)
    ]
    roles = dict.fromkeys(role for night in nights for role in night.models)
    series = sorted(roles, key=lambda role: (role != "champion", role != "base"))
    alarms = {night.date: "; ".join(night.alarms) for night in nights if night.alarms}
    return figures.trend(points, [night.date for night in nights], series, alarms, _METRICS[metric])


def _verdict(date: str, tonight: Night | None, found: Mapping[str, Outcome]) -> dict[str, Any]:
    broken = next((own for own in found.values() if own.status == "failed"), None)
    if broken:
        return {"kind": "failed", "title": f"{date}: stopped at {broken.stage}", "message": broken.message}
    if tonight is None:
        return {"kind": "open", "title": f"{date}: nothing was recorded", "message": ""}
    if tonight.alarms:
        title = f"{date}: {len(tonight.alarms)} alarm{'s' * (len(tonight.alarms) > 1)}"
        return {"kind": "refused", "title": title, "message": ""}
    return {"kind": "kept", "title": f"{date}: quiet", "message": ""}


def _items(ws: Workspace, tonight: Night | None, drawn: Sequence[Night]) -> list[dict[str, Any]]:
    """The questions that are answered otherwise than the night before, or than the cache says; while they are there."""
    if tonight is None:
        return []
    before = [night for night in drawn if night.date < tonight.date]
    shown = []
    for role in tonight.models:
        names = list(dict.fromkeys([*tonight.changed.get(role, ()), *tonight.canary[role]["items"]]))
        try:
            now = watch.answers(ws, tonight.date, tonight.bench, role).rows if names else {}
            known = bool(names and before and role in before[-1].models)
            then = watch.answers(ws, before[-1].date, before[-1].bench, role).rows if known else {}
            given = answers.load(ws.fetch(f"{ws.store}/answers/{tonight.canary[role]['answers']}")) if names else []
        except UserError:  # garbage collection or an erasure took them
            continue
        rows = [
            {"id": name, "question": now[name]["question"], "before": _text(then, name), "now": _text(now, name)}
            | {"anew": next((one.text for one in given if one.sample == name), "–")}
            for name in names[:_ITEMS]
            if name in now
        ]
        if rows:
            shown.append({"model": role, "count": len(names), "rows": rows})
    return shown


def _text(rows: Mapping[str, Mapping[str, Any]], name: str) -> str:
    return str(rows[name]["text"]) if name in rows else "–"
