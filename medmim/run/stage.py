"""What surrounds a stage's function: its record in `STORE/runs/RUN/STAGE.json`, its exit code, its component."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from medmim import store
from medmim.errors import HUNG_UP, INTERRUPTED, REFUSED, TERMINATED, TRY_AGAIN, UserError, as_user_error
from medmim.progress import emit
from medmim.recipe.parameter import from_parameter
from medmim.recipe.schema import Recipe
from medmim.run import run_name
from medmim.run.person import on_cluster, submitter
from medmim.run.workspace import Workspace, workspace
from medmim.store import Artifact

STAGES = ("data", "audit", "finetune", "bench", "register", "gate", "promote", "report")
BENCHING = ("data", "audit", "bench", "report")  # the stages of a run that trains nothing
NIGHTLY = ("data", "rebench", "watch", "trend")  # the stages of a night
RECIPE = "recipe.json"  # beside the records of a run's stages
_LAST = (STAGES[-1], NIGHTLY[-1])
_TERMINATED = SystemExit.__name__  # begins the message of a stage that a signal ended


def stages_of(recipe: Recipe) -> tuple[str, ...]:
    """The stages of a recipe's pipeline, in their order."""
    return BENCHING if recipe.pipeline == "bench" else STAGES


@dataclass
class Outcome:
    """What a stage reports: filled in by the stage, written to `runs/RUN/STAGE.json`.

    Attributes:
        uri: Artifact of the stage, if it has one.
        digest: Its content digest.
        cached: Nothing had to be done.
        facts: What the screen and the report show; plain JSON.
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
        """Set URI and digest of the stage's artifact."""
        self.uri, self.digest, self.cached = artifact.uri, artifact.digest, cached

    def end_with(self, error: UserError) -> None:
        """Set what an error decides."""
        self.status = "refused" if error.exit_code == REFUSED else "failed"
        self.message, self.exit_code = str(error), error.exit_code

    @property
    def terminated(self) -> bool:
        """Whether a signal ended the stage, as when its pod's node is drained: the same stage begun again goes on."""
        return self.message.startswith(_TERMINATED)


@contextmanager
def stage(ws: Workspace, name: str) -> Iterator[Outcome]:
    """Run a stage and write its record, on every way out.

    A UserError is recorded and raised again; an error of the operating system becomes one, and any other exception one
    with exit code 70, whose message names the log of its traceback: also a panic of a Rust library, which is no
    `Exception`, and an exit that no signal asked for. `seconds` is 0 where the cache had everything.
    """
    outcome = Outcome(name)
    begin = time.perf_counter()
    try:
        yield outcome
    except BaseException as error:  # a record is written on every way out
        interrupted = isinstance(error, KeyboardInterrupt)
        terminated = isinstance(error, SystemExit) and error.code in (TERMINATED, HUNG_UP)
        if interrupted or terminated or isinstance(error, GeneratorExit):
            code = INTERRUPTED if interrupted else TRY_AGAIN
            outcome.status, outcome.message, outcome.exit_code = "failed", f"{type(error).__name__}: {error}", code
            raise
        known = as_user_error(error, f"running the stage {name}", ws.home)
        outcome.end_with(known)
        if known is error:
            raise
        raise known from error
    finally:
        outcome.seconds = 0.0 if outcome.cached else round(time.perf_counter() - begin, 2)
        try:
            _write_record(ws, outcome)
        except UserError:
            if outcome.status == "done":  # else raise the stage's own error, not that the store is gone too
                raise


