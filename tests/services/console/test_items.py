"""Items and their images in the console: what is shown, what is kept back, and what cannot be shown says why."""

import io
import json
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from html import unescape
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest
from fastapi.testclient import TestClient
from httpx import Response
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from medmim_console import benchmarks
from PIL import Image

from medmim import store
from medmim.bench import items
from medmim.bench.reader import reply
from medmim.bench.scoring import Board
from medmim.data import erased
from medmim.housekeeping import erase
from medmim.recipe import loading
from medmim.run.workspace import Workspace, workspace
from medmim.sample import Answer, Sample
from medmim.store import Artifact
from medmim.terms import Terms
from tests.support.bench import picture, samples
from tests.support.benchmarks import board, publish_bench, publish_samples
from tests.support.console import browser

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'><b>"
UNICODE = "\u202eשלום مرحبا \U0001f9e0\u200d\U0001f52c e\u0301 \x00\x07 \ufffe ﷽"


def right(sample: Sample, model: str, probe: str) -> str | None:
    if model == "two":
        return "B: stable"
    return "ABC"[(sample.swapped if probe == "swap" else sample.gold)[0]] if sample.options else sample.answer


def images(asked: Sequence[Sample]) -> dict[str, bytes]:
    return {name: picture(n) for n, name in enumerate(sorted({name for one in asked for name in one.images}))}


def made(ws: Workspace, asked: Sequence[Sample], says=right, recipe=None, pixels=None, terms=None):  # type: ignore[no-untyped-def]
    """A benchmark about a data set, both published."""
    more = {"terms": terms} if terms else {}
    data = publish_samples(ws, asked, images(asked) if pixels is None else pixels, recipe, **more)
    return publish_bench(ws, data.digest, board(asked, says).predictions(), recipe, **more), data


def opened(client: TestClient, address: str, **headers: str) -> Response:
    """An answer, once what it needs is indexed."""
    for _ in range(200):
        answer = client.get(address, headers=headers)
        if answer.status_code != 202 and 'http-equiv="refresh"' not in answer.text:
            return answer
        time.sleep(0.05)
    raise AssertionError(f"{address} is never ready")


