"""What may go from a store, and taking it away: `medmim gc`.

Never what an alias, a registered version, a decision, a kept run or a kept artifact's provenance names, nor the answers
that the next nights compare with, and nothing that was written or used within the grace. On the rest, each recipe's
`retention` decides. The nights' records stay for good.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from medmim import progress, store
from medmim.housekeeping import inventory
from medmim.housekeeping.inventory import LAST_RECORD, Held
from medmim.nightly import records
from medmim.recipe.registry import Retention
from medmim.run.workspace import Workspace
from medmim.store.removal import REMOVING, USED, clear, finish, remove

DAY = 86400.0
GRACE = 7.0  # days
_GOING = 14 * DAY  # a run without its report may be in a long training; it leaves no record meanwhile


@dataclass(frozen=True)
class Item:
    """One thing that may go.

    Attributes:
        kind: `artifact`, `unfinished` (files without a manifest), `run`, `resume`, `index` or `mark`.
        name: Its key, or what all of its keys begin with.
        recipe: Name of the recipe it is of; empty where none is known.
        bytes: Its size.
        days: Since it was last written or used.
        why: A sentence.
    """

    kind: str
    name: str
    recipe: str
    bytes: int
    days: float
    why: str


@dataclass(frozen=True)
class Plan:
    """What would go, and of what stays: reason -> how many artifacts and runs; `young`: see `remove`."""

    items: tuple[Item, ...]
    kept: Mapping[str, int]
    young: float


def plan(
    ws: Workspace, last: int | None = None, days: int | None = None, grace: float = GRACE, now: float | None = None
) -> Plan:
    """What may go.

    Args:
        ws: The workspace: its store, and the MLflow that belongs to it.
        last: Instead of every recipe's `retention.last`.
        days: Instead of every recipe's `retention.days`.
        grace: Days within which nothing goes, whatever the recipes say: longer than any step takes between using an
            artifact and leaving its record.
        now: Seconds since 1970; the clock by default.

    Raises:
        UserError: MLflow knows none of the models that the store speaks of: it is another store's.
        Unavailable: The store or MLflow does not answer.
    """
    now = time.time() if now is None else now
    young = now - grace * DAY
    place = store.open_store(ws.store)
    ages = place.ages()
    held = inventory.look(place, ages)
    rules = _rules(held.values(), last, days)
    runs = inventory.below("runs", ages)
    pointed = set().union(*inventory.roots(ws, runs).values(), records.digests_in_window(place))
    kept: dict[str, int] = defaultdict(int)

    def stays(reason: str) -> bool:
        kept[reason] += 1
        return True

    def spared(own: Held, rank: int) -> bool:
        rule = rules(own.recipe_name)
        if own.time >= young:
            return stays(f"used within {grace:g} days")
        if own.time >= now - rule.days * DAY:
            return stays("used within retention.days")
        return rank < rule.last and stays("among retention.last")

    items: list[Item] = []

    def goes(kind: str, name: str, recipe: str, size: int, when: float, why: str) -> None:
        items.append(Item(kind, name, recipe, size, round((now - when) / DAY, 1), why))

    told = [Held(name, t, size, whole=inventory.ended(name, ages)) for name, (t, size) in runs.items()]
    for run, rank in _ranked(told, lambda run: inventory.recipe_of(run.name)):
        rule = rules(inventory.recipe_of(run.name))
        fresh = run.time >= min(young, now - rule.days * DAY)
        going = not run.whole and run.time >= now - _GOING
        if fresh or going or rank < rule.last:
            kept["runs"] += 1
            pointed |= inventory.named_in(place, run.name, ages)
        else:
            recipe = inventory.recipe_of(run.name)
            goes("run", run.name, recipe, run.bytes, run.time, f"not among the last {rule.last} runs")

    whole = [own for own in held.values() if own.whole]
    left = {own.name for own, rank in _ranked(whole, lambda own: (own.kind, own.recipe_name)) if spared(own, rank)}
    closed = inventory.with_ancestors(held.values(), pointed | {held[name].digest for name in left})
    for own in held.values():
        if not own.whole and own.time < young:
            goes("unfinished", own.name, "", own.bytes, own.time, "no manifest: its publisher was killed")
        elif own.whole and own.name not in left and own.digest not in closed:
            why = "outside retention, and nothing points to it"
            goes("artifact", own.name, own.recipe_name, own.bytes, own.time, why)
        elif own.whole and own.name not in left:
            kept["an alias, a version, a decision, a kept run or artifact points to it"] += 1
    for name, (when, size) in inventory.below("resume", ages).items():
        if when < young:
            goes("resume", name, "", size, when, f"no checkpoint for {grace:g} days")
    there = {own.digest for own in whole} - {item.name.partition("/")[2] for item in items}
    for key, (when, size) in ages.items():
        if when < young and key.startswith("steps/") and not inventory.digests(inventory.text_of(place, key)) & there:
            goes("index", key, "", size, when, "the artifact that it names is gone, or goes")
        name = key.partition("/")[2]
        if when < young and key.startswith((f"{USED}/", f"{REMOVING}/")) and name not in held:
            goes("mark", key, "", size, when, "there is no such artifact")
    return Plan(tuple(items), dict(kept), young)


def collect(ws: Workspace, plan: Plan) -> list[Item]:
    """Take away what a plan names, and end what an earlier, killed collection began.

    Returns:
        What is gone; without the artifacts that were used since the plan was made.
    """
    place = store.open_store(ws.store)
    order = ("run", "index", "artifact", "unfinished", "resume", "mark")  # records go before what they name
    done = []
    if plan.items:
        progress.say(f"removing {len(plan.items):,} things")
    for item in sorted(plan.items, key=lambda item: order.index(item.kind)):
        if item.kind in ("artifact", "unfinished"):
            if not remove(place, item.name, plan.young):
                continue
        elif item.kind in ("index", "mark"):
            place.delete(item.name)
        else:
            clear(place, item.name, LAST_RECORD)
        done.append(item)
    finish(place, plan.young)
    return done


def _rules(held: Iterable[Held], last: int | None, days: int | None) -> Callable[[str], Retention]:
    """Recipe name -> its retention, as its newest artifact has it."""
    found: dict[str, Retention] = {}
    for own in sorted(held, key=lambda own: own.time):
        try:
            found[own.recipe_name] = Retention.model_validate(own.recipe.get("retention") or {})
        except ValidationError:  # of another version of medmim
            continue
    given = {key: value for key, value in (("last", last), ("days", days)) if value is not None}
    return lambda name: found.get(name.removesuffix("-nightly"), Retention()).model_copy(update=given)


def _ranked(held: Iterable[Held], group: Callable[[Held], Any]) -> list[tuple[Held, int]]:
    """Each with its place in its group; the newest is 0."""
    seen: dict[Any, int] = defaultdict(int)
    ranked = []
    for own in sorted(held, key=lambda own: (-own.time, own.name)):
        ranked.append((own, seen[group(own)]))
        seen[group(own)] += 1
    return ranked
