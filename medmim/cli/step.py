"""The driver of a Ray job: takes an order from the store, runs the stage on the cluster it finds itself in, answers."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from medmim import progress
from medmim.cluster.ray import lease, request, ship
from medmim.cluster.ray.request import Order, Result
from medmim.errors import TRY_AGAIN, UserError, wrap_os_errors
from medmim.recipe.loading import from_dump
from medmim.recipe.schema import Recipe
from medmim.run.stage import Outcome, share_cores
from medmim.run.workspace import Workspace, workspace


def main(uri: str) -> int:
    """Run the order at a URI; returns the exit code."""
    wanted = request.read(uri)
    os.environ["MEDMIM_STAGE"] = wanted.stage
    share_cores()
    with ship.shipped(uri) as shipping:
        held = os.environ.get("MEDMIM_LEASE")
        if held:
            lease.watch(held, lambda reason: _stop(reason, shipping))
        result = _run(wanted)
    request.answer(uri, result)  # last: the step takes the job down once it reads this
    return int(result.error.get("exit_code", 0)) if result.error else 0


def _run(wanted: Order) -> Result:
    try:
        with wrap_os_errors(f"running the stage {wanted.stage}"):
            parsed = from_dump(wanted.recipe)
            home = Path(os.environ["MEDMIM_HOME"]) if os.environ.get("MEDMIM_HOME") else None
            return Result(uri=_STAGES[wanted.stage](parsed, workspace(home, parsed, wanted.run), wanted).uri)
    except UserError as error:
        return Result(error=error.as_dict())


def _finetune(recipe: Recipe, ws: Workspace, wanted: Order) -> Outcome:
    from medmim.finetune import run

    return run.run(recipe, ws, **wanted.arguments)


def _bench(recipe: Recipe, ws: Workspace, wanted: Order) -> Outcome:
    from medmim.bench import run

    return run.run(recipe, ws, **wanted.arguments)


def _rebench(recipe: Recipe, ws: Workspace, wanted: Order) -> Outcome:
    from medmim.nightly import rebench

    return rebench.run(recipe, ws, **wanted.arguments)


_STAGES: dict[str, Callable[[Recipe, Workspace, Order], Outcome]] = {
    "finetune": _finetune,
    "bench": _bench,
    "rebench": _rebench,
}


def _stop(reason: str, shipping: "subprocess.Popen[bytes]") -> NoReturn:
    """Nobody waits for this job any more: leave its logs and end it; the checkpoints are in the store."""
    progress.say(reason)
    ship.finish(shipping)
    os._exit(TRY_AGAIN)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
