"""Through the Jobs API of an existing Ray cluster: the same artifact, the same errors, one job for one request."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from medmim import errors, progress
from medmim.cluster.ray import jobs_api, lease
from medmim.cluster.ray.request import Request, Result, read_result, write_request, write_result
from medmim.data import build
from medmim.errors import BAD_INPUT, TRY_AGAIN, Unavailable, UserError
from medmim.finetune import run as finetune
from medmim.recipe import loading
from medmim.recipe.schema import Platform, Recipe
from medmim.run.workspace import workspace
from tests.cluster.conftest import free_port
from tests.support import workflows
from tests.support.jobs_server import Jobs, serving
from tests.support.kube_server import connected
from tests.support.lossy_proxy import lossy
from tests.support.waiting import until

SMALL = ["data.patients=40", "finetune.steps=2", "finetune.batch_size=4", "platform.threads=1"]


REQUEST = Request("finetune", "{}", "r", {})
NAME = f"finetune-{REQUEST.digest[:16]}-1"


def at(address: str, **pods: object) -> Platform:
    return Platform.model_validate({"ray": address, "pods": pods})


def test_an_address_that_does_not_answer_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "MIN_TRIES", 2)
    with pytest.raises(UserError, match="does not answer") as raised:
        jobs_api.run(REQUEST, at(f"http://127.0.0.1:{free_port()}"), "/nowhere")
    assert raised.value.exit_code == TRY_AGAIN


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    monkeypatch.setattr(jobs_api, "_EVERY", 0.02)
    monkeypatch.setattr(errors, "MIN_TRIES", 2)
    monkeypatch.delenv("MEDMIM_EVENTS", raising=False)
    with serving() as jobs:
        yield jobs


class Step(threading.Thread):
    """A step in a thread: its URI or its error."""

    def __init__(self, server: Jobs, folder: Path) -> None:
        super().__init__(daemon=True)
        self.platform, self.folder = at(server.url), folder
        self.uri, self.error = "", None
        self.start()

    def run(self) -> None:
        try:
            self.uri = jobs_api.run(REQUEST, self.platform, str(self.folder))
        except BaseException as error:
            self.error: BaseException | None = error


def succeeds(server: Jobs, name: str = NAME) -> None:
    job = until(lambda: server.jobs.get(name))
    write_result(job["metadata"]["order"], Result(uri="s3://b/model/1"))
    job["status"] = "SUCCEEDED"


def requests_in(folder: Path) -> list[Path]:
    return [path.parent for path in folder.rglob("order.json")]


def test_a_lost_answer_to_the_start_is_one_job_with_its_request(server: Jobs, tmp_path: Path) -> None:
    lost: list[bool] = []

    def first(method: str, path: str) -> bool:
        if method == "POST" and not lost:
            lost.append(True)
            return True
        return False

    server.lost = first
    step = Step(server, tmp_path)
    succeeds(server)
    step.join(30)
    assert (step.error, step.uri) == (None, "s3://b/model/1")
    assert lost and list(server.jobs) == [NAME]
    assert requests_in(tmp_path) == [Path(server.jobs[NAME]["metadata"]["order"])]


def test_two_steps_at_once_run_one_job(server: Jobs, tmp_path: Path) -> None:
    """Both have seen that there is none, and the server takes one of them."""
    both = threading.Barrier(2)

    def meet(method: str, path: str) -> None:
        if method == "POST" and path == "/api/jobs/" and not server.jobs:
            both.wait(20)

    server.before = meet
    steps = [Step(server, tmp_path) for _ in range(2)]
    succeeds(server)
    for step in steps:
        step.join(30)
    assert [(step.error, step.uri) for step in steps] == [(None, "s3://b/model/1")] * 2
    assert list(server.jobs) == [NAME] and len(requests_in(tmp_path)) == 1


def test_a_server_and_a_store_that_are_away_for_a_while_end_nothing(
    server: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = [3]

    def read(uri: str) -> Result | None:
        if away[0]:
            away[0] -= 1
            raise Unavailable("the store does not answer")
        return read_result(uri)

    monkeypatch.setattr(jobs_api, "read_result", read)
    step = Step(server, tmp_path)
    until(lambda: not away[0])
    server.away.set()
    polls = len(server.seen)
    until(lambda: len(server.seen) > polls + 4)
    assert step.is_alive() and server.jobs[NAME]["status"] == "RUNNING"
    server.away.clear()
    succeeds(server)
    step.join(30)
    assert (step.error, step.uri) == (None, "s3://b/model/1")


def test_a_job_that_a_restarted_head_has_forgotten_ends_the_wait(server: Jobs, tmp_path: Path) -> None:
    step = Step(server, tmp_path)
    until(lambda: server.jobs.pop(NAME, None))
    step.join(30)
    assert isinstance(step.error, UserError) and step.error.exit_code == TRY_AGAIN and "FORGOTTEN" in step.error.fact


def test_the_step_renews_what_its_driver_looks_at(server: Jobs, tmp_path: Path) -> None:
    step = Step(server, tmp_path)
    job = until(lambda: server.jobs.get(NAME))
    look = lease.look_in_store(job["metadata"]["order"])
    assert until(look, goal="a renewal")[1] == 1800
    succeeds(server)
    step.join(30)


def test_a_long_log_that_can_only_be_read_whole_is_seldom_read_and_printed_once(
    server: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MEDMIM_EVENTS", "-")
    status, lines = f"/api/jobs/{NAME}", count()

    def grow(method: str, path: str) -> None:
        if path == status:
            text = f"step {next(lines)}"
            server.log += json.dumps({"kind": "line", "time": 0, "stage": "finetune", "text": text}) + "\n"

    server.before = grow
    server.log = "noise\n" * 50_000
    step = Step(server, tmp_path)
    until(lambda: server.log.count("\n") > 50_040)
    succeeds(server)
    step.join(30)
    found = [progress.parse(line) for line in capfd.readouterr().out.splitlines()]
    shown = [event["text"] for event in found if event and event["text"].startswith("step ")]
    polls = [path for _, path in server.seen].count(status)
    assert shown == [f"step {number}" for number in range(polls)]
    assert [path for _, path in server.seen].count(f"{status}/logs") < polls / 4


@pytest.mark.parametrize(
    ("in_pod", "change", "stopped"),
    [(False, {}, True), (True, {"spec": {"activeDeadlineSeconds": 0}}, True), (True, {}, False)],
)
def test_sigterm_stops_the_job_but_for_a_run_that_goes_on(
    server: Jobs,
    tmp_path: Path,
    in_pod: bool,
    change: dict[str, object],
    stopped: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with connected(tmp_path, monkeypatch) as (cluster, _):
        run = cluster.put("workflows", workflows.workflow("run") | change)
        owner = {"apiVersion": "v1", "kind": "Workflow", "name": "run", "uid": run["metadata"]["uid"]}
        cluster.put("pods", {"metadata": {"name": "the-step", "ownerReferences": [owner]}})
        if in_pod:
            monkeypatch.setenv("KFP_POD_NAME", "the-step")

        def send() -> None:
            default = signal.SIG_DFL  # would end the tests
            asked = "GET", f"/api/jobs/{NAME}"
            until(lambda: asked in server.seen and signal.getsignal(signal.SIGTERM) != default)
            os.kill(os.getpid(), signal.SIGTERM)

        thread = threading.Thread(target=send)
        thread.start()
        with pytest.raises(SystemExit, match="143"):
            jobs_api.run(REQUEST, at(server.url), str(tmp_path / "store"))
        thread.join()
        assert server.jobs[NAME]["status"] == ("STOPPED" if stopped else "RUNNING")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The Jobs API of a Ray cluster of one node, on loopback."""
    port, dashboard = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="m", dir="/tmp") as short:  # a Unix socket's path ends at 107 bytes
        environment = os.environ | {
            "HOME": str(tmp_path_factory.mktemp("home")),
            "MEDMIM_HOME": str(tmp_path_factory.mktemp("node")),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        ray = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--node-ip-address=127.0.0.1"]
        more = [f"--port={port}", f"--dashboard-port={dashboard}", "--num-cpus=1", f"--temp-dir={short}", "--block"]
        head = subprocess.Popen(
            [*ray, *more, "--object-store-memory=80000000"], env=environment, stdout=subprocess.DEVNULL
        )
        try:
            _until_it_answers(f"http://127.0.0.1:{dashboard}")
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("MEDMIM_PATIENCE", "60")  # it refuses jobs for a while
                yield f"http://127.0.0.1:{dashboard}"
        finally:
            head.terminate()
            head.wait(60)


def _until_it_answers(address: str) -> None:
    from ray.job_submission import JobSubmissionClient

    for _ in range(60):
        try:
            JobSubmissionClient(address).list_jobs()
            return
        except (ConnectionError, RuntimeError):
            time.sleep(1)
    pytest.fail(f"{address} does not come up")


def a_request(tmp_path: Path, *sets: str, run: str = "r") -> tuple[Recipe, Request]:
    parsed = loading.load("demo", [*SMALL, f"platform.store={tmp_path / 'store'}", *sets])
    data = build.run(parsed, workspace(tmp_path / "home", parsed)).uri
    sent = parsed.model_copy(update={"platform": parsed.platform.model_copy(update={"ray": "auto"})})
    return parsed, Request("finetune", sent.dump(), run, {"data": data, "base": parsed.finetune.base})


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_job_gives_what_this_process_gives_and_is_adopted_by_the_same_request(address: str, tmp_path: Path) -> None:
    parsed, request = a_request(tmp_path)
    uri = jobs_api.run(request, at(address), str(tmp_path / "store"))
    assert jobs_api.run(request, at(address), str(tmp_path / "store")) == uri
    from ray.job_submission import JobSubmissionClient

    assert len(JobSubmissionClient(address).list_jobs()) == 1, "the second found the first"
    apart = parsed.model_copy(
        update={"platform": parsed.platform.model_copy(update={"store": str(tmp_path / "apart")})}
    )
    ws = workspace(tmp_path / "here", apart)
    here = finetune.run(apart, ws, build.run(apart, ws).uri)
    assert here.digest == uri.rpartition("/")[2]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_lost_answer_of_a_real_server_changes_nothing_and_its_log_is_printed_once(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MEDMIM_EVENTS", "-")
    _, request = a_request(tmp_path, run="lost")
    with lossy(address) as proxy:
        proxy.lose_first("POST", "/api/jobs")
        uri = jobs_api.run(request, at(proxy.url), str(tmp_path / "store"))
    assert uri.startswith(f"{tmp_path / 'store'}/model/")
    paths = [path for _, path in proxy.seen]
    assert [path for path in paths if path.endswith("/logs/tail")], "by a WebSocket"
    found = [event for event in map(progress.parse, capfd.readouterr().out.splitlines()) if event]
    assert [event["step"] for event in found if event["kind"] == "step"] == ["1/2", "2/2"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_job_whose_step_was_killed_ends_by_itself(address: str, tmp_path: Path) -> None:
    from ray.job_submission import JobSubmissionClient

    _, request = a_request(tmp_path, "finetune.steps=100000", run="killed")
    script = (
        "import sys; from medmim.cluster.ray import jobs_api, request as r; from medmim.recipe.schema import Platform\n"
        "made = r.read_request(sys.argv[1])\n"
        "jobs_api.run(made, Platform.model_validate({'ray': sys.argv[2], 'pods': {'lease_seconds': 30}}), sys.argv[3])"
    )
    uri = write_request(str(tmp_path / "mine"), request, "job")
    step = subprocess.Popen([sys.executable, "-c", script, uri, address, str(tmp_path / "store")])
    client = JobSubmissionClient(address)
    name = f"finetune-{request.digest[:16]}-1"

    def status() -> str:
        return {job.submission_id: str(job.status.value) for job in client.list_jobs()}.get(name, "")

    until(lambda: status() == "RUNNING" and '"kind": "step"' in client.get_job_logs(name), 120)
    step.kill()
    step.wait()
    killed = time.monotonic()
    until(lambda: status() == "FAILED", 120)
    assert 25 < time.monotonic() - killed < 90
    assert "no step has waited for this job for 30 s" in client.get_job_logs(name)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_data_set_that_a_job_builds_is_that_of_this_process(address: str, tmp_path: Path) -> None:
    parsed, request = a_request(tmp_path)
    sent = loading.from_dump(request.recipe)
    apart = sent.model_copy(update={"platform": sent.platform.model_copy(update={"store": str(tmp_path / "apart")})})
    uri = jobs_api.run(Request("data", apart.dump(), "r", {}), at(address), str(tmp_path / "apart"))
    assert uri == f"{tmp_path / 'apart'}/data/{request.arguments['data'].rpartition('/')[2]}"
    assert build.find(apart, workspace(tmp_path / "home", apart)), "whoever looks for it finds it"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_drivers_user_error_is_raised_here_with_its_exit_code(address: str, tmp_path: Path) -> None:
    _, request = a_request(tmp_path, run="bad")
    wrong = Request(request.stage, request.recipe, request.run, {**request.arguments, "base": "tiny-nothing"})
    with pytest.raises(UserError, match="tiny-nothing") as raised:
        jobs_api.run(wrong, at(address), str(tmp_path / "store"))
    assert raised.value.exit_code == BAD_INPUT
    assert raised.value.fix
