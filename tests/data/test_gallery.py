"""The gallery: every row is in it, images beside it, absent and damaged ones named, patients only where allowed."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page

from medmim import shards, store
from medmim.data import erased, gallery
from medmim.run.workspace import Workspace, workspace
from medmim.sample import Sample
from medmim.store import Artifact
from tests.support.bench import picture, samples
from tests.support.s3_proxy import Proxy

CODE = "<script>window.hit = 1</script><img src=x onerror='window.hit = 2'></script>"


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return workspace(tmp_path / "home")


def publish(
    ws: Workspace, rows: Sequence[Sample], pixels: Mapping[str, bytes] | None = None, named: bool = False
) -> Artifact:
    """A data set in the store; of images without bytes here, a coloured one each."""
    names = sorted({name for row in rows for name in row.images})
    drawn = {name: picture(at) for at, name in enumerate(names)} if pixels is None else pixels
    folder = ws.home / "made"
    folder.mkdir()
    shards.write(folder, rows, [(name, "png", data) for name, data in sorted(drawn.items())])
    recipe = {"name": "own", "platform": {"show_patients": named}}
    return store.publish(folder, ws.store, "data", {"images": len(drawn)}, {"recipe": recipe})


def rows_of(page: Path) -> list[dict[str, Any]]:
    files = sorted((page.parent / "rows").glob("*.js"), key=lambda path: int(path.stem))
    return [row for path in files for row in json.loads(path.read_text().partition(",")[2].rpartition(")")[0])]


def read(ws: Workspace, data: Artifact, per_kind: int = gallery.PICTURES) -> Path:
    (page,) = gallery.write(ws, data, per_kind)
    return page


def test_every_row_is_in_it_with_its_images_and_its_type(ws: Workspace) -> None:
    asked = [replace(one, question=f"{one.question} {i}") for i in range(5) for one in samples()]
    page = read(ws, publish(ws, asked))
    found = rows_of(page)
    assert sorted(row["id"] for row in found) == sorted(one.id for one in asked)
    by_id = {one.id: one for one in asked}
    for row in found:
        one = by_id[row["id"]]
        assert (row["q"], tuple(row["o"]), tuple(row["g"]), row["a"]) == (
            one.question,
            one.options,
            one.gold,
            one.answer,
        )
        assert all((page.parent / "images" / f"{name}.jpg").is_file() for name in row["p"]) and len(row["p"]) > 1
    about = json.loads(page.read_text().split('id="about">')[1].split("</script>")[0])
    for *key, first, count in about["kinds"]:
        there = [by_id[row["id"]] for row in found[first : first + count]]
        assert {(s.split, s.ability, s.family, s.source) for s in there} == {tuple(key)}
    assert sum(kind[-1] for kind in about["kinds"]) == len(asked)


def test_the_page_can_be_opened_before_further_images_are_drawn(ws: Workspace) -> None:
    rows = [replace(samples()[0], images=(f"one{i}", f"two{i}"), paths=("a", "b")) for i in range(240)]
    data = publish(ws, rows)
    going = gallery.write(ws, data, 0)
    page = next(going)
    assert len(list((page.parent / "images").iterdir())) == 2 * gallery.PER_PAGE
    assert len(rows_of(page)) == gallery.ROWS
    assert list(going) == []
    assert len(rows_of(page)) == 240
    assert len(list((page.parent / "images").iterdir())) == 480


def test_images_of_the_first_rows_of_each_type_are_drawn_and_others_when_asked(ws: Workspace) -> None:
    rows = [
        replace(samples()[0], family=family, images=(f"{family}{i}",), paths=("a",))
        for family in ("order", "change")
        for i in range(9)
    ]
    data = publish(ws, rows)
    page = read(ws, data, 3)
    drawn = sorted(path.name for path in (page.parent / "images").iterdir())
    assert drawn == sorted(f"{row['p'][0]}.jpg" for row in (rows_of(page)[i] for i in (0, 1, 2, 9, 10, 11)))
    times = {path: path.stat().st_mtime_ns for path in (page.parent / "images").iterdir()}
    assert len(list((read(ws, data, 0).parent / "images").iterdir())) == 18
    assert {path: path.stat().st_mtime_ns for path in times} == times  # found again


def test_an_absent_image_and_a_damaged_one_are_told_apart(ws: Workspace) -> None:
    row = replace(samples()[0], images=("here", "gone", "broken"), paths=("a", "b", "c"))
    page = read(ws, publish(ws, [row], {"here": picture(1), "broken": b"\x89PNG\r\n\x1a\nnot"}))
    here, gone, broken = rows_of(page)[0]["p"]
    assert gone is None
    assert [path.stem for path in (page.parent / "images").iterdir()] == [here]
    damaged = (page.parent / "damaged.js").read_text()
    assert broken in damaged and here not in damaged


def test_sixteen_bits_are_shown_over_the_range_of_their_values(ws: Workspace) -> None:
    out = io.BytesIO()
    Image.fromarray((np.arange(64 * 64).reshape(64, 64) // 4 + 1000).astype(np.uint16)).save(out, "PNG")
    row = replace(samples()[0], images=("deep",), paths=("a",))
    page = read(ws, publish(ws, [row], {"deep": out.getvalue()}))
    (drawn,) = (page.parent / "images").iterdir()
    with Image.open(drawn) as image:
        low, high = image.convert("L").getextrema()
    assert low < 10 and high > 245


def test_without_pixels_texts_are_there_and_no_patient_is_in_any_file(ws: Workspace) -> None:
    row = replace(samples()[0], patients=("P-4711",), images=("P-4711/x.png",), paths=("P-4711/x.png",))
    page = read(ws, publish(ws, [row], {}))
    texts = [path.read_text() for path in page.parent.rglob("*") if path.is_file()]
    assert not any("4711" in text for text in texts)
    assert rows_of(page)[0]["p"] == [None] and "built without pixels" in page.read_text()


def test_patients_and_files_are_named_where_the_recipe_says_so(ws: Workspace) -> None:
    row = replace(samples()[0], patients=("P-4711",), images=("sha256:00",), paths=("P-4711/x.png",))
    (shown,) = rows_of(read(ws, publish(ws, [row], named=True)))
    assert shown["who"] == ["P-4711"] and shown["from"] == ["P-4711/x.png"]


@pytest.mark.parametrize("named", [True, False])
def test_where_it_changes_whether_patients_are_named_the_gallery_is_written_anew_at_once(
    ws: Workspace, named: bool
) -> None:
    rows = [replace(samples()[0], images=(f"one{i}",), paths=("ward/a.png",)) for i in range(240)]
    data = publish(ws, rows, named=named)
    page = read(ws, data)
    assert all(("who" in row) is named for row in rows_of(page)) and len(rows_of(page)) == 240
    kind, digest = data.uri.split("/")[-2:]
    other = {"recipe": {"name": "own", "platform": {"show_patients": not named}}}
    store.open_store(ws.store).write(f"{kind}/{digest}/{store.PROVENANCE}", json.dumps(other).encode())
    going = gallery.write(ws, data)
    assert next(going) == page
    shown = rows_of(page)  # of the first page alone, whatever an earlier call has written
    assert 0 < len(shown) < 240 and all(("who" in row) is not named for row in shown)
    assert list(going) == [] and len(rows_of(page)) == 240


def test_only_the_last_galleries_are_kept(ws: Workspace) -> None:
    for number in range(gallery.KEPT + 2):
        row = replace(samples()[0], question=f"What {number}?")
        read(ws, publish(ws, [row]))
        (ws.home / "made").rename(ws.home / f"made-{number}")
    assert len(list((ws.home / "galleries").iterdir())) == gallery.KEPT


def test_after_an_erasure_by_another_home_what_was_drawn_of_that_store_goes(ws: Workspace, tmp_path: Path) -> None:
    other = workspace(tmp_path / "other")
    pages = [read(ws, publish(other, samples()[:1]))]
    (other.home / "made").rename(other.home / "made-1")
    data = publish(ws, samples()[:2])
    pages.append(read(ws, data))
    (ws.home / "made").rename(ws.home / "made-1")
    again = publish(ws, samples()[2:3])
    read(ws, again)
    assert all(page.exists() for page in pages)
    erased.add(ws.store, ["mimic/10000001"])
    read(ws, again)
    assert [page.exists() for page in pages] == [True, False]


def test_of_a_store_in_s3_only_the_images_that_are_drawn_are_read(tmp_path: Path, bucket: str, proxy: Proxy) -> None:
    ws = Workspace(tmp_path, bucket, "")
    rng = np.random.default_rng(0)
    rows, pixels = [], {}
    for i in range(8):  # of 0.8 MB each, so that each is a row group of its own
        out = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (520, 520, 3), dtype=np.uint8)).save(out, "PNG")
        pixels[f"i{i}"] = out.getvalue()
        rows.append(replace(samples()[0], question=f"What {i}?", images=(f"i{i}",), paths=("a",)))
    data = publish(ws, rows, pixels)
    proxy.reads.clear()
    page = read(ws, data, 2)
    assert len(list((page.parent / "images").iterdir())) == 2
    got = sum(length for name, _, length in proxy.reads if "/images/" in name)
    assert got < sum(map(len, pixels.values())) * 0.7


@pytest.fixture
def tab(chromium: Browser) -> Any:
    context = chromium.new_context()
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    context.close()
    assert complaints == []


def wait(tab: Page, said: str) -> None:
    tab.get_by_role("status").filter(has_text=said).wait_for()


@pytest.mark.browser
def test_filters_and_arrow_keys_find_rows_and_the_address_keeps_them(ws: Workspace, tab: Page) -> None:
    asked = [replace(one, question=f"{one.question} {i}") for i in range(3) for one in samples()]
    tab.goto(read(ws, publish(ws, asked)).as_uri())
    wait(tab, "144 of 144 questions, 1 to 24")
    shown = {one.id: len(one.images) for one in asked}
    assert tab.locator(".item img").count() == sum(shown[name] for name in tab.locator(".mono.from").all_inner_texts())
    tab.wait_for_function("[...document.images].slice(0, 4).every((image) => image.naturalWidth > 0)")
    tab.keyboard.press("ArrowRight")
    wait(tab, "25 to 48")
    assert "page=2" in tab.url
    tab.get_by_label("Ability").select_option("temporal")
    wait(tab, "48 of 144 questions, 1 to 24")
    assert all(" temporal " in text for text in tab.locator(".kind").all_inner_texts())
    tab.get_by_label("Source").select_option("phantom-fundus")
    wait(tab, "6 of 144 questions")
    tab.reload()
    wait(tab, "6 of 144 questions")
    tab.get_by_role("button", name="all questions").click()
    wait(tab, "144 of 144")


@pytest.mark.browser
def test_no_text_of_a_row_is_ever_run(ws: Workspace, tab: Page) -> None:
    rows = [
        replace(one, question=CODE, options=tuple(f"{CODE} {text}" for text in one.options), family=CODE, source=CODE)
        for one in samples()[:12]
    ]
    rows = [replace(one, patients=(CODE,), paths=(CODE,) * len(one.images)) for one in rows]
    tab.goto(read(ws, publish(ws, rows, named=True)).as_uri())
    wait(tab, "of 12 questions")
    tab.wait_for_timeout(50)
    assert tab.evaluate("window.hit") is None
    assert tab.locator("main script, main [onerror]").count() == 0
    assert "<script>window.hit = 1</script>" in tab.inner_text(".item h2")


@pytest.mark.browser
def test_what_is_not_shown_says_why(ws: Workspace, tab: Page) -> None:
    row = replace(samples()[0], images=("here", "gone", "broken"), paths=("a", "b", "c"))
    later = [replace(row, question=f"What {i}?", images=(f"later{i}",), paths=("a",)) for i in range(2)]
    pixels = {"here": picture(1), "broken": b"\x89PNG\r\n\x1a\nnot"} | {f"later{i}": picture(i) for i in range(2)}
    tab.goto(read(ws, publish(ws, [row, *later], pixels), 2).as_uri())
    wait(tab, "3 of 3 questions")
    tab.locator(".none").nth(2).wait_for()
    said = " ".join(tab.locator(".none").all_inner_texts())
    assert "image 2 of 3 is absent" in said and "image 3 of 3 does not decode" in said
    assert "image 1 of 1 is not drawn" in said


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(ws: Workspace, tab: Page, scheme: Any) -> None:
    tab.emulate_media(color_scheme=scheme)
    tab.goto(read(ws, publish(ws, samples())).as_uri())
    wait(tab, "48 of 48 questions")
    found = Axe().run(tab)
    assert found.violations_count == 0, found.generate_report()
