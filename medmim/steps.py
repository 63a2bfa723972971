"""What every step shares: the workspace, the cache by key, resumable work, and the record a run keeps of it."""

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from medmim import store
from medmim.alone import alone
from medmim.errors import REFUSED, Unavailable, UserError, from_os_error, os_errors_told
from medmim.progress import emit
from medmim.provenance import provenance
from medmim.recipe import Recipe
from medmim.recipe_uri import handed
from medmim.sample import digest_of
from medmim.store import Artifact
from medmim.store_removal import claim

STAGES = ("data", "audit", "finetune", "bench", "register", "gate", "promote", "report")
NIGHTLY = ("data", "rebench", "watch", "trend")  # the stages of a night


@dataclass(frozen=True)
class Workspace:
    """Where a run keeps things.

    Attributes:
        home: Local folder for everything that is no artifact; nothing is written outside it.
        store: URI of the artifact store.
        tracking: MLflow tracking URI.
        run: Names `STORE/runs/RUN`, where each stage leaves its record; empty outside a run.
    """

    home: Path
    store: str
    tracking: str
    run: str = ""

    @property
    def cache(self) -> Path:
        """Local copies of artifacts that lie in S3."""
        return self.home / "cache"

    def fetch(self, uri: str) -> Path:
        """Local folder of a published artifact."""
        return store.fetch(store.get(uri), self.cache)


def workspace(home: Path | None, recipe: Recipe | None = None, run: str = "") -> Workspace:
    """Resolve home, store and tracking: recipe first, then environment, then embedded defaults."""
    place = (home or Path(os.environ.get("MEDMIM_HOME", ".medmim"))).expanduser().absolute()
    platform = recipe.platform if recipe else None
    uri = (platform and platform.store) or os.environ.get("MEDMIM_STORE") or str(place / "store")
    tracking = (
        (platform and platform.tracking) or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{place / 'mlflow.db'}"
    )
    address = store.open_store(uri).uri  # may refuse, and then there shall be no home either
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise from_os_error(error, "creating the home") from error
    return Workspace(place, address, tracking, run)


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


def step_key(name: str, revision: int, section: Any, parents: Mapping[str, str]) -> str:
    """Key of a finished step: its name, revision, own settings and its parents' digests."""
    settings = json.dumps(section, sort_keys=True)
    return digest_of([name, str(revision), settings, *(f"{k}={parents[k]}" for k in sorted(parents))])


def finished(ws: Workspace, name: str, key: str, kind: str = "") -> Artifact | None:
    """The artifact that a step of this key has made; None where it has not."""
    try:
        digest = json.loads(store.open_store(ws.store).read(_index(name, key)))["digest"]
    except FileNotFoundError:
        return None
    claim(store.open_store(ws.store), f"{kind or name}/{digest}")
    return store.find(f"{ws.store}/{kind or name}/{digest}")  # the index holds no address, so that a store can be moved


def _index(name: str, key: str) -> str:
    return f"steps/{name}/{key}.json"


def cached_step(
    ws: Workspace,
    name: str,
    revision: int,
    section: Any,
    parents: Mapping[str, str],
    make: Callable[[Path], Mapping[str, Any]],
    kind: str = "",
    recipe: Recipe | None = None,
) -> tuple[Artifact, bool]:
    """The artifact of this step, made now or found by its key.

    Args:
        ws: The workspace.
        name: Step name.
        revision: Bumped when the step's bytes change for equal settings.
        section: The settings that decide the content; JSON-able.
        parents: Name -> digest of what goes in.
        make: Fills a folder and returns the manifest's counts. The folder outlives a kill: the next try gets it
            with what is in it, so that `make` can go on from there. Names that start with `.` and the folder
            `resume/` are for that and are not published.
        kind: First part of the artifact's address; the step name by default.
        recipe: Kept in `provenance.json`.

    Returns:
        The artifact, and whether it was found.

    Raises:
        UserError: Whatever `make` raises.
        Unavailable: Another process is at this step, the disk is full, or the store does not answer. What is done
            so far is kept.
    """
    key = step_key(name, revision, section, parents)
    kind = kind or name
    folder = ws.home / "work" / f"{name}-{key[:16]}"
    known = finished(ws, name, key, kind)
    if known is not None:
        shutil.rmtree(folder, ignore_errors=True)  # left by a kill between the last two lines of this function
        return known, True
    with os_errors_told(f"running the step {name}"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        busy = Unavailable(
            f"another process is running this very step in {folder}", fix="wait for it, or give another --home"
        )
        with alone(folder, busy):
            known = finished(ws, name, key, kind)  # by the process that had the lock
            if known is not None:
                return known, True
            folder.mkdir(exist_ok=True)
            counts = make(folder)
            artifact = store.publish(folder, ws.store, kind, counts, provenance(name, revision, parents, recipe))
            store.open_store(ws.store).write(_index(name, key), json.dumps({"digest": artifact.digest}).encode())
            shutil.rmtree(folder, ignore_errors=True)
    return artifact, False
