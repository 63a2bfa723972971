"""Garbage collection of a store, `medmim gc`: find the old artifacts, runs and leftovers, and remove them.

Never removed is what an alias, a registered version, a decision, a kept run or a kept artifact's provenance names, the
answers that the next nights compare with, and what was written or used within the grace period. On the rest, each
recipe's `retention` decides. The nights' records are kept for good.

A model of which every version is retired is named by them in vain: it goes, and what only it was made of. Decisions,
scores and answers about it stay.
"""

import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from medmim import progress, store
from medmim.data import kept_pixels
from medmim.data.words import ask, book
from medmim.housekeeping import inventory, readings
from medmim.housekeeping.inventory import LAST_RECORD, Entry
from medmim.nightly import records
from medmim.recipe.registry import Retention
from medmim.registry import store_id
from medmim.run import run_name, step_lock
from medmim.run.workspace import Workspace
from medmim.store.removal import INVENTORY, LOCK, REMOVING, USED, clear, finish, remove

DAY = 86400.0
GRACE = 7.0  # days
_RUNNING = 14 * DAY  # a run without its report may be in a long training, which writes no record meanwhile


@dataclass(frozen=True)
class Item:
    """One thing that may be removed.

    Attributes:
        kind: `artifact`, `unfinished` (files without a manifest), `run`, `resume`, `index`, `mark`, `lock`, `pixels`
            (what the home keeps for the next build), `words` (replies of a model, likewise) or `gallery`.
        name: Its key, or the common prefix of its keys.
        recipe: Name of its recipe; empty where none is known.
        bytes: Its size.
        days: Since it was last written or used.
        why: The reason, a sentence.
    """

    kind: str
    name: str
    recipe: str
    bytes: int
    days: float
    why: str


@dataclass(frozen=True)
class Plan:
    """What would be removed.

    Attributes:
        items: The things.
        kept: Of what stays: reason -> how many artifacts and runs.
        cutoff: What is used from this time on (s since 1970) is spared when the plan is carried out.
    """

    items: tuple[Item, ...]
    kept: Mapping[str, int]
    cutoff: float


def plan(
    ws: Workspace, last: int | None = None, days: int | None = None, grace: float = GRACE, now: float | None = None
) -> Plan:
    """Find what may be removed; changes nothing, but leaves what it has read in the store for the next plan.

    Args:
        ws: The workspace: its store, and the MLflow that belongs to it.
        last: Instead of every recipe's `retention.last`.
        days: Instead of every recipe's `retention.days`.
        grace: Days within which nothing is removed, whatever the recipes say: longer than any step takes between
            using an artifact and writing its record.
        now: Seconds since 1970; the clock by default.

    Raises:
        UserError: The MLflow is another store's, as far as can be told.
        Unavailable: The store or MLflow does not answer.
    """
    now = time.time() if now is None else now
    cutoff = now - grace * DAY
    place = store.open_store(ws.store)
    ages = inventory.listed(place)
    known = readings.of(place, ages)
    entries = inventory.scan(known)
    retention = _retention(entries.values(), last, days)
    kept: dict[str, int] = defaultdict(int)
    items: list[Item] = []

    def add(kind: str, name: str, recipe: str, size: int, when: float, why: str) -> None:
        items.append(Item(kind, name, recipe, size, round((now - when) / DAY, 1), why))

    runs, of_runs = inventory.totals("runs", ages), inventory.records_of(ages)
    roots = inventory.roots(ws, known, of_runs, cutoff)
    referenced = set(records.digests_in_window(place))
    staying: list[str] = []
    listed = [Entry(name, t, size, complete=inventory.is_finished(name, ages)) for name, (t, size) in runs.items()]
    for run, rank in _ranked(listed, _recipe):
        recipe = _recipe(run)
        rule = retention(recipe)
        recent = run.time >= min(cutoff, now - rule.days * DAY)
        running = not run.complete and run.time >= now - _RUNNING
        if recent or running or rank < rule.last:
            staying.append(run.name)
        else:
            add("run", run.name, recipe, run.bytes, run.time, f"not among the last {rule.last} runs")
    if staying:
        kept["runs"] = len(staying)
    referenced |= known.digests(key for run in staying for key in of_runs.get(run, ()))

    complete = [entry for entry in entries.values() if entry.complete]
    retained = set()
    for entry, rank in _ranked(complete, lambda entry: (entry.kind, entry.recipe_name)):
        rule = retention(entry.recipe_name)
        if entry.imported:
            reason = "approved wordings" if entry.kind == book.KIND else "an imported base"
        elif entry.time >= cutoff:
            reason = f"used within {grace:g} days"
        elif entry.time >= now - rule.days * DAY:
            reason = "used within retention.days"
        elif rank < rule.last:
            reason = "among retention.last"
        else:
            continue
        kept[reason] += 1
        retained.add(entry.name)

    needed = inventory.with_ancestors(entries.values(), referenced | {entries[name].digest for name in retained})
    needed |= inventory.with_ancestors(entries.values(), {*roots.decision, *roots.version}, roots.released)
    for entry in entries.values():
        if not entry.complete:
            if entry.time < cutoff:
                add("unfinished", entry.name, "", entry.bytes, entry.time, "no manifest: its publisher was killed")
        elif entry.name not in retained:
            if entry.digest in needed:
                kept["an alias, a version, a decision, a kept run or artifact points to it"] += 1
            else:
                why = "outside retention, and nothing points to it"
                if entry.digest in roots.released:
                    why = "outside retention, and the gate or a person took every version of it out of use"
                add("artifact", entry.name, entry.recipe_name, entry.bytes, entry.time, why)

    for name, (when, size) in inventory.totals("resume", ages).items():
        if when < cutoff:
            add("resume", name, "", size, when, f"an unfinished step that has written nothing for {grace:g} days")

    for name, (when, size) in inventory.totals(step_lock.FOLDER, ages).items():
        if when < cutoff:
            add("lock", name, "", size, when, f"of a step that nobody has run for {grace:g} days")

    if unused := kept_pixels.unused(ws.home, cutoff):
        last_used, size = max(when for when, *_ in unused), sum(size for _, size, _ in unused)
        add("pixels", "pixels", "", size, last_used, f"{len(unused):,} pictures of no build for {grace:g} days")
    if stale := ask.unused(ws.home, cutoff):
        last_used, size = max(when for when, *_ in stale), sum(size for _, size, _ in stale)
        add("words", ask.FOLDER, "", size, last_used, f"replies of models that were not asked for {grace:g} days")

    remaining = {entry.digest for entry in complete} - {item.name.partition("/")[2] for item in items}
    for path, when, size in _galleries(ws, remaining):
        add("gallery", f"galleries/{path.name}", "", size, when, "its data set is gone, or is to be removed")
    old = [key for key, (when, _) in ages.items() if when < cutoff and key != INVENTORY and not key.startswith(LOCK)]
    steps = [key for key in old if key.startswith("steps/")]
    for key, step in zip(steps, known.read(steps), strict=True):
        if not step.digests & remaining:
            add("index", key, "", ages[key][1], ages[key][0], "its artifact is gone, or is to be removed")
    for key in old:
        top, _, name = key.partition("/")
        if top in (USED, REMOVING) and name not in entries:
            add("mark", key, "", ages[key][1], ages[key][0], "there is no such artifact")
    known.keep()
    return Plan(tuple(items), dict(kept), cutoff)


