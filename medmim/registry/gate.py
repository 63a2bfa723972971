"""gate: policy and scores -> a decision, with a sentence for every rule.

What it reads of the bench artifact, `scores.json`:

    models       role (`tuned`, `base`, `champion`) -> {digest}; of the model artifact where it is one
    leaderboard  rows of {model: role, **Score}
    differences  rows of {group, metric, opponent: role, value, low, high, n, patients}: tuned minus opponent on
                 the same items, 0..1, with the patient-clustered 95% interval; low and high None under 20 patients
    comparable   False where bench.limit or bench.split make the result one of its own

The opponent is the champion that was benched, else the base. A refusal is a result, not an error: `promote` acts on it.
"""

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from medmim import store
from medmim.errors import UserError
from medmim.recipe.keys import Positive, Section
from medmim.recipe.schema import Fraction, Recipe
from medmim.recipe.yaml_text import parse_yaml
from medmim.registry import decisions
from medmim.registry.decisions import Decision
from medmim.run.cache import cached_step
from medmim.run.stage import Outcome, stage
from medmim.run.workspace import Workspace
from medmim.sample import digest_of

REVISION = 1
FILE = "decision.json"


class Policy(Section):
    """What a candidate must show; see medmim/shipped/policies/default.yaml for the meaning of each key."""

    metric: Literal["accuracy", "token_f1", "bleu", "rouge_l"] = "accuracy"
    min_patients: Positive = Field(20, ge=20)  # under 20 there is no interval
    min_gain: dict[str, float] = Field(min_length=1)
    max_regression: dict[str, Fraction] = {}
    blind_gap: dict[str, float] = {}
    min_swap: dict[str, Fraction] = {}
    max_unparsed: Fraction = 1.0
    max_errors: Fraction = 1.0
    require_comparable: bool = True


