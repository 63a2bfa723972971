"""medmim base build | check: train a shipped base again from its recipe."""

from pathlib import Path
from typing import Annotated

import typer

from medmim.cli.options import Home, Json

app = typer.Typer(no_args_is_help=True, help="Tiny bases: stand-ins for published checkpoints.")


@app.command("build")
def build(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A base whose recipe is shipped, such as tiny-mantis.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where to put it. [default: bases/NAME in the home]")
    ] = None,
    home: Home = None,
) -> None:
    """Train a base on text and single images. Killed, it resumes from its last checkpoint."""
    import sys

    from medmim.run.workspace import workspace
    from medmim.tiny import base_recipe, build

    recipe = base_recipe.load(name)
    ws = workspace(home)
    goal = out or ws.home / "bases" / name
    sys.stderr.write(f"base {name}, recipe {recipe.digest[:12]}, home {ws.home}, into {goal}\n")
    made = build.build(recipe, ws.home / "work" / f"base-{name}-{recipe.digest[:12]}", goal)
    typer.echo(f"{goal}\ndigest {made.digest}")


@app.command("check")
def check(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A shipped base.")],
    as_json: Json = False,
) -> None:
    """Train the first steps of a base's recipe and compare their losses with the recorded ones: 1 if they differ.

    With --json: the losses and the largest difference.
    """
    import json
    import sys
    import tempfile

    from medmim.errors import Refused
    from medmim.tiny import base_recipe, build

    recipe = base_recipe.load(name)
    recorded = build.shipped_losses(name)
    sys.stderr.write(f"base {name}, recipe {recipe.digest[:12]}, {len(recorded)} steps\n")
    with tempfile.TemporaryDirectory() as folder:
        losses = build.first_losses(recipe, Path(folder), len(recorded))
    differences = [abs(a - b) for a, b in zip(losses, recorded, strict=True)]
    largest = max(differences)
    if as_json:
        typer.echo(json.dumps({"losses": losses, "recorded": recorded, "largest_difference": largest}))
    else:
        typer.echo(f"largest difference to the recorded losses: {largest:.1e}")
    if not all(one <= build.TOLERANCE for one in differences):  # so that NaN is refused too
        raise Refused(
            f"the losses of {name}'s recipe differ from the recorded ones by {largest:.1e}",
            reason=f"another machine's rounding may change them by {build.TOLERANCE:g}",
            fix="`medmim base build` makes the base anew, with its record",
        )
