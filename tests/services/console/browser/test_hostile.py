"""Texts that want to be code: in a question, an option, an answer, a reason, and in the name of a recipe."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from medmim import shards, store
from medmim.bench import run as bench
from medmim.recipe.schema import Bench
from medmim.run.workspace import Workspace, workspace
from tests.services.console.browser.conftest import Reader
from tests.services.console.browser.test_pages import pages
from tests.support.bench import World, picture, samples
from tests.support.console import TOKEN, serving, wait_for_mlflow

pytestmark = pytest.mark.browser
CODE = (
    "<script>window.hit = 1</script><img src=x onerror='window.hit = 2'>"
    '<a href="javascript:window.hit=3">\u202e\U0001fa7b</a>'
)
SETTINGS = Bench(max_new_tokens=4, limit=24)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, world: World) -> Iterator[tuple[str, str]]:
    """A console over a benchmark whose every text is code, and the benchmark's digest."""
    folder = tmp_path_factory.mktemp("hostile")
    ws = workspace(folder / "home")
    asked = [
        replace(one, question=f"{CODE} {i}", options=tuple(f"{CODE} {text}" for text in one.options))
        for i, one in enumerate(samples())
    ]
    names = sorted({name for one in asked for name in one.images})
    made = folder / "data"
    made.mkdir()
    shards.write(made, asked, [(name, "png", picture(i)) for i, name in enumerate(names)])
    data = store.publish(made, ws.store, "data", {}, {})
    found, _ = bench.bench(ws, data.uri, {"tuned": str(world.models[0]), "base": str(world.models[1])}, SETTINGS)
    tokens = folder / "tokens"
    tokens.write_text(f"ann {TOKEN}\n", encoding="utf-8")
    with serving(ws, tokens) as address:
        wait_for_mlflow(address)
        yield address, found.digest


def test_no_text_of_a_question_or_an_answer_is_ever_run(
    reader: Callable[..., Reader], hostile: tuple[str, str], ws: Workspace
) -> None:
    address, digest = hostile
    one = reader(address)
    for path in pages(one).values():
        one.open(path)
        one.page.wait_for_timeout(50)
        assert one.page.evaluate("window.hit") is None, path
        assert one.page.locator("main script, main [onerror], main a[href^='javascript']").count() == 0, path
    one.open(f"/items?bench={digest}")
    assert "<script>window.hit = 1</script>" in one.page.inner_text("main")
