"""Run a compiled pipeline, the very file that a cluster gets, on this machine.

The pipeline runs in a child process, since `kfp.local` prints what its steps print. Steps append events to a file;
this process draws them and keeps everything else in a log.
"""

import json
import os
import subprocess
import sys
import threading
import time
import traceback
from contextlib import suppress
from importlib import resources
from pathlib import Path

from medmim.errors import INTERNAL, REFUSED, TRY_AGAIN, UserError
from medmim.recipe.schema import Recipe
from medmim.redact import shown
from medmim.run.screen import Screen
from medmim.run.stage import RECIPE, Outcome
from medmim.run.workspace import Workspace
from medmim.store import open_store

_PLACEHOLDER = "{{$"


def exit_code(found: dict[str, Outcome], reported: list[int], code: int, workspace: Workspace) -> int:
    """The exit code of a run: that of the first stage that failed, else of the first error that a step reported.

    Args:
        found: The stages' records.
        reported: Exit codes of the errors that steps reported without a record.
        code: The runner's exit code.
        workspace: Of the run.

    Raises:
        UserError: The runner ended without either: exit code 75 where it was killed, 70 after an exception in it.
    """
    for outcome in found.values():
        if outcome.exit_code:
            return outcome.exit_code
    if reported:
        return reported[0]
    if code == INTERNAL:
        raise UserError(
            "a fault of medmim itself: the pipeline runner ended with an exception",
            reason=f"its traceback is in {log_file(workspace)}",
            fix="report it, with that file",
            exit_code=INTERNAL,
        )
    if code:
        raise UserError(
            "the pipeline runner ended before its stages did",
            reason=f"exit code {code}; its log is {log_file(workspace)}",
            fix="run the same command again: finished steps are kept",
            exit_code=TRY_AGAIN,
        )
    refused = any(outcome.status == "refused" for outcome in found.values())
    return REFUSED if refused else 0


def log_file(workspace: Workspace) -> Path:
    """The file for everything that libraries and steps print."""
    return workspace.home / "runs" / workspace.run / "log.txt"


def events_file(home: Path, run: str) -> Path:
    """The file for the events that steps report."""
    return home / "runs" / run / "events.jsonl"


def run_pipeline(name: str, parsed: Recipe, workspace: Workspace, screen: Screen) -> int:
    """Run a shipped pipeline to its end; returns the runner's exit code.

    Args:
        name: `train`, `bench` or `nightly`.
        parsed: The recipe.
        workspace: Where; its `run` names the run.
        screen: Draws the steps' events.

    Raises:
        UserError: The home or a text of the recipe holds what KFP takes for a placeholder, or the store refuses.
        Unavailable: The store does not answer.
    """
    log = log_file(workspace)
    # kfp gives a step its arguments on its command line, which everybody on the machine can read: no password there
    secret = shown(workspace.tracking) != workspace.tracking
    placed = {"store": workspace.store, "tracking": None if secret else workspace.tracking}
    parsed = parsed.model_copy(update={"platform": parsed.platform.model_copy(update=placed)})
    arguments = {"recipe": parsed.dump(), "home": str(workspace.home), "run": workspace.run}
    for argument in ("home", "recipe"):  # the recipe holds the paths of the home, too
        value = arguments[argument]
        if _PLACEHOLDER in value:
            raise UserError(
                f"the {argument} holds '{_PLACEHOLDER}': {value[max(0, value.find(_PLACEHOLDER) - 40) :][:80]}",
                reason="KFP takes it for the beginning of a placeholder, and would pass something else",
                fix="give another --home" if argument == "home" else "change that text of the recipe",
            )
    record = json.dumps(parsed.record(), ensure_ascii=False)
    open_store(workspace.store).write(f"runs/{workspace.run}/{RECIPE}", record.encode())
    log.parent.mkdir(parents=True, exist_ok=True)
    events = events_file(workspace.home, workspace.run)
    events.write_bytes(b"")  # a night resumes under its name: drop the events of the try that was killed
    environment = os.environ | {
        "MEDMIM_EVENTS": str(events),
        "MEDMIM_RUNNER": str(os.getpid()),
        **({"MLFLOW_TRACKING_URI": workspace.tracking} if secret else {}),
        "PYTHONWARNINGS": "ignore",
        "PYTHONUNBUFFERED": "1",
    }
    with log.open("wb") as out:
        child = subprocess.Popen(
            [sys.executable, "-m", "medmim.run.kfp_local", name, str(log.parent / "kfp")],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        assert child.stdin is not None
        try:
            with suppress(BrokenPipeError):  # it has ended: its exit code says so
                child.stdin.write(json.dumps(arguments).encode())
                child.stdin.close()
            with events.open(encoding="utf-8") as lines:
                while True:
                    ended = child.poll() is not None  # before the last read, so that no event is lost
                    for line in lines:
                        screen.event(json.loads(line))
                    screen.tick()
                    if ended:
                        return child.returncode
                    time.sleep(0.1)
        finally:
            screen.stop()
            if child.poll() is None:
                child.terminate()
                with suppress(subprocess.TimeoutExpired):
                    child.wait(30)
                child.kill()


def _run_child(name: str, root: str) -> None:
    """The child process: run the compiled pipeline under kfp.local with the arguments on stdin."""
    parent = os.getppid()

    def watch() -> None:  # a killed command must not leave a runner behind
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(TRY_AGAIN)

    threading.Thread(target=watch, daemon=True).start()
    arguments = json.load(sys.stdin)
    from kfp import components, local

    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=root)
    with resources.as_file(resources.files("medmim.shipped.pipelines") / f"{name}.yaml") as path:
        loaded = components.load_component_from_file(str(path))
    try:
        loaded(**arguments)
    except RuntimeError:  # names the failed task only; the stage's own record has the reason
        sys.exit(1)


if __name__ == "__main__":
    try:
        _run_child(sys.argv[1], sys.argv[2])
    except Exception:  # else it would be exit code 1, as for a task that failed
        traceback.print_exc()
        sys.exit(INTERNAL)
