"""medmim runs list | show | sweep: the runs on a cluster, and the removal of what they left behind."""

import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from medmim import hints
from medmim.cli import runs_end, runs_logs
from medmim.cli.options import Home, Host, Json, Namespace, RunName, connect, keep
from medmim.errors import UserError
from medmim.run.workspace import workspace

if TYPE_CHECKING:
    from medmim.cluster.kfp.runs import Run
    from medmim.cluster.kfp.steps import Step

app = typer.Typer(no_args_is_help=True, help="List, show, cancel and clean up runs on a cluster.")


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, max=200, help="Runs on a page.")] = 20,
    page: Annotated[
        str, typer.Option("--page", metavar="TOKEN", help="The next page, as printed below the last.")
    ] = "",
    stored: Annotated[
        bool,
        typer.Option("--stored", help="By their records in the store, a laptop's too; KFP is not asked."),
    ] = False,
    home: Home = None,
    host: Host = None,
    namespace: Namespace = None,
    as_json: Json = False,
) -> None:
    """The newest runs that medmim submitted. With --json: runs (name, run_id, state, created, ...), next_page.

    With --stored and --json: runs (name, recipe, state, begun, seen, seconds), next_page.
    """
    if stored:
        return _stored(home, limit, page, as_json)
    from medmim.cluster.kfp import runs

    found, following = runs.page(connect(host, namespace), limit, page)
    if as_json:
        typer.echo(json.dumps({"runs": [plain(run) for run in found], "next_page": following or None}))
        return
    console = Console(highlight=False)
    rows = [("run", "state", "age", "took", "recipe", "link"), *map(_row, found)]
    columns = range(6 if any(run.link for run in found) else 5)
    widths = [max(len(row[column]) for row in rows) for column in columns]
    for row in rows if found else ():
        cells = [text.ljust(width) for text, width in zip(row, widths, strict=False)]
        console.print("  ".join(cells).rstrip(), markup=False, soft_wrap=True)  # a link stays in one piece
    if not found:
        console.print("no runs")
    if following:
        console.print(f"more: {hints.command('runs', 'list', '--page', following)}", markup=False, soft_wrap=True)


def _stored(home: Path | None, limit: int, page: str, as_json: bool) -> None:
    """List the runs of a store, a page at a time: of each run but those on the page, only its name is asked for."""
    from medmim.run import overview

    if page and not (page.isascii() and page.isdigit() and int(page)):
        raise UserError(f"no page '{page}' in the list of runs", fix="start again without --page")
    ws, number = workspace(home), int(page or 1)
    sys.stderr.write(f"store {ws.store}\n")
    every = overview.names(ws)
    found = overview.runs(ws, every[(number - 1) * limit : number * limit])
    following = str(number + 1) if number * limit < len(every) else ""
    if as_json:
        keys = ("name", "recipe", "state", "begun", "seen")
        rows = [{key: getattr(run, key) for key in keys} | {"seconds": run.seconds} for run in found]
        typer.echo(json.dumps({"runs": rows, "next_page": following or None}, default=datetime.isoformat))
        return
    for run in found:
        seen = f"{age(run.seen)} ago" if run.seen else ""
        typer.echo(f"{run.name}  {run.state}  {seen}".rstrip())
    if not found:
        typer.echo("no runs")
    if following:
        typer.echo(f"more: {hints.command('runs', 'list', '--stored', '--page', following)}")


@app.command()
def show(named: RunName, host: Host = None, namespace: Namespace = None, as_json: Json = False) -> None:
    """A run's state: its steps, their artifacts and messages. With --json: the run with `steps` and `exit_code`.

    Writes the report where the run ended without one: cancelling ends its pod, too.
    """
    from medmim.cli.follow import line
    from medmim.cluster.kfp import report, runs

    run = report.completed(runs.find(connect(host, namespace), named))
    if as_json:
        typer.echo(json.dumps({**plain(run), "exit_code": run.exit_code if run.ended else None}))
        return
    out = Console(highlight=False)
    head = f"{run.name}  {run.result}, submitted {age(run.created)} ago"
    lines = [head, run.link, f"recipe    {run.uri}"]
    out.print("\n".join(filter(None, lines)), markup=False, soft_wrap=True)
    for step in run.steps:
        out.print(line(step))
        for text in _details(step):
            out.print(f"    {text}", markup=False, soft_wrap=True)
    for note in run.notes:
        out.print(f"note: {note}", markup=False, soft_wrap=True)


app.command("cancel")(runs_end.cancel)
app.command("delete")(runs_end.delete)
app.command("logs")(runs_logs.logs)


@app.command()
def sweep(
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="[default: this pod's, or the kubeconfig's]", callback=keep)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be removed.")] = False,
    as_json: Json = False,
) -> None:
    """Remove Ray jobs whose step or run is gone, so that they hold no GPU; run it every ten minutes.

    Their logs and Events are archived in the store. With --json: a list of name, why.
    """
    from medmim.cluster import kube
    from medmim.cluster.ray import sweep as ray_sweep

    orphans = ray_sweep.sweep(kube.connect(namespace), dry_run)
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in orphans]))
        return
    if not orphans:
        typer.echo("no orphaned Ray jobs")
        return
    table = Table("Ray job", "why", title="would be removed" if dry_run else "removed")
    for one in orphans:
        table.add_row(one.name, one.why)
    Console().print(table)


def plain(run: "Run") -> dict[str, Any]:
    """A run as JSON; its keys are a contract."""
    times = {key: moment.isoformat() if moment else None for key, moment in _times(run).items()}
    return {**asdict(run), **times}


def age(begin: datetime, end: datetime | None = None) -> str:
    """The time between two moments, or until now, in one unit."""
    seconds = max(0.0, ((end or datetime.now(UTC)) - begin).total_seconds())
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _row(run: "Run") -> tuple[str, ...]:
    took = age(run.created, run.finished) if run.finished else ""
    return run.name, run.state.lower(), age(run.created), took, run.recipe, run.link


def _times(run: "Run") -> dict[str, datetime | None]:
    return {"created": run.created, "finished": run.finished, "retried": run.retried}


def _details(step: "Step") -> list[str]:
    """What a step waits for, a stage's artifact, links among its facts, what became of the model, and its message."""
    from medmim.cli.follow import promotion

    waits = [f"has not started: {step.waiting}"] if step.waiting else []
    if step.record is None:
        return waits
    facts = step.record.facts
    links = [f"{key}  {facts[key]}" for key in ("mlflow", "link") if isinstance(facts.get(key), str)]
    return [text for text in (*waits, step.record.uri, *links, promotion(step), step.record.message) if text]
