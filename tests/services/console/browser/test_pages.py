"""Every page that a link leads to, as a reader meets it."""

import re
from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.services.console.browser.conftest import Reader

pytestmark = pytest.mark.browser

SCREENS = {
    "light laptop": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"},
    "dark tablet": {"viewport": {"width": 820, "height": 1180}, "color_scheme": "dark"},
}


def shape(path: str) -> str:
    """What pages of one kind have in common: no digest, no number, no name, and no filter's value."""
    plain = re.sub(r"[0-9a-f]{16,}", "D", path)
    return re.sub(r"/\d+", "/N", re.sub(r"=[^&]*", "=", plain))


def pages(reader: Reader) -> dict[str, str]:
    """Shape -> a page of it: what links lead to from the first page on."""
    found, waiting = dict[str, str](), ["/"]
    while waiting:
        path = waiting.pop()
        if shape(path) in found or ".csv" in path or path.startswith("/images/"):
            continue
        found[shape(path)] = path
        page = reader.open(path)
        assert page.locator("h1").count() == 1, path
        links = page.eval_on_selector_all("a[href]", "all => all.map(one => one.getAttribute('href'))")
        waiting += [link for link in links if link.startswith("/") and shape(link) not in found]
    return found


@pytest.mark.parametrize("screen", SCREENS)
def test_no_page_keeps_anybody_out(reader: Callable[..., Reader], screen: str) -> None:
    one = reader(**SCREENS[screen])
    one.log_in()
    violations = []
    seen = pages(one)
    for path in (*seen.values(), f"/models/{'x' * 240}"):  # the last one: of an error, with a long name in it
        one.page.goto(one.url + path)
        result = Axe().run(one.page)
        violations += [
            f"{path}: {rule['id']}: {rule['nodes'][0]['html'][:200]}" for rule in result.response["violations"]
        ]
        width = one.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        if width > 0:
            violations.append(f"{path}: {width} px wider than the screen")
    assert not violations
    assert {"/leaderboard", "/models", "/data", "/items", "/runs", "/nights", "/compare"} <= set(seen)


def test_the_keyboard_reaches_every_link_and_button(reader: Callable[..., Reader]) -> None:
    one = reader()
    one.log_in()
    for path in pages(one).values():
        page = one.open(path)
        wanted = page.locator("main :is(a[href], button, input:not([type=hidden]), select, summary):visible")
        before, reached = wanted.count(), set()
        for _ in range(before + 40):
            page.keyboard.press("Tab")
            reached.add(
                page.evaluate("""() => {
                const at = document.activeElement
                return at.closest('main') ? [...document.querySelectorAll('main *')].indexOf(at) : -1
            }""")
            )
        assert len(reached - {-1}) >= min(before, wanted.count()), path  # a figure takes its link's place once in view


def test_pages_work_without_javascript(reader: Callable[..., Reader]) -> None:
    one = reader(java_script_enabled=False)
    for path in ("/leaderboard", "/items", "/models", "/runs", "/nights", "/data", "/compare"):
        assert one.open(path).locator("h1").count() == 1
