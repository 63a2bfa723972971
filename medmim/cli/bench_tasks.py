"""medmim bench tasks: which tasks there are, and how many questions of a data set belong to each."""

import json
import sys
from typing import Annotated

import typer

from medmim.cli.options import Home, Json


def tasks(
    task: Annotated[
        list[str] | None, typer.Option("--task", help="A YAML file of your own, beside the shipped tasks; repeatable.")
    ] = None,
    data: Annotated[str | None, typer.Option("--data", help="Data set. [default: the newest one, if any]")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """List the tasks, and count the questions of a data set that belong to each.

    With --json: data (URI, null without one) and tasks: name, description, digest, questions (null where no data set
    is), content (the keys that are given).
    """
    from medmim import shards, store
    from medmim.bench import clean, data_sets, tasks
    from medmim.run.workspace import workspace

    ws = workspace(home)
    refs = tuple(dict.fromkeys((*tasks.shipped(), *(task or ()))))
    tasks.check(task or ())
    uri = data_sets.of(ws, data) if data else data_sets.newest_if_any(ws)
    counted = {}
    if uri:
        source = store.get(uri)
        known = clean.resolved(ws, source, refs, make=False)
        counted = tasks.count(store.fetch(source, ws.cache, [shards.SAMPLES]), known)
    rows = [
        {
            "name": name,
            "description": one.description,
            "digest": one.digest,
            "questions": counted.get(name),
            "content": one.content,
        }
        for name, one in map(tasks.load, refs)
    ]
    if as_json:
        typer.echo(json.dumps({"data": uri, "tasks": rows}))
        return
    for row in rows:
        questions = "-" if row["questions"] is None else f"{row['questions']:,}"
        typer.echo(f"{row['name']:<16}{questions:>9}  {row['description']}")
    sys.stderr.write(f"questions of {uri}\n" if uri else "no data set is built, so nothing is counted\n")