def adopt(ws: Workspace) -> list[str]:
    """Let the models in this MLflow say that they are the store's, after a person has said so; returns their names.

    Raises:
        UserError: None of them is, as far as can be told, or MLflow refuses.
    """
    place = store.open_store(ws.store)
    names = inventory.names_of(ws, readings.of(place, place.ages()))
    store_id.adopt(ws, names)
    return names


def collect(ws: Workspace, plan: Plan) -> list[Item]:
    """Remove what a plan names, and finish what an earlier, killed collection began; waits for another that removes.

    Returns:
        What was removed; without what was used or written since the plan was made.

    Raises:
        Unavailable: This process was paused, and another one removes by now.
    """
    place = store.open_store(ws.store)
    with step_lock.step_lock(place, LOCK):
        return _collect(ws, place, plan)


def _collect(ws: Workspace, place: store.Store, plan: Plan) -> list[Item]:
    order = (
        "run",
        "index",
        "artifact",
        "unfinished",
        "resume",
        "mark",
        "lock",
        "pixels",
        "words",
        "gallery",
    )  # records before the artifacts that they name
    removed = []
    if plan.items:
        progress.say(f"removing {len(plan.items):,} things")
    for item in sorted(plan.items, key=lambda item: order.index(item.kind)):
        if item.kind in ("artifact", "unfinished"):
            if not remove(place, item.name, plan.cutoff):
                continue
        elif item.kind in ("index", "mark"):
            place.delete(item.name)
        elif item.kind == "gallery":
            path = ws.home / item.name
            if store.find(f"{ws.store}/data/{path.name}") is not None:  # used since the plan was made, so it stays
                continue
            shutil.rmtree(path, ignore_errors=True)
        elif item.kind == "pixels":
            for *_, path in kept_pixels.unused(ws.home, plan.cutoff):
                path.unlink(missing_ok=True)
        elif item.kind == "words":
            for *_, path in ask.unused(ws.home, plan.cutoff):
                path.unlink(missing_ok=True)
        elif not clear(place, item.name, LAST_RECORD, plan.cutoff):  # a step or a run that went on since the plan
            continue
        removed.append(item)
    finish(place, plan.cutoff)
    return removed


def _galleries(ws: Workspace, digests: Collection[str]) -> list[tuple[Path, float, int]]:
    from medmim.data import gallery  # imports Pillow

    return gallery.of_others(ws, digests)


def _retention(entries: Iterable[Entry], last: int | None, days: int | None) -> Callable[[str], Retention]:
    """Recipe name -> its retention, as its newest artifact has it."""
    found: dict[str, Retention] = {}
    for entry in sorted(entries, key=lambda entry: entry.time):
        try:
            found[entry.recipe_name] = Retention.model_validate(entry.recipe.get("retention") or {})
        except ValidationError:  # of another version of medmim
            continue
    overrides = {key: value for key, value in (("last", last), ("days", days)) if value is not None}
    return lambda name: found.get(name.removesuffix("-nightly"), Retention()).model_copy(update=overrides)


def _recipe(run: Entry) -> str:
    return run_name.recipe_of(run.name.partition("/")[2])


def _ranked(entries: Iterable[Entry], group: Callable[[Entry], Any]) -> list[tuple[Entry, int]]:
    """Each with its rank in its group, by age; the newest is 0."""
    counts: dict[Any, int] = defaultdict(int)
    ranked = []
    for entry in sorted(entries, key=lambda entry: (-entry.time, entry.name)):
        ranked.append((entry, counts[group(entry)]))
        counts[group(entry)] += 1
    return ranked
