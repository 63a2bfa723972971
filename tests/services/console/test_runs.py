"""Runs whose records the real stages, locks and publisher write, as the console shows them."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from medmim import store
from medmim.errors import Refused, UserError
from medmim.page.page import publish
from medmim.recipe import loading
from medmim.run import kfp_local
from medmim.run.provenance import provenance
from medmim.run.stage import RECIPE, STAGES, Outcome, stage
from medmim.run.step_lock import step_lock
from medmim.run.workspace import Workspace
from tests.support.console import browser

RUN = "demo-20260601-020000-ab12"
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def own(tmp_path: Path) -> Workspace:
    """An empty workspace, and a run in it."""
    home = tmp_path / "home"
    home.mkdir()
    return Workspace(home, str(home / "store"), f"sqlite:///{home}/mlflow.db", RUN)


def go(ws: Workspace, *names: str) -> None:
    for name in names:
        with stage(ws, name):
            pass


def long_ago(ws: Workspace) -> None:
    for path in Path(ws.store).rglob("*"):
        os.utime(path, (time.time() - 3600,) * 2)


def get(ws: Workspace, path: str, **links: str) -> str:
    answer = browser(ws, links=links).get(path)
    assert answer.status_code == 200, answer.text
    return answer.text


def test_a_store_without_runs_says_so(own: Workspace) -> None:
    assert "No run has written" in get(own, "/runs")
    answer = browser(own).get(f"/runs/{RUN}")
    assert answer.status_code == 404 and f"there is no run {RUN}" in answer.text


def test_runs_are_listed_the_newest_first_a_page_at_a_time(own: Workspace) -> None:
    for number in range(60):
        go(replace(own, run=f"r-202606{1 + number // 24:02}-{number % 24:02}0000-00{number:02}"), "data", "report")
    first, second = get(own, "/runs"), get(own, "/runs?page=2")
    assert "60 in this store" in first and "0059" in first and "0034" not in first and "0034" in second
    assert first.index("0059") < first.index("0058")


def test_thousands_of_runs_cost_no_more_than_those_that_are_shown(
    own: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3000):
        folder = Path(own.store, "runs", f"r-20260601-{number:06}-ab12")
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(json.dumps(Outcome("report").__dict__))
    read: list[str] = []
    kept = store.open_store(own.store).__class__.read
    monkeypatch.setattr(
        "medmim.store.folder.FolderStore.read", lambda self, key: (read.append(key), kept(self, key))[1]
    )
    begin = time.perf_counter()
    assert "3,000 in this store" in get(own, "/runs")
    assert len(read) == 25
    assert time.perf_counter() - begin < 2  # under 0.1 s on an idle core


def test_a_run_that_ended_shows_what_each_stage_did(own: Workspace) -> None:
    recipe = loading.load("demo")
    go(own, *STAGES[:5])
    with pytest.raises(Refused), stage(own, "gate") as gate:
        gate.facts = {"decision": "refused", "reasons": [f"held_in: too few patients {HOSTILE}"]}
        raise Refused("the gate refuses", problems=["too few patients"])
    with stage(own, "report") as outcome:
        publish(own, f"<h1>the page of the run</h1>{HOSTILE}", own.home / "reports" / "r.html",
                provenance("report", 1, {}, recipe), outcome)  # fmt: skip
    html = get(own, f"/runs/{RUN}")
    assert '<span class="badge" role="status">refused' in html
    assert "too few patients" in html and HOSTILE not in html
    assert "hx-trigger" not in html, "nothing more is to come"
    assert "name: demo" in html, "the recipe, from the provenance of what the run made"
    digest = store.get(outcome.uri).digest
    assert f'href="/reports/{digest}"' in html
    page = browser(own).get(f"/reports/{digest}")
    assert "the page of the run" in page.text
    policy = page.headers["content-security-policy"]
    assert policy.startswith("sandbox") and "allow-scripts" not in policy and "allow-same-origin" not in policy


def test_a_report_that_was_edited_in_the_store_is_not_shown(own: Workspace) -> None:
    with stage(own, "report") as outcome:
        publish(own, "<h1>page</h1>", own.home / "r.html", {}, outcome)
    Path(outcome.uri, "report.html").write_text("<h1>forged</h1>")
    answer = browser(own).get(f"/reports/{outcome.digest}")
    assert answer.status_code >= 400 and "forged" not in answer.text
    assert browser(own).get(f"/reports/{'0' * 64}").status_code == 404


def test_a_running_stage_tells_who_works_and_how_far_it_is(own: Workspace) -> None:
    go(own, "data", "audit")
    place = store.open_store(own.store)
    place.write("resume/finetune-0123456789abcdef/step-00000100/g/a", b"x" * 2000)
    events = kfp_local.events_file(own.home, RUN)
    events.parent.mkdir(parents=True)
    bar = {"kind": "bar", "label": "steps", "done": 120, "total": 220, "unit": "steps", "rate": 2.0, "eta": 50}
    old = {"kind": "line", "time": 0, "stage": "data", "text": "of another stage"}
    lines = [old, {"time": 0, "stage": "finetune", **bar}, "{cut"]
    events.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    with step_lock(place, "finetune-0123456789abcdef", RUN):
        html = get(own, f"/runs/{RUN}")
        assert "steps: 120/220 steps" in html and "of another stage" not in html
        assert f"process {os.getpid()}" in html and "step-00000100, 2.0 kB" in html
        assert "hx-trigger" in html and 'role="status">running' in html
        assert "running" in get(own, "/runs")
    long_ago(own)
    os.utime(events, (time.time() - 3600,) * 2)
    html = get(own, f"/runs/{RUN}")
    assert 'role="status">quiet' in html and "nothing was heard of it" in html


def test_a_failed_stage_shows_its_message_and_the_run_has_failed(own: Workspace) -> None:
    with pytest.raises(UserError), stage(own, "data"):
        raise UserError("the root is empty", reason=HOSTILE, fix="fill it")
    long_ago(own)
    html = get(own, f"/runs/{RUN}")
    assert "the root is empty" in html and 'role="status">failed' in html and HOSTILE not in html


def test_records_of_another_version_and_no_records_at_all_are_named(own: Workspace) -> None:
    go(own, "data")
    place = store.open_store(own.store)
    place.write(f"runs/{RUN}/audit.json", b'{"stage": "audit", "status": "perhaps"}')
    place.write(f"runs/{RUN}/bench.json", b"{")
    place.write(f"runs/{RUN}/{RECIPE}", b"[1]")
    html = get(own, f"/runs/{RUN}")
    assert "the record audit.json" in html and "the record bench.json" in html
    assert "Nothing recorded it" in html
    assert get(own, "/runs").count('<li class="failed"') == 2


def test_the_recipe_is_shown_without_the_password_of_an_address(own: Workspace) -> None:
    go(own, "data")
    recipe = {"name": "demo", "pipeline": "train", "platform": {"tracking": "http://ann:hunter2@mlflow:5000"}}
    store.open_store(own.store).write(f"runs/{RUN}/{RECIPE}", json.dumps(recipe).encode())
    html = get(own, f"/runs/{RUN}")
    assert "http://mlflow:5000" in html and "hunter2" not in html


@pytest.mark.parametrize("named", [True, False])
def test_the_recipe_of_an_artifact_names_a_path_only_where_patients_may_be_named(
    own: Workspace, tmp_path: Path, named: bool
) -> None:
    recipe = {
        "name": "demo",
        "data": {"source": "questions", "root": "/data/Müller", "patients": "Meyer.csv"},
        "finetune": {"base": "/models/Schmidt", "epochs": 3},
        "bench": {"models": ["openai:http://ann:hunter2@host:1/v1#gpt", "llava:/models/Huber"]},
        "platform": {"show_patients": named},
    }
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "x").write_text("x")
    made = store.publish(tmp_path / "made", own.store, "decision", {}, {"recipe": recipe})
    go(own, "data")
    store.open_store(own.store).write(f"runs/{RUN}/{RECIPE}", json.dumps(recipe).encode())
    for path in (f"/artifacts/decision/{made.digest}", f"/runs/{RUN}"):
        html = get(own, path)
        assert "hunter2" not in html and "questions" in html and "host:1/v1#gpt" in html, path
        for name in ("ller", "Meyer", "Schmidt", "Huber"):
            assert (name in html) is named, (path, name)


def test_other_programs_are_linked_where_they_are_known(own: Workspace) -> None:
    go(own, "data")
    with stage(own, "register") as outcome:
        outcome.facts = {"name": "medmim-demo", "version": "3"}
    store.open_store(own.store).write(f"runs/{RUN}/kfp-run", b"8f1c/../x")
    html = get(own, f"/runs/{RUN}", kfp="https://kfp.test", mlflow="https://mlflow.test", ray="https://ray.test")
    assert 'href="https://kfp.test/#/runs/details/8f1c/../x"' in html
    assert 'href="https://mlflow.test/#/models/medmim-demo/versions/3"' in html and "https://ray.test" in html
    assert "Elsewhere" not in get(own, f"/runs/{RUN}")


def test_a_name_that_leaves_the_store_is_no_run(own: Workspace) -> None:
    go(own, "data")
    client: TestClient = browser(own)
    for name in ("%2e%2e", "..%2f..", ".hidden", "a%00b", "x" * 300, "demo%0a"):
        answer = client.get(f"/runs/{name}")
        assert answer.status_code in (400, 404) and "Traceback" not in answer.text, name


def test_a_run_whose_last_record_is_damaged_is_not_called_done(own: Workspace) -> None:
    go(own, *STAGES)
    assert 'role="status">done' in get(own, f"/runs/{RUN}")
    for name in ("report", "gate"):
        record = Path(own.store, "runs", RUN, f"{name}.json")
        kept = record.read_text()
        record.write_text("{")
        html = get(own, f"/runs/{RUN}")
        assert 'role="status">unreadable' in html and "It has ended, and how is not known" in html
        assert "hx-trigger" not in html and 'class="mark bad">unreadable' in get(own, "/runs")
        record.write_text(kept)
    failed = Path(own.store, "runs", RUN, "bench.json")
    failed.write_text(failed.read_text().replace('"done"', '"failed"'))
    Path(own.store, "runs", RUN, "gate.json").write_text("{")
    assert 'role="status">failed' in get(own, f"/runs/{RUN}"), "one record says it"


def test_an_artifact_whose_record_is_damaged_says_so(own: Workspace, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "x").write_text("x")
    made = store.publish(tmp_path / "made", own.store, "decision", {}, {"who": "ann", "recipe": {"name": "demo"}})
    path = f"/artifacts/decision/{made.digest}"
    assert "provenance.json" not in get(own, path)
    for text, told in (("{", "is cut off"), ("[]", "is cut off"), ('{"who": "ann", "recipe": 7}', "says what no step")):
        Path(made.uri, store.PROVENANCE).write_text(text)
        html = get(own, path)
        assert "Its provenance.json" in html and told in html and ">ann<" in html or text in "{[]", text
