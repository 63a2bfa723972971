"""medmim data export | exports: the rows of a data set for another trainer; what was exported, and where it is."""

import json
import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from medmim.cli.options import Home, Json


class Format(StrEnum):
    """The values of `--to`."""

    LLAVA = "llava"
    MS_SWIFT = "ms-swift"
    LLAMA_FACTORY = "llama-factory"
    TRL = "trl"
    MED_MIM = "med-mim"
    DATASETS = "datasets"


class Split(StrEnum):
    """The values of `--split`."""

    TRAIN = "train"
    DEV = "dev"
    TEST = "test"


def export(
    uri: Annotated[str, typer.Argument(metavar="URI", help="Address of a data set, as `medmim data build` prints it.")],
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Is created; an earlier one of the same is replaced.")],
    to: Annotated[Format, typer.Option("--to", help="What is to read it.")],
    split: Annotated[
        list[Split] | None,
        typer.Option("--split", help="Each in files of its own; repeatable. [default: train, without benchmark rows]"),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N rows of each split.")] = None,
    max_images: Annotated[
        int | None, typer.Option("--max-images", min=0, help="Leave out rows with more images, for a model's sake.")
    ] = None,
    in_house: Annotated[
        bool,
        typer.Option("--in-house", help="The folder stays with those who may have the data, whose terms forbid more."),
    ] = False,
    name_patients: Annotated[
        bool,
        typer.Option("--name-patients", help="med-mim: name files as the source does, though the recipe shows nobody."),
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="An export for another format, or of another data set, is replaced, too.")
    ] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write the training rows of a data set for another trainer, with pictures, card and terms of use.

    README.md in it says how to use it. A row that the format cannot hold is left out, never changed: left_out.jsonl
    names each. With --json: folder, rows (split -> number), left_out (reason -> rows), images, patients, data (digest),
    terms, record.
    """
    from medmim import hints, store
    from medmim.data.export import run
    from medmim.run.workspace import workspace
    from medmim.terms import FLAGS, reasons

    ws = workspace(home)
    sys.stderr.write(f"data {store.get(uri).digest}, home {ws.home}, store {ws.store}\n")
    splits = tuple(one.value for one in split or (Split.TRAIN,))
    choice = run.Choice(splits, limit, max_images)
    made = run.export(ws, uri, hints.expanded(folder).absolute(), to.value, choice, in_house, name_patients, replace)
    if run.FORMS[to.value].names_patients:
        sys.stderr.write("its rows and files name patients: their paths are those of the source\n")
    if as_json:
        typer.echo(json.dumps({**asdict(made), "folder": str(made.folder), "terms": made.terms.as_dict()}))
        return
    for name, rows in made.rows.items():
        typer.echo(f"{name:<16}{rows:>9,} rows")
    typer.echo(f"{'pictures':<16}{made.images:>9,}\n{'patients':<16}{made.patients:>9,}")
    for reason, rows in sorted(made.left_out.items()):
        typer.echo(f"left out {rows:,} rows: {reason}")
    for line in reasons(made.terms, FLAGS):
        typer.echo(f"terms: {line}")
    sys.stderr.write(f"read {made.folder}/README.md\n")


def exports(home: Home = None, as_json: Json = False) -> None:
    """List what was exported from the data sets of this store, benchmarks included, and whether it is still there.

    With --json, a list: id, time, who, host, folder, form, data (digest), rows, patients, populations, private, mark,
    medmim, named, state (`here`, `replaced`, `gone`, `elsewhere`).
    """
    from medmim.data.export import records
    from medmim.run.workspace import workspace
    from medmim.store import open_store

    ws = workspace(home)
    sys.stderr.write(f"home {ws.home}, store {ws.store}\n")
    found = records.load(open_store(ws.store))
    states = records.states(found)
    if as_json:
        typer.echo(json.dumps([{**asdict(one), "state": states[one.id]} for one in found]))
        return
    for one in found:
        where = one.folder if states[one.id] == "here" else f"{one.host}:{one.folder}"
        kept = (", names patients" if one.named else "") + (", not to be passed on" if one.private else "")
        typer.echo(f"{one.time[:16]}  {one.form}, {one.rows:,} rows, {one.patients:,} patients{kept}, by {one.who}")
        typer.echo(f"  {states[one.id]}: {where} (data {one.data[:12]})")
    if not found:
        typer.echo("nothing was exported")
