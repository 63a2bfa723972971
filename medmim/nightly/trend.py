"""trend: the nights as one page that needs nothing else; written however the night ended."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medmim import __version__
from medmim.bench.page import leaderboard
from medmim.nightly import rebench, records, seen
from medmim.nightly.records import Night
from medmim.page.page import publish, templates
from medmim.recipe.schema import Recipe
from medmim.run.provenance import provenance
from medmim.run.stage import NIGHTLY, Outcome, outcomes, stage
from medmim.run.workspace import Workspace

REVISION = 1
_LISTED = 21
_OWN = 2  # champion and base, which the page of the nights shows


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
        nights = records.read(ws, recipe.name)
        page = render(recipe, ws, before, nights)
        parents = {f"bench of {night.date}": night.bench for night in nights[-2:]}  # whose questions it shows
        publish(ws, page, path(recipe, ws), provenance("trend", REVISION, parents, recipe), outcome)
        scored = before["rebench"].facts.get("bench", "") if "rebench" in before else ""
        if scored and len(before["rebench"].facts["models"]) > _OWN:
            outcome.facts |= leaderboard.beside(ws, f"{ws.store}/bench/{scored}", path(recipe, ws))
    return outcome


def path(recipe: Recipe, ws: Workspace) -> Path:
    """The page's path: one page for all nights of a recipe."""
    return ws.home / "reports" / f"{recipe.name}-nightly.html"


def render(recipe: Recipe, ws: Workspace, found: Mapping[str, Outcome], nights: Sequence[Night]) -> str:
    """The page as HTML.

    Args:
        recipe: Whose nights.
        ws: The workspace, to read the answers.
        found: The records of tonight's stages; any may be absent.
        nights: All of them.
    """
    date = rebench.date_of(recipe)
    tonight = next((night for night in nights if night.date == date), None)
    drawn = [night for night in nights if night.date <= date][-seen.DRAWN :]
    before = [night for night in drawn if night.date < date]
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
            trends=seen.trends(drawn),
            listed=drawn[-_LISTED:][::-1],
            items=seen.changes(ws, tonight, before[-1] if before else None) if tonight else (),
        )
    )


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