@dataclass(frozen=True)
class Ruling:
    """One rule on one group: what was found, what was allowed, and a sentence. `passed` is None where not judged."""

    rule: str
    group: str
    value: float | None
    limit: float | None
    passed: bool | None
    text: str


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
        UserError: A policy that is none, or scores that lack what it asks for.
    """
    with stage(ws, "gate") as outcome:
        policy = load(recipe.gate.policy)
        source = store.get(bench)
        scores = json.loads((ws.fetch(bench) / "scores.json").read_text())
        holder = decisions.standing(decisions.read(ws, recipe.register_.model)).champion
        verdict = decide(policy, scores, holder) | {"bench": source.digest}

        def make(folder: Path) -> Mapping[str, Any]:
            text = json.dumps(verdict, indent=1, sort_keys=True, ensure_ascii=False)
            (folder / FILE).write_text(text + "\n")
            return {"rules": len(verdict["rules"])}

        artifact, cached = cached_step(
            ws, "gate", REVISION, verdict, {"bench": source.digest}, make, kind="decision", recipe=recipe
        )
        outcome.of(artifact, cached)
        outcome.facts = verdict
    return outcome


def read(ws: Workspace, uri: str) -> dict[str, Any]:
    """The decision of a decision artifact."""
    loaded: dict[str, Any] = json.loads((ws.fetch(uri) / FILE).read_text())
    return loaded


def shipped() -> list[str]:
    """Names of the shipped policies."""
    names = (entry.name for entry in resources.files("medmim.shipped.policies").iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def load(ref: str) -> Policy:
    """Load and check a policy.

    Args:
        ref: A shipped name or a YAML file.

    Raises:
        UserError: No such policy, or every problem that it has.
    """
    if ref in shipped():
        text, where = (resources.files("medmim.shipped.policies") / f"{ref}.yaml").read_text(), f"policy {ref}"
    else:
        try:
            text, where = Path(ref).read_text(), ref
        except (OSError, UnicodeDecodeError):
            raise UserError(
                f"no gate policy '{ref}'",
                reason="it is neither a readable file nor a shipped name",
                fix=f"set gate.policy to a file or one of: {', '.join(shipped())}",
            ) from None
    try:
        return Policy.model_validate_json(json.dumps(parse_yaml(text, where)))
    except ValidationError as error:
        problems = [_explain(problem) for problem in error.errors()]
    raise UserError(
        f"{where} has {len(problems)} problem{'s' * (len(problems) != 1)}",
        problems=problems,
        fix="medmim/shipped/policies/default.yaml explains every key",
    )


def decide(policy: Policy, scores: Mapping[str, Any], holder: Decision | None) -> dict[str, Any]:
    """The decision document: pure, from policy, scores and who is champion."""
    models = scores["models"]
    candidate = models["tuned"]["digest"]
    opponent = "champion" if "champion" in models else "base"
    document = {
        "candidate": candidate,
        "champion": holder.digest if holder else "",
        "opponent": {"role": opponent, "digest": models.get(opponent, {}).get("digest", "")},
        "policy": digest_of([json.dumps(policy.model_dump(mode="json"), sort_keys=True)]),
    }
    if holder and holder.digest == candidate:
        text = "this model is the champion already"
        return document | {"decision": "kept", "rules": [], "reasons": [text]}
    rules = list(_rule(policy, scores, opponent))
    if holder and document["opponent"]["digest"] != holder.digest:
        text = "not benched against the present champion: run the recipe again"
        rules.insert(0, Ruling("opponent", "", None, None, False, text))
    passed = all(ruling.passed is not False for ruling in rules)
    return document | {
        "decision": "promoted" if passed else "refused",
        "rules": [asdict(ruling) for ruling in rules],
        "reasons": [ruling.text for ruling in rules],
    }


def _rule(policy: Policy, scores: Mapping[str, Any], opponent: str) -> Iterator[Ruling]:
    measured = [row for row in scores["leaderboard"] if row["metric"] == policy.metric]
    own = {row["group"]: row for row in measured if row["model"] == "tuned"}
    compared = [row for row in scores["differences"] if row["metric"] == policy.metric]
    paired = {row["group"]: row for row in compared if row["opponent"] == opponent}
    if policy.require_comparable:
        fine = bool(scores["comparable"])
        text = (
            "all questions were asked"
            if fine
            else "not comparable: not the whole test split was asked (bench.limit, bench.split)"
        )
        yield Ruling("comparable", "", None, None, fine, text)
    for group, limit in _spread(policy.min_gain, paired):
        yield _gain(group, limit, paired.get(group), policy, opponent)
    for group, limit in _spread(policy.max_regression, paired):
        yield _regression(group, limit, paired.get(group), policy, opponent)
    for group, limit in _spread(policy.blind_gap, own):
        yield _blind(group, limit, own.get(group), policy)
    closed = {r["group"]: r for r in scores["leaderboard"] if (r["model"], r["metric"]) == ("tuned", "accuracy")}
    for group, limit in _spread(policy.min_swap, closed):
        yield _both_ways(group, limit, closed.get(group, {}), policy)
    for group, _ in _spread(policy.min_gain, own):
        if row := own.get(group):
            asked = max(1, row["n"] + row["errors"])
            yield _share("unparsed", group, row["unparsed"] / asked, policy.max_unparsed, "could not be read")
            yield _share("errors", group, row["errors"] / asked, policy.max_errors, "failed in the engine")


def _gain(group: str, limit: float, row: Mapping[str, Any] | None, policy: Policy, opponent: str) -> Ruling:
    if few := _few(group, row, policy):
        return Ruling("min_gain", group, row["patients"] if row else 0, policy.min_patients, False, few)
    assert row is not None
    text = (
        f"{group}: {_points(row['value'])} points over {opponent} "
        f"({_points(row['low'])} to {_points(row['high'])}), {row['patients']:,} patients"
    )
    passed = row["low"] > limit
    text += "" if passed else f": not surely above {_points(limit)}"
    return Ruling("min_gain", group, row["low"], limit, passed, text)


def _regression(group: str, limit: float, row: Mapping[str, Any] | None, policy: Policy, opponent: str) -> Ruling:
    if few := _few(group, row, policy):
        return Ruling("max_regression", group, None, limit, None, f"{few}; no loss can be judged")
    assert row is not None
    passed = row["value"] >= -limit
    text = f"{group}: {_points(row['value'])} points against {opponent}"
    more = f", {100 * limit:.1f} may be lost" if passed else f": only {100 * limit:.1f} may be lost"
    return Ruling("max_regression", group, row["value"], -limit, passed, text + more)


def _blind(group: str, limit: float, row: Mapping[str, Any] | None, policy: Policy) -> Ruling:
    if few := _few(group, row, policy):
        return Ruling("blind_gap", group, None, limit, False, few)
    assert row is not None
    if row["blind"] is None:
        text = f"{group}: never asked without images; add blind to bench.probes"
        return Ruling("blind_gap", group, None, limit, False, text)
    gap = row["low"] - row["blind"]
    passed = gap > limit
    text = f"{group}: {100 * row['value']:.1f} with images, {100 * row['blind']:.1f} without"
    text += "" if passed else ": the images do not help beyond doubt"
    return Ruling("blind_gap", group, gap, limit, passed, text)


def _both_ways(group: str, limit: float, row: Mapping[str, Any], policy: Policy) -> Ruling:
    if row and row.get("swap_n") is None:
        text = f"{group}: never asked with the images moved on; add swap to bench.probes"
        return Ruling("min_swap", group, None, limit, False, text)
    if not row or not row["swap_n"]:
        text = f"{group}: no question has another answer when its images move on; nothing to judge"
        return Ruling("min_swap", group, None, limit, None, text)
    if row["swap_low"] is None or row["swap_patients"] < policy.min_patients:
        asked = f"{row['swap_n']:,} questions on {row['swap_patients']:,} patients"
        text = f"{group}: {asked} were asked both ways: too few ({policy.min_patients} needed); nothing can be judged"
        return Ruling("min_swap", group, None, limit, None, text)
    passed = row["swap_low"] > limit
    text = (
        f"{group}: {100 * row['swap']:.1f}% right both ways "
        f"({100 * row['swap_low']:.1f} to {100 * row['swap_high']:.1f}), {row['swap_n']:,} questions"
    )
    text += "" if passed else f": not surely above {100 * limit:.1f}"
    return Ruling("min_swap", group, row["swap_low"], limit, passed, text)


def _share(rule: str, group: str, value: float, limit: float, what: str) -> Ruling:
    passed = value <= limit
    text = f"{group}: {100 * value:.1f}% of the answers {what}"
    text += "" if passed else f", {100 * limit:.1f}% are allowed"
    return Ruling(f"max_{rule}", group, value, limit, passed, text)


def _few(group: str, row: Mapping[str, Any] | None, policy: Policy) -> str:
    if row is None:
        return f"{group}: no questions"
    if row["patients"] < policy.min_patients or row["low"] is None:
        count = row["patients"]
        needed = f"{policy.min_patients} needed"
        return f"{group}: {count} patient{'s' * (count != 1)}: too few ({needed})"
    return ""


def _spread(limits: Mapping[str, float], rows: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """`ability:*` becomes every such group that was scored and is not named itself."""
    for pattern, limit in limits.items():
        if pattern.endswith("*"):
            yield from ((g, limit) for g in rows if g.startswith(pattern[:-1]) and g not in limits)
        else:
            yield pattern, limit


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"


def _explain(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, Policy.model_fields, 1, cutoff=0.5)
        return f"{key}: unknown key" + (f"; did you mean '{near[0]}'?" if near else "")
    if error["type"] == "missing":
        return f"{key}: missing"
    return f"{key}: {error['msg']} (got {error['input']!r})"
