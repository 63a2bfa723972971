"""medmim run: the compiled pipeline, the very file that a cluster gets, on this machine.

The pipeline runs in a child process, since `kfp.local` prints what its steps print. Steps append events to a file;
this process draws them and keeps everything else in a log.
"""

import json
import os
import secrets
import shlex
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import typer

from medmim import recipe as recipes
from medmim import steps
from medmim.cli.options import Home, Json, RecipeRef, Sets
from medmim.cli.screen import Screen
from medmim.errors import REFUSED, TRY_AGAIN, UserError
from medmim.recipe import Recipe
from medmim.steps import Outcome, Workspace


def run(recipe: RecipeRef, sets: Sets = None, home: Home = None, as_json: Json = False) -> None:
    """Run a recipe's whole pipeline here: data, audit, finetune, bench, register, gate, promote, report.

    Finished steps are found again and cost nothing. With --json the last line is one object: decision, reasons,
    champion, digests, seconds, scores, report.
    """
    parsed = recipes.load(recipe, sets or ())
    workspace = steps.workspace(home, parsed, new_name(parsed))
    screen = Screen(quiet=as_json)
    screen.start(parsed, workspace)
    code = _pipeline(parsed, workspace, screen)
    found = steps.outcomes(workspace)
    typed = ["medmim", "run", recipe, *(part for item in sets or () for part in ("--set", item))]
    screen.end(found, workspace, shlex.join([*typed, *(("--home", str(home)) if home else ())]))
    if as_json:
        typer.echo(json.dumps(summary(found), sort_keys=True))
    raise typer.Exit(exit_code(found, list(screen.errors.values()), code, workspace))


def new_name(recipe: Recipe) -> str:
    """What a run is called: recipe, time, and four digits for two at once."""
    return f"{recipe.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def summary(found: dict[str, Outcome]) -> dict[str, Any]:
    """What `--json` prints; its keys are a contract."""
    gate, promote = found.get("gate"), found.get("promote")
    bench, report = found.get("bench"), found.get("report")
    return {
        "decision": promote.facts.get("decision") if promote else None,
        "reasons": _reasons(gate) if gate else [o.message for o in found.values() if o.message],
        "champion": promote.facts.get("champion") if promote else None,
        "digests": {name: outcome.digest for name, outcome in found.items() if outcome.digest},
        "seconds": {name: outcome.seconds for name, outcome in found.items()},
        "scores": bench.facts.get("leaderboard", []) if bench else [],
        "report": report.facts.get("path") if report else None,
    }


def _reasons(gate: Outcome) -> list[str]:
    """Of a refusal, what refused; else all."""
    rules = gate.facts.get("rules", [])
    refusing = [rule["text"] for rule in rules if rule["passed"] is False]
    return list(dict.fromkeys(refusing or gate.facts.get("reasons", [])))


def exit_code(found: dict[str, Outcome], told: list[int], code: int, workspace: Workspace) -> int:
    """The first stage that did not end well decides; a runner that died without a word is infrastructure.

    Raises:
        UserError: The pipeline failed outside of any stage.
    """
    for outcome in found.values():
        if outcome.exit_code:
            return outcome.exit_code
    if told:
        return told[0]
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
    """Where everything goes that libraries and steps print."""
    return workspace.home / "runs" / workspace.run / "log.txt"


def _pipeline(parsed: Recipe, workspace: Workspace, screen: Screen) -> int:
    log = log_file(workspace)
    log.parent.mkdir(parents=True, exist_ok=True)
    events = log.parent / "events.jsonl"
    events.touch()
    placed = {"store": workspace.store, "tracking": workspace.tracking}
    parsed = parsed.model_copy(update={"platform": parsed.platform.model_copy(update=placed)})
    arguments = {"recipe": parsed.dump(), "home": str(workspace.home), "run": workspace.run}
    environment = os.environ | {
        "MEDMIM_EVENTS": str(events),
        "MEDMIM_RUNNER": str(os.getpid()),
        "PYTHONWARNINGS": "ignore",
        "PYTHONUNBUFFERED": "1",
    }
    with log.open("w") as out:
        child = subprocess.Popen(
            [sys.executable, "-m", "medmim.cli.run", str(log.parent / "kfp")],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
            text=True,
        )
        assert child.stdin is not None
        child.stdin.write(json.dumps(arguments))
        child.stdin.close()
        try:
            with events.open() as lines:
                while True:
                    ended = child.poll() is not None  # asked before the last read, so that no event is lost
                    for line in lines:
                        screen.event(json.loads(line))
                    screen.tick()
                    if ended:
                        return child.returncode
                    time.sleep(0.1)
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait(30)


def _local(root: str) -> None:
    """The child: run the compiled pipeline under kfp.local with the arguments on stdin."""
    parent = os.getppid()

    def watch() -> None:  # a killed command must not leave a runner behind
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(TRY_AGAIN)

    threading.Thread(target=watch, daemon=True).start()
    arguments = json.load(sys.stdin)
    from kfp import components, local

    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=root)
    with resources.as_file(resources.files("medmim.compiled") / "train.yaml") as path:
        pipeline = components.load_component_from_file(str(path))
    try:
        pipeline(**arguments)
    except RuntimeError:  # names the failed task; the stage's own record says why
        sys.exit(1)


if __name__ == "__main__":
    _local(sys.argv[1])
