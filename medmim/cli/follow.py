"""Waiting for a run on a cluster: a line for each step as it changes, and a sign of life between them."""

import sys
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.status import Status
from rich.text import Text

from medmim.errors import TRY_AGAIN, UserError

if TYPE_CHECKING:
    from medmim.cluster.kfp.client import Api
    from medmim.cluster.kfp.runs import Run, Step
    from medmim.cluster.kfp.submit import Submitted

_SILENCE = 60.0  # s without a terminal before a sign of life
MARK = {"SUCCEEDED": "[green]✓[/]", "FAILED": "[red]✗[/]", "CANCELED": "[yellow]✗[/]", "SKIPPED": "·"}


def follow(api: "Api", made: "Submitted") -> tuple["Run", int]:
    """Wait for a run and tell what happens; an interrupt, or a server that says no more, ends the waiting only.

    Returns:
        The run as last seen, and the exit code: the run's own, or that of a waiting which ended before it.
    """
    from medmim.cluster.kfp import runs

    console = Console(file=sys.stderr, highlight=False)
    run = runs.begun(made)
    begin = told = time.monotonic()

    def say(step: "Step") -> None:
        nonlocal told
        told = time.monotonic()
        if step.state:
            console.print(line(step))
        if step.state == "RUNNING":
            status.update(f"{step.name} is running")

    def tick(now: "Run") -> None:
        nonlocal run, told
        run = now
        if not console.is_terminal and time.monotonic() - told > _SILENCE:
            told = time.monotonic()
            console.print(f"          waiting, {told - begin:.0f} s")

    with Status("waiting for the first step", console=console) as status:
        try:
            run = runs.follow(api, run, say, tick)
            said, code = ending(run), run.exit_code
        except KeyboardInterrupt:
            said, code = _goes_on(run), 130
        except runs.Gone as error:
            said, code = f"the waiting has ended: {error}", TRY_AGAIN
        except UserError as error:
            said, code = f"{_goes_on(run)}\n{error}", TRY_AGAIN
    console.print(Text(said), soft_wrap=True)
    return run, code


def _goes_on(run: "Run") -> str:
    return (
        f"the waiting has ended, the run goes on: {run.link}\n"
        f"  medmim runs show {run.name}\n  medmim runs cancel {run.name}   # to end it"
    )


def line(step: "Step") -> str:
    """A step in one line of rich's markup: mark, name, state, time."""
    record, took = step.record, f"{step.seconds:,.0f} s" if step.seconds is not None else ""
    state, mark = step.state.lower(), MARK.get(step.state, " ")
    if record and record.status == "refused":
        state, mark = "refused", "[yellow]✗[/]"
    elif record and record.cached:
        state = "found"
    return f"{mark} {step.name:10}{state:11}{took:>9}".rstrip()


def ending(run: "Run") -> str:
    """How a run ended: each stage that did not end well in its own words."""
    told = [f"{step.name}: {step.record.message}" for step in run.steps if step.record and step.record.message]
    if run.state == "CANCELED":
        told = [f"run {run.name} was cancelled; what finished stays, the same recipe again goes on from there"]
    elif run.state != "SUCCEEDED" and not told:
        told = [
            f"run {run.name} is {run.state}, and no stage says why: a pod was lost or did not start, or it was ended",
            f"fix: see {run.link} and `medmim runs logs {run.name}`, then submit again: finished steps are kept",
        ]
    return "\n".join([*told, *(f"note: {note}" for note in run.notes), f"run {run.name}: {run.result}"])
