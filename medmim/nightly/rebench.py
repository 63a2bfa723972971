"""rebench: everybody answers the benchmark, from the cache where nothing changed, and a canary of it anew."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medmim import shards, store
from medmim.bench import answers, fanout, probes, tasks
from medmim.bench import run as bench
from medmim.bench.engines import Engine, engine
from medmim.errors import UserError
from medmim.nightly import canary, records
from medmim.nightly.canary import Seen
from medmim.nightly.records import Night
from medmim.progress import say
from medmim.recipe.schema import Recipe
from medmim.run.cache import cached_step
from medmim.run.stage import Outcome, stage
from medmim.run.workspace import Workspace
from medmim.store import Artifact

REVISION = 1
FILE = "night.json"


def run(recipe: Recipe, ws: Workspace, data: str, models: Mapping[str, str]) -> Outcome:
    """The stage.

    Where a canary says that an engine drifted, that model is asked everything anew, and the cache of before holds no
    longer for it: tonight's scores are those of the engine as it is, and tomorrow's canary is compared with them.

    Args:
        recipe: `bench` says what is asked, `nightly` how large a canary is and what is drift.
        ws: The workspace.
        data: URI of the data set.
        models: Role -> reference, see `asked`.

    Returns:
        The artifact: `night.json` with `date`, `data`, `bench`, `models` and `canary` as a `Night` has them.

    Raises:
        UserError: A model that does not load, an engine that fails too often, a night that is taken.
        Unavailable: A server does not answer.
    """
    with stage(ws, "rebench") as outcome:
        date, name = of(recipe), recipe.name
        log = records.read(ws, name)
        standing = next((night for night in log if night.date == date), None)
        if standing is not None and standing.run != ws.run:
            raise records.taken(name, date, standing.run)
        before = [night for night in log if night.date < date]
        source = store.get(data)
        plain = {role: engine(ref, ws) for role, ref in models.items()}
        anew = _anew(plain, before)
        bench.bench(ws, data, models, recipe.bench, recipe, anew)
        engines = {role: engine(ref, ws, anew.get(role, "")) for role, ref in models.items()}
        asked, seen = _canaries(recipe, ws, source, engines, date)
        last = _last(engines, before[-recipe.nightly.nights :])
        p = canary.chances(seen, last, recipe.nightly.noise)
        drifted = [role for role in models if p[role] < recipe.nightly.significance and seen[role].changed]
        for role in drifted:
            say(f"{role}: {len(seen[role].changed)} of {seen[role].asked} known answers changed; asking all anew")
        anew |= dict.fromkeys(drifted, date)
        scores, _ = bench.bench(ws, data, models, recipe.bench, recipe, anew)
        found = bench.scores(ws, scores.uri)
        written: dict[str, Any] = {
            "date": date,
            "data": source.digest,
            "bench": scores.digest,
            "models": {
                role: {
                    "weights": plain[role].digest,
                    "digest": found["models"][role]["digest"],
                    "anew": anew.get(role, ""),
                    "answers": found["answers"][role]["none"],
                }
                for role in models
            },
            "canary": {
                role: own.plain(p[role], role in drifted) | {"answers": asked[role].digest}
                for role, own in seen.items()
            },
        }

        def make(folder: Path) -> Mapping[str, Any]:
            (folder / FILE).write_text(json.dumps(written, indent=1) + "\n")
            return {"models": len(models), "asked anew": sum(own.asked for own in seen.values())}

        parents = {"data": source.digest, "bench": scores.digest} | {
            f"{kind} of {role}": digest
            for role in models
            for kind, digest in (("answers", written["models"][role]["answers"]), ("canary", asked[role].digest))
        }
        section = {"written": written}
        outcome.of(*cached_step(ws, "rebench", REVISION, section, parents, make, kind="night", recipe=recipe))
        outcome.facts = written
    return outcome


def read(ws: Workspace, uri: str) -> dict[str, Any]:
    """What `night.json` of the stage's artifact holds."""
    found: dict[str, Any] = json.loads((ws.fetch(uri) / FILE).read_text())
    return found


def of(recipe: Recipe) -> str:
    """The night that is asked for: `nightly.date`, else today in UTC.

    Raises:
        UserError: It has not come yet.
    """
    today = datetime.now(UTC).date().isoformat()
    date = recipe.nightly.date or today
    if date > today:
        raise UserError(f"nightly.date is {date}, and today is {today} in UTC", fix="give a day that has come")
    return date


def _anew(engines: Mapping[str, Engine], before: list[Night]) -> dict[str, str]:
    """Role -> since when its cache from before does not hold, as the last night with the same weights has it."""
    found = {}
    for role, who in engines.items():
        known = [own for night in before for own in night.models.values() if own["weights"] == who.digest]
        if known and known[-1]["anew"]:
            found[role] = known[-1]["anew"]
    return found


def _canaries(
    recipe: Recipe, ws: Workspace, source: Artifact, engines: Mapping[str, Engine], date: str
) -> tuple[dict[str, Artifact], dict[str, Seen]]:
    settings, probe = recipe.bench, probes.canary(date, recipe.nightly.canary)
    if recipe.platform.ray != "local":
        fanout.collect(ws, source, engines, [probe], settings, recipe)
    raw = store.fetch(source, ws.cache)
    items, images = tasks.select(raw, settings.tasks, settings.limit, settings.split), shards.Images(raw)
    asked, seen = {}, {}
    for role, who in engines.items():

        def given(how: str, role: str = role, who: Engine = who) -> Artifact:
            return answers.collect(ws, role, who, items, images, source.digest, how, settings, recipe)

        known, asked[role] = given("none"), given(probe)
        seen[role] = canary.compare(*(answers.load(store.fetch(one, ws.cache)) for one in (known, asked[role])))
    return asked, seen


def _last(engines: Mapping[str, Engine], before: list[Night]) -> dict[str, list[tuple[int, int]]]:
    """Role -> (asked, changed) of its canaries in these nights, as far as the same cache was compared with."""
    found: dict[str, list[tuple[int, int]]] = {role: [] for role in engines}
    for role, who in engines.items():
        for night in before:
            for name, own in night.models.items():
                known = night.canary.get(name)
                if own["digest"] == who.digest and known and not known["drifted"]:
                    found[role].append((known["asked"], known["changed"]))
                    break
    return found
