"""The commands medmim submit and medmim runs, against KFP's contract server."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from medmim.cli.app import app
from medmim.cluster.kfp import follow
from medmim.errors import UserError
from medmim.store import open_store
from tests.cluster.ray.test_bad_cluster import kubeconfig_of
from tests.support.kfp_world import World, a_world
from tests.support.kube_pods import kube_pods, waits
from tests.support.waiting import until


@pytest.fixture
def world(tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(follow, "POLL", 0.05)
    with a_world(tmp_path, f"{bucket}/store", monkeypatch) as found:
        found.kfp.front.pages = True
        monkeypatch.setenv("KFP_ENDPOINT", found.kfp.address)
        monkeypatch.setenv("MEDMIM_IMAGE", found.image)
        monkeypatch.setenv("MEDMIM_STORE", found.store)
        monkeypatch.chdir(tmp_path)
        yield found


def call(*words: str) -> tuple[int, str]:
    """Exit code and output of a command."""
    ended = CliRunner().invoke(app, words)
    if isinstance(ended.exception, UserError):
        return ended.exception.exit_code, f"{ended.output}\nerror: {ended.exception}"
    assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exc_info
    return ended.exit_code, ended.output


def json_of(*words: str) -> Any:
    """What a command prints as JSON."""
    code, text = call(*words, "--json")
    assert code == 0, text
    return json.loads(text.splitlines()[-1])


def test_a_recipe_is_submitted_shown_and_cancelled(world: World) -> None:
    made = json_of("submit", "demo")
    assert set(made) == {"run", "run_id", "link", "recipe", "pipeline", "version", "new_version"}
    (listed,) = json_of("runs", "list")["runs"]
    assert (listed["name"], listed["state"]) == (made["run"], "PENDING")
    world.kfp.begin(world.kfp.run(made["run"]), "data", log="hello\n", state="SUCCEEDED")
    assert [step["name"] for step in json_of("runs", "show", made["run"])["steps"]] == ["data"]
    assert json_of("runs", "logs", made["run"], "data") == [{"source": "data", "text": "hello"}]
    assert json_of("runs", "cancel", made["run_id"])["cancelled"] is True
    assert json_of("runs", "cancel", made["run"])["cancelled"] is False


def test_text_output_has_links_steps_and_messages(world: World) -> None:
    code, text = call("submit", "demo")
    assert code == 0 and "/#/runs/details/" in text and "(new)" in text and "@sha256:" in text
    (run,) = world.kfp.state.runs.values()
    world.kfp.begin(run, "data", state="SUCCEEDED")
    world.record(
        run["display_name"], "data", uri="s3://b/data/1", message="40 rows are bad", facts={"path": "/home/in-a-pod"}
    )
    code, text = call("runs", "show", run["display_name"])
    assert code == 0 and "✓ data" in text and "s3://b/data/1" in text and "40 rows are bad" in text
    assert "/home/in-a-pod" not in text, "a file of a pod that is gone"
    code, text = call("runs", "cancel", run["display_name"])
    assert code == 0 and "Lease" in text and "resumes from them" in text
    assert call("runs", "cancel", run["display_name"]) == (0, f"run {run['display_name']} is canceling already\n")


def test_a_run_that_cannot_end_is_deleted_and_its_recipe_submitted_again(world: World) -> None:
    made = json_of("submit", "demo")
    world.kfp.delete_workflow(world.kfp.run(made["run"]))
    code, text = call("runs", "cancel", made["run"])
    assert code == 2 and f"medmim runs delete {made['run']}" in text
    assert json_of("runs", "delete", made["run"]) == {
        "run": made["run"], "run_id": made["run_id"], "was": "CANCELING", "deleted": True,
    }  # fmt: skip
    assert open_store(world.store).exists(f"runs/{made['run']}/recipe.json")
    json_of("submit", "demo")


def test_no_link_is_printed_where_only_the_api_is_known(world: World) -> None:
    """Service ml-pipeline, which docs/runs.md forwards a port to, has no pages."""
    world.kfp.front.pages = False
    made = json_of("submit", "demo")
    texts = [call("runs", "list"), call("runs", "show", made["run"]), call("submit", "demo")]
    assert made["link"] == "" and not any("/#/" in text for _, text in texts)
    assert all(made["run"] in text for _, text in texts)


def test_a_dry_run_prints_what_would_be_done_and_does_nothing(world: World, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    plan = json_of("submit", "demo", "--dry-run")
    assert plan["new_version"] and plan["image"].startswith(f"{world.registry.address}/medmim@sha256:")
    assert call("submit", "demo", "--dry-run")[1].count("nothing was changed") == 1
    assert world.kfp.changes() == [] and world.left() == [] and sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("end", "record", "code", "message"),
    [
        ("SUCCEEDED", None, 0, "succeeded"),
        ("FAILED", {"status": "refused", "exit_code": 1, "message": "worse than the champion"}, 1, "worse than"),
        ("FAILED", {"status": "failed", "exit_code": 2, "message": "no such base"}, 2, "gate: no such base"),
        ("FAILED", {"status": "failed", "exit_code": 75, "message": "S3 is away"}, 75, "gate: S3 is away"),
        ("CANCELED", None, 75, "was cancelled"),
        ("SKIPPED", None, 75, "is SKIPPED"),
    ],
)
def test_waiting_ends_as_the_run_ends(
    world: World, end: str, record: dict[str, Any] | None, code: int, message: str
) -> None:
    def course() -> None:
        run = until(lambda: next(iter(world.kfp.state.runs.values()), None))
        world.kfp.begin(run, "gate", state="FAILED" if record else "SUCCEEDED")
        if record:
            world.record(run["display_name"], "gate", **record)
        world.kfp.end(run, end)

    threading.Thread(target=course, daemon=True).start()
    ended, text = call("submit", "demo", "--wait", "--json")
    last = json.loads(text.splitlines()[-1])
    assert (ended, last["exit_code"], last["state"]) == (code, code, end)
    assert text.splitlines()[-2].endswith("refused" if code == 1 else end.lower())
    assert message in text and "gate" in text


def test_a_model_that_awaits_approval_is_shown_with_the_command_that_promotes_it(world: World) -> None:
    command = "medmim registry promote demo-candidate 3 --why ... --on-cluster --namespace medmim"
    facts = {"decision": "awaiting approval", "command": command}

    def course() -> None:
        run = until(lambda: next(iter(world.kfp.state.runs.values()), None))
        world.kfp.begin(run, "promote", state="SUCCEEDED")
        world.record(run["display_name"], "promote", facts=facts)
        world.kfp.end(run, "SUCCEEDED")

    threading.Thread(target=course, daemon=True).start()
    code, text = call("submit", "demo", "--wait")
    assert code == 0 and f"decision: awaiting approval: {command}\n" in text
    (run,) = world.kfp.state.runs
    assert f"awaiting approval: {command}\n" in call("runs", "show", run)[1]


def test_the_pipeline_by_which_people_promote_is_uploaded_once_and_not_started(world: World) -> None:
    made = json_of("registry", "pipeline")
    assert (made["pipeline"], made["new_version"]) == ("medmim-promote", True)
    assert made["image"].startswith(f"{world.registry.address}/medmim@sha256:") and made["version"] in str(made)
    assert json_of("registry", "pipeline")["new_version"] is False
    assert call("registry", "pipeline")[1].splitlines()[-1] == made["link"]
    assert world.kfp.state.runs == {}


@pytest.mark.parametrize(("end", "code"), [("SUCCEEDED", 0), ("FAILED", 75)])
def test_a_run_that_was_lost_is_retried_once_and_waited_for(world: World, end: str, code: int) -> None:
    def course() -> None:
        run = until(lambda: next(iter(world.kfp.state.runs.values()), None))
        world.kfp.begin(run, "data", state="SUCCEEDED")
        world.record(run["display_name"], "data")
        world.kfp.begin(run, "finetune", state="FAILED")
        world.kfp.end(run, "FAILED")
        until(lambda: run["state"] == "RUNNING")
        world.kfp.begin(run, "finetune", state="SUCCEEDED" if code == 0 else "FAILED")
        world.kfp.end(run, end)

    thread = threading.Thread(target=course, daemon=True)
    thread.start()
    ended, text = call("submit", "demo", "--wait", "--json")
    thread.join(30)
    last = json.loads(text.splitlines()[-1])
    assert (ended, last["exit_code"], last["state"]) == (code, code, end)
    assert text.count("KFP retries the run, once") == 1 and ("no stage recorded why: a pod was lost" in text) == bool(
        code
    )
    assert len([one for one in world.kfp.changes() if ":retry" in one]) == 1
    assert len(reports(world)) == 1, "KFP's retry writes none"


def reports(world: World) -> list[str]:
    return [key for key in world.left() if key.startswith("report/") and key.endswith("manifest.json")]


@pytest.mark.parametrize("said", ["in the history", "nowhere"])
def test_show_writes_the_report_of_a_cancelled_run_once(world: World, said: str) -> None:
    """KFP's cancel ends the report's pod, too, unless that has begun; and may call the run failed."""
    made = json_of("submit", "demo")
    run = world.kfp.run(made["run"])
    world.kfp.begin(run, "data", state="SUCCEEDED")
    world.record(made["run"], "data", seconds=7.0)
    world.kfp.begin(run, "finetune", state="FAILED")
    if said == "in the history":
        world.kfp.report_canceling(run)
    world.kfp.end(run, "FAILED")
    shown = [json_of("runs", "show", made["run"]) for _ in range(2)]
    (uri, again) = (one["steps"][-1]["record"]["uri"] for one in shown)
    assert uri == again and uri.startswith(f"{world.store}/report/") and len(reports(world)) == 1
    page = open_store(uri).read("report.html").decode()
    assert made["run"] in page and "7.0" in page
    assert uri in call("runs", "show", made["run"])[1]


def test_waiting_writes_the_report_of_a_cancelled_run(world: World) -> None:
    def course() -> None:
        run = until(lambda: next(iter(world.kfp.state.runs.values()), None))
        world.kfp.begin(run, "data")
        world.kfp.report_canceling(run)
        world.kfp.end(run, "FAILED")

    threading.Thread(target=course, daemon=True).start()
    code, text = call("submit", "demo", "--wait", "--json")
    (step,) = [one for one in json.loads(text.splitlines()[-1])["steps"] if one["name"] == "report"]
    assert code == 75 and f"report: {step['record']['uri']}" in text and len(reports(world)) == 1


@pytest.mark.parametrize("course", ["running", "succeeded", "nightly", "reported", "failed at once"])
def test_no_report_is_written_of_a_run_that_goes_on_has_one_or_needs_none(world: World, course: str) -> None:
    made = json_of("submit", "demo")
    run = world.kfp.run(made["run"])
    if course != "failed at once":
        world.record(made["run"], "rebench" if course == "nightly" else "data")
    if course == "reported":
        world.record(made["run"], "report")
    if course != "running":
        world.kfp.end(run, "SUCCEEDED" if course == "succeeded" else "FAILED")
    json_of("runs", "show", made["run"])
    assert reports(world) == []


def test_that_a_report_cannot_be_written_is_a_note(world: World) -> None:
    made = json_of("submit", "demo")
    run = world.kfp.run(made["run"])
    world.kfp.report_canceling(run)
    world.kfp.end(run, "FAILED")
    open_store(world.store).delete(f"runs/{made['run']}/recipe.json")
    assert "its report could not be written: there is no recipe at" in json_of("runs", "show", made["run"])["notes"][0]


@pytest.mark.parametrize(
    ("event", "message", "still_running"),
    [
        ("redirect", "a login page answers", True),
        ("page", "a login page answers", True),
        ("refuse", "does not accept this account (403)", True),
        ("401", "does not accept this account (401)", True),
        ("403", "forbids getting a run", True),
        ("deleted", "was deleted in KFP", False),
    ],
)
def test_where_kfp_refuses_to_answer_the_waiting_ends_and_not_the_run(
    world: World, event: str, message: str, still_running: bool
) -> None:
    front = world.kfp.front

    def course() -> None:
        run = until(lambda: next(iter(world.kfp.state.runs.values()), None))
        world.kfp.begin(run, "data")
        before = len(front.requests)
        until(lambda: len(front.requests) > before + 2)  # the first may have been on its way, the second was answered
        if event == "deleted":
            world.kfp.state.runs.clear()
        elif event.isdigit():
            front.fail.append(("GET .*/runs/", int(event)))
        else:
            front.login, front.cookie = event, "authservice_session=of-a-new-login"

    thread = threading.Thread(target=course, daemon=True)
    thread.start()
    ended, text = call("submit", "demo", "--wait", "--json")
    thread.join(30)
    last = json.loads(text.splitlines()[-1])
    assert (ended, last["exit_code"], last["state"]) == (75, 75, "RUNNING")
    assert [step["name"] for step in last["steps"]] == ["data"]
    assert message in text and (f"the run is still running: {last['link']}" in text) == still_running
    assert "stopped waiting" in text and last["run_id"]


def test_a_run_of_others_and_a_broken_record_are_reported_in_every_command(world: World) -> None:
    made = json_of("submit", "demo")
    run = world.kfp.run(made["run"])
    world.kfp.begin(run, "data", log="hello\n", state="SUCCEEDED")
    open_store(world.store).write(f"runs/{made['run']}/data.json", b"half a reco")
    code, text = call("runs", "show", made["run"])
    assert code == 0 and f"note: the record data.json of run {made['run']} cannot be read" in text
    assert call("runs", "logs", made["run"]) == (0, "== data\nhello\n")
    description, run["description"] = run["description"], "of others"
    code, text = call("runs", "cancel", made["run"])
    assert code == 2 and "not submitted by medmim" in text and made["link"] in text
    run["description"] = description
    assert json_of("runs", "cancel", made["run"])["cancelled"] is True


def test_an_interrupt_ends_only_the_waiting(world: World) -> None:
    command = [sys.executable, "-m", "medmim.cli.main", "submit", "demo", "--wait"]
    waiting = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # in the background shells ignore it
    )  # fmt: skip
    run = until(lambda: next(iter(world.kfp.state.runs.values()), None), 120)
    until(lambda: any(f"GET /apis/v2beta1/runs/{run['run_id']}" in one for one in world.kfp.front.requests), 60)
    time.sleep(1)
    waiting.send_signal(signal.SIGINT)
    out, err = waiting.communicate(timeout=60)
    assert waiting.returncode == 130 and "Traceback" not in err + out
    assert "stopped waiting, the run is still running" in err and f"medmim runs cancel {run['display_name']}" in err
    assert run["state"] == "PENDING"


def test_bad_input_ends_with_2_and_one_message(world: World, tmp_path: Path) -> None:
    code, text = call("submit", "demo", "--set", f"platform.store={tmp_path}/store", "--set", "platform.ray=auto")
    assert code == 2 and "platform.store" in text and "platform.ray" in text and "Traceback" not in text
    code, text = call("submit", "demo", "--host", "http://127.0.0.1:1")
    assert code == 75 and "does not answer" in text
    json_of("submit", "demo")
    code, text = call("submit", "demo")
    assert code == 2 and "is running (PENDING)" in text
    assert len(world.kfp.state.runs) == 1


@pytest.mark.parametrize("words", [("show",), ("cancel",), ("logs",)])
def test_an_unknown_run_is_reported(world: World, words: tuple[str, ...]) -> None:
    made = json_of("submit", "demo")
    code, text = call("runs", *words, made["run"][:-1])
    assert code == 2 and f"the nearest names are {made['run']}" in text


def test_what_a_pod_waits_for_is_shown_while_waiting_and_by_show_and_logs(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kube_pods() as (pods, address):
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig_of(tmp_path, address)))
        shown: dict[str, tuple[int, str]] = {}

        def course() -> None:
            run = until(lambda: next(iter(world.kfp.state.runs.values()), None))
            pods.add("a", world.kfp.node(run, "data"), run["run_id"], waits("ImagePullBackOff", "no such image"))
            world.kfp.begin(run, "data", state="PENDING")
            time.sleep(0.5)
            pods.pods["a"]["status"] = waits("ImagePullBackOff", "no such image, 10 s later")
            for command in ("show", "logs"):
                shown[command] = call("runs", command, run["display_name"])
            world.kfp.end(run, "SUCCEEDED")

        thread = threading.Thread(target=course, daemon=True)
        thread.start()
        _, text = call("submit", "demo", "--wait")
        thread.join(30)
    why = "has not started: ImagePullBackOff: no such image"
    assert text.count(why) == 1, text
    assert shown["show"][0] == 0 and why in shown["show"][1] and "pending" in shown["show"][1]
    assert shown["logs"][0] == 2 and why in shown["logs"][1]


def test_logs_report_an_unknown_step_and_pods_that_are_gone(world: World) -> None:
    made = json_of("submit", "demo")
    code, text = call("runs", "logs", made["run"], "data")
    assert code == 2 and "it has not started" in text
    run = world.kfp.run(made["run"])
    world.kfp.begin(run, "finetune")
    code, text = call("runs", "logs", made["run"])
    assert code == 2 and "finetune: KFP for one user gives no log of a pod that runs" in text
    open_store(world.store).write(f"runs/{made['run']}/jobs/finetune-1/logs/head/ray-head.log", b"loss 0.1\n")
    assert call("runs", "logs", made["run"]) == (0, "== jobs/finetune-1/logs/head/ray-head.log\nloss 0.1\n")


def test_a_log_is_followed_until_the_run_has_ended(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from medmim.cluster.kfp import logs

    monkeypatch.setattr(logs, "POLL", 0.05)
    made = json_of("submit", "demo")
    run = world.kfp.run(made["run"])
    world.kfp.state.multi_user, run["_namespace"] = True, "team-a"  # a server for one user has no log of a running pod
    world.kfp.begin(run, "data", log="one\n")

    def course() -> None:
        time.sleep(0.5)
        world.kfp.begin(run, "data", log="one\ntwo\nthr")
        time.sleep(0.5)
        world.kfp.begin(run, "data", log="one\ntwo\nthree\n", state="SUCCEEDED")
        world.kfp.end(run, "SUCCEEDED")

    threading.Thread(target=course, daemon=True).start()
    assert call("runs", "logs", made["run"], "--follow", "-n", "team-a") == (0, "== data\none\ntwo\nthree\n")


def test_an_empty_server_has_no_runs(world: World) -> None:
    assert json_of("runs", "list") == {"runs": [], "next_page": None}
    assert call("runs", "list") == (0, "no runs\n")


def test_pages_follow_each_other(world: World) -> None:
    for seed in range(3):
        json_of("submit", "demo", "--set", f"data.seed={seed}")
    first = json_of("runs", "list", "--limit", "2")
    rest = json_of("runs", "list", "--limit", "2", "--page", first["next_page"])
    assert (len(first["runs"]), len(rest["runs"]), rest["next_page"]) == (2, 1, None)
    code, text = call("runs", "list", "--page", "nonsense")
    assert code == 2 and "Invalid page token" in text and "start again without --page" in text


def test_the_pipeline_of_a_recipe_is_the_one_that_is_submitted(world: World, tmp_path: Path) -> None:
    bench = {"models": {"a": "tiny-mantis"}}
    values = {"name": "c", "pipeline": "bench", "data": {"source": "phantom"}, "bench": bench}
    (tmp_path / "c.yaml").write_text(json.dumps(values))
    made = json_of("submit", str(tmp_path / "c.yaml"), "--set", "platform.tracking=http://mlflow:5000")
    assert made["pipeline"] == "medmim-bench"
