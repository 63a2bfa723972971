"""The pages of benchmarks: what was scored is shown as it was scored, and what cannot be read says so."""

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from medmim import store
from medmim.bench import run
from medmim.recipe.schema import Bench
from medmim.run.workspace import Workspace, workspace
from tests.support.bench import World, publish, samples
from tests.support.console import being_indexed, browser
from tests.support.waiting import until


@pytest.fixture(scope="module")
def benched(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, str]:
    """A store without a registry, and the digest of a benchmark of two models in it."""
    ws = workspace(tmp_path_factory.mktemp("benched"))
    pairs = tmp_path_factory.mktemp("tasks") / "pairs.yaml"
    ids = [one.id for one in samples() if len(one.images) == 2]
    pairs.write_text(f"description: questions on two images\nitems: [{', '.join(ids)}]\n", encoding="utf-8")
    models = {"one": str(world.models[0]), "a <b>model</b> with ünicode": str(world.models[1])}
    settings = Bench(max_new_tokens=2, protocol="both", tasks=("held_in", "held_out", str(pairs)))
    return ws, run.bench(ws, publish(world, ws.store), models, settings)[0].digest


def test_the_list_says_who_leads_and_whether_it_can_be_compared(benched: tuple[Workspace, str]) -> None:
    ws, digest = benched
    html = browser(ws).get("/leaderboard").text
    assert f"/leaderboard/{digest}" in html
    assert "a &lt;b&gt;model&lt;/b&gt; with ünicode" in html
    assert ">comparable<" in html


def test_the_scores_of_each_model_are_those_of_the_benchmark(benched: tuple[Workspace, str]) -> None:
    ws, digest = benched
    scores = run.scores(ws, f"{ws.store}/bench/{digest}")
    client = browser(ws)
    for metric in ("accuracy", "likelihood", "token_f1"):
        for kind in ("domain", "ability", "source"):
            html = client.get(f"/leaderboard/{digest}", params={"metric": metric, "groups": kind}).text
            for row in scores["leaderboard"]:
                named = row["group"] if kind == "domain" else row["group"].partition(":")[2]
                if row["metric"] == metric and (row["group"].partition(":")[0] == kind or named in ("held_in",)):
                    assert f"{100 * row['value']:.1f}" in html, row


def test_a_task_that_asks_a_list_says_how_many_questions_it_names_and_their_digest(
    benched: tuple[Workspace, str],
) -> None:
    ws, digest = benched
    listed = run.scores(ws, f"{ws.store}/bench/{digest}")["lists"]["pairs"]
    html = browser(ws).get(f"/leaderboard/{digest}").text
    assert f'a list of 24 questions, <span class="mono">{listed["digest"][:12]}' in html


def test_the_tables_as_csv_have_every_row(benched: tuple[Workspace, str]) -> None:
    ws, digest = benched
    scores = run.scores(ws, f"{ws.store}/bench/{digest}")
    for name in ("leaderboard", "differences"):
        answer = browser(ws).get(f"/leaderboard/{digest}/{name}.csv")
        assert answer.headers["content-disposition"].startswith("attachment")
        assert len(list(csv.DictReader(io.StringIO(answer.text)))) == len(scores[name]) > 0


def test_models_are_sorted_by_the_column_that_is_chosen(benched: tuple[Workspace, str]) -> None:
    ws, digest = benched
    board = run.scores(ws, f"{ws.store}/bench/{digest}")["leaderboard"]
    for group in ("held_in", "held_out"):
        html = browser(ws).get(f"/leaderboard/{digest}", params={"metric": "likelihood", "sort": group}).text
        rows = [row for row in board if (row["metric"], row["group"]) == ("likelihood", group)]
        best, worst = sorted(rows, key=lambda row: -row["value"])
        table = html[html.index('id="models"') :]
        if best["value"] > worst["value"]:
            assert (table.index(">one</a>") < table.index("ünicode</a>")) == (best["model"] == "one")


def test_a_filter_gets_only_the_part_that_changes(benched: tuple[Workspace, str]) -> None:
    ws, digest = benched
    part = browser(ws).get(f"/leaderboard/{digest}?groups=ability", headers={"HX-Request": "true"}).text
    assert 'id="board"' in part
    assert "<html" not in part and "Weights" not in part


def test_a_filter_that_waits_for_an_index_leads_to_the_page_that_waits_with_the_filter(
    benched: tuple[Workspace, str], tmp_path: Path
) -> None:
    ws, digest = benched
    client, asked = browser(replace(ws, home=tmp_path)), f"/leaderboard/{digest}?form=task%3Apairs&groups=ability"
    with being_indexed(tmp_path, digest):
        answer = client.get(asked, headers={"HX-Request": "true"})
        assert (answer.status_code, answer.headers["hx-redirect"]) == (202, asked)
        assert 'http-equiv="refresh"' in client.get(asked).text


def test_the_questions_of_one_task_alone_have_the_scores_of_a_benchmark_of_it(
    benched: tuple[Workspace, str], world: World, tmp_path: Path
) -> None:
    ws, digest = benched
    pairs = tmp_path / "pairs.yaml"
    ids = [one.id for one in samples() if len(one.images) == 2]
    pairs.write_text(f"description: questions on two images\nitems: [{', '.join(ids)}]\n", encoding="utf-8")
    models = {"one": str(world.models[0]), "a <b>model</b> with ünicode": str(world.models[1])}
    alone, _ = run.bench(
        ws, publish(world, ws.store), models, Bench(max_new_tokens=2, protocol="both", tasks=(str(pairs),))
    )
    client = browser(ws)
    query = {"form": "task:pairs", "groups": "ability", "metric": "likelihood"}
    html = until(
        lambda: found.text if (found := client.get(f"/leaderboard/{digest}", params=query)).status_code == 200 else None
    )
    table = html[html.index('id="models"') :]
    rows = [row for row in run.scores(ws, alone.uri)["leaderboard"] if row["metric"] == "likelihood"]
    abilities = [row for row in rows if row["group"].startswith("ability:")]
    assert {f"{row['n']:,} questions, {row['patients']:,} patients" for row in abilities} <= set(
        re.findall(r'title="([^"]*patients)"', table)
    )
    assert all(f"{100 * row['value']:.1f}" in table for row in abilities)
    assert client.get(f"/leaderboard/{digest}?form=task:none").status_code == 400


