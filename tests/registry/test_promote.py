"""Promotion: the log decides and the aliases follow it, whatever else happens at the same time."""

import itertools
import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medmim import store, tracking
from medmim.errors import TRY_AGAIN, Refused, UserError
from medmim.recipe.schema import Recipe
from medmim.registry import aliases as alias_log
from medmim.registry import decisions, gate, lookup, promote, retired
from medmim.run.stage import Outcome
from medmim.run.workspace import Workspace, workspace
from medmim.terms import Terms
from medmim.tracking import mlflow_client
from tests.support.registry import digest_of, model

NAME = "medmim-demo"
_numbers = itertools.count()


def add(ws: Workspace, letter: str, name: str = NAME) -> str:
    """A real version in MLflow, of a small model."""
    api = tracking.client(ws)
    if name not in tracking.registered(ws):
        api.create_registered_model(name)
    made = model(ws, letter)
    tags = {lookup.DIGEST: made.digest, lookup.URI: made.uri}
    return str(api.create_model_version(name, source=ws.home.as_uri(), tags=tags).version)


def aliases(ws: Workspace, name: str = NAME) -> dict[str, str]:
    return dict(mlflow_client._ask(tracking.client(ws), name)[name].aliases)


@pytest.fixture
def judged(ws: Workspace, recipe: Recipe, bench: Callable[..., Any]) -> Callable[..., str]:
    """Have the gate judge a model against the champion that the log names; gives the decision's URI."""

    def judged(letter: str, good: bool = True, value: float = 0.9) -> str:
        holder = lookup.champion(ws, NAME)
        gain = 0.4 if good else -0.4
        against = holder.digest if holder else ""
        scored = bench(digest_of(letter), against, held_in=(value, gain, gain - 0.05, 0.3, 100))
        return gate.run(recipe, ws, scored.uri).uri

    return judged


def run(recipe: Recipe, ws: Workspace, version: str, decision: str) -> Outcome:
    return promote.run(recipe, ws, version, decision)


def test_promoted_kept_refused(ws: Workspace, recipe: Recipe, judged: Callable[..., str]) -> None:
    first, second = add(ws, "a"), add(ws, "b")
    outcome = run(recipe, ws, first, judged("a"))
    champion = {"name": NAME, "version": first, "digest": digest_of("a"), "uri": model(ws, "a").uri}
    assert outcome.facts == {"decision": "promoted", "champion": champion, "entry": 1, "restored": []}
    assert aliases(ws) == {"champion": first, "challenger": first}
    assert run(recipe, ws, first, judged("a", value=0.8)).facts["decision"] == "kept"
    with pytest.raises(Refused, match=f"refused version {second}") as error:
        run(recipe, ws, second, judged("b", good=False))
    assert error.value.exit_code == 1 and "held_in: -40.0 points over champion" in str(error.value)
    assert aliases(ws) == {"champion": first, "challenger": second}
    assert [entry.verdict for entry in decisions.read(ws, NAME)] == ["promoted", "kept", "refused"]
    third = add(ws, "c")
    run(recipe, ws, third, judged("c"))
    assert aliases(ws) == {"champion": third, "challenger": third, "previous-champion": first}
    assert decisions.read(ws, NAME)[-1].against == model(ws, "a").uri


def test_a_refused_version_is_retired_until_a_later_gate_passes_it(
    ws: Workspace, recipe: Recipe, judged: Callable[..., str]
) -> None:
    version, refusal = add(ws, "a"), judged("a", good=False)
    with pytest.raises(Refused):
        run(recipe, ws, version, refusal)
    marked = lookup.get_version(ws, NAME, version)
    assert "-40.0 points" in retired.reason(marked) and marked.tags[retired.RETIRED].startswith("20")
    with pytest.raises(Refused):
        run(recipe, ws, version, refusal)
    assert lookup.get_version(ws, NAME, version).tags == marked.tags  # with the time of the first refusal
    with pytest.raises(UserError, match="is retired") as error:
        promote.promote(ws, NAME, version, "I like it")
    assert (
        "-40.0 points" in error.value.reason
        and "--despite-gate" in error.value.fix
        and aliases(ws).keys() == {"challenger"}
    )
    for key, value in ((retired.RETIRED, "2026-01-01T00:00:00+00:00"), (retired.WHY, "another reason")):
        tracking.client(ws).set_model_version_tag(NAME, version, key, value)
    with pytest.raises(Refused):
        run(recipe, ws, version, judged("a", good=False, value=0.8))
    marked = lookup.get_version(ws, NAME, version)
    assert marked.tags[retired.RETIRED].startswith("2026-01-01") and "-40.0 points" in retired.reason(marked)
    run(recipe, ws, version, judged("a"))
    assert not lookup.get_version(ws, NAME, version).tags.keys() & {retired.RETIRED, retired.WHY}
    run(recipe, ws, add(ws, "b"), judged("b"))
    with pytest.raises(Refused):  # but what a rollback would bring back stays ready
        run(recipe, ws, version, judged("a", good=False, value=0.7))
    assert retired.reason(lookup.get_version(ws, NAME, version)) == ""


