"""The recipes with nights, the nights of one, and what one night saw."""

from functools import lru_cache
from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from medmim.errors import UserError
from medmim.nightly import records, seen
from medmim.nightly.records import Night
from medmim.run.workspace import Workspace
from medmim_console import catalog, drawing
from medmim_console.site import Number, Refusal, ThisSite, draw

router = APIRouter()
Recipe = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
Date = Annotated[str, Path(pattern=r"^\d{4}-\d{2}-\d{2}$")]


@router.get("/nights")
def recipes(request: Request, this: ThisSite, number: Number = 1) -> Response:
    """The recipes with nights, that with the newest one first."""
    known = records.dates(this.ws)
    listing = catalog.cut(sorted(known, key=lambda name: (known[name][-1], name), reverse=True), number)
    rows = [
        (name, len(known[name]), last, *_known(this.ws, name, last))
        for name, last in ((name, known[name][-1]) for name in listing.rows)
    ]
    return draw(request, "night_recipes.html.j2", listing=listing, rows=rows)


@router.get("/nights/{name}")
def nights(request: Request, this: ThisSite, name: Recipe, number: Number = 1) -> Response:
    """The nights of a recipe, with their alarms and notes, and where their trend is drawn."""
    dates = records.dates(this.ws).get(name, [])
    if not dates:
        raise Refusal(404, f"recipe {name} has no night in this store", "choose one under Nights")
    listing = catalog.cut(dates[::-1], number)
    rows = [(date, *_known(this.ws, name, date)) for date in listing.rows]
    return draw(request, "nights.html.j2", name=name, listing=listing, rows=rows)


@router.get("/nights/{name}/trend")
def trend(request: Request, this: ThisSite, name: Recipe) -> Response:
    """The scores of a recipe's last nights as figures: apart, since the first ones take seconds to draw."""
    dates = records.dates(this.ws).get(name, [])[-seen.DRAWN :]
    drawn = tuple(date for date in dates if _known(this.ws, name, date)[0])
    key = ("trend", this.ws.store, name, *drawn)
    trends = drawing.once(key, lambda: seen.trends([_read(this.ws, name, date) for date in drawn])) if drawn else []
    return draw(request, "night_trend.html.j2", name=name, drawn=drawn, trends=trends)


@router.get("/nights/{name}/{date}")
def night(request: Request, this: ThisSite, name: Recipe, date: Date) -> Response:
    """One night: its scores, differences and canary."""
    found, before, after = _of(this.ws, name, date)
    changed = sum(len(ids) for ids in found.changed.values()) + sum(one["changed"] for one in found.canary.values())
    return draw(request, "night_page.html.j2", name=name, night=found, before=before, after=after, changed=changed)


@router.get("/nights/{name}/{date}/changes")
def changes(request: Request, this: ThisSite, name: Recipe, date: Date) -> Response:
    """The questions that a night answered otherwise than the one before, or than the cache says."""
    found, before, _ = _of(this.ws, name, date)
    last = _known(this.ws, name, before)[0] if before else None
    return draw(
        request, "night_changes.html.j2", name=name, night=found, items=seen.changes(this.ws, found, last)
    )  # fmt: skip


def _of(ws: Workspace, name: str, date: str) -> tuple[Night, str, str]:
    """A night, and the dates of that before and that after it; empty where there is none."""
    dates = records.dates(ws).get(name, [])
    if date not in dates:
        raise Refusal(404, f"recipe {name} has no night of {date} in this store", "choose one under Nights")
    at = dates.index(date)
    return _read(ws, name, date), dates[at - 1] if at else "", dates[at + 1] if at + 1 < len(dates) else ""


def _known(ws: Workspace, name: str, date: str) -> tuple[Night | None, str]:
    """A night of a list, or why it cannot be read."""
    try:
        return _read(ws, name, date), ""
    except UserError as error:
        if error.exit_code != 2:
            raise
        return None, f"{error.fact}: {error.reason}"


@lru_cache(maxsize=512)
def _read(ws: Workspace, name: str, date: str) -> Night:
    found = records.find(ws, name, date)
    if found is None:
        raise Refusal(404, f"the night of {date} of recipe {name} is gone from this store")
    return found
