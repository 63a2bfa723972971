"""medmim base: train a shipped base again from its recipe."""

from pathlib import Path
from typing import Annotated

import typer

from medmim.cli.options import Home

app = typer.Typer(no_args_is_help=True, help="Tiny bases: stand-ins for published checkpoints.")


@app.command("build")
def build(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A base whose recipe is shipped, such as tiny-mantis.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where to put it. [default: bases/NAME in the home]")
    ] = None,
    home: Home = None,
) -> None:
    """Train a base on text and single images. Killed, it goes on from its last checkpoint."""
    import sys

    from medmim import steps
    from medmim.cli import base_build

    recipe = base_build.load(name)
    ws = steps.workspace(home)
    goal = out or ws.home / "bases" / name
    sys.stderr.write(f"base {name}, recipe {recipe.digest[:12]}, home {ws.home}, into {goal}\n")
    made = base_build.build(recipe, ws.home / "work" / f"base-{name}-{recipe.digest[:12]}", goal)
    typer.echo(f"{goal}\ndigest {made.digest}")
