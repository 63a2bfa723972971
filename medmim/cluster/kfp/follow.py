"""Waiting for a run: each change of a step, until it has ended, through restarts of KFP."""

import time
from collections.abc import Callable
from dataclasses import replace

from medmim.cluster.kfp import runs
from medmim.cluster.kfp.client import Api
from medmim.cluster.kfp.runs import Run
from medmim.cluster.kfp.steps import Step
from medmim.errors import Unavailable

POLL = 5.0  # s between two requests for a run's state
_OUTAGE = 600.0  # s that KFP may be unavailable before `follow` gives up
_LOOK = 60.0  # s between two looks whether the Workflow is still there


def follow(
    api: Api,
    run: Run,
    on_step: Callable[[Step], None],
    on_poll: Callable[[Run], None],
    goes_on: Callable[[Run], bool] = lambda run: False,
) -> Run:
    """Wait until a run has ended; `kfp.Client` would wait for a cancelled one for ever.

    Args:
        api: The server; outages of less than ten minutes are waited out.
        run: A run with its steps.
        on_step: Called with each step whose state has changed, or what it waits for.
        on_poll: Called with the run after each poll, while it is active.
        goes_on: Called with the run when it has failed: whether KFP was made to retry it.

    Raises:
        Unavailable: The server does not come back.
        Deleted: The run was deleted, or its Workflow.
        UserError: The server refuses to answer; after a login has expired, for instance.
    """
    known: dict[str, tuple[str, str]] = {}
    canceling = False
    seen = looked = time.monotonic()
    while True:
        for step in run.steps:
            why = step.waiting.partition(":")[0]  # what follows may change each time
            if known.get(step.name) != (step.state, why):
                known[step.name] = step.state, why
                on_step(step)
        canceling = canceling or run.state == "CANCELING"
        if run.ended:
            run = replace(run, state="CANCELED") if canceling and run.state == "FAILED" else run
            if run.state != "FAILED" or not goes_on(run):
                return run
            known.clear()
        on_poll(run)
        time.sleep(POLL)
        if time.monotonic() - looked > _LOOK:
            looked = time.monotonic()
            if runs.is_stuck(api, run):
                raise runs.stuck(run)
        try:
            run, seen = runs.refresh(api, run), time.monotonic()
        except Unavailable:
            if time.monotonic() - seen > _OUTAGE:
                raise