def words(html: str) -> str:
    """What a page says."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", html)))


@pytest.fixture(scope="module")
def ws(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MEDMIM_STORE", raising=False)
        return workspace(tmp_path_factory.mktemp("items"))


@pytest.fixture(scope="module")
def benched(ws: Workspace) -> tuple[Artifact, Artifact]:
    """A benchmark of 48 questions, and its data set."""
    return made(ws, samples())


@pytest.fixture(scope="module")
def client(ws: Workspace, benched: tuple[Artifact, Artifact]) -> TestClient:
    return browser(ws)


@pytest.fixture
def own(tmp_path: Path) -> Workspace:
    """A home of one test."""
    return workspace(tmp_path / "home")


def test_a_store_without_benchmarks_says_so(own: Workspace) -> None:
    answer = browser(own).get("/items")
    assert answer.status_code == 200
    assert "No model has been benched" in answer.text


def test_the_newest_whole_benchmark_is_shown_where_none_is_chosen(own: Workspace) -> None:
    first, _ = made(own, samples())
    limited = store.fetch(first, own.cache)
    folder = own.home / "limited"
    shutil.copytree(limited, folder)
    scores = json.loads((folder / "scores.json").read_text("utf-8"))
    (folder / "scores.json").write_text(json.dumps({**scores, "comparable": False}), encoding="utf-8")
    second = store.publish(folder, own.store, "bench", {"items": 48, "models": 2}, {})
    html = opened(browser(own), "/items").text
    assert f'value="{first.digest}" selected' in html
    assert f'value="{second.digest}"' in html


def test_pages_of_a_list_hold_every_item_once(client: TestClient, benched: tuple[Artifact, Artifact]) -> None:
    first, second = (opened(client, f"/items?bench={benched[0].digest}&page={n}").text for n in (1, 2))
    names = [re.findall(rf'href="/items/{benched[0].digest}/(\w+)', html) for html in (first, second)]
    assert [len(one) for one in names] == [25, 23]
    assert {*names[0], *names[1]} == {sample.id for sample in samples()}
    assert "48 of 48 questions, 26 to 48 below" in second
    beyond = client.get("/items?page=9&verdict=right")
    assert beyond.status_code == 404 and "this list has no page 9: it has 2 pages" in beyond.text
    last = re.search(r'href="([^"]+)">Its last page', beyond.text)
    assert last and client.get(unescape(last[1])).status_code == 200 and "verdict=right" in last[1]


def test_an_item_shows_its_question_and_every_models_words(
    client: TestClient, benched: tuple[Artifact, Artifact]
) -> None:
    sample = next(one for one in samples() if one.swapped)
    html = opened(client, f"/items/{benched[0].digest}/{sample.id}").text
    text = words(html)
    assert sample.question in text
    for n, option in enumerate(sample.options):
        line = f"{'ABC'[n]} {option}" + (" right" if n in sample.gold else "")
        assert line in text, text
    moved = sample.options[sample.swapped[0]]
    assert f"{moved} right when the images are moved on" in text
    assert "as asked without images images moved on" in text
    assert "two B: stable" in text
    for n, name in enumerate(sample.images, 1):
        assert f'src="/images/{benched[1].digest}/{name}" alt="Image {n} of {len(sample.images)}"' in html


def test_next_and_previous_stay_within_the_filter(client: TestClient, benched: tuple[Artifact, Artifact]) -> None:
    wanted = {"ability": "temporal", "verdict": "wrong", "model": "two"}
    address = re.search(r'href="(/items/\w{64}/[^"]+)"', opened(client, f"/items?{urlencode(wanted)}").text)
    seen = []
    while address:
        path = unescape(address[1])
        html = opened(client, path).text
        seen.append(path)
        assert f"{len(seen)} of " in html
        address = re.search(r'rel="next" href="([^"]+)"', html)
    assert len(seen) == len(set(seen)) > 5
    expected = [one for one in samples() if one.ability == "temporal" and one.options and one.gold != (1,)]
    assert len(seen) == len(expected)
    assert all(f"&{urlencode({'verdict': 'wrong'})}" in path for path in seen)


def test_an_item_or_a_benchmark_that_is_not_there_says_so(
    client: TestClient, benched: tuple[Artifact, Artifact]
) -> None:
    for address, told in (
        (f"/items/{benched[0].digest}/{'0' * 20}", "has no item"),
        (f"/items/{'0' * 64}/{'0' * 20}", "there is no benchmark"),
        (f"/items?bench={'0' * 64}", "there is no benchmark"),
    ):
        answer = client.get(address)
        assert (answer.status_code, told in answer.text) == (404, True), answer.text


def test_hostile_words_are_only_words(own: Workspace) -> None:
    hostile = [
        replace(
            one,
            question=HOSTILE + one.question,
            options=tuple(HOSTILE + text for text in one.options),
            answer=HOSTILE,
            source=HOSTILE,
            family=HOSTILE,
        )  # fmt: skip
        for one in samples()[:6]
    ]
    models = (HOSTILE, "javascript:alert(1)")
    rows = board(hostile, lambda *_: HOSTILE, models).predictions()
    data = publish_samples(own, hostile, images(hostile))
    bench = publish_bench(own, data.digest, rows, models=models, terms=Terms(text=(f"{HOSTILE}: {HOSTILE}",)))
    client = browser(own)
    for address in (
        "/items",
        "/items?" + urlencode({"q": HOSTILE, "model": HOSTILE, "family": HOSTILE, "probe": HOSTILE, "domain": HOSTILE}),
        *(f"/items/{bench.digest}/{one.id}?{urlencode({'family': HOSTILE, 'q': HOSTILE})}" for one in hostile),
    ):
        html = opened(client, address).text
        assert "&lt;script&gt;" in html
        assert "<script>alert" not in html
        assert not re.search(r"<[^>]*\son\w+\s*=", re.sub(r'"[^"]*"', '""', html)), "an attribute that is code"
        assert 'href="javascript:' not in html


@pytest.mark.parametrize("protocol", ["likelihood", "both"])
def test_likelihoods_are_shown_for_each_option(own: Workspace, protocol: str) -> None:
    sample = next(one for one in samples() if one.swapped)
    letters, texts = (-0.125, -2.5, float("-inf")), (-3.0, -7.5, -6.25)
    found = Answer(sample.id, "none", "key", "", 0, "parsed", letters=letters, texts=texts, tokens=(2, 3, 5))
    generated = {"one": {"none": [reply.read(sample, "none", "key", "I see B", None)]}} if protocol == "both" else {}
    rows = Board([sample], generated, {"one": {"none": [found]}}).predictions()
    data = publish_samples(own, [sample], images([sample]))
    bench = publish_bench(own, data.digest, rows, models=("one",))
    text = words(opened(browser(own), f"/items/{bench.digest}/{sample.id}").text)
    for shown in ("-0.12 -3.00, -1.50", "-2.50 -7.50, -2.50", "-inf -6.25, -1.25"):
        assert shown in text
    assert ("A is the likeliest" in text) is (protocol == "likelihood")


def test_words_of_every_script_are_shown_as_they_are(own: Workspace) -> None:
    odd = [replace(one, question=UNICODE, options=(UNICODE, "stable", "worse")) for one in samples()[:1]]
    bench, _ = made(own, odd, lambda *_: UNICODE)
    html = opened(browser(own), f"/items/{bench.digest}/{odd[0].id}").text
    assert html.count(UNICODE) >= 4
    found = opened(browser(own), "/items?" + urlencode({"q": "مرحبا"})).text
    assert "1 of 1 questions" in found


TEXT = st.text(max_size=30)
VALUES = st.one_of(
    TEXT, st.sampled_from(["none", "swap", "one", "two", "right", "disagree", "hardest", "held_in", "-1"])
)
KEYS = ("bench", "model", "against", "probe", "verdict", "ability", "family", "source", "domain", "q", "order", "page")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=st.dictionaries(st.one_of(st.sampled_from(KEYS), TEXT), VALUES, max_size=6), raw=st.binary(max_size=40))
def test_no_query_is_a_fault(
    client: TestClient, benched: tuple[Artifact, Artifact], query: dict[str, str], raw: bytes
) -> None:
    text = urlencode({key.encode("utf-8", "replace"): value.encode("utf-8", "replace") for key, value in query.items()})
    for address in ("/items", f"/items/{benched[0].digest}/{samples()[0].id}"):
        for form in (f"{address}?{text}", f"{address}?{text}&q={quote(raw)}"):
            answer = client.get(form)
            assert answer.status_code in (200, 400, 404), (form, answer.text)
            assert answer.status_code != 404 or "bench" in query


def test_patients_and_files_are_named_only_where_the_recipe_says_so(own: Workspace) -> None:
    secret = "p10-ANNA-KARENINA"
    asked = [
        replace(
            one,
            patients=(secret,),
            paths=tuple(f"{secret}/{n}.png" for n, _ in enumerate(one.images)),
            images=(f"{secret}/0.png", *one.images[1:]),
        )  # fmt: skip
        for one in samples()[:4]
    ]
    pixels = {name: data for name, data in images(asked).items() if name.startswith("sha256:")}
    client = browser(own)
    for says_so in (False, True):
        recipe = loading.load("demo", [f"platform.show_patients={str(says_so).lower()}"])
        asked = [replace(one, question=f"{one.question} {says_so}") for one in asked]
        bench, data = made(own, asked, recipe=recipe, pixels=pixels)
        whole = opened(client, f"/items?bench={bench.digest}").text
        whole += "".join(opened(client, f"/items/{bench.digest}/{one.id}").text for one in asked)
        assert (secret in whole) is says_so
        assert "Its file was absent when this data set was built" in whole
        assert f"/images/{data.digest}/{asked[0].images[1]}" in whole


def test_the_data_sets_recipe_decides_where_the_benchmark_has_none(own: Workspace) -> None:
    recipe = loading.load("demo", ["platform.show_patients=true"])
    data = publish_samples(own, samples(), images(samples()), recipe)
    bench = publish_bench(own, data.digest, board(samples(), right).predictions())
    assert "phantom/p0" in opened(browser(own), f"/items/{bench.digest}/{samples()[0].id}").text


def test_all_pages_read_one_index_of_a_benchmark_whose_record_names_no_data_set(own: Workspace) -> None:
    data = publish_samples(own, samples(), images(samples()), loading.load("demo", ["platform.show_patients=true"]))
    bench = publish_bench(own, data.digest, board(samples(), right).predictions())
    (Path(bench.uri) / store.PROVENANCE).write_text("{}")
    name = samples()[0].id
    assert "phantom/p0" in opened(browser(own), f"/items/{bench.digest}/{name}").text
    with benchmarks.index_of(own, bench, {}) as connection:  # made anew, it would not be ready
        item = items.find(connection, name)
    assert item and item.patients == samples()[0].patients


def test_terms_that_forbid_passing_it_on_are_said(own: Workspace) -> None:
    bench, _ = made(own, samples(), terms=Terms(serve=True, text=("EMBED: for research, by agreement",)))
    for address in ("/items", f"/items/{bench.digest}/{samples()[0].id}"):
        assert "not allowed by EMBED" in opened(browser(own), address).text
    assert "not allowed by" not in opened(browser(own), f"/items/{'0' * 64}/{'0' * 20}").text


def test_an_erased_patients_items_are_not_shown_any_more(own: Workspace) -> None:
    bench, data = made(own, samples())
    client = browser(own)
    sample = samples()[3]
    image = f"/images/{data.digest}/{sample.images[0]}"
    assert sample.question in opened(client, f"/items/{bench.digest}/{sample.id}").text
    tag = client.get(image).headers["etag"]
    what = erase.plan(own, ["p3"])
    erase.erase(own, ["p3"], what, "asked to")
    assert erased.load(own.store).holds("phantom-chest", "p3")
    assert not (own.home / "console").exists(), "an index would keep their questions"
    answer = opened(client, f"/items/{bench.digest}/{sample.id}")
    assert "A patient of this item was erased" in answer.text
    assert sample.question not in answer.text
    other = opened(client, f"/items/{bench.digest}/{samples()[0].id}").text
    assert samples()[0].question in other
    assert "is not in this store any more" in other
    gone = client.get(image, headers={"if-none-match": tag})
    assert gone.status_code == 404
    assert "one of its patients was erased" in gone.text


def test_a_data_set_without_pixels_shows_its_questions_and_says_why(own: Workspace) -> None:
    bench, _ = made(own, samples(), pixels={})
    html = opened(browser(own), f"/items/{bench.digest}/{samples()[0].id}").text
    assert samples()[0].question in html
    assert "holds no images" in html
    assert "rows_only" in html
    assert "<img" not in html


def test_an_image_is_sent_as_it_was_stored_and_once(client: TestClient, benched: tuple[Artifact, Artifact]) -> None:
    name, data = next(iter(images(samples()).items()))
    address = f"/images/{benched[1].digest}/{name}"
    answer = opened(client, address)
    assert answer.content == data
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["cache-control"].startswith("private")
    again = client.get(address, headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    small = client.get(f"{address}?size=240")
    assert small.headers["etag"] != answer.headers["etag"]


def test_a_small_image_is_small(own: Workspace) -> None:
    out = io.BytesIO()
    Image.effect_noise((900, 600), 40).save(out, "PNG")
    data = publish_samples(own, samples(), {"sha256:00": out.getvalue()})
    answer = opened(browser(own), f"/images/{data.digest}/sha256:00?size=240")
    with Image.open(io.BytesIO(answer.content)) as small:
        assert small.size == (240, 160)
    assert browser(own).get(f"/images/{data.digest}/sha256:00?size=5000").status_code == 400


def test_only_images_of_the_data_set_are_sent(client: TestClient, benched: tuple[Artifact, Artifact]) -> None:
    (Path(benched[1].uri) / "secret.png").write_bytes(picture(0))
    for name in (
        "sha256:ffff", "secret.png", "manifest.json", "..%2f..%2fdata", "..", "%2e%2e%2fsecret.png",
        "sha256:..%2fsecret", "/etc/passwd", "sha256:00%00", "sha256:0G", "a" * 5000,
    ):  # fmt: skip
        answer = client.get(f"/images/{benched[1].digest}/{name}")
        assert answer.status_code in (400, 404), name
        assert not answer.headers["content-type"].startswith("image/")
    assert client.get(f"/images/{'0' * 64}/sha256:000").status_code == 404
    assert client.get(f"/images/{benched[0].digest}/sha256:000").status_code == 404, "a benchmark is no data set"


@pytest.mark.parametrize(
    ("damage", "why"), [("shard", "is damaged"), ("image", "is truncated"), ("svg", "neither PNG nor JPEG")]
)
def test_a_picture_that_cannot_be_shown_says_why(own: Workspace, damage: str, why: str) -> None:
    pixels = {
        "shard": {"sha256:00": picture(0)},
        "image": {"sha256:00": picture(0)[:60]},
        "svg": {"sha256:00": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"},
    }[damage]
    data = publish_samples(own, samples(), pixels)
    client, address = browser(own), f"/images/{data.digest}/sha256:00"
    assert opened(client, address).status_code == (200 if damage == "shard" else 500)
    if damage == "shard":
        (shard,) = (Path(data.uri) / "images").iterdir()
        shard.write_bytes(shard.read_bytes()[:-40])
    page = client.get(address)
    within = client.get(address, headers={"sec-fetch-dest": "image"})
    assert within.status_code == 500
    assert within.headers["content-type"] == "image/svg+xml"
    for text in (page.text, within.text):
        assert "Traceback" not in text
        assert "<script>" not in text
        assert why in words(text)
    assert within.headers["cache-control"] == "no-store"


def test_a_half_written_benchmark_or_one_of_another_version_is_a_page_that_says_why(own: Workspace) -> None:
    bench, data = made(own, samples())
    folder = own.home / "other"
    shutil.copytree(bench.uri, folder)
    (folder / "predictions.jsonl").write_text('{"id": "1", "question": "of another version"}\n', encoding="utf-8")
    other = store.publish(folder, own.store, "bench", {}, {"parents": {"data": data.digest}})
    answer = opened(browser(own), f"/items?bench={other.digest}")
    assert answer.status_code == 500
    assert "line 1 of" in answer.text
    assert "bench these models again" in answer.text
    (Path(bench.uri) / "manifest.json").unlink()
    assert browser(own).get(f"/items?bench={bench.digest}").status_code == 404


def test_a_large_benchmark_says_that_it_is_being_read_and_then_shows_itself(own: Workspace) -> None:
    (row, *_) = board(samples(), right).predictions()
    data = publish_samples(own, samples(), images(samples()))
    many = ({**row, "id": f"{n:020x}", "question": f"Question {n}?"} for n in range(20_000))
    bench = publish_bench(own, data.digest, many)
    client = browser(own)
    first = client.get(f"/items?bench={bench.digest}")
    assert first.status_code == 202
    assert 'http-equiv="refresh"' in first.text
    assert "<progress" in first.text
    asked = f"/items?bench={bench.digest}&q=Question"
    assert client.get(asked, headers={"hx-request": "true"}).headers["hx-redirect"] == asked, "with what was searched"
    opened(client, f"/items?bench={bench.digest}&page=800")
    begun = time.perf_counter()
    assert "19,976 to 20,000 below" in client.get(f"/items?bench={bench.digest}&page=800").text
    assert time.perf_counter() - begun < 2, "0.05 s on a machine that does nothing else"


def test_a_store_that_is_away_is_a_page_that_says_so(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medmim.store.s3 import connect

    ws = Workspace(tmp_path / "home", f"{bucket}/x", "")
    bench, data = made(ws, samples())
    address, image = f"/items/{bench.digest}/{samples()[0].id}", f"/images/{data.digest}/{samples()[0].images[0]}"
    client = browser(ws)
    assert samples()[0].question in opened(client, address).text
    assert opened(client, image).content == images(samples())[samples()[0].images[0]]
    with monkeypatch.context() as away:
        away.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        connect.cache_clear()
        for path in (address, image, "/items"):
            answer = client.get(path)
            assert answer.status_code == 503, path
            assert answer.headers["retry-after"]
    connect.cache_clear()
    assert samples()[0].question in opened(client, address).text


def test_what_a_filter_asks_for_and_the_benchmark_has_not_is_said(
    client: TestClient, benched: tuple[Artifact, Artifact]
) -> None:
    asked = {
        "bench": benched[0].digest,
        "model": "thrée",
        "ability": "telepathy",
        "probe": "upside-down",
        "source": "phantom-chest",
    }
    answer = opened(client, "/items?" + urlencode(asked))
    assert "This benchmark has no model “ thrée ”, no way of asking “ upside-down ”, no ability “ telepathy ”" in words(
        answer.text
    )
    without = re.search(r'href="([^"]+)">Without these', answer.text)
    assert without
    html = client.get(unescape(without[1])).text
    assert "This benchmark has no" not in html and "of 48 questions" in html and "source=phantom-chest" in without[1]
    assert "This benchmark has no" not in opened(client, "/items?model=one&verdict=error").text, "it has none of those"
