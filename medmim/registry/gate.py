"""gate: decide whether a benched model may become champion, by its policy and scores, with a sentence for every rule.

The opponent is the champion that was benched, else the base. A refusal is a result, not an error: `promote` acts on it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medmim import store
from medmim.recipe.schema import Recipe
from medmim.registry import decisions, policy, rules
from medmim.registry.decisions import Decision
from medmim.registry.policy import Policy
from medmim.registry.rules import RuleResult
from medmim.run import provenance
from medmim.run.cache import cached_step
from medmim.run.stage import Outcome, stage
from medmim.run.workspace import Workspace
from medmim.sample import digest_of
from medmim.terms import Terms

REVISION = 1
FILE = "decision.json"


def run(recipe: Recipe, ws: Workspace, bench: str) -> Outcome:
    """Judge the benched model by the recipe's policy and publish the decision.

    Args:
        recipe: `gate.policy` and `register.model`.
        ws: The workspace.
        bench: Store URI of the scores.

    Returns:
        Facts: `decision` (`promoted`, `kept` or `refused`), `reasons`, `rules`, `opponent`, `candidate` and
        `champion` (digests), `policy`.

    Raises:
        UserError: A policy that cannot be read, or scores that lack what it asks for.
    """
    with stage(ws, "gate") as outcome:
        limits = policy.load(recipe.gate.policy)
        source = store.get(bench)
        scores = json.loads(store.read_file(source, "scores.json"))
        holder = decisions.roles(decisions.read(ws, recipe.register_.model)).champion
        allowed = terms_of_model(ws, scores["models"]["tuned"]["digest"])
        verdict = decide(limits, scores, holder, allowed) | {"bench": source.digest}

        def make(folder: Path) -> Mapping[str, Any]:
            (folder / FILE).write_text(text(verdict), encoding="utf-8")
            return {"rules": len(verdict["rules"])}

        artifact, cached = cached_step(
            ws, "gate", REVISION, verdict, {"bench": source.digest}, make, kind="decision", recipe=recipe
        )
        outcome.of(artifact, cached)
        outcome.facts = verdict
    return outcome


def read(ws: Workspace, uri: str) -> dict[str, Any]:
    """The decision of a decision artifact."""
    loaded: dict[str, Any] = json.loads(store.read_file(store.get(uri), FILE))
    return loaded


def text(document: Mapping[str, Any]) -> str:
    """A decision as its file holds it."""
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def terms_of_model(ws: Workspace, digest: str) -> Terms | None:
    """The terms of use of a model in the store; None where it is not there: then nobody can use it."""
    artifact = store.find(f"{ws.store}/model/{digest}")
    return None if artifact is None else provenance.terms_of(artifact)


def decide(
    limits: Policy, scores: Mapping[str, Any], holder: Decision | None, allowed: Terms | None = None
) -> dict[str, Any]:
    """The decision document; a pure function.

    Args:
        limits: The policy.
        scores: `scores.json` of the bench, see `rules`.
        holder: The decision that made the present champion.
        allowed: Terms of use of the candidate; None where it is no model of the store.
    """
    models = scores["models"]
    candidate = models["tuned"]["digest"]
    opponent = "champion" if "champion" in models else "base"
    document = {
        "candidate": candidate,
        "champion": holder.digest if holder else "",
        "opponent": {"role": opponent, "digest": models.get(opponent, {}).get("digest", "")},
        "policy": digest_of([json.dumps(limits.model_dump(mode="json"), sort_keys=True)]),
    }
    if holder and holder.digest == candidate:
        return document | {"decision": "kept", "rules": [], "reasons": ["this model is the champion already"]}
    results = list(rules.apply(limits, scores, opponent))
    if holder and document["opponent"]["digest"] != holder.digest:
        why = "not benched against the present champion: run the recipe again"
        results.insert(0, RuleResult("opponent", "", None, None, False, why))
    if allowed is not None:
        results += rules.terms_of_use(limits, allowed)
    passed = all(result.passed is not False for result in results)
    return document | {
        "decision": "promoted" if passed else "refused",
        "rules": [asdict(result) for result in results],
        "reasons": [result.text for result in results],
    }
