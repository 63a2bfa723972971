"""Waiting for a run on a cluster: a line for each step as it changes, and one a minute in between."""

import sys
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.status import Status
from rich.text import Text

from medmim import hints
from medmim.errors import TRY_AGAIN, UserError

if TYPE_CHECKING:
    from medmim.cluster.kfp.client import Api
    from medmim.cluster.kfp.runs import Run
    from medmim.cluster.kfp.steps import Step

_SILENCE = 60.0  # s without a line before `waiting` is printed, where there is no terminal
MARK = {"SUCCEEDED": "[green]✓[/]", "FAILED": "[red]✗[/]", "CANCELED": "[yellow]✗[/]", "SKIPPED": "·"}


def follow(api: "Api", run: "Run") -> tuple["Run", int]:
    """Wait for a run and print its progress; an interrupt, or a server that fails for good, ends only the waiting.

    A run that was lost, with a step's pod for instance, is retried by KFP once.

    Returns:
        The run as last seen, and the exit code: the run's own, or that of a waiting which ended before it.
    """
    from medmim.cluster.kfp import follow as following
    from medmim.cluster.kfp import report, retry, runs

    console = Console(file=sys.stderr, highlight=False)
    begin = printed = time.monotonic()

    def on_step(step: "Step") -> None:
        nonlocal printed
        printed = time.monotonic()
        if step.waiting or step.state not in ("", "PENDING"):
            console.print(line(step))
        if step.waiting:
            console.print(f"    has not started: {step.waiting}", markup=False, soft_wrap=True)
        if step.state in ("PENDING", "RUNNING"):
            status.update(f"{step.name} is {step.state.lower()}")

    def on_poll(now: "Run") -> None:
        nonlocal run, printed
        run = now
        if not console.is_terminal and time.monotonic() - printed > _SILENCE:
            printed = time.monotonic()
            console.print(f"          waiting, {printed - begin:.0f} s")

    def goes_on(now: "Run") -> bool:
        return retry.go_on(api, now, lambda text: console.print(text, markup=False, soft_wrap=True))

    with Status("waiting for the first step", console=console) as status:
        try:
            run = report.completed(following.follow(api, run, on_step, on_poll, goes_on))
            text, code = summary(run), run.exit_code
        except KeyboardInterrupt:
            text, code = _still_running(run), 130
        except runs.Deleted as error:
            text, code = f"stopped waiting: {error}", TRY_AGAIN
        except UserError as error:
            text, code = f"{_still_running(run)}\n{error}", TRY_AGAIN
    console.print(Text(text), soft_wrap=True)
    return run, code


def _still_running(run: "Run") -> str:
    return (
        f"stopped waiting, the run is still running: {run.where}\n"
        f"  {hints.command('runs', 'show', run.name)}\n  {hints.command('runs', 'cancel', run.name)}   # to end it"
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


def promotion(step: "Step") -> str:
    """What the stage `promote` decided by its record, with the command where a person is asked to type one."""
    facts = step.record.facts if step.record else {}
    if step.name != "promote" or not isinstance(facts.get("decision"), str):
        return ""
    return ": ".join(text for text in (facts["decision"], facts.get("command")) if isinstance(text, str))


def summary(run: "Run") -> str:
    """How a run ended, with the decision, and the message of each stage that has one."""
    lines = [f"{step.name}: {step.record.message}" for step in run.steps if step.record and step.record.message]
    decided = [f"decision: {text}" for text in map(promotion, run.steps) if text]
    if run.state == "CANCELED":
        lines = [f"run {run.name} was cancelled; finished steps are kept, the same recipe again resumes from them"]
        lines += [f"report: {one.record.uri}" for one in run.steps if one.name == "report" and one.record]
    elif run.state != "SUCCEEDED" and not lines:
        lines = [
            f"run {run.name} is {run.state}, and no stage recorded why: a pod was lost, did not start, or was ended",
            f"fix: see {run.where} and `{hints.command('runs', 'logs', run.name)}`, then submit again: "
            "finished steps are kept",
        ]
    notes = [f"note: {note}" for note in run.notes]
    return "\n".join([*lines, *notes, *decided, f"run {run.name}: {run.result}"])