def test_neither_a_gate_nor_a_rollback_makes_a_refused_version_champion(
    ws: Workspace, recipe: Recipe, judged: Callable[..., str]
) -> None:
    first, second = add(ws, "a"), add(ws, "b")
    promote.refuse(ws, NAME, first, "not on CT", "jane")
    with pytest.raises(Refused, match="refused by a person"):
        run(recipe, ws, first, judged("a"))
    promote.promote(ws, NAME, first, "on X-ray alone", "ann", despite_gate=True)
    promote.promote(ws, NAME, second, "better", "ann")
    promote.refuse(ws, NAME, first, "not on X-ray either", "jane")
    with pytest.raises(Refused, match="refused by a person") as error:
        promote.rollback(ws, NAME, "worse", "ann")
    assert "not on X-ray either" in error.value.reason
    assert aliases(ws)["champion"] == second


@pytest.mark.parametrize("claimed_in", [f"{NAME}-candidate", NAME])
def test_a_version_that_claims_to_be_an_earlier_champion_cannot_take_the_rollback_away(
    ws: Workspace, claimed_in: str
) -> None:
    first, second = add(ws, "a"), add(ws, "b")
    for number in (first, second):
        promote.promote(ws, NAME, number, "better", "ann")
    forged = add(ws, "a", claimed_in)
    with pytest.raises(UserError, match=f"is the model of version {first} of {NAME}, which was champion") as error:
        promote.refuse(ws, claimed_in, forged, "junk", "ann")
    assert f"refuse {NAME} {first}" in error.value.fix and len(decisions.read(ws, NAME)) == 2
    assert promote.rollback(ws, NAME, "worse", "ann").version == first
    with pytest.raises(UserError, match="is the champion"):
        promote.refuse(ws, claimed_in, forged, "junk", "ann")


def test_a_decision_about_another_champion_than_the_person_saw_is_not_made(ws: Workspace) -> None:
    first, second = add(ws, "a"), add(ws, "b")
    assert promote.promote(ws, NAME, first, "the first", "ann", seen=0).n == 1
    for decide in (
        lambda: promote.promote(ws, NAME, second, "better", "jane", seen=0),
        lambda: promote.rollback(ws, NAME, "worse", "jane", seen=3),
    ):
        with pytest.raises(UserError, match="another decision came first") as error:
            decide()
        assert error.value.exit_code == TRY_AGAIN and "decision 1, by ann" in error.value.reason
    assert promote.promote(ws, NAME, second, "better", "jane", seen=1).n == 2


def test_a_person_promotes_a_retired_version_only_by_saying_so(
    ws: Workspace, recipe: Recipe, judged: Callable[..., str]
) -> None:
    version = add(ws, "a")
    with pytest.raises(Refused):
        run(recipe, ws, version, judged("a", good=False))
    entry = promote.promote(ws, NAME, version, "for a study", despite_gate=True)
    assert entry.why.startswith("for a study (although the gate refused it: ") and "-40.0 points" in entry.why
    assert retired.reason(lookup.get_version(ws, NAME, version)) == ""
    other = add(ws, "b")  # nothing is said of the gate where it refused nothing
    assert promote.promote(ws, NAME, other, "better", despite_gate=True).why == "better"


