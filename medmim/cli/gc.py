"""medmim gc: remove old artifacts, runs and leftovers from the store."""

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from medmim import hints
from medmim.cli.options import Home, Json
from medmim.redact import shown
from medmim.run.workspace import workspace

_SHOWN = 40


def gc(
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without, it is only shown.")] = False,
    last: Annotated[int | None, typer.Option(min=1, help="Instead of every recipe's retention.last.")] = None,
    days: Annotated[int | None, typer.Option(min=0, help="Instead of every recipe's retention.days.")] = None,
    grace: Annotated[
        float, typer.Option("--grace-days", min=0.05, help="Nothing written or used within them is removed.")
    ] = 7.0,
    adopt: Annotated[
        bool,
        typer.Option("--adopt", help="First record that this MLflow is the store's: after a move or a restoration."),
    ] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show, with --yes remove, artifacts, runs and leftovers outside of their recipe's `retention`.

    Never removed is what an alias, a registered version, a decision, a kept run or a kept artifact's parents name, nor
    a run that is running. The model of a retired version may be removed, its scores and decisions never. One
    `medmim gc` at a time. With --json: removed (whether), bytes, items (list of {kind, name, recipe, bytes, days,
    why}), kept (reason -> count).
    """
    from medmim.housekeeping import gc

    ws = workspace(home)
    sys.stderr.write(f"store {ws.store}\ntracking {shown(ws.tracking)}\n")
    if adopt:
        sys.stderr.write(f"this store's from now on: {', '.join(gc.adopt(ws))}\n")
    found = gc.plan(ws, last, days, grace)
    items = gc.collect(ws, found) if yes else list(found.items)
    total = sum(item.bytes for item in items)
    if as_json:
        facts = {"removed": yes, "bytes": total, "items": [asdict(item) for item in items], "kept": found.kept}
        typer.echo(json.dumps(facts))
        return
    table = Table("", "name", "recipe", "days", "MB", "why", box=None)
    for item in sorted(items, key=lambda item: -item.bytes)[:_SHOWN]:
        size = f"{item.bytes / 1e6:,.1f}"
        table.add_row(item.kind, _short(item.name), item.recipe, f"{item.days:,.0f}", size, item.why)
    console = Console(highlight=False)
    if items:
        console.print(table)
    if len(items) > _SHOWN:
        console.print(f"and {len(items) - _SHOWN} more; --json lists them all")
    for reason, count in found.kept.items():
        console.print(f"stays: {count:,} {reason}", markup=False, soft_wrap=True)
    verb = "removed" if yes else "would be removed"
    console.print(f"{len(items):,} items, {total / 1e6:,.1f} MB {verb}" if items else "nothing to remove")
    if items and not yes:
        text = f"nothing was removed; `{hints.command('gc', '--yes')}` removes it"
        console.print(text, markup=False, soft_wrap=True)


def _short(name: str) -> str:
    """A name with each digest cut to its first twelve letters."""
    return "/".join(part[:12] if len(part) == 64 else part for part in name.split("/"))
