"""What anybody who may write the store can have written: each is a row or a page that says what and why."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from medmim import store
from medmim.bench.run import SCORES
from medmim.run.workspace import Workspace, workspace
from tests.support.bench import samples
from tests.support.benchmarks import board, publish_bench
from tests.support.console import browser

ROW = {"model": "one", "group": "held_in", "metric": "accuracy", "value": 0.5, "low": None, "high": None, "n": 9,
       "patients": 3}  # fmt: skip
DIFFERENCE = {key: ROW[key] for key in ("group", "metric", "value", "low", "high", "n")}


@pytest.fixture(scope="module")
def ws(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return workspace(tmp_path_factory.mktemp("bad"))


@pytest.fixture(scope="module")
def good(ws: Workspace) -> str:
    """The digest of a benchmark that can be read."""
    return publish_bench(ws, "0" * 64, board(samples()[:6], lambda *_: "A").predictions()).digest


@pytest.fixture
def client(ws: Workspace, good: str) -> TestClient:
    return browser(ws)


def publish(ws: Workspace, good: str, folder: Path, counts: dict[str, Any], **changed: Any) -> str:
    """A copy of the good one, some of whose scores are others."""
    shutil.copytree(Path(ws.store, "bench", good), folder)
    for name in (store.MANIFEST, store.PROVENANCE):
        (folder / name).unlink()
    scores = json.loads((folder / SCORES).read_text(encoding="utf-8"))
    (folder / SCORES).write_text(json.dumps({**scores, "leaderboard": [ROW], **changed}), encoding="utf-8")
    return store.publish(folder, ws.store, "bench", counts, {}).digest


@pytest.mark.parametrize(
    ("changed", "where"),
    [
        ({"leaderboard": "x"}, "leaderboard"),
        ({"leaderboard": [{"model": "one"}]}, "leaderboard.0.group"),
        ({"leaderboard": [{**ROW, "value": "most"}]}, "leaderboard.0.value"),
        ({"models": {}}, "models"),
        ({"models": ["one"]}, "models"),
        ({"items": "many"}, "items"),
        ({"differences": [DIFFERENCE]}, "differences.0.opponent"),
        ({"reading": [{"model": "one"}]}, "reading.0.answers"),
        ({"failures": [1]}, "failures.0"),
        ({"text_only": [{"group": "held_in", "above": "perhaps"}]}, "text_only.0.above"),
    ],
    ids=str,
)
def test_scores_of_another_form_are_a_row_and_a_page_that_say_so(
    ws: Workspace, good: str, client: TestClient, tmp_path: Path, changed: dict[str, Any], where: str
) -> None:
    digest = publish(ws, good, tmp_path / "made", {}, **changed)
    try:
        listed = client.get("/leaderboard")
        assert listed.status_code == 200 and "cannot be read" in listed.text and good[:12] in listed.text
        assert client.get("/compare").status_code == 200
        assert client.get("/items").status_code in (200, 202)
        for path in ("", "/leaderboard.csv", "/differences.csv", "/figure/scores"):
            answer = client.get(f"/leaderboard/{digest}{path}")
            assert answer.status_code == 500 and "holds no scores that this version reads" in answer.text, path
            assert f"{SCORES}: {where}: " in answer.text and "bench these models again" in answer.text
    finally:
        shutil.rmtree(Path(ws.store, "bench", digest))
    assert not (ws.home / "errors").exists(), "no fault of medmim's own"


def test_scores_of_an_earlier_form_are_shown(ws: Workspace, good: str, client: TestClient, tmp_path: Path) -> None:
    digest = publish(ws, good, tmp_path / "made", {})
    html = client.get(f"/leaderboard/{digest}").text
    assert "50.0" in html and "held-in" in html
    assert not (ws.home / "errors").exists()


@pytest.mark.parametrize("kind", ["data", "bench"])
@pytest.mark.parametrize("said", ["many", None, [1], {"a": "b"}, -1.5], ids=str)
def test_counts_that_are_none_do_not_take_the_list_away(
    ws: Workspace, client: TestClient, tmp_path: Path, kind: str, said: Any
) -> None:
    names = ("rows", "images", "patients", "items", "models", "by_split", "quarantined", "held_out")
    (tmp_path / SCORES).write_text(json.dumps([kind, said]), encoding="utf-8")
    made = store.publish(tmp_path, ws.store, kind, dict.fromkeys(names, said), {})
    try:
        for path in ("/leaderboard", "/data", "/items", "/compare"):
            assert client.get(path).status_code in (200, 202), path
        answer = client.get(f"/{'data' if kind == 'data' else 'leaderboard'}/{made.digest}")
        assert answer.status_code == 500 and "The address is right" in answer.text
        assert client.get(f"/data/{made.digest}/quarantine").status_code == (200 if kind == "data" else 404)
    finally:
        shutil.rmtree(made.uri)
    assert not (ws.home / "errors").exists()


@pytest.mark.parametrize(
    "recipe",
    [b"[1]", b"{", b'{"platform": "all"}', b'{"name": 7, "pipeline": [1], "data": "x"}', b"[" * 100_000],
    ids=lambda text: text[:20].decode(),
)
def test_a_run_whose_recipe_is_none_is_shown_without_it(ws: Workspace, client: TestClient, recipe: bytes) -> None:
    place = store.open_store(ws.store)
    place.write("runs/früh 肺-20260601-020000-ab12/data.json", b'{"stage": "data", "status": "done", "later": [1]}')
    place.write("runs/früh 肺-20260601-020000-ab12/recipe.json", recipe)
    html = client.get("/runs/fr%C3%BCh%20%E8%82%BA-20260601-020000-ab12").text
    assert "Nothing recorded it" in html
    assert client.get("/runs").status_code == 200
    assert not (ws.home / "errors").exists()
