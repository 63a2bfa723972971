"""A stage of a run: the frame around its one function, and the record that it leaves in `STORE/runs/RUN/STAGE.json`."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from medmim import store
from medmim.errors import REFUSED, UserError, os_errors_told
from medmim.progress import emit
from medmim.recipe.parameter import handed
from medmim.recipe.schema import Recipe
from medmim.run.workspace import Workspace, workspace
from medmim.store import Artifact

STAGES = ("data", "audit", "finetune", "bench", "register", "gate", "promote", "report")
NIGHTLY = ("data", "rebench", "watch", "trend")  # the stages of a night


@dataclass
class Outcome:
    """What a stage tells the run: filled in by the stage, kept as `runs/RUN/STAGE.json`.

    Attributes:
        uri: Artifact of the stage, if it has one.
        digest: Its content digest.
        cached: Nothing had to be done.
        facts: What the screen and the report show of it; plain JSON.
    """

    stage: str
    status: Literal["done", "refused", "failed"] = "done"
    uri: str = ""
    digest: str = ""
    cached: bool = False
    seconds: float = 0.0
    message: str = ""
    exit_code: int = 0
    facts: dict[str, Any] = field(default_factory=dict)

    def of(self, artifact: Artifact, cached: bool) -> None:
        """Take URI and digest of the stage's artifact."""
        self.uri, self.digest, self.cached = artifact.uri, artifact.digest, cached


@contextmanager
def stage(ws: Workspace, name: str) -> Iterator[Outcome]:
    """Run a stage and leave its record in the run, on every way out.

    A UserError is recorded and goes on to the caller, and what the operating system refuses becomes one. `seconds` is
    0 where the cache had everything.
    """
    outcome = Outcome(name)
    begin = time.perf_counter()
    try:
        with os_errors_told(f"running the stage {name}"):
            yield outcome
    except UserError as error:
        outcome.status = "refused" if error.exit_code == REFUSED else "failed"
        outcome.message, outcome.exit_code = str(error), error.exit_code
        raise
    except BaseException as error:
        outcome.status, outcome.message, outcome.exit_code = "failed", f"{type(error).__name__}: {error}", 75
        raise
    finally:
        outcome.seconds = 0.0 if outcome.cached else round(time.perf_counter() - begin, 2)
        try:
            _record(ws, outcome)
        except UserError:
            if outcome.status == "done":  # else the stage's own error is the news, not that the store is gone too
                raise


@contextmanager
def component(name: str, recipe: str, home: str, run: str) -> Iterator[tuple[Recipe, Workspace]]:
    """What every pipeline component does around its one call: parse, watch over it, and end with our exit code.

    Args:
        name: Stage name, shown with its progress.
        recipe: `Recipe.dump` of the run's recipe, or its URI in the store.
        home: Scratch folder of this machine or pod.
        run: Name of the run.
    """
    os.environ["MEDMIM_STAGE"] = name
    share_cores()
    end_with_runner()
    ws = None
    try:
        parsed = handed(recipe)
        ws = workspace(Path(home), parsed, run)
        yield parsed, ws
    except UserError as error:
        if ws is not None:
            _failed_before(ws, name, error)
        emit("error", text=str(error), code=error.exit_code)
        raise SystemExit(error.exit_code) from None


def share_cores() -> None:
    """Threads of a pool shall sleep, not spin: on cores that others use, spinning costs a factor of ten (measured).

    Works until torch is imported; a setting of the user's stands.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def end_with_runner() -> None:
    """A step must not outlive a laptop's runner that was killed: nobody would read it, and it would hold its folder.

    Shells stand between the two, so the runner's pid comes in the environment; on a cluster there is none.
    """
    runner = os.environ.get("MEDMIM_RUNNER")
    if not runner:
        return

    def watch() -> None:
        while True:
            try:
                os.kill(int(runner), 0)
            except ProcessLookupError:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(1)

    threading.Thread(target=watch, daemon=True).start()


def outcomes(ws: Workspace, names: Sequence[str] = STAGES) -> dict[str, Outcome]:
    """The records that these stages of the run have left so far. Raises as `recorded`."""
    found = {}
    for name in names:
        with suppress(FileNotFoundError):
            found[name] = recorded(store.open_store(ws.store).read(f"runs/{ws.run}/{name}.json"), name, ws.run)
    return found


def recorded(text: bytes, name: str, run: str) -> Outcome:
    """A stage's record as it was left; keys that only a newer medmim knows are passed over.

    Raises:
        UserError: It is none.
    """
    try:
        return TypeAdapter(Outcome).validate_json(text)
    except ValidationError as error:
        why = ": ".join([*map(str, error.errors()[0]["loc"]), error.errors()[0]["msg"]])
        fact = f"the record {name}.json of run {run} cannot be read: {why}"
        raise UserError(fact, fix="run the same recipe again: finished steps are kept") from None


def _record(ws: Workspace, outcome: Outcome) -> None:
    if ws.run:
        text = json.dumps(outcome.__dict__, indent=1, sort_keys=True)
        store.open_store(ws.store).write(f"runs/{ws.run}/{outcome.stage}.json", text.encode())


def _failed_before(ws: Workspace, name: str, error: UserError) -> None:
    """Record an error outside of the stage too (whom to ask, a Ray job that died): a cluster knows no other code."""
    with suppress(UserError):
        known = outcomes(ws, [name]).get(name)
        if known is None or known.message != str(error):
            status: Literal["refused", "failed"] = "refused" if error.exit_code == REFUSED else "failed"
            _record(ws, Outcome(name, status, message=str(error), exit_code=error.exit_code))
