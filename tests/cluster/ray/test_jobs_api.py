"""Through the Jobs API of an existing Ray cluster: the same artifact, the same errors, one job for one request."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from medmim.cluster.ray import jobs_api
from medmim.cluster.ray.request import Request
from medmim.data import build
from medmim.errors import BAD_INPUT, TRY_AGAIN, UserError
from medmim.finetune import run as finetune
from medmim.recipe import loading
from medmim.recipe.schema import Recipe
from medmim.run.workspace import workspace
from tests.cluster.conftest import free_port

SMALL = ["data.patients=40", "finetune.steps=2", "finetune.batch_size=4", "platform.threads=1"]


def test_an_address_that_does_not_answer_is_reported() -> None:
    with pytest.raises(UserError, match="does not answer") as raised:
        jobs_api.run(Request("finetune", "{}", "r", {}), f"http://127.0.0.1:{free_port()}", "/nowhere")
    assert raised.value.exit_code == TRY_AGAIN


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
    uri = jobs_api.run(request, address, str(tmp_path / "store"))
    assert jobs_api.run(request, address, str(tmp_path / "store")) == uri
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
def test_a_data_set_that_a_job_builds_is_that_of_this_process(address: str, tmp_path: Path) -> None:
    parsed, request = a_request(tmp_path)
    sent = loading.from_dump(request.recipe)
    apart = sent.model_copy(update={"platform": sent.platform.model_copy(update={"store": str(tmp_path / "apart")})})
    uri = jobs_api.run(Request("data", apart.dump(), "r", {}), address, str(tmp_path / "apart"))
    assert uri == f"{tmp_path / 'apart'}/data/{request.arguments['data'].rpartition('/')[2]}"
    assert build.find(apart, workspace(tmp_path / "home", apart)), "whoever looks for it finds it"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_drivers_user_error_is_raised_here_with_its_exit_code(address: str, tmp_path: Path) -> None:
    _, request = a_request(tmp_path, run="bad")
    wrong = Request(request.stage, request.recipe, request.run, {**request.arguments, "base": "tiny-nothing"})
    with pytest.raises(UserError, match="tiny-nothing") as raised:
        jobs_api.run(wrong, address, str(tmp_path / "store"))
    assert raised.value.exit_code == BAD_INPUT
    assert raised.value.fix
