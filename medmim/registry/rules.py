"""The gate's rules: a policy on the scores of a bench, one result with its sentence for each rule and group.

What is read of the bench artifact, `scores.json`:

    models       role (`tuned`, `base`, `champion`) -> {digest}; of the model artifact where it is one
    leaderboard  rows of {model: role, **Score}
    differences  rows of {group, metric, opponent: role, value, low, high, n, patients}: tuned minus opponent on
                 the same items, 0..1, with the patient-clustered 95% interval; low and high None under 20 patients
    comparable   False where bench.limit or bench.split make the result not comparable
    protocol     bench.protocol; absent in earlier versions, which generated
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from medmim.registry.policy import Policy
from medmim.terms import Terms, reasons


@dataclass(frozen=True)
class RuleResult:
    """One rule on one group: what was found, what was allowed, and a sentence. `passed` is None where not judged."""

    rule: str
    group: str
    value: float | None
    limit: float | None
    passed: bool | None
    text: str


def apply(policy: Policy, scores: Mapping[str, Any], opponent: str) -> Iterator[RuleResult]:
    """Apply every rule of a policy.

    Args:
        policy: The limits.
        scores: `scores.json` of the bench.
        opponent: Role that the tuned model is compared with.

    Yields:
        Results in the order of the policy's keys.
    """
    measured = [row for row in scores["leaderboard"] if row["metric"] == policy.metric]
    own = {row["group"]: row for row in measured if row["model"] == "tuned"}
    compared = [row for row in scores["differences"] if row["metric"] == policy.metric]
    paired = {row["group"]: row for row in compared if row["opponent"] == opponent}
    swapped = "likelihood" if policy.metric == "likelihood" else "accuracy"  # what the swap probe measures
    closed = {
        row["group"]: row for row in scores["leaderboard"] if row["model"] == "tuned" and row["metric"] == swapped
    }
    if policy.require_comparable:
        yield _comparable(bool(scores["comparable"]))
    if missing := _unmeasured(policy.metric, scores.get("protocol", "generate")):
        yield RuleResult("metric", "", None, None, False, missing)
    for group, limit in _expand(policy.min_gain, paired):
        yield _gain(group, limit, paired.get(group), policy, opponent)
    for group, limit in _expand(policy.max_regression, paired):
        yield _regression(group, limit, paired.get(group), policy, opponent)
    for group, limit in _expand(policy.blind_gap, own):
        yield _blind_gap(group, limit, own.get(group), policy)
    for group, limit in _expand(policy.min_swap, closed):
        yield _swap(group, limit, closed.get(group, {}), policy)
    for group, _ in _expand(policy.min_gain, own):
        if row := own.get(group):
            asked = max(1, row["n"] + row["errors"])
            yield _share("unparsed", group, row["unparsed"] / asked, policy.max_unparsed, "could not be read")
            yield _share("errors", group, row["errors"] / asked, policy.max_errors, "failed in the engine")


def terms_of_use(policy: Policy, allowed: Terms) -> Iterator[RuleResult]:
    """One result for each use that the policy asks for, with the name of who forbids it."""
    for use in policy.terms:
        refused = reasons(allowed, [use])
        text = refused[0] if refused else f"{use}: allowed by the terms of all sources and of the base"
        yield RuleResult("terms", use, None, None, not refused, text)


def _unmeasured(metric: str, protocol: str) -> str:
    """A sentence where a metric was not measured, because nothing was generated or no likelihoods were compared."""
    needed = "likelihood" if metric == "likelihood" else "generate"
    if protocol in (needed, "both"):
        return ""
    return f"{metric} was not measured (bench.protocol is {protocol}): set bench.protocol to {needed} or both"


def _comparable(passed: bool) -> RuleResult:
    text = (
        "all questions were asked"
        if passed
        else "not comparable: not the whole test split was asked (bench.limit, bench.split)"
    )
    return RuleResult("comparable", "", None, None, passed, text)


def _gain(group: str, limit: float, row: Mapping[str, Any] | None, policy: Policy, opponent: str) -> RuleResult:
    if few := _too_few(group, row, policy):
        return RuleResult("min_gain", group, row["patients"] if row else 0, policy.min_patients, False, few)
    assert row is not None
    text = (
        f"{group}: {_points(row['value'])} points over {opponent} "
        f"({_points(row['low'])} to {_points(row['high'])}), {row['patients']:,} patients"
    )
    passed = row["low"] > limit
    text += "" if passed else f": not surely above {_points(limit)}"
    return RuleResult("min_gain", group, row["low"], limit, passed, text)


def _regression(group: str, limit: float, row: Mapping[str, Any] | None, policy: Policy, opponent: str) -> RuleResult:
    if few := _too_few(group, row, policy):
        return RuleResult("max_regression", group, None, limit, None, f"{few}; no loss can be judged")
    assert row is not None
    passed = row["value"] >= -limit
    text = f"{group}: {_points(row['value'])} points against {opponent}"
    text += f", {100 * limit:.1f} may be lost" if passed else f": only {100 * limit:.1f} may be lost"
    return RuleResult("max_regression", group, row["value"], -limit, passed, text)


def _blind_gap(group: str, limit: float, row: Mapping[str, Any] | None, policy: Policy) -> RuleResult:
    if few := _too_few(group, row, policy):
        return RuleResult("blind_gap", group, None, limit, False, few)
    assert row is not None
    if row["blind"] is None:
        text = f"{group}: never asked without images; add blind to bench.probes"
        return RuleResult("blind_gap", group, None, limit, False, text)
    gap = row["low"] - row["blind"]
    passed = gap > limit
    text = f"{group}: {100 * row['value']:.1f} with images, {100 * row['blind']:.1f} without"
    text += "" if passed else ": the images do not help beyond doubt"
    return RuleResult("blind_gap", group, gap, limit, passed, text)


def _swap(group: str, limit: float, row: Mapping[str, Any], policy: Policy) -> RuleResult:
    if row and row.get("swap_n") is None:
        text = f"{group}: never asked with the images moved on; add swap to bench.probes"
        return RuleResult("min_swap", group, None, limit, False, text)
    if not row or not row["swap_n"]:
        text = f"{group}: no question has another answer when its images move on; nothing to judge"
        return RuleResult("min_swap", group, None, limit, None, text)
    if row["swap_low"] is None or row["swap_patients"] < policy.min_patients:
        asked = f"{row['swap_n']:,} questions on {row['swap_patients']:,} patients"
        text = f"{group}: {asked} were asked both ways: too few ({policy.min_patients} needed); nothing can be judged"
        return RuleResult("min_swap", group, None, limit, None, text)
    passed = row["swap_low"] > limit
    text = (
        f"{group}: {100 * row['swap']:.1f}% right both ways "
        f"({100 * row['swap_low']:.1f} to {100 * row['swap_high']:.1f}), {row['swap_n']:,} questions"
    )
    text += "" if passed else f": not surely above {100 * limit:.1f}"
    return RuleResult("min_swap", group, row["swap_low"], limit, passed, text)


def _share(rule: str, group: str, value: float, limit: float, what: str) -> RuleResult:
    passed = value <= limit
    text = f"{group}: {100 * value:.1f}% of the answers {what}"
    text += "" if passed else f", {100 * limit:.1f}% are allowed"
    return RuleResult(f"max_{rule}", group, value, limit, passed, text)


def _too_few(group: str, row: Mapping[str, Any] | None, policy: Policy) -> str:
    """A sentence where a group has no questions or too few patients for an interval; else empty."""
    if row is None:
        return f"{group}: no questions"
    if row["patients"] < policy.min_patients or row["low"] is None:
        count = row["patients"]
        return f"{group}: {count} patient{'s' * (count != 1)}: too few ({policy.min_patients} needed)"
    return ""


def _expand(limits: Mapping[str, float], rows: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """`ability:*` becomes every such group that was scored and is not named itself."""
    for pattern, limit in limits.items():
        if not pattern.endswith("*"):
            yield pattern, limit
            continue
        for group in rows:
            if group.startswith(pattern[:-1]) and group not in limits:
                yield group, limit


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"
