"""`medmim nightly` as a user types it: on the cluster's contract server; on this machine see test_pipeline."""

import json
import os
import platform
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medmim.cli.app import app
from medmim.cluster.kfp import follow
from medmim.errors import UserError
from medmim.nightly import records
from medmim.recipe.parameter import from_parameter
from medmim.recipe.schema import Recipe
from medmim.run import kfp_local
from medmim.run.lock import locked
from medmim.run.screen import Screen
from medmim.run.stage import stage
from medmim.run.workspace import Workspace
from medmim.sample import digest_of
from medmim.store import open_store
from tests.support.kfp_world import World, a_world
from tests.support.waiting import until

DAY = "2026-06-01"


@pytest.fixture
def cluster(tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with a_world(tmp_path, f"{bucket}/store", monkeypatch) as found:
        yield found


def typed(cluster: World, day: str = DAY) -> list[str]:
    words = ["nightly", "demo", "--submit", "--json", "--host", cluster.kfp.address, "--namespace", "team-a"]
    words += ["--image", cluster.image, "--set", f"nightly.date={day}"]
    return [*words, "--set", f"platform.store={cluster.store}", "--set", "platform.tracking=http://mlflow:5000"]


def submit(cluster: World, *more: str, day: str = DAY) -> dict[str, object]:
    """What --json prints last; raises what the command raises."""
    ended = CliRunner().invoke(app, [*typed(cluster, day), *more])
    if ended.exception and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    assert ended.exit_code == 0, ended.output
    found: dict[str, object] = json.loads(ended.stdout.strip().splitlines()[-1])
    return found


def refused(cluster: World, *more: str, day: str = DAY) -> UserError:
    before = cluster.left()
    with pytest.raises(UserError) as error:
        submit(cluster, *more, day=day)
    assert error.value.exit_code == 2 and error.value.fix, error.value
    assert cluster.left() == before, "nothing is left behind"
    return error.value


def test_a_night_is_one_run_of_the_nightly_pipeline_and_knows_its_day(cluster: World) -> None:
    made = submit(cluster)
    assert (made["night"], made["run"], made["pipeline"]) == (DAY, "demo-nightly-20260601-1", "medmim-nightly")
    (run,) = cluster.kfp.state.runs.values()
    parameters = run["runtime_config"]["parameters"]
    assert set(parameters) == {"recipe", "home", "run"} and parameters["run"] == made["run"]
    assert from_parameter(parameters["recipe"]).nightly.date == DAY


def test_a_second_submission_of_the_night_is_refused_and_the_next_night_is_not(cluster: World) -> None:
    first = submit(cluster)
    cluster.kfp.end(cluster.kfp.run(str(first["run"])), "FAILED")
    assert f"is taken by run {first['run']}" in str(refused(cluster))
    assert submit(cluster, "--again")["run"] == "demo-nightly-20260601-2"
    assert submit(cluster, day="2026-06-02")["run"] == "demo-nightly-20260602-1"
    assert len(cluster.kfp.state.runs) == 3


def test_of_two_submitters_at_once_one_wins(cluster: World) -> None:
    command = [sys.executable, "-m", "medmim.cli.main", *typed(cluster)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [(*one.communicate(timeout=120), one.returncode) for one in both]
    assert sorted(code for *_, code in said) == [0, 2], said
    assert len(cluster.kfp.state.runs) == 1


def test_a_night_that_lost_a_pod_goes_on_and_one_that_was_submitted_is_followed(
    cluster: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CronJob's own pod may be drained as well: the next one waits for the same run."""
    monkeypatch.setattr(follow, "POLL", 0.05)

    def course() -> None:
        run = until(lambda: next(iter(cluster.kfp.state.runs.values()), None))
        cluster.kfp.begin(run, "rebench", state="FAILED")
        cluster.kfp.end(run, "FAILED")
        until(lambda: run["state"] == "RUNNING")
        cluster.kfp.begin(run, "rebench", state="SUCCEEDED")
        cluster.kfp.end(run, "SUCCEEDED")

    thread = threading.Thread(target=course, daemon=True)
    thread.start()
    first = submit(cluster, "--wait")
    thread.join(30)
    assert (first["state"], first["exit_code"], first["new_version"]) == ("SUCCEEDED", 0, True)
    cluster.record(str(first["run"]), "watch", status="refused", exit_code=1, message="accuracy fell")
    cluster.kfp.end(cluster.kfp.run(str(first["run"])), "FAILED")
    ended = CliRunner().invoke(app, [*typed(cluster), "--wait"])
    again = json.loads(ended.stdout.strip().splitlines()[-1])
    assert (ended.exit_code, again["run_id"], again["exit_code"]) == (1, first["run_id"], 1)
    assert again["version"] is None and len(cluster.kfp.state.runs) == 1


def test_a_night_that_is_recorded_is_not_submitted_again(cluster: World) -> None:
    text = json.dumps({"date": DAY, "run": "somebody", "data": "", "bench": "", "models": {}, "scores": []})
    open_store(cluster.store).write(f"nights/demo/{DAY}.json", text.encode())
    for more in ((), ("--again",)):
        assert "is taken by run somebody" in str(refused(cluster, *more))


def test_what_no_pod_can_reach_is_refused_at_once(cluster: World, tmp_path: Path) -> None:
    refs = f"[{tmp_path}, 'openai:http://localhost:8000/v1#a', tiny-mantis]"
    error = refused(cluster, "--set", f"nightly.references={refs}")
    assert len(error.problems) == 2 and str(tmp_path) in str(error)
    assert "platform.store" in str(refused(cluster, "--set", "platform.store=/a/folder"))


def test_where_submitting_fails_the_claim_is_withdrawn(cluster: World) -> None:
    cluster.kfp.front.fail.append(("POST .*/runs", 400))
    refused(cluster)
    assert submit(cluster)["run"] == "demo-nightly-20260601-1"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--set", "nightly.date=yesterday"], "nightly.date"),
        (["--set", "nightly.date=20260601"], "nightly.date"),
        (["--set", "nightly.noise=1"], "nightly.noise"),
        (["--set", "nightly.canry=3"], "did you mean 'nightly.canary'"),
        (["--set", f"nightly.date={(datetime.now(UTC) + timedelta(days=3)).date()}"], "and today is"),
        (["--again"], "--again goes with --submit"),
        (["--wait"], "--wait goes with --submit"),
    ],
)
def test_bad_input_is_an_error_before_anything_is_made(tmp_path: Path, more: list[str], message: str) -> None:
    ended = CliRunner().invoke(app, ["nightly", "demo", "--home", str(tmp_path / "home"), *more])
    assert isinstance(ended.exception, UserError) and ended.exception.exit_code == 2
    assert message in str(ended.exception)
    assert not (tmp_path / "home").exists()


def test_a_night_of_another_home_in_the_same_store_is_an_error(tmp_path: Path) -> None:
    text = json.dumps({"date": DAY, "run": "somebody", "data": "", "bench": "", "models": {}, "scores": []})
    open_store(str(tmp_path / "store")).write(f"nights/demo/{DAY}.json", text.encode())
    typed = ["nightly", "demo", "--home", str(tmp_path / "home"), "--set", f"platform.store={tmp_path / 'store'}"]
    ended = CliRunner().invoke(app, [*typed, "--set", f"nightly.date={DAY}"])
    assert isinstance(ended.exception, UserError) and "is taken by run somebody" in str(ended.exception)


def night_of(home: Path) -> tuple[list[str], Workspace]:
    """What is typed for a night of that home, and the workspace of its run."""
    suffix = digest_of([platform.node(), str(home)])[:4]
    ws = Workspace(home, str(home / "store"), "", records.run_name("demo", DAY, suffix))
    return ["nightly", "demo", "--home", str(home), "--set", f"nightly.date={DAY}"], ws


@pytest.mark.parametrize("as_json", [True, False])
def test_a_night_that_is_recorded_says_so_when_it_is_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    typed, ws = night_of(tmp_path)
    seen = records.Night(date=DAY, run=ws.run, data="", bench="", models={}, scores=[], notes=["few"])

    def again(name: str, parsed: Recipe, ws: Workspace, screen: Screen) -> int:  # as watch ends on a recorded night
        with stage(ws, "watch") as outcome:
            outcome.facts = records.record(ws, parsed.name, seen).__dict__
        return 0

    monkeypatch.setattr(kfp_local, "run_pipeline", again)
    for recorded in (False, True):
        ended = CliRunner().invoke(app, [*typed, "--set", "nightly.drop=0.5", *["--json"] * as_json])
        assert ended.exit_code == 0, ended.output
        said = json.loads(ended.stdout.splitlines()[-1])["notes"] if as_json else ended.output.splitlines()
        assert any("few" in one for one in said)
        assert any("recorded already" in one and "not used" in one for one in said) == recorded


def test_a_night_that_runs_in_another_process_names_its_log_and_no_sentence_in_a_command(tmp_path: Path) -> None:
    typed, ws = night_of(tmp_path)
    folder = kfp_local.log_file(ws).parent
    folder.mkdir(parents=True)
    with locked(folder, UserError):
        ended = CliRunner().invoke(app, typed)
    assert isinstance(ended.exception, UserError) and ended.exception.exit_code == 2
    assert f"is running in process {os.getpid()} on {socket.gethostname()}, as run {ws.run}" in ended.exception.fact
    assert "`" not in ended.exception.fix and str(kfp_local.log_file(ws)) in ended.exception.fix
