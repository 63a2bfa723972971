"""Versions that a person takes out of use: which may be, what the log says, and what stands in their way later."""

import pytest

from medmim import tracking
from medmim.errors import Refused, UserError
from medmim.recipe.registry import CANDIDATE
from medmim.registry import decisions, facts, lookup, promote, register, retired
from medmim.run.workspace import Workspace
from tests.support.registry import model

NAME = "chest"


def add(ws: Workspace, title: str, name: str = NAME) -> str:
    api, made = tracking.client(ws), model(ws, title)
    register.create_model(api, name)
    tags = {lookup.DIGEST: made.digest, lookup.URI: made.uri}
    return str(api.create_model_version(name, source=ws.home.as_uri(), tags=tags).version)


@pytest.fixture
def three(ws: Workspace) -> list[str]:
    """The versions that were champion one after the other."""
    numbers = [add(ws, title) for title in "abc"]
    for number in numbers:
        promote.promote(ws, NAME, number, "better", "jane")
    return numbers


def test_neither_the_champion_nor_what_a_rollback_needs_is_retired_of_whatever_name(
    ws: Workspace, three: list[str]
) -> None:
    first, previous, champion = three
    with pytest.raises(UserError, match="is the champion"):
        promote.retire(ws, NAME, champion, "old", "jane")
    with pytest.raises(UserError, match="what a rollback of chest makes champion"):
        promote.retire(ws, NAME, previous, "old", "jane")
    other = add(ws, "a", "another")
    promote.promote(ws, "another", other, "good here", "jane")
    with pytest.raises(UserError, match="is the champion of another"):
        promote.retire(ws, NAME, first, "old", "jane")
    assert {entry.verdict for entry in decisions.read(ws, NAME)} == {"promoted"}


def test_what_is_retired_says_who_and_why_and_comes_back_only_by_a_persons_word(
    ws: Workspace, three: list[str]
) -> None:
    entry = promote.retire(ws, NAME, three[0], "its scanner is gone", "jane")
    assert (entry.verdict, entry.version, entry.who, entry.why) == ("retired", three[0], "jane", "its scanner is gone")
    assert promote.retire(ws, NAME, three[0], "again", "ann") == entry
    found = lookup.get_version(ws, NAME, three[0])
    assert retired.reason(found) == "jane retired it: its scanner is gone"
    passed = {"decision": "promoted", "candidate": found.tags[lookup.DIGEST], "rules": []}
    assert not retired.mark(ws, NAME, found, passed, decisions.Roles()), "no gate undoes it"
    with pytest.raises(UserError, match="is retired"):
        promote.promote(ws, NAME, three[0], "I like it", "ann")
    made = promote.promote(ws, NAME, three[0], "I like it", "ann", despite_gate=True)
    assert "although jane retired it" in made.why
    back = lookup.get_version(ws, NAME, three[0])
    assert retired.reason(back, decisions.read(ws, NAME)) == ""
    assert tracking.aliases(ws, NAME) == {"champion": three[0], "previous-champion": three[2]}


def test_a_candidate_that_the_promoter_may_not_tag_is_retired_by_the_log(ws: Workspace) -> None:
    number = add(ws, "a", NAME + CANDIDATE)
    entry = promote.retire(ws, NAME + CANDIDATE, number, "out of use", "jane")
    version = lookup.get_version(ws, NAME + CANDIDATE, number)
    retired.bring_back(ws, NAME + CANDIDATE, version)  # as if the server had refused the tags
    (row,) = facts.of_models(ws)
    assert (
        row["versions"][0]["retired"]
        == f"jane retired it in decision 1: out of use (version {number} of {NAME}-candidate)"
    )
    assert row["awaiting"] == [] and not decisions.was_made(ws, NAME)
    with pytest.raises(Refused, match="was retired by a person"):
        promote.promote(ws, NAME + CANDIDATE, number, "I like it", "ann")
    assert decisions.read(ws, NAME) == [entry]


def test_by_a_candidate_that_says_it_is_a_former_champion_nobody_retires_that(ws: Workspace, three: list[str]) -> None:
    number = add(ws, "a", NAME + CANDIDATE)
    with pytest.raises(UserError, match="which was champion"):
        promote.retire(ws, NAME + CANDIDATE, number, "old", "jane")
