"""A promotion by hand, and by two hands at once."""

from collections.abc import Callable

import pytest

from medmim.recipe.schema import Recipe
from medmim.registry import decisions
from medmim.run.workspace import Workspace
from tests.services.console.browser.conftest import Reader
from tests.support.console import TOKEN

pytestmark = pytest.mark.browser


def promote(one: Reader, model: str, version: str, why: str) -> None:
    """As a person does it: from the list of models to the button."""
    one.open("/models")
    one.page.get_by_role("link", name=model, exact=True).click()
    one.page.locator(f"a[href='/models/{model}/{version}']").first.click()
    one.page.locator(f"a[href='/models/{model}/{version}/promote']").click()
    fill(one, why)


def fill(one: Reader, why: str) -> None:
    one.page.get_by_label("Why should it become champion?").fill(why)
    one.page.get_by_label("Promote it despite its terms of use").check()
    one.page.get_by_role("button", name="Make it champion").click()


def test_of_two_people_at_once_the_second_hears_of_the_first(
    reader: Callable[..., Reader], ws: Workspace, recipe: Recipe, versions: tuple[str, str]
) -> None:
    name = recipe.register_.model
    ann, bob = reader(), reader()
    ann.log_in()
    bob.log_in(f"{TOKEN}-of-bob")
    for one, version in ((ann, versions[0]), (bob, versions[1])):
        one.open(f"/models/{name}/{version}/promote")
    before = len(decisions.read(ws, name))
    fill(bob, "bob was first")
    bob.page.get_by_text(f"Version {versions[1]} of {name} is champion now.").wait_for()
    fill(ann, "ann was second")
    ann.page.get_by_text("another decision came first").wait_for()
    assert [entry.who for entry in decisions.read(ws, name)[before:]] == ["bob"]


def test_a_promoter_makes_a_champion_and_rolls_back(
    reader: Callable[..., Reader], ws: Workspace, recipe: Recipe, versions: tuple[str, str]
) -> None:
    one, name = reader(), recipe.register_.model
    before = len(decisions.read(ws, name))
    one.log_in()
    for version in versions:
        promote(one, name, version, f"version {version} is better")
        one.page.get_by_text(f"Version {version} of {name} is champion now.").wait_for()
    one.open(f"/models/{name}")
    one.page.get_by_role("link", name="Roll back").click()
    one.page.get_by_label("Why").fill("it was not")
    one.page.get_by_role("button", name="Roll back").click()
    one.page.get_by_text(f"Version {versions[0]} of {name} is champion now.").wait_for()
    log = decisions.read(ws, name)[before:]
    assert [(entry.verdict, entry.version, entry.who) for entry in log] == [
        ("promoted", versions[0], "ann"),
        ("promoted", versions[1], "ann"),
        ("rolled-back", versions[0], "ann"),
    ]
    assert "it was not" in log[-1].why
    one.open(f"/models/{name}/history")
    assert one.page.get_by_text("it was not").is_visible()


def test_a_reader_is_told_why_they_cannot(
    reader: Callable[..., Reader], recipe: Recipe, versions: tuple[str, str]
) -> None:
    one = reader()
    one.open(f"/models/{recipe.register_.model}/{versions[1]}/promote")
    assert one.page.get_by_role("button", name="Make it champion").count() == 0
    assert one.page.get_by_role("link", name="log in").first.is_visible()