def test_a_refusal_leaves_its_record_before_it_ends_the_run(
    ws: Workspace, recipe: Recipe, judged: Callable[..., str]
) -> None:
    from dataclasses import replace

    from medmim.run.stage import outcomes

    within = replace(ws, run="r1")
    version, decision = add(ws, "a"), judged("a", good=False)
    with pytest.raises(Refused):
        run(recipe, within, version, decision)
    record = outcomes(within)["promote"]
    assert (record.status, record.exit_code, record.facts["decision"]) == ("refused", 1, "refused")
    assert record.facts["champion"] is None
    with pytest.raises(Refused):  # and again, without a second entry
        run(recipe, within, version, decision)
    assert len(decisions.read(ws, NAME)) == 1


def test_a_rerun_adds_nothing(ws: Workspace, recipe: Recipe, judged: Callable[..., str]) -> None:
    version = add(ws, "a")
    decision = judged("a")
    assert not run(recipe, ws, version, decision).cached
    assert run(recipe, ws, version, decision).cached
    scored = gate.read(ws, decision)["bench"]
    kept = gate.run(recipe, ws, f"{ws.store}/bench/{scored}").uri
    assert kept != decision
    outcome = run(recipe, ws, version, kept)
    assert outcome.cached and outcome.facts["decision"] == "kept"
    assert len(decisions.read(ws, NAME)) == 1


def test_the_evidence_that_was_rolled_back_does_not_promote_again(
    ws: Workspace, recipe: Recipe, judged: Callable[..., str]
) -> None:
    first, second = add(ws, "a"), add(ws, "b")
    run(recipe, ws, first, judged("a"))
    decision = judged("b")
    run(recipe, ws, second, decision)
    promote.rollback(ws, NAME, "it hallucinates", who="me")
    with pytest.raises(Refused, match="not promoted again") as error:
        run(recipe, ws, second, decision)
    assert "it hallucinates" in str(error.value)
    assert aliases(ws)["champion"] == first


