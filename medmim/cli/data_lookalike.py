"""What `medmim data lookalike` prints."""

import json
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from medmim.data.lookalike import run
from medmim.hints import expanded


def write(folder: Path, patients: int, seed: int, as_json: bool) -> None:
    """Write look-alikes and show what is in them."""
    written = run.write(expanded(folder), patients, seed)
    if as_json:
        typer.echo(json.dumps({"folder": str(folder), "sources": {one.source: vars(one) for one in written}}))
        return
    table = Table("source", "patients", "rows", "images", "dirty rows", box=None)
    for number in (1, 2, 3):
        table.columns[number].justify = "right"
    for one in written:
        dirty = ", ".join(f"{kind} {count}" for kind, count in one.dirty.items() if count)
        table.add_row(one.source, f"{one.patients:,}", f"{one.rows:,}", f"{one.images:,}", dirty or "none")
    Console(highlight=False).print(table)
