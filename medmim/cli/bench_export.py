"""medmim bench export: the questions of tasks as a folder that another harness reads."""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from medmim.cli.options import Home, Json


class Harness(StrEnum):
    """The values of `--to`."""

    LMMS_EVAL = "lmms-eval"
    VLMEVALKIT = "vlmevalkit"


def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Is created; an earlier one of the same is replaced.")],
    to: Annotated[Harness, typer.Option("--to", help="Which harness is to read it.")],
    task: Annotated[
        list[str] | None,
        typer.Option("--task", help="As of `bench run`; repeatable. [default: held_in and held_out]"),
    ] = None,
    data: Annotated[str | None, typer.Option("--data", help="Data set. [default: the newest one of the store]")] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Only the first N questions of each task.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer.")] = 32,
    in_house: Annotated[
        bool,
        typer.Option("--in-house", help="The folder stays with those who may have the data, whose terms forbid more."),
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="An export for another format, or of another data set, is replaced, too.")
    ] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write the questions of tasks, with their images, for another harness; lmms-eval then scores as medmim does.

    README.md in it says how to run it, the terms of use, and where scores may differ. With --json: folder, data
    (digest), questions (task -> number), terms.
    """
    from medmim import store
    from medmim.bench import data_sets, tasks
    from medmim.bench.export.run import export as write
    from medmim.run.workspace import workspace
    from medmim.terms import FLAGS, reasons

    names, place = tasks.asked(task or (), data)
    ws = workspace(home)
    uri = data_sets.of(ws, place)
    sys.stderr.write(f"data {store.get(uri).digest}, home {ws.home}, store {ws.store}\n")
    out = folder.expanduser().absolute()
    made = write(ws, uri, names, out, to.value, limit, max_new_tokens, in_house, replace)
    if as_json:
        facts = {"folder": str(made.folder), "data": made.data, "questions": made.questions}
        typer.echo(json.dumps({**facts, "terms": made.terms.as_dict()}))
        return
    for name, questions in made.questions.items():
        typer.echo(f"{name:<16}{questions:>9,}")
    for line in reasons(made.terms, FLAGS):
        typer.echo(f"terms: {line}")
    sys.stderr.write(f"read {made.folder}/README.md\n")
