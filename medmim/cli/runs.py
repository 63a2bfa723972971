"""medmim runs: what runs on a cluster, and what was left there."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from medmim.cli.options import Json

app = typer.Typer(no_args_is_help=True, help="Look after what runs on a cluster.")


@app.callback()
def runs() -> None:
    """Keep `sweep` a subcommand while it is the only one."""


@app.command()
def sweep(
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="[default: this pod's, or the kubeconfig's]")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be removed.")] = False,
    as_json: Json = False,
) -> None:
    """Remove Ray jobs whose step or run is gone, so that no GPU is left burning; run it every two minutes.

    Their logs and Events are copied into the store first. With --json: a list of name, why.
    """
    from medmim.cluster import kube
    from medmim.cluster.sweep import sweep as do

    left = do(kube.connect(namespace), dry_run)
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in left]))
        return
    if not left:
        typer.echo("nothing is left behind")
        return
    table = Table("Ray job", "why", title="would be removed" if dry_run else "removed")
    for one in left:
        table.add_row(one.name, one.why)
    Console().print(table)
