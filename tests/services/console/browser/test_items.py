"""Items in a browser: images are moved, zoomed and windowed, filters change the list, hostile words do nothing."""

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from medmim.run.workspace import Workspace, workspace
from tests.services.console.browser.conftest import Reader
from tests.services.console.test_items import HOSTILE, UNICODE, images, right
from tests.support.bench import samples
from tests.support.benchmarks import board, publish_bench, publish_samples
from tests.support.console import serving
from tests.support.waiting import until

pytestmark = pytest.mark.browser
GREY = 100  # of the first image; the second one is darker
ITEM = samples()[0]


def grey(value: int) -> bytes:
    out = io.BytesIO()
    Image.new("L", (64, 64), value).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def ws(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return workspace(tmp_path_factory.mktemp("items"))


@pytest.fixture(scope="module")
def benched(ws: Workspace) -> str:
    """Digest of a benchmark whose first item shows two grey images, and whose second one has hostile words."""
    asked = samples()
    asked[1] = replace(asked[1], question=f"{HOSTILE} {UNICODE}", options=(HOSTILE, UNICODE, "worse"))
    pixels = {**images(asked), ITEM.images[0]: grey(GREY), ITEM.images[1]: grey(40)}
    pixels[asked[2].images[0]] = pixels[asked[2].images[0]][:50]
    data = publish_samples(ws, asked, pixels)
    said = lambda sample, model, probe: HOSTILE if sample is asked[1] else right(sample, model, probe)  # noqa: E731
    return publish_bench(ws, data.digest, board(asked, said).predictions()).digest


@pytest.fixture(scope="module")
def url(ws: Workspace, benched: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.write_text("ann a-token-of-a-promoter\n", encoding="utf-8")
    with serving(ws, tokens) as address:
        yield address


def ready(one: Reader, path: str) -> Page:
    page = one.open(path)
    expect(page.locator("meta[http-equiv=refresh]")).to_have_count(0, timeout=20_000)
    page.wait_for_load_state("networkidle")
    return page


@pytest.fixture
def viewer(reader: Callable[..., Reader], benched: str) -> Page:
    page = ready(reader(viewport={"width": 1280, "height": 900}), f"/items/{benched}/{ITEM.id}")
    page.locator(".tools").wait_for()
    return page


def scales(page: Page) -> list[float]:
    """How far each image is zoomed."""
    found = page.eval_on_selector_all(
        ".frame img", "all => all.map(one => new DOMMatrix(getComputedStyle(one).transform).a)"
    )
    return [round(float(one), 2) for one in found]


def shade(frame: Locator) -> int:
    """The grey value in the middle of what a frame shows."""
    with Image.open(io.BytesIO(frame.screenshot())) as image:
        red, green, blue, *_ = image.getpixel((image.width // 2, image.height // 2))  # type: ignore[misc]
    assert red == green == blue
    return int(red)


def test_keys_zoom_all_images_and_one_alone_where_that_is_chosen(viewer: Page) -> None:
    frames = viewer.locator(".frame")
    frames.nth(0).focus()
    viewer.keyboard.press("+")
    viewer.keyboard.press("+")
    assert scales(viewer) == [1.56, 1.56]
    viewer.keyboard.press("0")
    assert scales(viewer) == [1, 1]
    viewer.get_by_label("together").uncheck()
    frames.nth(1).focus()
    viewer.keyboard.press("+")
    assert scales(viewer) == [1, 1.25]
    viewer.get_by_role("button", name="zoom in").click()
    assert scales(viewer) == [1, 1.56], "the one that was chosen last"
    viewer.get_by_label("together").check()
    assert scales(viewer) == [1.56, 1.56]
    viewer.get_by_role("button", name="zoom out").click()
    viewer.get_by_role("button", name="reset").click()
    assert scales(viewer) == [1, 1]


def test_the_wheel_scrolls_the_page_until_an_image_is_chosen(viewer: Page) -> None:
    box = viewer.locator(".frame").nth(0).bounding_box()
    assert box
    viewer.mouse.move(box["x"] + 50, box["y"] + 50)
    viewer.mouse.wheel(0, 200)
    until(lambda: viewer.evaluate("scrollY > 0"), 20)
    assert scales(viewer) == [1, 1]
    viewer.evaluate("scrollTo(0, 0)")
    viewer.mouse.click(box["x"] + 50, box["y"] + 50)
    viewer.mouse.wheel(0, -400)
    viewer.locator(".frame.zoomed").first.wait_for()
    assert min(scales(viewer)) > 1.5
    assert viewer.evaluate("scrollY") == 0


def test_a_zoomed_image_is_dragged_and_stays_in_its_frame(viewer: Page) -> None:
    frame = viewer.locator(".frame").nth(0)
    frame.focus()
    for _ in range(4):
        viewer.keyboard.press("+")
    box = frame.bounding_box()
    assert box
    viewer.mouse.move(box["x"] + 100, box["y"] + 100)
    viewer.mouse.down()
    viewer.mouse.move(box["x"] + 160, box["y"] + 130)
    moved = viewer.eval_on_selector(
        ".frame img", "one => [new DOMMatrix(getComputedStyle(one).transform)].map(m => [m.e, m.f])[0]"
    )
    assert [round(one) for one in moved] == [60, 30]
    viewer.mouse.move(box["x"] + 5000, box["y"] + 130)
    viewer.mouse.up()
    left = viewer.eval_on_selector(".frame img", "one => one.getBoundingClientRect().left")
    assert round(left) == round(box["x"]), "no farther than its edge"


def test_level_and_window_change_each_grey_value_as_they_say(viewer: Page) -> None:
    frames = viewer.locator(".frame")
    assert [shade(frames.nth(n)) for n in (0, 1)] == [GREY, 40]
    for level, width in ((100, 50), (64, 128), (128, 256), (128, 512), (90, 1)):
        for name, value in (("Level", level), ("Window", width)):
            viewer.get_by_label(name).fill(str(value))
        for n, before in ((0, GREY), (1, 40)):
            expected = min(255, max(0, 255 * ((before / 255 * 256 - level) / width + 0.5)))
            assert abs(shade(frames.nth(n)) - expected) <= 2, (level, width)
    frames.nth(0).focus()
    viewer.keyboard.press("0")
    assert [shade(frames.nth(n)) for n in (0, 1)] == [GREY, 40]


def test_shift_and_drag_set_level_and_window(viewer: Page) -> None:
    box = viewer.locator(".frame").nth(0).bounding_box()
    assert box
    viewer.mouse.move(box["x"] + 100, box["y"] + 100)
    viewer.keyboard.down("Shift")
    viewer.mouse.down()
    viewer.mouse.move(box["x"] + 200, box["y"] + 50)
    viewer.mouse.up()
    viewer.keyboard.up("Shift")
    level, width = (float(viewer.get_by_label(name).input_value()) for name in ("Level", "Window"))
    assert level > 128
    assert width > 256
    assert scales(viewer) == [1, 1]


def test_filters_change_the_list_and_the_address_without_another_page(
    reader: Callable[..., Reader], benched: str
) -> None:
    page = ready(reader(), f"/items?bench={benched}")
    page.evaluate("window.same = true")
    page.get_by_label("Ability").select_option("temporal")
    expect(page.get_by_role("status")).to_contain_text("16 of 48")
    page.get_by_label("In the question or an option").fill("changed in 3")
    expect(page.get_by_role("status")).to_contain_text("5 of 48")
    assert "ability=temporal" in page.url
    assert "q=changed" in page.url
    assert page.evaluate("window.same")
    assert page.evaluate("document.activeElement.id") == "q"
    page.go_back()
    expect(page.get_by_role("status")).to_contain_text("16 of 48")
    assert page.get_by_label("Ability").input_value() == "temporal"


def test_hostile_words_do_nothing(reader: Callable[..., Reader], benched: str) -> None:
    one = reader()
    said: list[str] = []
    one.page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    page = ready(one, f"/items?bench={benched}")
    assert page.get_by_text("onerror=alert(2)").count()
    page.get_by_role("link", name=re.compile("onerror")).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("<script>alert(1)</script>")
    expect(page.locator(".options")).to_contain_text("<script>alert(1)</script>")
    expect(page.locator(".said").first).to_contain_text("<script>alert(1)</script>")
    page.wait_for_timeout(300)
    assert said == []
    assert page.locator("main script, main img:not([src^='/images/'])").count() == 0


def test_an_image_that_is_damaged_is_a_picture_that_says_so(reader: Callable[..., Reader], benched: str) -> None:
    page = ready(reader(), f"/items/{benched}/{samples()[2].id}")
    assert page.eval_on_selector(".frame img", "one => one.complete && one.naturalWidth") > 0


def test_items_work_without_javascript(reader: Callable[..., Reader], benched: str) -> None:
    page = reader(java_script_enabled=False).open(f"/items?bench={benched}")
    page.get_by_label("Verdict").select_option("wrong")
    page.get_by_role("button", name="Show").click()
    assert "verdict=wrong" in page.url
    page.locator("article a").first.click()
    expect(page.locator(".tools")).to_be_hidden()
    assert page.locator(".frame img").count() >= 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 800, 390])
def test_lists_and_items_keep_nobody_out(reader: Callable[..., Reader], benched: str, scheme: str, width: int) -> None:
    one = reader(viewport={"width": width, "height": 900}, color_scheme=scheme)
    for path in (f"/items?bench={benched}", f"/items/{benched}/{ITEM.id}", f"/items/{benched}/{samples()[5].id}"):
        page = ready(one, path)
        found = Axe().run(page).response["violations"]
        assert [f"{rule['id']}: {rule['nodes'][0]['html'][:200]}" for rule in found] == [], path
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, path
