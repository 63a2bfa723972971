"""The page that compares two models: the numbers are those of `bench compare`, and each disagreement is one."""

import csv
import io
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from httpx import Response

from medmim import store
from medmim.bench import compare, run
from medmim.recipe.schema import Bench
from medmim.run.workspace import Workspace, workspace
from medmim.sample import LETTERS
from tests.support.bench import World, publish
from tests.support.console import being_indexed, browser
from tests.support.waiting import until

SETTINGS = Bench(max_new_tokens=2, probes=(), protocol="both")


@pytest.fixture(scope="module")
def benched(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, str, dict[str, str]]:
    """A store without a registry, the data set in it, and benchmarks of it by name."""
    ws = workspace(tmp_path_factory.mktemp("compared"))
    data = publish(world, ws.store)
    one, other = map(str, world.models)

    def bench(models: dict[str, str], *tasks: str) -> str:
        settings = SETTINGS.model_copy(update={"tasks": tasks}) if tasks else SETTINGS
        return run.bench(ws, data, models, settings)[0].digest

    return ws, data, {
        "both": bench({"one": one, "a <b>model</b>": other}),
        "one": bench({"model": one}),
        "temporal": bench({"model": one}, "temporal"),
        "comparison": bench({"model": other}, "comparison"),
    }  # fmt: skip


def get(client: TestClient, first: str, second: str, **more: str) -> Response:
    """The comparison, once what it reads is indexed."""

    def answer() -> Response | None:
        found = client.get("/compare", params={"first": first, "second": second, **more})
        return found if found.status_code != 202 else None

    return until(answer)


def test_the_differences_are_those_of_the_command(benched: tuple[Workspace, str, dict[str, str]]) -> None:
    ws, _, digests = benched
    both = digests["both"]
    uri = f"{ws.store}/bench/{both}"
    known = compare.compare(ws, uri, uri, "one", "a <b>model</b>")["differences"]
    client = browser(ws)
    get(client, f"{both}:one", f"{both}:a <b>model</b>")
    answer = client.get("/compare/differences.csv", params={"first": f"{both}:one", "second": f"{both}:a <b>model</b>"})
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [(row["group"], row["metric"], float(row["value"])) for row in rows] == [
        (row["group"], row["metric"], row["value"]) for row in known
    ]
    for metric in {row["metric"] for row in known}:
        html = get(client, f"{both}:one", f"{both}:a <b>model</b>", metric=metric).text
        for row in known:
            if row["metric"] == metric:
                assert f"{100 * row['value']:+.1f}" in html, row
    assert "a &lt;b&gt;model&lt;/b&gt;" in html and "<b>model" not in html


def test_every_question_on_which_they_disagree_is_listed_with_who_is_right(
    benched: tuple[Workspace, str, dict[str, str]],
) -> None:
    ws, _, digests = benched
    rows = run.predictions(ws, f"{ws.store}/bench/{digests['both']}")
    roles = ("one", "a <b>model</b>")
    right = {row["id"]: [row["answers"][role]["none"]["scores"].get("accuracy") == 1 for role in roles] for row in rows}
    client = browser(ws)
    for side, wanted in (("", (0, 1)), ("first", (0,)), ("second", (1,))):
        html = get(client, f"{digests['both']}:one", f"{digests['both']}:a <b>model</b>", side=side).text
        expected = {name for name, (a, b) in right.items() if a != b and (0 if a else 1) in wanted}
        assert set(re.findall(rf"/items/{digests['both']}/(\w+)", html)) == expected
    assert any(a != b for a, b in right.values())


def test_the_differences_are_drawn(benched: tuple[Workspace, str, dict[str, str]]) -> None:
    ws, _, digests = benched
    client = browser(ws)
    pair = {"first": f"{digests['both']}:one", "second": f"{digests['both']}:a <b>model</b>"}
    get(client, pair["first"], pair["second"])
    svg = client.get("/compare/figure", params=pair).text
    assert "<svg" in svg and "held-in" in svg and "<b>model" not in svg
    assert client.get("/compare/figure", params={**pair, "metric": "f2"}).status_code == 404


