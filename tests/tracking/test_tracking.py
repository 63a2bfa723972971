"""MLflow set-up: quiet, inside the home; and what is registered, as its client lists it page by page."""

import json
import os
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medmim import tracking
from medmim.errors import Unavailable, UserError
from medmim.run.workspace import Workspace, sqlite_path, workspace
from medmim.tracking import errors, mlflow_client
from tests.support.servers import answering


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
        mlflow_client._create(tmp_path / "mlflow.db", lambda uri: shutil.copy(mlflow_database, sqlite_path(uri) or ""))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(create, range(8)))
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]
    assert len(tracking.client(_ws(tmp_path)).search_experiments()) == 1


def test_a_creator_killed_in_mid_migration_leaves_no_database(tmp_path: Path) -> None:
    def migrate(uri: str) -> None:
        Path(uri.removeprefix("sqlite:///")).write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mlflow_client._create(tmp_path / "mlflow.db", migrate)
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


def test_versions_are_asked_for_one_by_one_by_tag_and_page_by_page(tmp_path: Path, mlflow_database: Path) -> None:
    home = tmp_path / "own"
    home.mkdir()
    shutil.copy(mlflow_database, home / "mlflow.db")
    ws = _ws(home)
    api = tracking.client(ws)
    for name in ("o'two", "Lunge-Größe", "plain"):
        api.create_registered_model(name)
    for number in range(7):
        api.create_model_version("Lunge-Größe", source=str(home), tags={"a.b": "odd" if number % 2 else "even"})
    api.create_model_version("plain", source=str(home), tags={"a.b": "odd"})
    api.set_registered_model_alias("plain", "champion", "1")
    found = tracking.get(ws, "Lunge-Größe", "3")
    assert found is not None and found.tags == {"a.b": "even"}
    for name, number in (("Lunge-Größe", "8"), ("none", "1"), ("plain", "x"), ("plain", "²"), ("", "1")):
        assert tracking.get(ws, name, number) is None
    assert tracking.aliases(ws, "plain") == {"champion": "1"} and tracking.aliases(ws, "none") is None
    assert [v.number for v in tracking.tagged(ws, "Lunge-Größe", "a.b", "odd")] == ["2", "4", "6"]
    pages = [tracking.page_of_versions(ws, "Lunge-Größe", page, 3) for page in (1, 2, 3, 4)]
    assert [[v.number for _, v in rows] for rows, _ in pages] == [["7", "6", "5"], ["4", "3", "2"], ["1"], []]
    assert [more for _, more in pages] == [True, True, False, False]
    everywhere, _ = tracking.page_of_versions(ws, "", 1, 9, {"a.b": "odd"})
    assert {(name, v.number) for name, v in everywhere} == {("plain", "1"), *(("Lunge-Größe", n) for n in "246")}
    models, more = tracking.page_of_models(ws, "", 1, 2)
    assert list(models) == ["Lunge-Größe", "o'two"] and more
    assert models["Lunge-Größe"].versions[0].number == "7" and models["o'two"].versions == ()
    models, more = tracking.page_of_models(ws, "", 2, 2)
    assert list(models) == ["plain"] and not more and models["plain"].aliases == {"champion": "1"}
    assert list(tracking.page_of_models(ws, "'TW", 1, 2)[0]) == ["o'two"]


