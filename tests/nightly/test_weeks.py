"""Almost two weeks of nights over the real code: what must raise an alarm does, in time, and nothing else."""

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from medmim import store, tracking
from medmim.errors import Refused, Unavailable, UserError
from medmim.housekeeping import gc
from medmim.nightly import rebench, records, roster, trend, watch
from medmim.nightly.records import Night
from medmim.store.folder import FolderStore
from tests.support.killing import killed_at
from tests.support.nightly import NAME, QUESTIONS, WINDOW, World, drift, world
from tests.support.page import Page

WORSE_CHAMPION, ROLLED_BACK, SERVER_CHANGED, NIGHTS = 4, 6, 9, 12


@pytest.fixture(scope="module")
def weeks(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Iterator[tuple[World, list[Night]]]:
    """The champion is replaced by one that is 7.3 points worse, and back; the server changes."""
    with world(tmp_path_factory.mktemp("weeks") / "home", mlflow_database) as made:
        made.promote(0)
        seen = []
        for night in range(1, NIGHTS + 1):
            if night in (WORSE_CHAMPION, ROLLED_BACK):
                made.promote(int(night == WORSE_CHAMPION))
            if night == SERVER_CHANGED:
                drift(made.server, 2)
            before = len(made.server.requests)
            found = made.night(night)
            if night not in (1, SERVER_CHANGED):
                # the others count the tokens of prompts, of which this server tells nothing
                asked = [one for one in made.server.requests[before:] if one["max_tokens"] != 1]
                assert len(asked) == 12, f"only the canary is asked anew in night {night}"
            seen.append(found)
        yield made, seen


def test_alarms_are_raised_in_the_right_nights_and_in_no_other(weeks: tuple[World, list[Night]]) -> None:
    _, seen = weeks
    alarmed = {number: night.alarms for number, night in enumerate(seen, 1) if night.alarms}
    assert set(alarmed) == {WORSE_CHAMPION, ROLLED_BACK - 1, SERVER_CHANGED}
    assert "champion: token_f1 held-in fell by 7.3 points" in alarmed[WORSE_CHAMPION][0]
    assert len(alarmed[WORSE_CHAMPION]) == 1
    assert alarmed[SERVER_CHANGED][0].startswith("other drifted")


def test_a_drifted_server_is_asked_everything_anew_and_then_is_what_it_is(weeks: tuple[World, list[Night]]) -> None:
    made, seen = weeks
    before, then, after = (seen[number - 1].models["other"] for number in range(SERVER_CHANGED - 1, SERVER_CHANGED + 2))
    assert before["weights"] == then["weights"] and before["answers"] != then["answers"]
    assert then == after and then["anew"] == seen[SERVER_CHANGED - 1].date
    assert {night.models["champion"]["anew"] for night in seen} == {""}
    assert seen[SERVER_CHANGED - 1].changed["other"] and not seen[-1].canary["other"]["changed"]
    assert len([one for one in made.server.requests if one["max_tokens"] != 1]) == 2 * QUESTIONS + NIGHTS * 12


def test_the_record_holds_no_text_of_a_question(weeks: tuple[World, list[Night]]) -> None:
    made, _ = weeks
    place = store.open_store(made.ws.store)
    texts = [place.read(key).decode() for key in place.list("nights/")]
    assert len(texts) == NIGHTS and not [text for text in texts if "What is new" in text]


def test_mlflow_has_one_finished_run_for_each_night(weeks: tuple[World, list[Night]]) -> None:
    made, seen = weeks
    api = tracking.client(made.ws)
    runs = api.search_runs([tracking.experiment(made.ws, f"{NAME}-nightly")])
    assert sorted(run.info.run_name for run in runs) == [night.date for night in seen]
    assert {run.info.status for run in runs} == {"FINISHED"}
    by_night = {run.info.run_name: run.data for run in runs}
    worse, good = by_night[seen[WORSE_CHAMPION - 1].date], by_night[seen[0].date]
    key = "bench/held_in/token_f1"
    assert good.metrics[key] - worse.metrics[key] == pytest.approx(16 / 220)
    assert (good.tags["medmim.verdict"], worse.tags["medmim.verdict"]) == ("quiet", "alarm")
    assert worse.metrics["alarms"] == 1


def test_the_page_shows_the_nights_and_loads_nothing(weeks: tuple[World, list[Night]]) -> None:
    made, seen = weeks
    recipe, ws = made.on(SERVER_CHANGED)
    page = Page(Path(trend.run(recipe, ws).facts["path"]).read_text())
    drawn = seen[:SERVER_CHANGED]
    assert all(night.date in page.text for night in drawn) and seen[SERVER_CHANGED].date not in page.text
    assert drawn[-1].alarms[0].split(":")[0] in page.text and "What is new" in page.text
    assert page.figures == 2  # held-in and held-out
    for night in drawn:
        alarmed = f"{night.date}: {'; '.join(night.alarms)}"
        assert page.titles.count(alarmed) == (2 * 2 if night.alarms else 0), "a line and its flag, in each figure"
        for row in night.scores:
            shown = f"{night.date}, {row['model']}: {row['value']:.1%} ({row['low']:.1%} to {row['high']:.1%})"
            assert row["group"].startswith("ability:") or any(title.startswith(shown) for title in page.titles)


def test_garbage_collection_keeps_what_the_next_night_compares_with_and_every_record(
    weeks: tuple[World, list[Night]], tmp_path: Path
) -> None:
    made, seen = weeks
    shutil.copytree(made.ws.home, tmp_path / "home")
    ws = replace(made.ws, home=tmp_path / "home", store=str(tmp_path / "home" / "store"))
    gc.adopt(ws)  # of the nights alone: no training registered their champions in MLflow
    place = store.open_store(ws.store)
    later = max(when for when, _ in place.ages().values()) + 400 * gc.DAY
    gone = {item.name for item in gc.collect(ws, gc.plan(ws, last=1, days=0, now=later))}
    assert any(name.startswith("night/") for name in gone) and any(name.startswith("runs/") for name in gone)
    assert len(records.read(ws, NAME)) == NIGHTS
    kept = {own["answers"] for night in seen[-WINDOW:] for own in night.models.values()}
    for night in seen[-WINDOW:]:
        watch.answers(ws, night.date, night.bench, "champion")
    assert all(store.find(f"{ws.store}/answers/{digest}") for digest in kept)


def test_a_night_killed_at_any_write_of_its_record_resumes_to_the_same(weeks: tuple[World, list[Night]]) -> None:
    made, seen = weeks
    recipe, ws = made.on(22)
    artifact = rebench.run(recipe, ws, made.data, roster.models(recipe, ws)).uri
    key, deaths = f"nights/{NAME}/{recipe.nightly.date}.json", 0
    while killed_at(deaths, FolderStore, ("create", "write"), lambda: watch.run(recipe, ws, artifact)):
        deaths += 1
        whole = store.open_store(ws.store).exists(key)
        assert not whole or json.loads(store.open_store(ws.store).read(key))["run"] == ws.run
    assert deaths == 2  # the record, and the stage's own
    text = store.open_store(ws.store).read(key)
    watch.run(recipe, ws, artifact)
    assert store.open_store(ws.store).read(key) == text
    api = tracking.client(ws)
    runs = api.search_runs([tracking.experiment(ws, f"{NAME}-nightly")])
    assert [run.info.run_name for run in runs].count(str(recipe.nightly.date)) == 1


def test_of_two_nightlies_at_once_one_wins_and_the_other_fails(weeks: tuple[World, list[Night]]) -> None:
    made, _ = weeks
    recipe, ws = made.on(23)
    both = [replace(ws, run=records.run_name(NAME, str(recipe.nightly.date), mark)) for mark in ("1", "2")]
    artifact = rebench.run(recipe, both[0], made.data, roster.models(recipe, ws)).uri

    def one(own: object) -> str:
        try:
            watch.run(recipe, own, artifact)  # type: ignore[arg-type]
        except UserError as error:
            return f"{error.exit_code} {error}"
        return "won"

    tracking.client(ws)  # MLflow's import is not for two threads at once
    with ThreadPoolExecutor(2) as threads:
        results = sorted(threads.map(one, both))
    assert results[1] == "won" and results[0].startswith(
        "2 the night of 2026-06-29 of recipe weeks is taken by run weeks-"
    )
    loser = both[0] if records.find(ws, NAME, "2026-06-29").run == both[1].run else both[1]  # type: ignore[union-attr]
    with pytest.raises(UserError, match="is taken by run"):
        rebench.run(recipe, loser, made.data, roster.models(recipe, ws))


def test_an_accepted_regression_is_no_alarm(weeks: tuple[World, list[Night]]) -> None:
    made, _ = weeks
    made.promote(1)
    recipe, ws = made.on(24)
    seen = rebench.run(recipe, ws, made.data, roster.models(recipe, ws))
    tonight = rebench.read(ws, seen.uri)
    before = records.read(ws, NAME)
    assert watch._compare(recipe, ws, tonight, before).alarms
    notes = watch._compare(recipe, ws, {**tonight, "data": "f" * 64}, before).notes
    common = f"{QUESTIONS} of {QUESTIONS} questions in common"
    assert f"another data set than the night before (2026-06-29): {common}" in notes
    accepted, _ = made.on(24, since="2026-06-30")
    assert watch._compare(accepted, ws, tonight, before).alarms == []


def test_a_server_that_is_down_ends_with_try_again_and_nothing_is_recorded(
    weeks: tuple[World, list[Night]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import tenacity

    monkeypatch.setattr(tenacity, "wait_exponential_jitter", lambda *_, **__: tenacity.wait_none())
    made, _ = weeks
    recipe, ws = made.on(25)
    models = roster.models(recipe, ws) | {"other": "openai:http://127.0.0.1:9/v1#other"}
    with pytest.raises(Unavailable, match="does not answer"):
        rebench.run(recipe, ws, made.data, models)
    assert records.find(ws, NAME, str(recipe.nightly.date)) is None
    page = Path(trend.run(recipe, ws).facts["path"]).read_text()
    assert "stopped at rebench" in page and "does not answer" in page


def test_a_night_in_the_future_is_refused(weeks: tuple[World, list[Night]]) -> None:
    made, _ = weeks
    recipe, _ = made.on(36500)
    with pytest.raises(UserError, match=r"nightly.date is 2126-.*and today is"):
        rebench.date_of(recipe)


def test_an_alarm_ends_the_stage_after_its_record(weeks: tuple[World, list[Night]]) -> None:
    made, _ = weeks
    recipe, ws = made.on(SERVER_CHANGED)
    artifact = rebench.run(recipe, ws, made.data, roster.models(recipe, ws)).uri
    with pytest.raises(Refused, match="raises 1 alarm"):
        watch.run(recipe, ws, artifact)
    record = json.loads(store.open_store(ws.store).read(f"runs/{ws.run}/watch.json"))
    assert (record["status"], record["exit_code"]) == ("refused", 1) and record["facts"]["alarms"]