def test_each_figure_that_the_page_names_is_drawn(benched: tuple[Workspace, str]) -> None:
    ws, digest = benched
    client = browser(ws)
    html = client.get(f"/leaderboard/{digest}").text
    figures = set(re.findall(rf"/leaderboard/{digest}/figure/[^\"?]+", html))
    assert {path.rpartition("/")[2] for path in figures} >= {"scores", "against", "transfer", "probes-held_in"}
    for path in figures:
        drawn = client.get(path).text
        assert "<svg" in drawn and "ünicode" in drawn, path
        assert "<b>model" not in drawn and "style=" not in drawn
    assert client.get(f"/leaderboard/{digest}/figure/nothing").status_code == 404


def test_a_metric_that_was_not_scored_is_refused_with_those_that_were(benched: tuple[Workspace, str]) -> None:
    ws, digest = benched
    answer = browser(ws).get(f"/leaderboard/{digest}?metric=f2")
    assert answer.status_code == 400
    assert "no metric f2" in answer.text and "accuracy" in answer.text


def test_a_benchmark_that_cannot_be_read_has_a_row_and_a_page_that_say_why(
    benched: tuple[Workspace, str], tmp_path: Path
) -> None:
    ws, _ = benched
    for content, said in (("[", "scores.json"), (json.dumps({"models": {}}), "has no data, items")):
        folder = tmp_path / str(len(content))
        folder.mkdir()
        (folder / run.SCORES).write_text(content, encoding="utf-8")
        digest = store.publish(folder, ws.store, "bench", {}, {}).digest
        listed = browser(ws).get("/leaderboard")
        assert listed.status_code == 200
        assert "cannot be read" in listed.text
        answer = browser(ws).get(f"/leaderboard/{digest}")
        assert answer.status_code == 500, "a damaged file is no wrong address"
        assert "What to do:" in answer.text and "The address is right" in answer.text
        assert said in answer.text and "Traceback" not in answer.text


def test_a_benchmark_that_was_removed_is_gone_from_its_page_too(benched: tuple[Workspace, str], tmp_path: Path) -> None:
    ws, digest = benched
    (tmp_path / run.SCORES).write_bytes(store.read_file(store.get(f"{ws.store}/bench/{digest}"), run.SCORES) + b"\n")
    copy = store.publish(tmp_path, ws.store, "bench", {}, {})
    client = browser(ws)
    assert client.get(f"/leaderboard/{copy.digest}").status_code == 200
    (Path(copy.uri) / "manifest.json").unlink()
    assert client.get(f"/leaderboard/{copy.digest}").status_code == 404
    assert copy.digest not in client.get("/leaderboard").text


def test_what_an_address_asks_for_and_the_benchmark_has_not_is_said(benched: tuple[Workspace, str]) -> None:
    ws, digest = benched
    client = browser(ws)
    plain = client.get(f"/leaderboard/{digest}").text
    assert "Of this benchmark" not in plain
    html = client.get(f"/leaderboard/{digest}?sort=nothing&show=grey").text
    assert "there is no column nothing here: the models stand by their scores" in html
    assert "with grey images is not known of it: the score is shown" in html
    assert re.findall('class="value', html) == re.findall('class="value', plain), "the score, not a table of dashes"


def test_a_note_on_unread_answers_leads_to_them(benched: tuple[Workspace, str], tmp_path: Path) -> None:
    ws, digest = benched
    bench = store.get(f"{ws.store}/bench/{digest}")
    for name in (run.SCORES, run.PREDICTIONS):
        (tmp_path / name).write_bytes(store.read_file(bench, name))
    scores = json.loads((tmp_path / run.SCORES).read_text(encoding="utf-8"))
    scores["reading"][0] |= {"unread": 8, "unread_cut": 0, "unfinished": 0, "finished": 8, "single": 8, "letter": "A",
                             "holding": 8}  # fmt: skip
    (tmp_path / run.SCORES).write_text(json.dumps(scores), encoding="utf-8")
    made = store.publish(tmp_path, ws.store, "bench", {}, {})
    client = browser(ws)
    html = client.get(f"/leaderboard/{made.digest}").text
    assert "8 of its 8 unread answers hold one option" in html and "bench show" not in html
    link = f"/items?bench={made.digest}&amp;model={scores['reading'][0]['model']}&amp;verdict=unread"
    assert f'<a href="{link}">look at them</a>' in html


def test_a_benchmark_whose_record_is_damaged_says_so(benched: tuple[Workspace, str]) -> None:
    ws, digest = benched
    path = Path(ws.store, "bench", digest, store.PROVENANCE)
    kept = path.read_bytes()
    client = browser(ws)
    try:
        path.write_bytes(kept[:40])
        assert "Its provenance.json is cut off" in client.get(f"/leaderboard/{digest}").text
        assert until(lambda: "Its provenance.json is cut off" in client.get(f"/items?bench={digest}").text)
    finally:
        path.write_bytes(kept)
