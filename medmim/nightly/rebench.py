"""rebench: the night's models answer the benchmark, from the cache where nothing changed, and a canary of it anew."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medmim import store
from medmim.bench import answers, probes
from medmim.bench import run as bench
from medmim.bench.engines import Engine, engine
from medmim.bench.likelihood import GENERATE, PROTOCOLS
from medmim.errors import UserError
from medmim.nightly import canary, records
from medmim.nightly.canary import Canary
from medmim.nightly.records import Night
from medmim.progress import say
from medmim.recipe.schema import Recipe
from medmim.run.cache import cached_step
from medmim.run.provenance import terms_of
from medmim.run.stage import Outcome, stage
from medmim.run.workspace import Workspace
from medmim.store import Artifact
from medmim.terms import combine

REVISION = 1
FILE = "night.json"


def run(recipe: Recipe, ws: Workspace, data: str, models: Mapping[str, str]) -> Outcome:
    """The stage.

    Where a canary shows that an engine drifted, that model is asked everything anew and its earlier cached answers are
    no longer used: tonight's scores are those of the engine as it is, and tomorrow's canary is compared with them.

    Args:
        recipe: `bench` says what is asked, `nightly` how large a canary is and what is drift.
        ws: The workspace.
        data: URI of the data set.
        models: Role -> reference, see `roster.models`.

    Returns:
        The artifact: `night.json` with `date`, `data`, `bench`, `models` and `canary` as a `Night` has them.

    Raises:
        UserError: A model that does not load, an engine that fails too often, a night that another run recorded, a
            protocol that generates nothing.
        Unavailable: A server does not answer.
    """
    with stage(ws, "rebench") as outcome:
        date, name = date_of(recipe), recipe.name
        if GENERATE not in PROTOCOLS[recipe.bench.protocol]:
            raise UserError(
                f"bench.protocol is {recipe.bench.protocol}, and nights compare the answers that models write",
                fix="set bench.protocol to generate or both",
            )
        nights = records.read(ws, name)
        existing = next((night for night in nights if night.date == date), None)
        if existing is not None and existing.run != ws.run:
            raise records.already_recorded(name, date, existing.run)
        before = [night for night in nights if night.date < date]
        source = store.get(data)

        by = recipe.bench.engine
        by_weights = {role: engine(ref, ws, by=by) for role, ref in models.items()}
        anew = _anew_since(by_weights, before)
        bench.bench(ws, data, models, recipe.bench, recipe, anew)

        engines = {role: engine(ref, ws, anew.get(role, ""), by) for role, ref in models.items()}
        artifacts, canaries = _ask_canaries(recipe, ws, source, engines, date)
        last = _last_canaries(engines, before[-recipe.nightly.nights :])
        p = canary.p_values(canaries, last, recipe.nightly.noise)
        drifted = [role for role in models if p[role] < recipe.nightly.significance and canaries[role].changed]
        for role in drifted:
            changed, asked = len(canaries[role].changed), canaries[role].asked
            say(f"{role}: {changed} of {asked} known answers changed; asking all anew")
        anew |= dict.fromkeys(drifted, date)
        scores, _ = bench.bench(ws, data, models, recipe.bench, recipe, anew)

        found = bench.scores(ws, scores.uri)
        night: dict[str, Any] = {
            "date": date,
            "data": source.digest,
            "bench": scores.digest,
            "models": {
                role: {
                    "weights": by_weights[role].digest,
                    "digest": found["models"][role]["digest"],
                    "anew": anew.get(role, ""),
                    "answers": found["answers"][role]["none"],
                }
                for role in models
            },
            "canary": {
                role: own.to_record(p[role], role in drifted) | {"answers": artifacts[role].digest}
                for role, own in canaries.items()
            },
        }

        def make(folder: Path) -> Mapping[str, Any]:
            (folder / FILE).write_text(json.dumps(night, indent=1) + "\n", encoding="utf-8")
            return {"models": len(models), "asked anew": sum(own.asked for own in canaries.values())}

        parents = {"data": source.digest, "bench": scores.digest}
        for role in models:
            parents[f"answers of {role}"] = night["models"][role]["answers"]
            parents[f"canary of {role}"] = artifacts[role].digest
        section = {"written": night}
        allowed = combine([terms_of(source), *(model.terms for model in engines.values())])
        made = cached_step(ws, "rebench", REVISION, section, parents, make, kind="night", recipe=recipe, terms=allowed)
        outcome.of(*made)
        outcome.facts = night
    return outcome


def read(ws: Workspace, uri: str) -> dict[str, Any]:
    """The content of `night.json` in the stage's artifact."""
    found: dict[str, Any] = json.loads(store.read_file(store.get(uri), FILE))
    return found


def date_of(recipe: Recipe) -> str:
    """The date of the night: `nightly.date`, else today in UTC.

    Raises:
        UserError: It is in the future.
    """
    today = datetime.now(UTC).date().isoformat()
    date = recipe.nightly.date or today
    if date > today:
        raise UserError(f"nightly.date is {date}, and today is {today} in UTC", fix="give today or an earlier day")
    return date


def _anew_since(engines: Mapping[str, Engine], before: list[Night]) -> dict[str, str]:
    """Role -> night since which it was asked anew after a drift, as the last night with the same weights has it."""
    found = {}
    for role, model in engines.items():
        known = [own for night in before for own in night.models.values() if own["weights"] == model.digest]
        if known and known[-1]["anew"]:
            found[role] = known[-1]["anew"]
    return found


def _ask_canaries(
    recipe: Recipe, ws: Workspace, source: Artifact, engines: Mapping[str, Engine], date: str
) -> tuple[dict[str, Artifact], dict[str, Canary]]:
    """Role -> the artifact of the canary's answers, and role -> how they compare with the cached ones."""
    settings = recipe.bench.model_copy(update={"protocol": GENERATE})
    probe = probes.canary(date, recipe.nightly.canary)
    found = bench.collect(ws, source, engines, ["none", probe], settings, recipe)
    artifacts = {role: found[role, GENERATE, probe] for role in engines}
    canaries = {
        role: canary.compare(
            answers.load(store.fetch(found[role, GENERATE, "none"], ws.cache)),
            answers.load(store.fetch(anew, ws.cache)),
        )
        for role, anew in artifacts.items()
    }
    return artifacts, canaries


def _last_canaries(engines: Mapping[str, Engine], before: list[Night]) -> dict[str, list[tuple[int, int]]]:
    """Role -> (asked, changed) of its canaries in these nights, as far as they used the same cached answers."""
    found: dict[str, list[tuple[int, int]]] = {role: [] for role in engines}
    for role, model in engines.items():
        for night in before:
            for name, own in night.models.items():
                known = night.canary.get(name)
                if own["digest"] == model.digest and known and not known["drifted"]:
                    found[role].append((known["asked"], known["changed"]))
                    break
    return found
