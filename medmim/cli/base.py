"""medmim base import | list | show: published checkpoints; build | check: a shipped base again from its recipe."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medmim import hints
from medmim.cli import importing
from medmim.cli.options import Home, Json, Namespace

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

app = typer.Typer(no_args_is_help=True, help="Bases: published checkpoints brought in, and their tiny stand-ins.")

_Ref = Annotated[str, typer.Argument(metavar="BASE", help="A shipped name, a folder, or the URI of a model.")]


@app.command("import")
def import_(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help=importing.SOURCE)],
    store: importing.Store = None,
    hub: importing.Hub = False,
    vision_tower: Annotated[
        Literal["checkpoint", "stock"] | None,
        typer.Option(help="LLaVA-Med only: its own tuned tower, or stock CLIP, which its code loads over it."),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option("--clip", metavar="SOURCE", help="The stock CLIP. [default: the folder that config.json names]"),
    ] = None,
    terms: importing.TermsOfUse = None,
    on_cluster: importing.OnCluster = False,
    namespace: Namespace = None,
    image: importing.Image = None,
    disk: importing.Disk = "64Gi",
    dry_run: importing.DryRun = False,
    home: Home = None,
) -> None:
    """Convert a published checkpoint and publish it as a base; prints the URI that recipes name as finetune.base."""
    allowed = importing.terms_given(terms)
    if on_cluster:
        from medmim.cluster import base_import

        words = importing.words(hub, vision_tower=vision_tower, clip=clip, terms=terms)
        importing.submit(base_import.job(source, store, words, image, disk), dry_run, namespace)
        return
    importing.refuse_options_of_the_job(dry_run, image)
    from medmim.lvlm.importing.run import Options, import_base

    artifact = import_base(source, importing.to_store(home, store), Options(vision_tower, clip, hub, allowed))
    typer.echo(f"{artifact.uri}\n{_line(artifact.counts)}")


@app.command("list")
def list_(store: importing.Store = None, home: Home = None, as_json: Json = False) -> None:
    """The shipped bases, and those that were imported into the store.

    With --json: a list of objects with `ref`, `family`, `parameters`, `tokens_per_image`, `vision_tower`, `source` and
    `terms`.
    """
    import json

    from medmim import terms
    from medmim.lvlm.importing.show import bases

    found = bases(importing.to_store(home, store))
    if as_json:
        typer.echo(json.dumps(found))
        return
    for base in found:
        word = terms.name_of(terms.parse(json.dumps(base["terms"]), base["ref"]))
        typer.echo(f"{base['ref']}\n  {_line(base)}\n  from: {_short(base['source'])}, terms: {word}")


@app.command("show")
def show(base: _Ref, home: Home = None, as_json: Json = False) -> None:
    """What a base is and what its terms of use allow.

    With --json: an object with the keys of `list`, and `artifact_digest` (that of the URI), `digest` (of the files that
    decide an answer), `dtype` and `base` (of adapters).
    """
    import json

    from medmim.lvlm.importing.show import describe
    from medmim.run.workspace import workspace
    from medmim.terms import FLAGS

    facts = describe(base, workspace(home))
    if as_json:
        typer.echo(json.dumps(facts))
        return
    for key, value in facts.items():
        label = "content digest" if key == "digest" else key.replace("_", " ")
        if key != "terms" and value != "":
            typer.echo(f"{label:<18}{value:,}" if isinstance(value, int) else f"{label:<18}{value}")
    for flag in FLAGS:
        typer.echo(f"{flag.replace('_', ' '):<18}{'yes' if facts['terms'][flag] else 'no'}")
    for line in facts["terms"]["text"]:
        typer.echo(f"{'terms':<18}{line}")


def _line(facts: "Mapping[str, Any]") -> str:
    size = f"{facts['parameters']:,} parameters, {facts['tokens_per_image']} tokens per image"
    return f"{facts['family']}, {size}, vision tower: {facts['vision_tower']}"


def _short(source: str) -> str:
    """Where a base came from, in a word: the name of a repository or folder."""
    from medmim.lvlm.importing.layouts import HUB_NAME

    return source if HUB_NAME.fullmatch(source) else source.rstrip("/").rpartition("/")[2] or "medmim"


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
    goal = hints.expanded(out) if out else ws.home / "bases" / name
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
            fix=f"`{hints.command('base', 'build', name)}` makes the base anew, with its record",
        )
