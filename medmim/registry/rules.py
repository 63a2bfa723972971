"""The gate's rules: a policy on the scores of a bench, one result with its sentence for each rule and group.

What is read of the bench artifact, `scores.json`:

    models       role (`tuned`, `base`, `champion`) -> {digest}; of the model artifact where it is one
    leaderboard  rows of {model: role, **Score}; where blind was asked, `gap`, `gap_low`, `gap_high`, `gap_patients`:
                 with images minus without, on the same items
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

_JUDGED = {"point": "value", "interval": "high", "noninferiority": "low"}  # of a paired difference
_OF_OPEN = ("token_f1", "bleu", "rouge_l")


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
        Results in the order of the policy's keys; one alone, with the keys to change, where the policy asks for what
        the bench did not measure.
    """
    measured = [row for row in scores["leaderboard"] if row["metric"] == policy.metric]
    own = {row["group"]: row for row in measured if row["model"] == "tuned"}
    compared = [row for row in scores["differences"] if row["metric"] == policy.metric]
    paired = {row["group"]: row for row in compared if row["opponent"] == opponent}
    swapped = "likelihood" if policy.metric == "likelihood" else "accuracy"  # what the swap probe measures
    closed = {
        row["group"]: row for row in scores["leaderboard"] if row["model"] == "tuned" and row["metric"] == swapped
    }
    if lacking := list(_unmeasured(policy, scores, closed)):
        yield RuleResult("measured", "", None, None, False, "; ".join(lacking))
        return
    if policy.require_comparable:
        yield _comparable(bool(scores["comparable"]))
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
            told = "could not be read"
            if cut := row.get("unparsed_cut", 0):  # no wording of the model, but its limit: it counts all the same
                told += f" ({cut / asked:.1%} cut at the limit of new tokens)"
            yield _share("unparsed", group, row["unparsed"] / asked, policy.max_unparsed, told)
            yield _share("errors", group, row["errors"] / asked, policy.max_errors, "failed in the engine")


def terms_of_use(policy: Policy, allowed: Terms) -> Iterator[RuleResult]:
    """One result for each use that the policy asks for, with the name of who forbids it."""
    for use in policy.terms:
        refused = reasons(allowed, [use])
        text = refused[0] if refused else f"{use}: allowed by the terms of all sources and of the base"
        yield RuleResult("terms", use, None, None, not refused, text)


def _unmeasured(policy: Policy, scores: Mapping[str, Any], closed: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What the policy asks for and no question of the bench measured, with the key to change."""
    tuned = [row for row in scores["leaderboard"] if row["model"] == "tuned"]
    own = [row for row in tuned if row["metric"] == policy.metric]
    protocol, needed = scores.get("protocol", "generate"), "likelihood" if policy.metric == "likelihood" else "generate"
    if protocol not in (needed, "both"):
        yield (
            f"{policy.metric} was not measured (bench.protocol is {protocol}): set bench.protocol to {needed} or both"
        )
    elif not own:
        kind = "open" if policy.metric in _OF_OPEN else "closed"
        yield f"{policy.metric} was not measured: bench.tasks has no {kind} question"
    elif policy.blind_gap and all(row["blind"] is None for row in own):
        yield "blind_gap: no question was asked without images; add blind to bench.probes"
    elif policy.blind_gap and all("gap" not in row for row in own):
        yield "blind_gap: an earlier version of medmim measured no paired gap; bench the models again"
    if policy.min_swap and closed and all(row.get("swap_n") is None for row in closed.values()):
        yield "min_swap: no question was asked with its images moved on; add swap to bench.probes"


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
    judged = row[_JUDGED[policy.regression_by]]
    passed = judged >= -limit
    text = f"{group}: {_points(row['value'])} points against {opponent}"
    if policy.regression_by != "point":
        text += f" ({_points(row['low'])} to {_points(row['high'])})"
    if policy.regression_by == "noninferiority":
        text += (
            f", surely no more than {100 * limit:.1f} lost" if passed else f": more than {100 * limit:.1f} may be lost"
        )
    elif policy.regression_by == "interval":
        text += (
            f", no loss beyond {100 * limit:.1f} is sure" if passed else f": surely more than {100 * limit:.1f} lost"
        )
    else:
        text += f", {100 * limit:.1f} may be lost" if passed else f": only {100 * limit:.1f} may be lost"
    return RuleResult("max_regression", group, judged, -limit, passed, text)


def _blind_gap(group: str, limit: float, row: Mapping[str, Any] | None, policy: Policy) -> RuleResult:
    if few := _too_few(group, row, policy):
        return RuleResult("blind_gap", group, None, limit, False, few)
    assert row is not None
    if row.get("gap") is None:
        text = f"{group}: never asked without images; add blind to bench.probes"
        return RuleResult("blind_gap", group, None, limit, False, text)
    if row["gap_low"] is None or row["gap_patients"] < policy.min_patients:
        text = f"{group}: {row['gap_patients']:,} patients were asked with and without images: too few"
        return RuleResult("blind_gap", group, None, limit, False, f"{text} ({policy.min_patients} needed)")
    passed = row["gap_low"] > limit
    text = (
        f"{group}: {_points(row['gap'])} points with images over without "
        f"({_points(row['gap_low'])} to {_points(row['gap_high'])})"
    )
    text += "" if passed else ": the images do not help beyond doubt"
    return RuleResult("blind_gap", group, row["gap_low"], limit, passed, text)


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
    """`ability:*` becomes every such group that was scored and is not named itself; itself where none was scored."""
    for pattern, limit in limits.items():
        scored = [group for group in rows if pattern.endswith("*") and group.startswith(pattern[:-1])]
        for group in scored or [pattern]:
            if group == pattern or group not in limits:
                yield group, limit


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"
