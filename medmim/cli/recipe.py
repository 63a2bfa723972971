"""medmim recipe list | copy | explain: the shipped recipes, and what their keys mean."""

import json
import sys
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Column, Table

from medmim import hints
from medmim.cli.options import Json
from medmim.errors import UserError
from medmim.recipe import loading

app = typer.Typer(no_args_is_help=True, help="The shipped recipes, and what their keys mean.")


@app.command("list")
def show(as_json: Json = False) -> None:
    """List the shipped recipes."""
    names = loading.shipped()
    if as_json:
        typer.echo(json.dumps(names))
        return
    table = Table("recipe", "what it does", box=None)
    for name, text in names.items():
        table.add_row(name, text)
    Console().print(table)


@app.command()
def copy(name: str, file: Path) -> None:
    """Copy a shipped recipe to FILE, to edit it."""
    text, _ = loading.read_text(name)
    try:
        with file.open("x", encoding="utf-8") as goal:
            goal.write(text)
    except FileExistsError:
        raise UserError(f"{file} exists", reason="it may hold your changes", fix="give another name") from None
    sys.stderr.write(f"wrote {file}; run it with: {hints.command('run', str(file))}\n")


@app.command()
def explain(
    key: str = typer.Argument("", help="A key or a section, such as finetune.lr."), as_json: Json = False
) -> None:
    """Explain a key, a section, or all."""
    rows = loading.describe(key)
    if as_json:
        fields = ("key", "type", "default", "meaning")
        typer.echo(json.dumps([dict(zip(fields, row, strict=True)) for row in rows]))
        return
    table = Table(
        Column("key", no_wrap=True, min_width=max(len(row[0]) for row in rows)), "type", "default", "meaning", box=None
    )
    for row in rows:
        table.add_row(*row)
    Console().print(table)
