"""The driver of a Ray job: reads a request from the store, runs its stage on this Ray cluster, writes the result."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from medmim import progress, store
from medmim.cluster import dispatch
from medmim.cluster.ray import lease
from medmim.cluster.ray.request import Request, Result, read_request, write_result
from medmim.errors import HUNG_UP, TERMINATED, TRY_AGAIN, as_user_error
from medmim.ray_nodes import NodeLeaves
from medmim.recipe.loading import from_dump
from medmim.recipe.schema import Recipe
from medmim.run import step_lock
from medmim.run.stage import Outcome, share_cores
from medmim.run.workspace import Workspace, workspace


def main(uri: str) -> int:
    """Serve the request at a URI; returns the exit code. Whatever goes wrong is a result, which the step raises."""
    share_cores()
    result = _run(uri)
    write_result(uri, result)  # last: the step removes the job once it reads this
    return int(result.error.get("exit_code", 0)) if result.error else 0


def _run(uri: str) -> Result:
    doing = "reading a request"
    try:
        request = read_request(uri)
        doing = f"running the stage {request.stage}"
        os.environ["MEDMIM_STAGE"] = request.stage
        parsed = from_dump(request.recipe)
        name = os.environ.get("MEDMIM_LEASE")
        looks = [*([lease.look_in_cluster(name)] if name else []), lease.look_in_store(uri)]
        with lease.watched(looks, _stop, parsed.platform.pods.lease_seconds):
            home = Path(os.environ["MEDMIM_HOME"]) if os.environ.get("MEDMIM_HOME") else None
            ws = workspace(home, parsed, request.run)
            lock = dispatch.lock_name(request.stage, parsed, request.arguments)
            with step_lock.kept(store.open_store(ws.store), lock, request.digest):  # while the step is replaced, too
                return Result(uri=_STAGES[request.stage](parsed, ws, request).uri)
    except NodeLeaves as error:  # no result: the step makes a new attempt, as for any head that is lost
        progress.say(str(error))
        raise SystemExit(error.exit_code) from None
    except BaseException as error:  # also a panic of a Rust library, and an exit that no signal asked for
        signalled = isinstance(error, SystemExit) and error.code in (TERMINATED, HUNG_UP)
        if signalled or isinstance(error, KeyboardInterrupt):
            raise
        return Result(error=as_user_error(error, doing).as_dict())


def _data(recipe: Recipe, ws: Workspace, request: Request) -> Outcome:
    from medmim.data import build

    return build.run(recipe, ws, **request.arguments)


def _finetune(recipe: Recipe, ws: Workspace, request: Request) -> Outcome:
    from medmim.finetune import run

    return run.run(recipe, ws, **request.arguments)


def _bench(recipe: Recipe, ws: Workspace, request: Request) -> Outcome:
    from medmim.bench import run

    return run.run(recipe, ws, **request.arguments)


def _rebench(recipe: Recipe, ws: Workspace, request: Request) -> Outcome:
    from medmim.nightly import rebench

    return rebench.run(recipe, ws, **request.arguments)


_STAGES: dict[str, Callable[[Recipe, Workspace, Request], Outcome]] = {
    "data": _data,
    "finetune": _finetune,
    "bench": _bench,
    "rebench": _rebench,
}


def _stop(reason: str) -> NoReturn:
    """No step waits for this job any more: end it from the watching thread; the checkpoints are in the store."""
    progress.say(reason)
    os._exit(TRY_AGAIN)


if __name__ == "__main__":
    try:
        code = main(sys.argv[1])
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as raised:  # the store does not take the result
        problem = as_user_error(raised, "serving a request")
        sys.stderr.write(f"error: {problem}\n")
        code = problem.exit_code
    sys.exit(code)