def test_a_home_without_a_database_is_asked_without_mlflow_and_stays_empty(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from medmim import tracking\n"
        "from medmim.run.workspace import workspace\n"
        "ws = workspace(Path(sys.argv[1]))\n"
        "assert tracking.registered(ws) == {} and tracking.page_of_models(ws, '', 1, 9) == ({}, False)\n"
        "assert tracking.get(ws, 'x', '1') is None and tracking.aliases(ws, 'x') is None\n"
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
    with pytest.raises(
        Unavailable, match=r"^MLflow at http://127\.0\.0\.1:9 does not answer\nreason: Connection refused\n"
    ):
        tracking.client(ws)


@pytest.mark.parametrize(
    ("status", "body", "code", "fact"),
    [
        (401, "who are you?", 2, "refuses a request"),
        (403, '{"error_code": "PERMISSION_DENIED", "message": "not yours"}', 2, "refuses a request"),
        (404, "<html>nothing here</html>", 2, "refuses a request"),
        (400, '{"error_code": "INVALID_PARAMETER_VALUE", "message": "no such thing"}', 2, "refuses a request (400)"),
        (403, "<html>a proxy's page</html>", 2, "refuses a request (403)"),
        (404, '{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "gone"}', 2, "refuses a request (404)"),
        (200, "<html>a login</html>", 2, "is not MLflow"),
        (429, '{"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "slowly"}', 75, "does not do what it was asked"),
        (429, "slowly", 75, "does not do what it was asked"),
        (500, '{"error_code": "INTERNAL_ERROR", "message": "oops"}', 75, "does not do what it was asked"),
        (503, '{"error_code": "TEMPORARILY_UNAVAILABLE", "message": "no"}', 75, "does not do what it was asked"),
        (503, "starting", 75, "does not do what it was asked"),
    ],
)
def test_what_a_server_refuses_for_good_is_no_reason_to_try_again(
    status: int, body: str, code: int, fact: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with answering(status, body) as address, pytest.raises(UserError) as caught:
        tracking.client(Workspace(tmp_path, str(tmp_path), address))
    assert (
        caught.value.exit_code == code and fact in caught.value.fact and "HTTPConnectionPool" not in str(caught.value)
    )


@pytest.mark.parametrize(
    "uri",
    ["http://me:XQ/ZJXQ@127.0.0.1:9", "http://me:XQZJXQ@127.0.0.1:9", "http://127.0.0.1:9/?token=XQZJXQ",
     "postgresql://me:XQ/ZJXQ@127.0.0.1:9/db", "postgresql://127.0.0.1:9/db?user=me&password=XQZJXQ",
     "postgresql+nope://me:XQZJXQ@h/db", "postgres://me:XQZJXQ@h/db", "nope://me:XQZJXQ@h/db"],
)  # fmt: skip
def test_no_command_prints_the_password_of_the_tracking_uri(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from medmim.cli.main import main

    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.delenv("MEDMIM_EVENTS", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for typed in ("list", "show model@champion"):
        monkeypatch.setattr(sys, "argv", ["medmim", "registry", *typed.split(), "--home", str(tmp_path)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = "".join(capfd.readouterr())
        assert ended.value.code in (2, 75) and "error: " in printed and "Traceback" not in printed
        assert "XQ" not in printed and "ZJ" not in printed, printed


@pytest.fixture
def locked(home: Path, tmp_path: Path) -> Iterator[Path]:
    """A home whose database another process has locked."""
    shutil.copy(home / "mlflow.db", tmp_path)
    code = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1], isolation_level=None); db.execute(sys.argv[2])"
    command = [sys.executable, "-c", f"{code}; print('locked', flush=True); input()"]
    with subprocess.Popen(
        [*command, str(tmp_path / "mlflow.db"), "BEGIN EXCLUSIVE"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"locked\n"
        yield tmp_path
        holder.kill()


def test_what_an_embedded_mlflow_refuses_is_no_reason_to_try_again(home: Path) -> None:
    ws = _ws(home)
    api = tracking.client(ws)
    with pytest.raises(UserError, match=r"refuses a request \(404\)") as caught, tracking.answering(ws.tracking):
        api.set_registered_model_alias("nobody's", "champion", "1")
    assert caught.value.exit_code == 2


def test_a_locked_database_is_unavailable_and_its_holder_named(
    locked: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from sqlalchemy.dialects.sqlite import pysqlite

    monkeypatch.setattr(mlflow_client, "_BUSY", 0.1)
    monkeypatch.setattr(pysqlite.SQLiteDialect_pysqlite, "on_connect", _impatient)
    ws = _ws(locked)
    for ask in (tracking.check, tracking.client, tracking.registered):
        with pytest.raises(Unavailable, match=f"the MLflow database {locked}/mlflow.db is locked") as caught:
            ask(ws)
        if Path("/proc/locks").exists():
            assert "process " in caught.value.reason and "(python" in caught.value.reason
    assert "Traceback" not in capfd.readouterr().err


def test_a_lock_that_is_waited_for_is_told_with_its_holder(
    locked: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if not Path("/proc/locks").exists():
        pytest.skip("this system does not say who holds a lock")
    monkeypatch.setattr(errors, "_SILENCE", 0.1)
    monkeypatch.setattr(mlflow_client, "_BUSY", 0.6)
    monkeypatch.delenv("MEDMIM_EVENTS", raising=False)
    with pytest.raises(Unavailable):
        tracking.check(_ws(locked))
    said = capfd.readouterr().err
    assert said.count(f"waiting for the MLflow database {locked}/mlflow.db: process ") == 1 and "(python" in said
    with tracking.answering(_ws(locked).tracking):
        time.sleep(0.3)
    assert "waiting for the MLflow database" in capfd.readouterr().err


def test_a_long_answer_of_a_database_that_nobody_locks_is_no_wait(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(errors, "_SILENCE", 0.05)
    with tracking.answering(_ws(home).tracking):
        time.sleep(0.2)
    assert "waiting" not in capfd.readouterr().err


def _impatient(self: object) -> Callable[[Any], None]:
    """The driver waits five seconds for a lock; for a test a moment is enough."""
    return lambda connection: connection.execute("PRAGMA busy_timeout = 100") and None


def test_a_database_that_is_locked_while_it_is_used_is_unavailable(home: Path, tmp_path: Path) -> None:
    from mlflow.exceptions import MlflowException

    text = "(sqlite3.OperationalError) database is locked\n[SQL: SELECT 1]\n(Background on this error at: ...)"
    with pytest.raises(Unavailable, match="is locked") as caught, tracking.answering(_ws(tmp_path).tracking):
        raise MlflowException(text)
    assert caught.value.reason == "another process has it open in a transaction"


@pytest.mark.parametrize(
    ("text", "code", "fact"),
    [
        ("(sqlite3.DatabaseError) file is not a database", 2, "is not a database that can be read"),
        ("(sqlite3.DatabaseError) database disk image is malformed", 2, "is not a database that can be read"),
        ("(sqlite3.OperationalError) unable to open database file", 2, "cannot be opened"),
        ("(sqlite3.OperationalError) attempt to write a readonly database", 2, "cannot be opened"),
        ("(sqlite3.OperationalError) database or disk is full", 2, "the disk is full while writing"),
        ("(sqlite3.OperationalError) disk I/O error", 75, "is not available"),
        ("Detected out-of-date database schema (found version a, but expected b)", 2, "another version of MLflow"),
    ],
)
def test_what_sqlite_says_has_its_exit_code(text: str, code: int, fact: str, tmp_path: Path) -> None:
    from sqlalchemy.exc import SQLAlchemyError

    with pytest.raises(UserError, match=fact) as caught, tracking.answering(_ws(tmp_path).tracking):
        raise SQLAlchemyError(text)
    assert caught.value.exit_code == code


@pytest.fixture
def postgres(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[bytes]]]:
    """A PostgreSQL that answers each connection with an error: its address, and what it says (SQLSTATE, message)."""
    answer: list[bytes] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            if len(self.rfile.read(8)) == 8:  # it begins by asking for TLS
                self.wfile.write(b"N")
                self.rfile.read(int.from_bytes(self.rfile.read(4), "big") - 4)
                self.wfile.write(answer[0])

    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=lambda seconds: None))
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
        yield f"postgresql://me:secret@127.0.0.1:{listening.server_address[1]}/mlflow?sslmode=prefer", answer
        listening.shutdown()


@pytest.mark.parametrize(
    ("state", "message", "code"),
    [
        ("28P01", 'password authentication failed for user "me"', 2),
        ("28000", 'no pg_hba.conf entry for host "10.0.0.1", user "me", database "mlflow"', 2),
        ("28000", 'role "me" is not permitted to log in', 2),
        ("28000", 'role "me" does not exist', 2),
        ("3D000", 'database "mlflow" does not exist', 2),
        ("42501", 'permission denied for database "mlflow"', 2),
        ("53300", "sorry, too many clients already", 75),
        ("57P03", "the database system is starting up", 75),
        ("57P03", "the database system is in recovery mode", 75),
        ("57P01", "terminating connection due to administrator command", 75),
        ("08006", "SSL connection has been closed unexpectedly", 75),
        ("08006", "SSL SYSCALL error: EOF detected", 75),
        ("08006", "SSL SYSCALL error: Connection reset by peer", 75),
        ("08006", "SSL error: decryption failed or bad record mac", 75),
        ("08006", "SSL error: certificate verify failed", 2),
        ("08006", "server does not support SSL, but SSL was required", 2),
        ("08006", "SSL is not enabled on the server", 2),
        ("08006", 'server certificate for "a" does not match host name "b"', 2),
        ("28000", 'no pg_hba.conf entry for host "10.0.0.1", user "me", no SSL', 2),
        ("", "", 75),
    ],
)
def test_what_postgresql_refuses_has_its_exit_code(
    state: str, message: str, code: int, postgres: tuple[str, list[bytes]], tmp_path: Path
) -> None:
    uri, answer = postgres
    fields = f"SFATAL\0VFATAL\0C{state}\0M{message}\0\0".encode()
    answer.append(b"E" + (len(fields) + 4).to_bytes(4, "big") + fields if state else b"")
    for ask in (tracking.check, tracking.client):
        with pytest.raises(UserError) as caught:
            ask(Workspace(tmp_path, str(tmp_path), uri))
        assert caught.value.exit_code == code and message in caught.value.reason
        assert "127.0.0.1" in caught.value.fact and "secret" not in str(caught.value) and caught.value.fix


@pytest.mark.parametrize(
    ("uri", "code", "words"),
    [
        ("postgresql://me:secret@127.0.0.1:9/mlflow", 75, "Connection refused"),
        ("postgresql://me:secret@no-such-host.invalid/mlflow", 75, "no-such-host.invalid"),
        ("postgresql+psycopg2://me:secret@h/mlflow", 2, "pip install 'psycopg2-binary'"),
        ("mysql://me:secret@h/mlflow", 2, "pip install 'mysqlclient'"),
        ("mysql+pymysql://me:secret@h/mlflow", 2, "pip install 'pymysql'"),
        ("postgresql+nosuch://me:secret@h/mlflow", 2, "cannot be the tracking URI"),
        ("postgresql://me:secret@127.0.0.1:port/mlflow", 2, "cannot be the tracking URI"),
        ("postgresql://me:secret@127.0.0.1:9/mlflow?nosuch=1", 2, "invalid connection option"),
        ("postgres://me:secret@h/mlflow", 2, "set it to postgresql://h/mlflow, with user and password"),
        ("postgres://h/mlflow", 2, "set it to postgresql://h/mlflow"),
        ("postgresql://me:p[secret@h/db", 2, "%5B for ["),
        ("postgresql://me:secret]@h/db", 2, "%5D for ]"),
        ("postgresql://me:secret@[h/db", 2, "write %40 for @"),
        ("mysql://me:secret[@h/db", 2, "write %40 for @"),
        ("http://[::1/x", 2, "an IPv6 address stands in brackets"),
        ("http://me:se/secret@h", 2, "%2F for /"),
        ("https://h:99999", 2, "65535"),
        ("http://:5000", 2, "it names no host"),
        ("//me:secret[@h", 2, "write %40 for @"),
        ("me:secret@h/db", 2, "names neither a file nor a server"),
        ("sqlite://me:secret@h/db", 2, "sqlite:///PATH"),
        ("sqlite://", 2, "sqlite:///PATH"),
        ("sqlite:mlflow.db", 2, "did you mean sqlite:///mlflow.db?"),
        ("sqlite://mlflow.db", 2, "did you mean sqlite:///mlflow.db?"),
        ("sqlite:///:memory:", 2, "ends with its process"),
        ("sqlite:////" + "d" * 250 + "/" + "d" * 250, 2, "is 502 bytes long"),
        ("sqlite:////tmp", 2, "/tmp is a folder"),
        ("sqlite:////dev/null/mlflow.db", 2, "/dev/null is a file, not a folder"),
        ("SQLite:////home/mlflow.db", 2, "did you mean sqlite:////home/mlflow.db?"),
        ("file:///mlruns", 2, "give sqlite:////mlruns/mlflow.db"),
        ("mlflow.db", 2, "did you mean sqlite:///mlflow.db?"),
        ("localhost:5000", 2, "did you mean http://localhost:5000?"),
        ("10.0.0.1:5000/mlflow", 2, "did you mean http://10.0.0.1:5000/mlflow?"),
        (" ", 2, "fix: give http(s)://HOST:PORT"),
        ("http://h:99999", 2, "fix: give http(s)://HOST:PORT, with a port from 1 to 65535"),
        ("ftp://h/mlflow", 2, "MLflow knows no 'ftp'"),
        ("databricks", 2, "no registry of Databricks"),
        ("databricks-uc://profile", 2, "no registry of Databricks"),
    ],
)
def test_a_tracking_uri_that_cannot_work_is_refused_without_mlflow(
    uri: str, code: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=lambda seconds: None))
    started = [name for name in sys.modules if name.partition(".")[0] == "mlflow"]
    monkeypatch.chdir(tmp_path)
    asked = (tracking.check, tracking.client, *([tracking.registered] if code == 2 else []))
    for ask in asked:
        with pytest.raises(UserError) as caught:
            ask(Workspace(tmp_path, str(tmp_path), uri))
        assert caught.value.exit_code == code and words in str(caught.value) and "secret" not in str(caught.value)
    assert not list(tmp_path.iterdir())
    assert started == [name for name in sys.modules if name.partition(".")[0] == "mlflow"]


@pytest.mark.parametrize("name", ["a?b", "a%20b", "a#b", "50%", "a&b=c;d", 'it\'s "q"', "[x]{y}", "ü \u65e5\u672c"])
def test_a_home_of_any_name_holds_all_that_mlflow_writes(name: str, mlflow_database: Path, tmp_path: Path) -> None:
    place = tmp_path / name
    place.mkdir()
    shutil.copy(mlflow_database, place)
    ws = workspace(place)
    api = tracking.client(ws)
    run = api.create_run(tracking.experiment(ws, "mine")).info.run_id
    api.log_dict(run, {"a": 1}, "recipe.json")
    api.create_registered_model("model")
    assert set(tracking.registered(ws)) == {"model"}
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert sorted(path.name for path in place.iterdir()) == ["mlflow", "mlflow.db"]
    assert json.loads(next(place.rglob("recipe.json")).read_text("utf-8")) == {"a": 1}


@pytest.mark.parametrize(("seconds", "tries"), [(0, 2), (2, 2), (3, 3), (60, 6), (62, 6), (63, 7), (1e6, 10)])
def test_patience_decides_how_often_mlflow_is_tried(seconds: float, tries: int) -> None:
    assert mlflow_client._retries(seconds) == tries


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
