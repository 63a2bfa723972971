"""medmim run: run the compiled pipeline, the very file that a cluster gets, on this machine."""

import json
import secrets
from datetime import UTC, datetime
from typing import Any

import typer

from medmim import hints, tracking
from medmim.cli.options import Home, Json, RecipeRef, Sets
from medmim.recipe import loading
from medmim.recipe.schema import Recipe
from medmim.run import kfp_local
from medmim.run.screen import Screen
from medmim.run.stage import Outcome, outcomes
from medmim.run.workspace import workspace


def run(recipe: RecipeRef, sets: Sets = None, home: Home = None, as_json: Json = False) -> None:
    """Run a recipe's whole pipeline here: data, audit, finetune, bench, register, gate, promote, report.

    Of a recipe with `pipeline: bench`: data, audit, bench, report. Finished steps are found in the cache and cost
    nothing. With --json the last line is one object: decision, reasons, champion, digests, seconds, scores, report,
    models (the page of all models, where bench.models names some).
    """
    from medmim.bench import tasks

    parsed = tasks.in_recipe(loading.load(recipe, sets or ()))
    ws = workspace(home, parsed, new_name(parsed))
    if parsed.pipeline == "train":
        tracking.check(ws)
    # else the bench and the gate would say so, when data is built and perhaps a model trained
    if parsed.bench.models:
        from medmim.registry import lookup

        lookup.further(parsed.bench.models, ws)
    if parsed.pipeline == "train":
        from medmim.registry import policy

        policy.load(parsed.gate.policy)
    screen = Screen(quiet=as_json)
    screen.start(parsed, ws)
    code = kfp_local.run_pipeline(parsed.pipeline, parsed, ws, screen)
    found = outcomes(ws)
    typed = (part for item in sets or () for part in ("--set", item))
    screen.end(found, ws, hints.command("run", recipe, *typed))
    if as_json:
        typer.echo(json.dumps(summary(found), sort_keys=True))
    raise typer.Exit(kfp_local.exit_code(found, list(screen.errors.values()), code, ws))


def new_name(recipe: Recipe) -> str:
    """A new run's name: recipe, time, and four random digits for two at once."""
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
        "models": report.facts.get("models", {}).get("path") if report else None,
    }


def _reasons(gate: Outcome) -> list[str]:
    """Of a refusal, the rules that refused; else all reasons."""
    rules = gate.facts.get("rules", [])
    refusing = [rule["text"] for rule in rules if rule["passed"] is False]
    return list(dict.fromkeys(refusing or gate.facts.get("reasons", [])))
