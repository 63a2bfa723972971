"""The stage `bench`: a model and its opponents answer the same questions, and their answers are scored."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medmim import hints, store
from medmim.bench import answers, clean, failures, fanout, reading, scoring, tasks
from medmim.bench.chunks import Set
from medmim.bench.engines import Engine, engine, refuse_outside
from medmim.bench.likelihood import GENERATE, LIKELIHOOD, PROTOCOLS
from medmim.bench.scoring import Board
from medmim.errors import Unavailable, UserError
from medmim.progress import say
from medmim.recipe.schema import OWN_ROLES, Bench, Recipe
from medmim.run.cache import cached_step
from medmim.run.provenance import terms_of
from medmim.run.stage import Outcome, stage
from medmim.run.workspace import Workspace
from medmim.store import Artifact
from medmim.terms import combine

REVISION = 7
SCORES, PREDICTIONS = "scores.json", "predictions.jsonl"
_ALWAYS = ("models", "data", "items", "comparable", "answers", "leaderboard", "differences")  # in every version


def run(recipe: Recipe, ws: Workspace, data: str, model: str, opponents: dict[str, str]) -> Outcome:
    """Bench a tuned model and its opponents; without a tuned one, the others.

    Args:
        recipe: Its section `bench` gives tasks, probes and intervals.
        ws: The workspace.
        data: URI of the data set.
        model: URI of the tuned model; empty in a run that trains none.
        opponents: Role -> reference: `base`, `champion` where there is one, those of `bench.models`.

    Raises:
        UserError: No questions for the tasks or the protocol, a model that does not load, an engine that fails too
            often.
    """
    known = {"tuned": model, **opponents} if model else opponents
    # on the way to a Ray job a mapping loses its order, and the first model is compared with each of the others
    models = {role: known[role] for role in (*OWN_ROLES, *recipe.bench.models) if role in known}
    with stage(ws, "bench") as outcome:
        if not models:
            raise UserError(
                "no model is given, and bench.models of the recipe is empty",
                fix="name models in bench.models, or hand on the tuned model",
            )
        artifact, cached = bench(ws, data, models, recipe.bench, recipe)
        outcome.of(artifact, cached)
        outcome.facts = facts(scores(ws, artifact.uri))
        for warning in [*failures.warnings(outcome.facts), *reading.warnings(outcome.facts)]:
            say(warning)
    return outcome


def bench(
    ws: Workspace,
    data: str,
    models: Mapping[str, str],
    settings: Bench,
    recipe: Recipe | None = None,
    stale_before: Mapping[str, str] | None = None,
) -> tuple[Artifact, bool]:
    """Collect the answers of all models, score them and publish the scores.

    Args:
        ws: The workspace.
        data: URI of the data set.
        models: Role -> reference; the first is compared with each of the others.
        settings: The recipe's bench section.
        recipe: For the provenance.
        stale_before: Role -> day before which its cached answers are stale; see `engines.engine`.

    Returns:
        The artifact (`scores.json`, `predictions.jsonl`), and whether it was cached.
    """
    source = store.get(data)
    given, settings = settings.tasks, without_files(ws, source, settings, recipe)
    of_data = terms_of(source)
    stale = stale_before or {}
    engines = {role: engine(ref, ws, stale.get(role, ""), settings.engine) for role, ref in models.items()}
    refuse_outside(engines.values(), of_data)
    first = next(iter(engines))

    collected = collect(ws, source, engines, answers.probes_of(settings), settings, recipe)

    def make(folder: Path) -> Mapping[str, Any]:
        dataset = store.fetch(source, ws.cache)
        items = tasks.select(dataset, settings.tasks, settings.limit, settings.split)
        if settings.protocol == LIKELIHOOD and not any(sample.options for sample in items.samples):
            raise UserError(
                f"there is no closed question among the {len(items.samples):,} of "
                f"{', '.join(tasks.names_of(settings.tasks))}",
                reason="bench.protocol is likelihood, which compares options, and open questions have none",
                fix="set bench.protocol to generate or both",
            )
        asked = {sample.id: sample for sample in items.samples}
        loaded: dict[str, scoring.Answers] = {
            protocol: {
                role: {
                    probe: answers.as_read(ws, collected[role, protocol, probe], asked)
                    for probe in answers.probes_of(settings)
                }
                for role in engines
            }
            for protocol in PROTOCOLS[settings.protocol]
        }
        generated, compared = loaded.get(GENERATE, {}), loaded.get(LIKELIHOOD, {})
        board = Board(items.samples, generated, compared, items.groups, items.clusters)
        failed = [row for role in engines for row in failures.summary(role, generated.get(role), compared.get(role))]
        written = {
            "comparable": not items.limited,
            "split": settings.split,
            "protocol": settings.protocol,
            "data": source.digest,
            "tasks": sorted(tasks.names_of(settings.tasks)),
            "items": len(items.samples),
            "repeated": items.repeated,
            "models": {role: {"digest": model.digest} for role, model in engines.items()},
            "answers": _digests(collected, engines, GENERATE),
            "likelihoods": _digests(collected, engines, LIKELIHOOD),
            "leaderboard": board.leaderboard(),
            "differences": board.differences(first),
            "text_only": board.text_only(),
            "reading": board.reading(),
            "max_new_tokens": settings.max_new_tokens,
            **({"failures": failed} if failed else {}),
            **({"clusters": kind} if (kind := tasks.clustered_by(settings.tasks)) != "patient" else {}),
            **({"task_digests": digests} if (digests := tasks.digests(settings.tasks)) else {}),
            **({"lists": lists} if (lists := tasks.lists(settings.tasks)) else {}),
        }
        (folder / SCORES).write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in board.predictions())
        (folder / PREDICTIONS).write_text("".join(lines), encoding="utf-8")
        return {"items": len(items.samples), "models": len(engines)}

    # what decides the answers is in their digests, and the models are the parents
    section = settings.model_dump(mode="json", exclude={"batch_size", "models", "engine"})
    section |= {"tasks": tasks.described(settings.tasks)}
    if first != next((role for role in (*OWN_ROLES, "model") if role in engines), ""):  # which leads in most
        section["first"] = first
    parents = {"data": source.digest, **{role: model.digest for role, model in engines.items()}}
    parents |= {f"{protocol} {probe} of {role}": found.digest for (role, protocol, probe), found in collected.items()}
    allowed = combine([of_data, *(model.terms for model in engines.values())])
    # for people: what the roles were called, and where the pictures are
    more: dict[str, Any] = {"refs": {"data": source.uri, **{role: model.ref for role, model in engines.items()}}}
    more |= clean.listed_by(ws, source, given, recipe.audit if recipe else None)
    return cached_step(ws, "bench", REVISION, section, parents, make, recipe=recipe, terms=allowed, more=more)


def collect(
    ws: Workspace,
    data: Artifact,
    engines: Mapping[str, Engine],
    probes: Sequence[str],
    settings: Bench,
    recipe: Recipe | None,
) -> dict[Set, Artifact]:
    """(role, protocol, probe) -> answers, from the cache, from this machine, or from the nodes of a Ray cluster.

    Of the models of this machine, one at a time is in memory. Arguments and errors are those of `fanout.collect`.
    """
    settings = without_files(ws, data, settings, recipe)
    if recipe is not None and recipe.platform.ray != "local":
        return fanout.collect(ws, data, engines, probes, settings, recipe)
    found: dict[Set, Artifact] = {}
    failed: dict[str, UserError] = {}
    for role, model in engines.items():
        sets = [(protocol, probe) for protocol in PROTOCOLS[settings.protocol] for probe in probes]
        try:
            own = answers.find_or_ask(ws, role, model, data, sets, settings, recipe)
        except UserError as error:
            if isinstance(error, Unavailable) and not model.is_server:  # the store, for all of them
                raise
            failures.keep(error, role, failed, engines)
        else:
            found |= {(role, *one): artifact for one, artifact in own.items()}
        model.release()
    failures.refuse(failed, engines)
    return found


def without_files(ws: Workspace, data: Artifact, settings: Bench, recipe: Recipe | None) -> Bench:
    """The settings with tasks that say themselves which questions they ask, without a file and without `clean`."""
    own = clean.resolved(ws, data, tasks.resolved(settings.tasks), recipe.audit if recipe else None)
    return settings.model_copy(update={"tasks": own})


def _digests(collected: Mapping[Set, Artifact], roles: Iterable[str], protocol: str) -> dict[str, dict[str, str]]:
    """Role -> probe -> digest of the answers of a protocol."""
    return {
        role: {probe: found.digest for (of, how, probe), found in collected.items() if (of, how) == (role, protocol)}
        for role in roles
    }


def scores(ws: Workspace, uri: str) -> dict[str, Any]:
    """The content of `scores.json` of a bench artifact.

    Raises:
        UserError: There is none, or it is not what a bench writes.
    """
    artifact = store.get(uri)
    try:
        loaded: dict[str, Any] = json.loads(store.read_file(artifact, SCORES))
        absent = [key for key in _ALWAYS if key not in loaded]
        reason = f"{SCORES} has no {', '.join(absent)}" if absent else ""
    except FileNotFoundError:
        reason = f"it has no {SCORES}"
    except (ValueError, TypeError) as error:
        reason = f"{SCORES}: {error}"
    if reason:
        raise UserError(
            f"{uri} holds no scores that this version reads",
            reason=reason,
            fix=f"bench the models again: `{hints.command('bench', 'run')}`",
        )
    return loaded


def predictions(ws: Workspace, uri: str) -> list[dict[str, Any]]:
    """Every item of a bench artifact with the answers of every model."""
    return [json.loads(line) for line in store.read_file(store.get(uri), PREDICTIONS).decode().split("\n") if line]


def facts(written: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the scores that terminal, gate and report need."""
    return {**written, "digests": {"answers": written["answers"]}}