def test_over_htmx_an_index_that_is_made_leads_to_the_page_that_waits_and_a_figure_only_stays_away(
    benched: tuple[Workspace, str, dict[str, str]], tmp_path: Path
) -> None:
    ws, _, digests = benched
    client, digest = browser(replace(ws, home=tmp_path)), digests["both"]
    pair, by_script = f"first={digest}%3Aone&second={digest}%3Aa%20%3Cb%3Emodel%3C%2Fb%3E", {"hx-request": "true"}
    with being_indexed(tmp_path, digest):
        asked = f"/compare?{pair}&side=first"
        assert client.get(asked).status_code == 202
        answer = client.get(asked, headers=by_script)
        assert (answer.status_code, answer.headers["hx-redirect"]) == (202, asked)
        figure = client.get(f"/compare/figure?{pair}", headers=by_script)
        assert figure.status_code == 503, "htmx leaves the link to it where it is"
        assert not {"hx-redirect", "hx-refresh"} & set(figure.headers)
    assert until(lambda: "<svg" in client.get(f"/compare/figure?{pair}", headers=by_script).text)


def test_models_of_two_benchmarks_are_compared_on_what_both_were_asked(
    benched: tuple[Workspace, str, dict[str, str]],
) -> None:
    ws, _, digests = benched
    html = get(browser(ws), digests["one"], digests["temporal"]).text
    assert "model minus model" in html and "16 questions in both" in html and ">limited<" in html
    assert ">tasks<" in html


def test_models_without_a_common_question_are_told_apart_with_the_reason(
    benched: tuple[Workspace, str, dict[str, str]],
) -> None:
    ws, _, digests = benched
    answer = get(browser(ws), digests["temporal"], digests["comparison"])
    assert answer.status_code == 400
    assert "have no question in common" in answer.text
    assert 'id="choose-first"' in answer.text
    same = get(browser(ws), digests["one"], f"{digests['one']}:model")
    assert same.status_code == 400 and "both are the answers of model in one benchmark" in same.text
    unknown = get(browser(ws), f"{digests['both']}:nobody", digests["one"])
    assert unknown.status_code == 400 and "has no model" in unknown.text


def test_the_choice_names_each_model_and_an_address_that_is_none_is_refused(
    benched: tuple[Workspace, str, dict[str, str]],
) -> None:
    ws, _, digests = benched
    client = browser(ws)
    html = client.get("/compare").text
    assert html.count(f'value="{digests["both"]}:one"') == 2
    assert client.get("/compare", params={"first": "../../x", "second": "y"}).status_code == 400
    assert get(client, f"{'0' * 64}:one", digests["one"]).status_code == 404
    assert get(client, digests["both"], digests["one"], metric="f2").status_code == 400


def test_an_empty_store_says_that_nothing_was_benched(tmp_path: Path) -> None:
    assert "No model has been benched" in browser(workspace(tmp_path)).get("/compare").text


def test_what_each_answer_was_read_as_stands_beside_its_words(benched: tuple[Workspace, str, dict[str, str]]) -> None:
    ws, _, digests = benched
    roles = ("one", "a <b>model</b>")
    html = get(browser(ws), *(f"{digests['both']}:{role}" for role in roles)).text
    rows = {row["id"]: row["answers"] for row in run.predictions(ws, f"{ws.store}/bench/{digests['both']}")}
    shown = re.findall(rf"/items/{digests['both']}/(\w+)", html)
    wanted = [f"read as {LETTERS[choice]}" for name in shown for role in roles
              if (choice := rows[name][role]["none"]["choice"]) is not None]  # fmt: skip
    assert re.findall("read as [A-H]", html) == wanted
    assert wanted


def test_damaged_benchmarks_are_none_that_do_not_exist(tmp_path: Path) -> None:
    ws = workspace(tmp_path)
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / run.SCORES).write_text("{")
    digest = store.publish(tmp_path / "made", ws.store, "bench", {}, {}).digest
    html = browser(ws).get("/compare").text
    assert "No benchmark of this store can be read" in html and 'href="/leaderboard"' in html
    assert "No model has been benched" not in html
    answer = browser(ws).get("/compare", params={"first": digest, "second": digest})
    assert answer.status_code == 500 and "holds no scores that this version reads" in answer.text


def test_a_damaged_benchmark_beside_others_is_counted(
    benched: tuple[Workspace, str, dict[str, str]], tmp_path: Path
) -> None:
    ws, _, digests = benched
    (tmp_path / run.SCORES).write_text("[")
    made = store.publish(tmp_path, ws.store, "bench", {}, {})
    try:
        html = (
            browser(ws).get("/compare").text
            if until(lambda: "cannot be read" in browser(ws).get("/compare").text)
            else ""
        )
    finally:
        shutil.rmtree(made.uri)
    assert "1 of the newest cannot be read" in html and digests["both"] in html
