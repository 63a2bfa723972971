"""The gate: each rule can refuse, each gives its reason, and equal input gives the equal decision."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmim.recipe.schema import Recipe
from medmim.registry import gate, policy
from medmim.registry.decisions import Decision
from medmim.registry.policy import Policy
from medmim.run.workspace import Workspace, workspace
from medmim.store import Artifact
from medmim.terms import APACHE, Terms, combine
from tests.support.scores import scores

POLICY = policy.load("default")
GOOD = {
    "held_in": (0.9, 0.412, 0.389, 0.33, 212),
    "held_out": (0.7, 0.1, -0.01, 0.33, 80),
    "ability__temporal": (0.9, 0.3, 0.2, 0.33, 60),
    "ability__comparison": (0.9, -0.04, -0.1, 0.33, 40),
    "ability__reasoning": (0.9, -0.3, None, 0.33, 5),
}
CHAMPION = Decision("promoted", "1", "champ", "store/model/champ", n=1)


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:  # the gate never needs MLflow
    return workspace(tmp_path / "home")


def judge(holder: Decision | None = None, **changes: Any) -> dict[str, Any]:
    facts = {"digest": "new", **GOOD, **changes}
    return gate.decide(POLICY, scores(**{k: v for k, v in facts.items() if v is not None}), holder)


def failed(document: dict[str, Any]) -> list[tuple[str, str]]:
    return [(rule["rule"], rule["group"]) for rule in document["rules"] if rule["passed"] is False]


def test_a_good_candidate_is_promoted_with_a_sentence_for_every_rule() -> None:
    document = judge()
    assert document["decision"] == "promoted" and failed(document) == []
    assert "held_in: +41.2 points over base (+38.9 to +43.5), 212 patients" in document["reasons"]
    assert (
        "ability:comparison: -4.0 points against base (-10.0 to +2.0), no loss beyond 5.0 is sure"
        in document["reasons"]
    )
    few = "ability:reasoning: 5 patients: too few (20 needed); no loss can be judged"
    assert few in document["reasons"]


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"held_in": (0.9, 0.01, -0.001, 0.33, 212)}, ("min_gain", "held_in")),
        ({"held_in": (0.9, 0.01, 0.0, 0.33, 212)}, ("min_gain", "held_in")),
        ({"held_in": (0.9, 0.4, 0.3, 0.33, 19)}, ("min_gain", "held_in")),
        ({"held_in": None}, ("min_gain", "held_in")),
        ({"held_out": (0.7, -0.1, -0.179, 0.33, 80)}, ("max_regression", "held_out")),
        ({"ability__temporal": (0.9, -0.1, -0.149, 0.33, 60)}, ("max_regression", "ability:temporal")),
        ({"held_in": (0.9, 0.4, 0.3, 0.86, 212)}, ("blind_gap", "held_in")),
        ({"held_in": (0.9, 0.4, 0.3, None, 212)}, ("blind_gap", "held_in")),
        ({"comparable": False}, ("comparable", "")),
    ],
)
def test_each_rule_can_refuse(changes: dict[str, Any], rule: tuple[str, str]) -> None:
    document = judge(**changes)
    assert document["decision"] == "refused"
    assert rule in failed(document)


@pytest.mark.parametrize(
    ("by", "gain", "low", "passed"),
    [
        ("point", -0.019, -0.2, True),
        ("point", -0.021, -0.03, False),
        ("interval", -0.1, -0.181, True),  # to -1.9 points: perhaps fewer than 2 are lost
        ("interval", -0.1, -0.179, False),
        ("noninferiority", -0.005, -0.019, True),
        ("noninferiority", 0.01, -0.021, False),  # perhaps more than 2 are lost
    ],
)
def test_a_loss_is_judged_by_the_point_or_an_end_of_the_interval(
    by: str, gain: float, low: float, passed: bool
) -> None:
    limits = POLICY.model_copy(update={"regression_by": by})
    document = gate.decide(limits, scores("new", **{**GOOD, "held_out": (0.7, gain, low, 0.33, 80)}), None)
    assert (("max_regression", "held_out") not in failed(document)) is passed
    (rule,) = [r for r in document["rules"] if (r["rule"], r["group"]) == ("max_regression", "held_out")]
    assert rule["value"] == pytest.approx({"point": gain, "interval": 2 * gain - low, "noninferiority": low}[by])
    assert f"held_out: {100 * gain:+.1f} points against base" in rule["text"]


@pytest.mark.parametrize("rule", ["min_gain", "blind_gap"])
def test_a_limit_of_groups_of_which_none_was_scored_refuses(rule: str) -> None:
    limits = {"min_gain": {"held_in": 0.0}, "blind_gap": {}, rule: {"source:elsewhere*": 0.0}}
    document = gate.decide(POLICY.model_copy(update=limits), scores("new", **GOOD), None)
    assert failed(document) == [(rule, "source:elsewhere*")]


def test_an_older_policy_still_judges_the_point() -> None:
    assert Policy(min_gain={"held_in": 0.0}).regression_by == "point"


def test_what_the_images_add_is_judged_by_the_paired_difference() -> None:
    facts = scores("new", **GOOD)
    row = next(row for row in facts["leaderboard"] if row["model"] == "tuned" and row["group"] == "held_in")
    row |= {"low": 0.3, "blind": 0.85, "gap": 0.05, "gap_low": 0.01, "gap_high": 0.09}
    assert failed(gate.decide(POLICY, facts, None)) == []
    row |= {"low": 0.89, "blind": 0.3, "gap": 0.05, "gap_low": -0.001}
    assert failed(gate.decide(POLICY, facts, None)) == [("blind_gap", "held_in")]
    row |= {"gap_low": 0.01, "gap_patients": 19}
    assert failed(gate.decide(POLICY, facts, None)) == [("blind_gap", "held_in")]


@pytest.mark.parametrize(
    ("changes", "fields", "texts"),
    [
        ({"metric": "token_f1"}, {}, ["token_f1 was not measured", "bench.tasks"]),
        ({}, {"blind": None}, ["blind_gap", "add blind to bench.probes"]),
        ({}, {"gap": ...}, ["blind_gap", "bench the models again"]),
        ({}, {"swap_n": None}, ["min_swap", "add swap to bench.probes"]),
        ({}, {"swap_n": None, "blind": None}, ["min_swap", "blind_gap"]),
    ],
)
def test_a_policy_that_asks_for_what_was_not_measured_gets_one_refusal_with_the_key(
    changes: dict[str, Any], fields: dict[str, Any], texts: list[str]
) -> None:
    facts = scores("new", **GOOD)
    for row in facts["leaderboard"]:
        row |= {key: value for key, value in fields.items() if value is not ...}
        for key in [key for key, value in fields.items() if value is ...]:
            row.pop(key, None)
    document = gate.decide(POLICY.model_copy(update=changes), facts, None)
    assert document["decision"] == "refused" and failed(document) == [("measured", "")]
    (reason,) = document["reasons"]
    assert all(text in reason for text in texts)


@pytest.mark.parametrize("kind", ["unparsed", "errors"])
def test_answers_that_cannot_be_read_or_given_refuse(kind: str) -> None:
    facts = scores("new", **GOOD)
    row = next(row for row in facts["leaderboard"] if row["model"] == "tuned" and row["group"] == "held_in")
    assert failed(gate.decide(POLICY, facts, None)) == []
    row[kind] = row["n"] // 10
    assert failed(gate.decide(POLICY, facts, None)) == [(f"max_{kind}", "held_in")]


@pytest.mark.parametrize("protocol", ["likelihood", "both"])
def test_a_policy_can_ask_for_likelihood(protocol: str) -> None:
    facts: dict[str, Any] = {**scores("new", **GOOD), "protocol": protocol}
    for row in [*facts["leaderboard"], *facts["differences"]]:
        row["metric"] = "likelihood"
    asked = POLICY.model_copy(update={"metric": "likelihood"})
    assert gate.decide(asked, facts, None)["decision"] == "promoted"
    row = next(row for row in facts["leaderboard"] if (row["model"], row["group"]) == ("tuned", "held_in"))
    row |= {"swap": 0.1, "swap_low": 0.0, "swap_high": 0.2, "swap_n": 300, "swap_patients": 200}
    assert failed(gate.decide(asked, facts, None)) == [("min_swap", "held_in")]


@pytest.mark.parametrize(
    ("metric", "protocol", "needed"),
    [
        ("likelihood", None, "likelihood"),
        ("likelihood", "generate", "likelihood"),
        ("accuracy", "likelihood", "generate"),
        ("token_f1", "likelihood", "generate"),
    ],
)
def test_a_policy_that_asks_for_what_was_not_measured_names_the_key_to_change(
    metric: str, protocol: str | None, needed: str
) -> None:
    facts = {**scores("new", **GOOD), **({"protocol": protocol} if protocol else {})}
    document = gate.decide(POLICY.model_copy(update={"metric": metric}), facts, None)
    assert document["decision"] == "refused" and failed(document) == [("measured", "")]
    (reason,) = document["reasons"]
    assert reason.endswith(f"set bench.protocol to {needed} or both") and metric in reason


def swapping(**fields: Any) -> dict[str, Any]:
    facts = scores("new", **GOOD)
    for row in facts["leaderboard"]:
        if (row["model"], row["group"]) == ("tuned", "held_in"):
            row |= {"swap": 0.5, "swap_low": 0.4, "swap_high": 0.6, "swap_n": 300, "swap_patients": 200} | fields
    return gate.decide(POLICY, facts, None)


@pytest.mark.parametrize(
    ("fields", "passed", "text"),
    [
        ({}, True, "held_in: 50.0% right both ways (40.0 to 60.0), 300 questions"),
        (
            {"swap_low": 0.25},
            False,
            "held_in: 50.0% right both ways (25.0 to 60.0), 300 questions: not surely above 25.0",
        ),
        ({"swap_low": None, "swap_patients": 19}, None, "300 questions on 19 patients were asked both ways: too few"),
        ({"swap": None, "swap_low": None, "swap_n": 0, "swap_patients": 0}, None, "no question has another answer"),
        ({"swap": None, "swap_low": None, "swap_n": None}, False, "never asked with the images moved on"),
    ],
)
def test_answers_must_follow_the_images_where_enough_were_asked_both_ways(
    fields: dict[str, Any], passed: bool | None, text: str
) -> None:
    document = swapping(**fields)
    (rule,) = [rule for rule in document["rules"] if rule["rule"] == "min_swap"]
    assert rule["passed"] is passed and text in rule["text"]
    assert document["decision"] == ("refused" if passed is False else "promoted")


def test_swapping_needs_as_many_patients_as_the_policy_says() -> None:
    stricter: Policy = POLICY.model_copy(update={"min_patients": 60})
    facts = scores("new", **GOOD)
    row = next(row for row in facts["leaderboard"] if row["model"] == "tuned" and row["group"] == "held_in")
    row |= {"swap": 0.1, "swap_low": 0.0, "swap_high": 0.2, "swap_n": 300, "swap_patients": 59}
    assert ("min_swap", "held_in") not in failed(gate.decide(stricter, facts, None))
    row["swap_patients"] = 60
    assert ("min_swap", "held_in") in failed(gate.decide(stricter, facts, None))


def test_a_model_whose_sources_forbid_a_use_that_the_policy_asks_for_is_refused_with_their_name() -> None:
    embed = Terms(commercial_use=True, text=("EMBED: academic use",))
    judged = gate.decide(POLICY, scores("new", **GOOD), None, combine([APACHE, embed]))
    assert judged["decision"] == "refused" and failed(judged) == [("terms", "serve")]
    assert "serve: not allowed by EMBED" in judged["reasons"]
    for limits, terms in ((POLICY, APACHE), (policy.load("research"), embed)):
        assert gate.decide(limits, scores("new", **GOOD), None, terms)["decision"] == "promoted"


def test_the_gate_finds_the_terms_of_the_model_in_the_store(
    ws: Workspace, recipe: Recipe, publish: Callable[..., Artifact], bench: Callable[..., Artifact]
) -> None:
    model = publish("model", weights__txt="w", terms__json=Terms(text=("MIMIC: credentialed",)).dump())
    outcome = gate.run(recipe, ws, bench(model.digest, **GOOD).uri)
    assert outcome.facts["decision"] == "refused" and "serve: not allowed by MIMIC" in outcome.facts["reasons"]


def test_too_few_patients_refuse_with_their_number() -> None:
    document = judge(held_in=(1.0, 0.9, None, 0.3, 5))
    assert document["decision"] == "refused"
    assert "held_in: 5 patients: too few (20 needed)" in document["reasons"]


def test_the_opponent_is_the_champion_where_there_is_one() -> None:
    document = judge(holder=CHAMPION, champion="champ")
    assert document["opponent"] == {"role": "champion", "digest": "champ"}
    assert document["decision"] == "promoted" and "points over champion" in document["reasons"][1]


def test_a_bench_against_another_champion_is_refused() -> None:
    for champion in ("", "older"):
        assert ("opponent", "") in failed(judge(holder=CHAMPION, champion=champion))


def test_the_champion_itself_is_kept_whatever_it_scored() -> None:
    document = judge(holder=CHAMPION, digest="champ", held_in=None)
    assert document["decision"] == "kept"


@given(
    gain=st.floats(-1, 1),
    width=st.floats(0, 1),
    patients=st.integers(1, 300),
    blind=st.floats(0, 1),
    value=st.floats(0, 1),
)
def test_nothing_is_promoted_without_a_gain_beyond_doubt_on_enough_patients(
    gain: float, width: float, patients: int, blind: float, value: float
) -> None:
    document = judge(held_in=(value, gain, gain - width, blind, patients))
    if document["decision"] == "promoted":
        assert gain - width > 0 and patients >= 20 and value - 0.05 > blind
    else:
        assert failed(document)


def test_the_decision_is_published_and_equal_input_gives_the_equal_artifact(
    ws: Workspace, recipe: Recipe, bench: Callable[..., Artifact]
) -> None:
    scored = bench("new", **GOOD)
    first, again = gate.run(recipe, ws, scored.uri), gate.run(recipe, ws, scored.uri)
    assert first.facts["decision"] == "promoted"
    assert (again.digest, again.cached, first.cached) == (first.digest, True, False)
    assert gate.read(ws, first.uri) == first.facts
    assert first.facts["bench"] == scored.digest and "store" not in json.dumps(first.facts)
    other = gate.run(recipe, ws, bench("other", **GOOD).uri)
    assert other.digest != first.digest


def test_a_refusal_is_a_result_of_the_gate_not_an_error(
    ws: Workspace, recipe: Recipe, bench: Callable[..., Artifact]
) -> None:
    outcome = gate.run(recipe, ws, bench("new", held_in=(0.9, 0.4, None, 0.3, 5)).uri)
    assert (outcome.status, outcome.facts["decision"]) == ("done", "refused")
