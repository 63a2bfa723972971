"""medmim base import | list | show: published checkpoints; build | check: a shipped base again from its recipe."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medmim import hints
from medmim.cli.options import Home, Json, Namespace

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from medmim.terms import Terms

app = typer.Typer(no_args_is_help=True, help="Bases: published checkpoints brought in, and their tiny stand-ins.")

_Ref = Annotated[str, typer.Argument(metavar="BASE", help="A shipped name, a folder, or the URI of a model.")]
_Store = Annotated[
    str | None, typer.Option("--store", metavar="URI", help="The store. [default: MEDMIM_STORE or that of the home]")
]


@app.command("import")
def import_(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A folder, s3://BUCKET/PREFIX, or with --hub OWNER/NAME.")
    ],
    store: _Store = None,
    hub: Annotated[bool, typer.Option("--hub", help="Download an OWNER/NAME from the Hugging Face Hub.")] = False,
    vision_tower: Annotated[
        Literal["checkpoint", "stock"] | None,
        typer.Option(help="LLaVA-Med only: its own tuned tower, or stock CLIP, which its code loads over it."),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option("--clip", metavar="SOURCE", help="The stock CLIP. [default: the folder that config.json names]"),
    ] = None,
    terms: Annotated[
        str | None,
        typer.Option("--terms", metavar="NAME|FILE", help="Its terms of use: llama3, llava-med, ..., or a terms.json."),
    ] = None,
    on_cluster: Annotated[
        bool, typer.Option("--on-cluster", help="In a Job of the cluster; --store is s3://.")
    ] = False,
    namespace: Namespace = None,
    image: Annotated[
        str | None, typer.Option("--image", metavar="IMAGE", help="Of the Job. [default: MEDMIM_IMAGE]")
    ] = None,
    disk: Annotated[
        str, typer.Option("--disk", metavar="SIZE", help="Scratch disk of the Job: twice the checkpoint and 4 GB more.")
    ] = "64Gi",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --on-cluster: print the Job, create nothing.")
    ] = False,
    home: Home = None,
) -> None:
    """Convert a published checkpoint and publish it as a base; prints the URI that recipes name as finetune.base."""
    from dataclasses import replace

    from medmim import store as stores
    from medmim.errors import UserError
    from medmim.run.workspace import workspace

    allowed = terms_given(terms)
    if on_cluster:
        from medmim.cluster import base_import

        words = ["--hub"] if hub else []
        words += ["--vision-tower", vision_tower] if vision_tower else []
        words += ["--clip", clip] if clip else []
        words += ["--terms", terms] if terms else []
        job = base_import.job(source, store, words, image, disk)
        if dry_run:
            import yaml

            typer.echo(yaml.safe_dump(job, sort_keys=False), nl=False)
        else:
            typer.echo(base_import.run(job, namespace))
        return
    if dry_run or image:
        raise UserError("--dry-run and --image are for --on-cluster", fix="add --on-cluster, or leave them out")
    from medmim.lvlm.importing.run import Options, import_base

    ws = workspace(home)
    if store:
        ws = replace(ws, store=stores.open_store(store).uri)
    artifact = import_base(source, ws, Options(vision_tower, clip, hub, allowed))
    typer.echo(f"{artifact.uri}\n{_line(artifact.counts)}")


@app.command("list")
def list_(store: _Store = None, home: Home = None, as_json: Json = False) -> None:
    """The shipped bases, and those that were imported into the store.

    With --json: a list of objects with `ref`, `family`, `parameters`, `tokens_per_image`, `vision_tower`, `source` and
    `terms`.
    """
    import json
    from dataclasses import replace

    from medmim import store as stores
    from medmim import terms
    from medmim.lvlm.importing.show import bases
    from medmim.run.workspace import workspace

    ws = workspace(home)
    found = bases(replace(ws, store=stores.open_store(store).uri) if store else ws)
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


def terms_given(given: str | None) -> "Terms | None":
    """Terms by their name or from a file; None where none are given."""
    from medmim import terms
    from medmim.errors import UserError

    if given is None:
        return None
    if given in terms.PUBLISHED:
        return terms.PUBLISHED[given]
    try:
        return terms.parse(hints.expanded(given).read_bytes(), given)
    except OSError:
        raise UserError(
            f"there are no terms '{given}'", fix=f"give a file, or one of: {', '.join(terms.PUBLISHED)}"
        ) from None


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