def test_on_a_cluster_the_gate_makes_no_champion_for_a_run_that_nobody_submitted(
    ws: Workspace, recipe: Recipe, judged: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    number, decision = add(ws, "a"), judged("a")
    monkeypatch.setenv("MEDMIM_APPROVAL", "none")
    monkeypatch.setenv("KFP_POD_NAME", "train-x7-impl-1")
    for who in ("", "unknown", "system:serviceaccount:jane:default-editor"):
        monkeypatch.setenv("MEDMIM_USER", who)
        with pytest.raises(UserError, match="no person"):
            run(recipe, ws, number, decision)
    assert decisions.read(ws, NAME) == [] and aliases(ws) == {}
    monkeypatch.setenv("MEDMIM_USER", "jane")
    run(recipe, ws, number, decision)
    assert [entry.who for entry in decisions.read(ws, NAME)] == ["jane"] and aliases(ws)["champion"] == number


def test_rolling_back_makes_the_previous_one_champion_and_twice_swaps(ws: Workspace) -> None:
    for digest in "ab":
        add(ws, digest)
    promote.promote(ws, NAME, "1", "start")
    with pytest.raises(UserError, match="no champion to roll back to"):
        promote.rollback(ws, NAME, "why not")
    promote.promote(ws, NAME, "2", "better")
    for champion, previous in (("1", "2"), ("2", "1")):
        promote.rollback(ws, NAME, "worse")
        assert aliases(ws) == {"champion": champion, "previous-champion": previous}
    assert [(e.verdict, e.why) for e in decisions.read(ws, NAME)][2:] == [("rolled-back", "worse")] * 2


def test_promoting_the_champion_adds_nothing_and_a_reason_is_needed(ws: Workspace) -> None:
    add(ws, "a")
    with pytest.raises(UserError, match="needs its reason"):
        promote.promote(ws, NAME, "1", "  ")
    assert decisions.read(ws, NAME) == []
    first = promote.promote(ws, NAME, "1", "start")
    assert promote.promote(ws, NAME, "1", "again") == first
    with pytest.raises(UserError, match="has no version 9"):
        promote.promote(ws, NAME, "9", "why not")


def test_a_person_cannot_promote_what_nobody_may_serve_unless_the_log_says_so(
    ws: Workspace, publish: Callable[..., Any]
) -> None:
    forbidden = publish("model", weights__txt="w", terms__json=Terms(text=("EMBED: academic use",)).dump())
    tags = {lookup.DIGEST: forbidden.digest, lookup.URI: forbidden.uri}
    tracking.client(ws).create_registered_model(NAME)
    tracking.client(ws).create_model_version(NAME, source=ws.home.as_uri(), tags=tags)
    with pytest.raises(UserError, match="must not answer users") as caught:
        promote.promote(ws, NAME, "1", "start")
    assert "serve: not allowed by EMBED" in caught.value.reason and decisions.read(ws, NAME) == []
    entry = promote.promote(ws, NAME, "1", "a study", despite_terms=True)
    assert entry.why == "a study (despite the terms of use: serve: not allowed by EMBED)"


def test_an_alias_set_by_hand_is_noticed_and_restored(
    ws: Workspace, recipe: Recipe, judged: Callable[..., str]
) -> None:
    first, second = add(ws, "a"), add(ws, "b")
    decision = judged("a")
    run(recipe, ws, first, decision)
    api = tracking.client(ws)
    api.set_registered_model_alias(NAME, "champion", second)
    api.set_registered_model_alias(NAME, "previous-champion", second)
    api.delete_registered_model_alias(NAME, "challenger")
    api.set_registered_model_alias(NAME, "theirs", second)
    drift = alias_log.drift(ws, NAME)
    assert len(drift) == 3 and f"was on version {second}; the decision log says version {first}" in drift[0]
    outcome = run(recipe, ws, first, decision)
    assert outcome.facts["restored"] == [f"restored: {text}" for text in drift] and not outcome.cached
    assert aliases(ws) == {"champion": first, "challenger": first, "theirs": second}
    assert alias_log.reconcile(ws) == {NAME: []}
    api.set_registered_model_alias(NAME, "champion", second)
    assert alias_log.reconcile(ws, NAME) == {NAME: [drift[0]]}
    assert aliases(ws)["champion"] == first


def test_a_champion_deleted_by_hand_is_an_error_with_its_fix_and_is_back_once_registered_again(ws: Workspace) -> None:
    add(ws, "a")
    promote.promote(ws, NAME, "1", "start")
    tracking.client(ws).delete_model_version(NAME, "1")
    with pytest.raises(UserError, match=f"version 1 of {NAME}, the champion, is gone from MLflow") as error:
        alias_log.reconcile(ws)
    assert "run its recipe again" in str(error.value)
    again = add(ws, "a")
    assert again != "1"
    alias_log.reconcile(ws)
    assert aliases(ws) == {"champion": again}


def test_a_decision_about_another_model_or_another_champion_is_refused(
    ws: Workspace, recipe: Recipe, judged: Callable[..., str]
) -> None:
    first, second = add(ws, "a"), add(ws, "b")
    decision = judged("a")
    with pytest.raises(UserError, match=f"not about version {second}"):
        run(recipe, ws, second, decision)
    promote.promote(ws, NAME, second, "meanwhile", who="somebody")
    with pytest.raises(UserError, match="another decision came first") as error:
        run(recipe, ws, first, decision)
    assert error.value.exit_code == TRY_AGAIN and "somebody: meanwhile" in str(error.value)
    assert len(decisions.read(ws, NAME)) == 1


def test_of_promoters_that_saw_the_same_champion_one_wins(
    ws: Workspace, recipe: Recipe, judged: Callable[..., str]
) -> None:
    candidates = {add(ws, digest): judged(digest) for digest in "abcd"}

    def attempt(pair: tuple[str, str]) -> str:
        try:
            return promote.run(recipe, ws, *pair).facts["decision"]
        except UserError as error:
            assert error.exit_code == TRY_AGAIN
            return "late"

    with ThreadPoolExecutor(4) as pool:
        ended = list(pool.map(attempt, candidates.items()))
    assert sorted(ended) == ["late"] * 3 + ["promoted"]
    (entry,) = decisions.read(ws, NAME)
    assert aliases(ws) == {"champion": entry.version, "challenger": entry.version}


def _promote_by_hand(home: str, version: str) -> bool:
    ws = workspace(Path(home))
    promote.sync = lambda *_: False  # MLflow is not what is raced here, and forked connections are no good
    try:
        return promote.promote(ws, NAME, version, f"process {version}").version == version
    except UserError as error:
        assert error.exit_code == TRY_AGAIN, error
        return False


def test_processes_that_promote_leave_a_log_whose_last_winner_is_champion(ws: Workspace) -> None:
    numbers = [add(ws, digest) for digest in "abcdef"]
    with multiprocessing.get_context("fork").Pool(3) as pool:
        won = pool.starmap(_promote_by_hand, [(str(ws.home), number) for number in numbers])
    log = decisions.read(ws, NAME)
    assert sorted(e.version for e in log) == sorted(n for n, ok in zip(numbers, won, strict=True) if ok)
    assert [e.n for e in log] == list(range(1, len(log) + 1))
    alias_log.reconcile(ws)
    assert aliases(ws)["champion"] == log[-1].version


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["promote", "refuse", "by hand", "rollback", "move", "reconcile"]), st.integers(0, 3)),
    max_size=9,
)


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(OPERATIONS)
def test_whatever_happens_the_aliases_are_the_fold_of_the_log(
    ws: Workspace, recipe: Recipe, operations: list[tuple[str, int]]
) -> None:
    name = f"m{next(_numbers)}"
    recipe = recipe.model_copy(update={"register_": recipe.register_.model_copy(update={"model": name})})
    numbers = [add(ws, digest, name) for digest in "abcd"]
    champion: list[str] = []  # an independent account: every champion there was
    challenger = ""
    previous = ""
    retired_ones: set[str] = set()
    for step, (operation, which) in enumerate(operations):
        digest, number = "abcd"[which], numbers[which]
        if operation in ("promote", "refuse"):
            verdict = (
                "kept" if champion and champion[-1] == digest else {"promote": "promoted"}.get(operation, "refused")
            )
            holder = digest_of(champion[-1]) if champion else ""
            uri = _decision(ws, step, digest_of(digest), holder, verdict)
            try:
                promote.run(recipe, ws, number, uri)
            except Refused:
                assert verdict == "refused"
            challenger = digest
            if verdict != "refused":
                retired_ones.discard(digest)
            elif digest not in (champion[-1:] + [previous]):
                retired_ones.add(digest)
            if verdict == "promoted":
                previous, champion = (champion[-1] if champion else ""), [*champion, digest]
        elif operation == "by hand":
            if digest in retired_ones:
                with pytest.raises(UserError, match="is retired"):
                    promote.promote(ws, name, number, "test")
                retired_ones.discard(digest)
            promote.promote(ws, name, number, "test", despite_gate=True)
            if not champion or champion[-1] != digest:
                previous, champion = (champion[-1] if champion else ""), [*champion, digest]
        elif operation == "rollback":
            if previous:
                promote.rollback(ws, name, "test")
                previous, champion = champion[-1], [*champion, previous]
            else:
                with pytest.raises(UserError):
                    promote.rollback(ws, name, "test")
        elif operation == "move":
            tracking.client(ws).set_registered_model_alias(name, alias_log.ROLES[which % 3], number)
        else:
            alias_log.reconcile(ws, name)
    alias_log.reconcile(ws, name)
    expected = {"champion": champion[-1] if champion else "", "previous-champion": previous, "challenger": challenger}
    held = tracking.registered(ws, name)[name]
    assert held.aliases == {role: numbers["abcd".index(digest)] for role, digest in expected.items() if digest}
    assert alias_log.drift(ws, name) == []
    assert {version.tags[lookup.DIGEST] for version in held.versions if retired.reason(version)} == set(
        map(digest_of, retired_ones)
    )


def _decision(ws: Workspace, step: int, digest: str, champion: str, verdict: str) -> str:
    """A decision artifact as the gate writes it; every step has other scores behind it."""
    folder = ws.home / "made"
    folder.mkdir(exist_ok=True)
    opponent = {"role": "champion" if champion else "base", "digest": champion or "base"}
    document = {"candidate": digest, "champion": champion, "opponent": opponent, "bench": f"bench-{step}"}
    document |= {"policy": "p", "decision": verdict, "rules": [], "reasons": ["test"]}
    (folder / gate.FILE).write_text(json.dumps(document))
    return store.publish(folder, ws.store, "decision", {}, {}).uri
