"""MLflow set-up: quiet, inside the home; and what is registered, as its client lists it page by page."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from medmim import __version__, tracking
from medmim.errors import Unavailable
from medmim.run.workspace import Workspace


def _ws(home: Path) -> Workspace:
    return Workspace(home, str(home / "store"), f"sqlite:///{home / 'mlflow.db'}")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Path:
    place = tmp_path_factory.mktemp("home")
    shutil.copy(mlflow_database, place)
    return place


def test_creators_at_the_same_moment_leave_one_whole_database_and_nothing_beside_it(
    tmp_path: Path, mlflow_database: Path
) -> None:
    def create(_: int) -> None:
        tracking._create(
            tmp_path / "mlflow.db", lambda uri: shutil.copy(mlflow_database, uri.removeprefix("sqlite:///"))
        )

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(create, range(8)))
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]
    assert len(tracking.client(_ws(tmp_path)).search_experiments()) == 1


def test_a_creator_killed_in_mid_migration_leaves_no_database(tmp_path: Path) -> None:
    def migrate(uri: str) -> None:
        Path(uri.removeprefix("sqlite:///")).write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tracking._create(tmp_path / "mlflow.db", migrate)
    assert list(tmp_path.iterdir()) == []


def test_registered_lists_every_version_in_order_with_tags_and_aliases(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ws = _ws(home)
    api = tracking.client(ws)
    assert tracking.registered(ws) == {}
    for name in ("one", "o'two"):
        api.create_registered_model(name)
        for number in range(11):
            api.create_model_version(name, source=str(home), tags={"n": str(number)})
    api.set_registered_model_alias("one", "champion", "10")
    api.set_registered_model_alias("one", "gone", "3")
    api.delete_model_version("one", "3")
    api.delete_model_version_tag("one", "4", "n")
    search = api.search_model_versions
    monkeypatch.setattr(api, "search_model_versions", lambda where, page_token: search(where, 4, page_token=page_token))
    found = tracking.registered(ws)
    assert set(found) == {"one", "o'two"}
    assert [v.number for v in found["one"].versions] == ["1", "2", *map(str, range(4, 12))]
    assert [v.tags for v in found["one"].versions[:3]] == [{"n": "0"}, {"n": "1"}, {}]
    assert found["one"].aliases["champion"] == "10"
    assert len(found["o'two"].versions) == 11
    assert tracking.registered(ws, "o'two") == {"o'two": found["o'two"]}
    assert tracking.registered(ws, "none") == {}


def test_a_home_without_a_database_is_asked_without_mlflow_and_stays_empty(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from medmim import tracking\n"
        "from medmim.run.workspace import workspace\n"
        "assert tracking.registered(workspace(Path(sys.argv[1]))) == {}\n"
        "assert 'mlflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "home")], check=True)
    assert list((tmp_path / "home").iterdir()) == []


def test_the_environment_of_later_workspaces_stays_as_it_is(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracking.experiment(_ws(home), "some")
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_files_of_an_experiment_lie_in_the_home(home: Path) -> None:
    first = tracking.experiment(_ws(home), "mine")
    assert first == tracking.experiment(_ws(home), "mine")
    where = tracking.client(_ws(home)).get_experiment(first).artifact_location
    assert where.startswith(home.as_uri())


def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    ws = Workspace(tmp_path, str(tmp_path), "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9"):
        tracking.client(ws)


@pytest.mark.parametrize(("seconds", "tries"), [(0, 2), (2, 2), (3, 3), (60, 6), (62, 6), (63, 7), (1e6, 10)])
def test_patience_decides_how_often_mlflow_is_tried(seconds: float, tries: int) -> None:
    assert tracking._retries(seconds) == tries


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_server_that_is_started_again_is_waited_for(
    tmp_path: Path, mlflow_database: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MEDMIM_PATIENCE", "120")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES")  # what the client sets goes with the test
    monkeypatch.delenv("MEDMIM_EVENTS", raising=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shutil.copy(mlflow_database, tmp_path / "mlflow.db")

    def serve() -> "subprocess.Popen[bytes]":
        where = ["--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db", "--host", "127.0.0.1", "--port", str(port)]
        command = [sys.executable, "-m", "mlflow", "server", *where, "--workers", "1"]
        variables = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        return subprocess.Popen(command, env=variables, stderr=subprocess.DEVNULL, start_new_session=True)

    def stop(server: "subprocess.Popen[bytes]") -> None:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()

    ws = Workspace(tmp_path, str(tmp_path), f"http://127.0.0.1:{port}")
    server = serve()  # the client waits for its start, too
    try:
        first = tracking.experiment(ws, "mine")
    finally:
        stop(server)
    server = serve()
    try:
        assert tracking.experiment(ws, "mine") == first
    finally:
        stop(server)
    assert "waiting for MLflow at http://127.0.0.1" in capfd.readouterr().err


def test_the_code_version_names_package_and_commit() -> None:
    found = tracking.code_version()
    assert found["medmim"] == __version__
    checkout = (Path(tracking.__file__).parents[1] / ".git").exists()
    assert ("commit" in found) == checkout