@contextmanager
def component(name: str, recipe: str, home: str, run: str) -> Iterator[tuple[Recipe, Workspace]]:
    """What every pipeline component does around its one call: parse its parameters, end with our exit code.

    In a pod, who acts (MEDMIM_USER) is who submitted the run.

    Args:
        name: Stage name, shown with its progress.
        recipe: `Recipe.dump` of the run's recipe, or its URI in the store.
        home: Scratch folder of this machine or pod.
        run: Name of the run.
    """
    ws: Workspace | None = None

    def record(error: UserError) -> None:
        if ws is not None:
            _record_failure(ws, name, error)

    with _ending_with_our_code(name, home, record):
        parsed = from_parameter(recipe)
        ws = workspace(Path(home), parsed, run)
        ws = replace(ws, run=run_name.claim(ws.store, run))
        if on_cluster():
            os.environ["MEDMIM_USER"] = submitter(recipe, ws.run)  # a Ray job's pods get it from here
        _forget_last_try(ws, name)
        yield parsed, ws


@contextmanager
def acting(name: str, home: str) -> Iterator[Workspace]:
    """The same around a component by which a person acts, outside of a run: it has no recipe and leaves no record.

    Args:
        name: Shown with its progress.
        home: Scratch folder of this machine or pod.
    """
    with _ending_with_our_code(name, home, lambda error: None):
        yield workspace(Path(home))


@contextmanager
def _ending_with_our_code(name: str, home: str, record: Callable[[UserError], None]) -> Iterator[None]:
    os.environ["MEDMIM_STAGE"] = name
    share_cores()
    end_with_runner()
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # also a panic of a Rust library
        known = as_user_error(error, f"running the step {name}", Path(home))
        record(known)
        emit("error", text=str(known), code=known.exit_code)
        raise SystemExit(known.exit_code) from None


def share_cores() -> None:
    """Let idle OpenMP threads sleep, not spin: on cores that others use, spinning costs a factor of ten (measured).

    Works until torch is imported; a user's own setting has precedence.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def end_with_runner() -> None:
    """End this step when the laptop's runner was killed: else it would run unseen and keep its folder locked.

    There are shells between the two, so the runner's pid comes in the environment; on a cluster there is none.
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
    """The records of these stages of the run, as far as they are written. Raises as `parse_record`."""
    found = {}
    for name in names:
        with suppress(FileNotFoundError):
            found[name] = parse_record(store.open_store(ws.store).read(f"runs/{ws.run}/{name}.json"), name, ws.run)
    return found


def parse_record(text: bytes, name: str, run: str) -> Outcome:
    """Parse a stage's record; keys that only a newer medmim knows are ignored.

    Raises:
        UserError: It is not a record.
    """
    try:
        return TypeAdapter(Outcome).validate_json(text)
    except ValidationError as error:
        why = ": ".join([*map(str, error.errors()[0]["loc"]), error.errors()[0]["msg"]])
        fact = f"the record {name}.json of run {run} cannot be read: {why}"
        raise UserError(fact, fix="run the same recipe again: finished steps are kept") from None


def _write_record(ws: Workspace, outcome: Outcome) -> None:
    if ws.run:
        text = json.dumps(outcome.__dict__, indent=1, sort_keys=True)
        store.open_store(ws.store).write(f"runs/{ws.run}/{outcome.stage}.json", text.encode())


def _forget_last_try(ws: Workspace, name: str) -> None:
    """Remove what an earlier try of the run left and this one makes untrue: of a run that was retried, for instance.

    The record of this step if it failed (if this try is lost, the run must not seem to have ended as that one did), and
    that of the run's last step, which said how the run had ended.
    """
    with suppress(UserError):
        place = store.open_store(ws.store)
        left = {key.rpartition("/")[2] for key in place.list(f"runs/{ws.run}/")}
        untrue = [f"{last}.json" for last in _LAST if last != name]
        if f"{name}.json" in left and outcomes(ws, [name])[name].status != "done":
            untrue.append(f"{name}.json")
        for one in left.intersection(untrue):
            place.delete(f"runs/{ws.run}/{one}")


def _record_failure(ws: Workspace, name: str, error: UserError) -> None:
    """Record an error that was raised outside of `stage` (an unknown model, a dead Ray job): KFP keeps no exit code."""
    with suppress(UserError):
        known = outcomes(ws, [name]).get(name)
        if known is None or known.message != str(error):
            outcome = Outcome(name)
            outcome.end_with(error)
            _write_record(ws, outcome)
