"""Two real nights, the second with a worse champion and a server that has changed, as the console shows them."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from fastapi.testclient import TestClient

from medmim import store
from medmim.bench import run as bench
from medmim.data import erased, people
from medmim.housekeeping import erase, gc
from medmim.nightly.records import Night
from tests.support.console import browser
from tests.support.nightly import NAME, World, drift, world

DRIFTED = 2


@pytest.fixture(scope="module")
def weeks(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Iterator[tuple[World, list[Night]]]:
    with world(tmp_path_factory.mktemp("nights") / "home", mlflow_database) as made:
        made.promote(0)
        nights = []
        for number in range(1, 3):
            if number == DRIFTED:
                made.promote(1)
                drift(made.server, 1)
            nights.append(made.night(number))
        yield made, nights


@pytest.fixture
def client(weeks: tuple[World, list[Night]]) -> TestClient:
    return browser(weeks[0].ws)


def test_recipes_are_listed_with_their_last_night(client: TestClient, weeks: tuple[World, list[Night]]) -> None:
    html = client.get("/nights").text
    assert f'href="/nights/{NAME}"' in html
    assert f'href="/nights/{NAME}/{weeks[1][-1].date}"' in html and weeks[1][0].date not in html
    assert "alarm" in html and "quiet" not in html


def test_a_store_without_nights_says_so(tmp_path: Path, weeks: tuple[World, list[Night]]) -> None:
    empty = browser(replace(weeks[0].ws, store=str(tmp_path / "store")))
    assert "No night has been recorded" in empty.get("/nights").text
    assert empty.get(f"/nights/{NAME}").status_code == 404


def test_a_recipe_shows_its_trend_and_the_alarm_of_the_night_that_raised_it(
    client: TestClient, weeks: tuple[World, list[Night]]
) -> None:
    html = client.get(f"/nights/{NAME}").text
    assert f'hx-get="/nights/{NAME}/trend"' in html and f'href="/nights/{NAME}/trend"' in html
    figures = client.get(f"/nights/{NAME}/trend").text
    assert "<svg" in figures and "<style" not in figures and " style=" not in figures, "the policy forbids inline style"
    assert figures.count("2 nights:") == 1, "both are drawn"
    dates = [html.index(f"/nights/{NAME}/{night.date}") for night in reversed(weeks[1])]
    assert dates == sorted(dates), "the newest night first"
    alarms = weeks[1][DRIFTED - 1].alarms
    assert len(alarms) > 1 and all(alarm.split(":")[0] in html for alarm in alarms)
    assert html.count('class="mark bad"') == 1


def test_a_night_shows_canary_differences_and_where_its_scores_are(
    client: TestClient, weeks: tuple[World, list[Night]]
) -> None:
    night = weeks[1][DRIFTED - 1]
    html = client.get(f"/nights/{NAME}/{night.date}").text
    canary = night.canary["other"]
    assert f'<th scope="row">other</th><td class="num">12</td><td class="num">{canary["changed"]}</td>' in html
    assert "drifted" in html
    assert f'href="/leaderboard/{night.bench}"' in html and f'href="/runs/{night.run}"' in html
    rows = [row for row in night.differences if row["model"] == "champion"]
    assert rows and html.count(f"<td>{weeks[1][0].date}</td>") == len(night.differences)
    assert "regression" in html
    assert f'rel="prev" href="/nights/{NAME}/{weeks[1][0].date}"' in html


def test_the_changed_answers_of_a_night_are_shown_before_and_after(
    client: TestClient, weeks: tuple[World, list[Night]]
) -> None:
    night = weeks[1][DRIFTED - 1]
    html = client.get(f"/nights/{NAME}/{night.date}/changes").text
    assert night.changed["other"][0][:12] in html and "What is new in" in html
    quiet = client.get(f"/nights/{NAME}/{weeks[1][0].date}/changes").text
    assert "No answer changed" in quiet


def test_what_was_asked_about_an_erased_patient_is_not_shown_among_the_changed_answers(
    weeks: tuple[World, list[Night]],
) -> None:
    made, nights = weeks
    night, place = nights[DRIFTED - 1], store.open_store(made.ws.store)
    address = f"/nights/{NAME}/{night.date}/changes"
    name = night.changed["other"][0]
    rows = bench.predictions(made.ws, f"{made.ws.store}/bench/{night.bench}")
    row = next(row for row in rows if row["id"] == name)
    (patient,) = row["patients"]
    kept = next(one for one in rows if one["id"] in night.changed["other"] and one["patients"] != [patient])
    assert row["question"] in browser(made.ws).get(address).text
    erased.add(made.ws.store, [people.key(row["source"], patient)])
    try:
        html = browser(made.ws).get(address).text
        assert row["question"] not in html and name[:12] not in html
        assert kept["question"] in html, "another patient's stay"
    finally:
        for key in place.list(f"{erased.FOLDER}/"):
            place.delete(key)


def test_a_record_that_was_cut_off_is_named_and_the_other_nights_are_shown(
    weeks: tuple[World, list[Night]],
) -> None:
    made, nights = weeks
    place, key = store.open_store(made.ws.store), f"nights/{NAME}/2026-05-01.json"
    place.write(key, b'{"date": "2026-')
    try:
        fresh = browser(made.ws)
        html = fresh.get(f"/nights/{NAME}").text
        assert "is not the record of a night" in html and nights[0].date in html
        assert "<svg" in fresh.get(f"/nights/{NAME}/trend").text
        answer = fresh.get(f"/nights/{NAME}/2026-05-01")
        assert answer.status_code == 500 and "restore the file" in answer.text
    finally:
        place.delete(key)


def test_what_is_no_recipe_or_date_is_refused(client: TestClient) -> None:
    for path in ("/nights/..%2f..", "/nights/NO", f"/nights/{NAME}/today", f"/nights/{NAME}/2020-01-01"):
        answer = client.get(path)
        assert answer.status_code in (400, 404) and "Traceback" not in answer.text, path


@pytest.mark.parametrize("does", ["marked", "removed"])
def test_an_erasure_reaches_the_answers_the_scores_and_the_nights_of_a_patient(
    weeks: tuple[World, list[Night]], tmp_path: Path, does: Literal["marked", "removed"]
) -> None:
    made, nights = weeks
    shutil.copytree(made.ws.store, tmp_path / "store")
    ws = replace(made.ws, store=str(tmp_path / "store"), home=tmp_path / "home")
    place, night = store.open_store(ws.store), nights[DRIFTED - 1]
    row = next(
        row
        for row in bench.predictions(ws, f"{ws.store}/bench/{night.bench}")
        if row["id"] in night.changed["other"] and len(row["patients"]) == 1
    )
    address = f"/nights/{NAME}/{night.date}/changes"
    assert row["question"] in browser(ws).get(address).text

    gc.adopt(ws)  # of the nights alone: no training registered their champions in MLflow
    what = erase.plan(ws, row["patients"], does)
    planned = {one.name: one.does for one in what.artifacts}
    held = {"data": "removed", "answers": does, "bench": does, "night": does, "report": "removed"}
    there = {"/".join(key.split("/")[:2]) for key in place.list() if key.startswith(tuple(f"{kind}/" for kind in held))}
    assert there == {name for name in planned if name.partition("/")[0] in held}
    assert {name.partition("/")[0] for name in there} >= {"data", "answers", "bench", "night"}
    assert all(planned[name] == held[name.partition("/")[0]] for name in there)

    erase.erase(ws, row["patients"], what, "asked for")
    assert erase.marked(ws) == {name.partition("/")[2] for name in there if planned[name] == "marked"}
    text = json.dumps(row["question"], ensure_ascii=False).encode()
    holding = {"/".join(key.split("/")[:2]) for key in place.list() if text in place.read(key)}
    assert holding == {name for name in there if does == "marked" and name.startswith("bench/")}
    shown = browser(ws)
    for path in (address, "/nights", f"/nights/{NAME}/{night.date}", f"/items?bench={night.bench}", "/leaderboard"):
        answer = shown.get(path)
        assert answer.status_code in (200, 404) and row["question"] not in answer.text, path
    answer = shown.get(f"/items/{night.bench}/{row['id']}")
    assert row["question"] not in answer.text and answer.status_code == (200 if does == "marked" else 404)
