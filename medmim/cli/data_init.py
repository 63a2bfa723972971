"""The command `data init`: from a folder of images to a table, terms and a recipe."""

import json
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from medmim import hints
from medmim.cli.options import Json
from medmim.errors import UserError

Folder = Annotated[str, typer.Argument(metavar="FOLDER", help="DICOM files or pictures, at any depth.")]
Out = Annotated[str | None, typer.Option("--out", metavar="FILE", help="Recipe to write; default: ./NAME.yaml.")]
Name = Annotated[str | None, typer.Option("--name", help="Of the data set; default: the folder's name.")]


def init(folder: Folder, out: Out = None, name: Name = None, as_json: Json = False) -> None:
    """Begin a data set of your own: look at a folder of images, write a table to complete and a recipe.

    Of DICOM files the tags fill the table, of pictures their names. Says which questions become possible with what is
    there, and which columns would add more. Nothing is overwritten.

    --json: {images, patients, guessed (images whose patient is only a name of a folder or file), passed_over, families
    (family -> questions), further (family -> the columns that it lacks), written}.
    """
    from medmim.data.begin import TABLE, TERMS, begin
    from medmim.data.sources.files import folder as existing

    if not hints.expanded(folder).is_dir():
        kind = "a file, not a folder" if hints.expanded(folder).exists() else "not a folder"
        raise UserError(f"{folder} is {kind}", fix="give the folder that holds the images, unpacked")
    place = existing(folder, "FOLDER")
    called = name or re.sub(r"[^a-z0-9]+", "-", place.absolute().name.lower()).strip("-")[:40] or "studies"
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", called):
        raise UserError(f"--name {called} is no name of a data set", fix="use up to 40 of a-z, 0-9 and -")
    recipe = hints.expanded(out) if out else Path(f"{called}.yaml")
    found = begin(place, recipe, called)
    if as_json:
        typer.echo(json.dumps(asdict(found) | {"written": [str(path) for path in found.written]}))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(f"{found.images:,} images of {found.patients:,} patients in {place}", markup=False, soft_wrap=True)
    if found.guessed:
        fact = (
            f"of {found.guessed:,} images the patient is a guess, from the name of a folder or file: check that column"
        )
        console.print(fact, markup=False, soft_wrap=True)
    for ending, count in sorted(found.passed_over.items()):
        console.print(f"passed over: {count:,} files ({ending})", markup=False)
    shown = Table("questions that are possible now", "number", box=None, pad_edge=False)
    for family, count in found.families.items():
        shown.add_row(family, f"{count:,}")
    console.print(shown if found.families else "no questions are possible with what the table holds now")
    lacking: dict[tuple[str, ...], list[str]] = {}
    for family, columns in found.further.items():
        lacking.setdefault(columns, []).append(family)
    for columns, families in lacking.items():
        console.print(f"complete {', '.join(columns)}: {', '.join(families)}", markup=False, soft_wrap=True)
    for path in found.written:
        console.print(f"written: {path}", markup=False, soft_wrap=True)
    sys.stderr.write(
        f"next: complete {TABLE} and {TERMS}, then {hints.command('data', 'plan', str(recipe))} "
        f"and {hints.command('run', str(recipe))}\n"
    )
