"""A promotion as a promoter does it, with and without scripts."""

from collections.abc import Callable

import pytest

from medmim.recipe.schema import Recipe
from medmim.registry import decisions
from medmim.run.workspace import Workspace
from tests.services.console.browser.conftest import Reader

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("scripts", [True, False])
def test_a_promoter_makes_a_version_champion(
    reader: Callable[..., Reader], ws: Workspace, recipe: Recipe, versions: tuple[str, str], scripts: bool
) -> None:
    name, number = recipe.register_.model, versions[0 if scripts else 1]
    one = reader(java_script_enabled=scripts)
    one.log_in()
    page = one.open(f"/models/{name}/{number}")
    page.get_by_role("link", name="Promote …").click()
    page.get_by_label("Why should it become champion?").fill("sees masses <b>")
    page.get_by_label("Promote it despite the gate").check()
    page.get_by_role("button", name="Make it champion").click()
    page.get_by_text(f"Version {number} of {name} is champion now.").wait_for()
    assert decisions.roles(decisions.read(ws, name)).champion.who == "ann"  # type: ignore[union-attr]
    page.get_by_role("link", name="The decision log").click()
    page.get_by_text("sees masses <b>").first.wait_for()
