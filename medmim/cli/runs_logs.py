"""medmim runs logs: the logs of a run's steps, and those archived of its Ray jobs."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from medmim import hints
from medmim.cli.options import Host, Json, Namespace, RunName, connect
from medmim.errors import UserError

if TYPE_CHECKING:
    from medmim.cluster.kfp.client import Api
    from medmim.cluster.kfp.runs import Run


def logs(
    named: RunName,
    step: Annotated[str | None, typer.Argument(metavar="[STEP]", help="Of this step only; else of all.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print new lines until the run has ended.")] = False,
    host: Host = None,
    namespace: Namespace = None,
    as_json: Json = False,
) -> None:
    """The logs of steps, from KFP or Kubernetes; where both have none, the archived logs of their Ray jobs.

    With --json: a list of source (step, or key in the store) and text; not with --follow.
    """
    from medmim.cluster.kfp import logs, runs

    api = connect(host, namespace)
    run = runs.find(api, named)
    if step and step not in {one.name for one in run.steps}:
        raise UserError(
            f"run {run.name} has no step '{step}' yet",
            fix=f"there are: {', '.join(one.name for one in run.steps) or 'none; it has not started'}",
        )
    if follow and as_json:
        raise UserError("--follow prints no JSON", fix="leave out --json or --follow")
    if follow:
        _follow(api, run, step)
        return
    cluster, parts, reasons = logs.reach(api, run), [], []
    for one in run.steps:
        if step in (None, one.name):
            try:
                parts.append((one.name, logs.readable(logs.of_step(api, run, one, cluster))))
            except UserError as error:
                reasons.append(f"{one.name}: {error.reason}")
    if any(reason.startswith(("finetune:", "bench:")) for reason in reasons):
        parts += logs.of_ray(run)
    if as_json:
        typer.echo(json.dumps([{"source": name, "text": text} for name, text in parts]))
        return
    if not parts:
        raise UserError(
            f"there is no log of run {run.name}" + (f", step {step}" if step else ""),
            reason="; ".join(reasons) or "no step has begun",
            fix=f"`{hints.command('runs', 'show', run.name)}` prints each stage's record",
        )
    for name, text in parts:
        typer.echo(f"== {name}\n{text.rstrip()}")


def _follow(api: "Api", run: "Run", step: str | None) -> None:
    """Print new lines, step by step, until the run has ended."""
    from medmim.cluster.kfp import logs

    def untold(name: str, why: str) -> None:
        typer.echo(f"{name}: no log for now: {why}", err=True)

    last = ""
    for name, lines in logs.follow(api, run, step, untold):
        if last != name:
            typer.echo(f"== {name}")
        last = name
        typer.echo(logs.readable("\n".join(lines)))
