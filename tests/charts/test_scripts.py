"""What the chart's pods run, against the real thing: MLflow's migrations, the checks of `helm test` on an S3 server."""

import os
import re
import runpy
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from medmim import tracking
from medmim.run.workspace import Workspace
from medmim.store import open_store
from tests.charts.old_mlflow import KEPT, fill, rewind
from tests.support.chart import CHART, PLATFORM, named, rendered
from tests.support.chart_scripts import command_of, helm_test, run
from tests.support.postgres import postgres
from tests.support.waiting import until

TABLES = ("alembic_version", "alembic_version_auth")  # of MLflow, of its users
RUNBOOK = CHART.parents[1] / "docs" / "runbook.md"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> tuple[Path, str, str]:
    """A database of the schema before the newest, with data in it; the two revisions. Copy it, do not use it."""
    path = tmp_path_factory.mktemp("old") / "mlflow.db"
    shutil.copy(mlflow_database, path)
    fill(f"sqlite:///{path}")
    return path, *rewind(f"sqlite:///{path}")


@pytest.fixture
def older(filled: tuple[Path, str, str], tmp_path: Path) -> tuple[Path, str, str]:
    """A copy for the test, in a folder of its own."""
    path, before, newest = filled
    (tmp_path / "data").mkdir()
    return Path(shutil.copy(path, tmp_path / "data")), before, newest


def prepare(path: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return run("prepare_mlflow.py", MLFLOW_BACKEND_STORE_URI=f"sqlite:///{path}", **env)


def ask(path: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as database:
        return [row[0] for row in database.execute(query)]


def schema(path: Path) -> str:
    return str(ask(path, "SELECT version_num FROM alembic_version")[0])


def dump(path: Path) -> list[str]:
    """All that is in it, row by row."""
    with closing(sqlite3.connect(path)) as database:
        return list(database.iterdump())


def kept(path: Path) -> dict[str, Any]:
    """What `fill` wrote, as MLflow's own client reads it."""
    from mlflow import MlflowClient

    uri = f"sqlite:///{path}"
    api = MlflowClient(uri)
    experiment = api.get_experiment_by_name("kept")
    losses = [run.data.metrics["loss"] for run in api.search_runs([experiment.experiment_id])] if experiment else []
    known = tracking.registered(Workspace(path.parent, str(path.parent), uri))
    return {"losses": losses, "models": {name: dict(model.aliases) for name, model in known.items()}}


def users_of_an_older_schema(path: Path) -> tuple[str, str]:
    """A database of MLflow's users, of the schema before the newest, with a user in it; the two revisions."""
    from alembic.script import ScriptDirectory
    from mlflow.server.auth.db import utils
    from sqlalchemy import create_engine, text

    engine = create_engine(f"sqlite:///{path}")
    script = ScriptDirectory.from_config(utils._get_alembic_config(f"sqlite:///{path}"))
    newest, before, *_ = (one.revision for one in script.walk_revisions())
    utils.migrate(engine, before)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO users (username, password_hash, is_admin) VALUES ('kept', 'x', 0)"))
    engine.dispose()
    return before, newest


@pytest.mark.long
def test_older_databases_are_migrated_with_their_data_and_the_files_as_they_were_stay(
    older: tuple[Path, str, str],
) -> None:
    path, before, newest = older
    users = path.with_name("basic_auth.db")
    old, new = users_of_an_older_schema(users)
    for age, name in enumerate(["mlflow-2026-01-01.db", "mlflow-aaaaaaaaaaaa.db", "mlflow-bbbbbbbbbbbb.db"]):
        path.with_name(name).write_bytes(b"")
        os.utime(path.with_name(name), (1e9 + age,) * 2)
    was = dump(path)
    done = prepare(path, MLFLOW_AUTH_CONFIG_PATH=str(path.parents[1] / "auth.ini"), DEFAULT_PERMISSION="READ")
    assert done.returncode == 0, done.stderr
    copy, copy_of_users = path.with_name(f"mlflow-{before}.db"), path.with_name(f"basic_auth-{old}.db")
    assert done.stdout == (
        f"migrated {path} from {before} to {newest}; the file as it was: {copy}\n"
        f"migrated {users} from {old} to {new}; the file as it was: {copy_of_users}\n"
    )
    assert (schema(path), schema(copy)) == (newest, before) and dump(copy) == was
    assert kept(path) == {"losses": [0.5], "models": KEPT}
    for file, at in ((users, new), (copy_of_users, old)):
        assert ask(file, "SELECT version_num FROM alembic_version_auth") == [at]
        assert ask(file, "SELECT username FROM users") == ["kept"]
    assert f"database_uri = sqlite:///{users}" in (path.parents[1] / "auth.ini").read_text()

    made = path.stat()
    again = prepare(path)
    assert again.returncode == 0 and again.stdout == "", "a second start finds nothing to do"
    assert (path.stat().st_ino, path.stat().st_mtime) == (made.st_ino, made.st_mtime)
    own = {"mlflow-2026-01-01.db"}  # a person's; and of the copies the last two
    last = {"mlflow-bbbbbbbbbbbb.db", copy.name, copy_of_users.name}
    assert {one.name for one in path.parent.iterdir()} == {path.name, users.name} | own | last

    words = re.search(r"exec restore -- sh -c '(.+)'", RUNBOOK.read_text("utf-8").split("## Roll back\n")[1])
    assert words  # a rollback that gives up what was written since
    typed = words[1].replace("/data/", f"{path.parent}/").replace("SCHEMA", before)
    subprocess.run(["sh", "-euc", typed], check=True)
    assert dump(path) == was and dump(copy) == was


@pytest.mark.long
@pytest.mark.parametrize("old", [True, False])
def test_pods_that_start_at_once_migrate_an_external_database_one_after_the_other(tmp_path: Path, old: bool) -> None:
    """Without the lock, two make the same tables or columns, and all but one fail."""
    from sqlalchemy import create_engine, text

    with postgres() as uri:
        if old:
            assert run("prepare_mlflow.py", MLFLOW_BACKEND_STORE_URI=uri).returncode == 0
            fill(uri)
            before, newest = rewind(uri)
            assert before != newest
        started = []
        for number in range(3):
            settings = {"MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / f"{number}.ini"), "DEFAULT_PERMISSION": "READ"}
            command, env = command_of("prepare_mlflow.py", MLFLOW_BACKEND_STORE_URI=uri, **settings)
            assert "a-password" not in " ".join(command)
            with (tmp_path / f"{number}.log").open("w") as log:
                started.append(subprocess.Popen(command, env=env, stdout=log, stderr=log))
        ended = [one.wait(250) for one in started]
        assert ended == [0, 0, 0], [(tmp_path / f"{number}.log").read_text()[-2000:] for number in range(3)]
        engine = create_engine(uri)
        with engine.connect() as connection:
            versions = [
                connection.execute(text(f"SELECT version_num FROM {table}")).scalars().all() for table in TABLES
            ]
        engine.dispose()
        assert [len(found) for found in versions] == [1, 1]
        if old:
            assert versions[0] == [newest]
            assert {
                name: dict(one.aliases) for name, one in tracking.registered(Workspace(tmp_path, "", uri)).items()
            } == KEPT


def test_a_database_that_is_no_postgresql_is_refused_by_its_kind() -> None:
    done = run("prepare_mlflow.py", MLFLOW_BACKEND_STORE_URI="mysql://medmim:a-password@127.0.0.1:1/mlflow")
    assert done.returncode == 1 and "the database of MLflow is mysql" in done.stderr and "fix: " in done.stderr
    assert "a-password" not in done.stderr and "Traceback" not in done.stderr


def test_a_migration_that_fails_half_way_leaves_the_database_as_it_was(older: tuple[Path, str, str]) -> None:
    path, before, _ = older
    with closing(sqlite3.connect(path)) as database:  # the last thing that a migration does is refused
        fails = "BEFORE UPDATE ON alembic_version BEGIN SELECT RAISE(ABORT, 'no space left'); END"
        database.execute(f"CREATE TRIGGER full {fails}")
        database.commit()
    was = dump(path)
    done = prepare(path)
    assert done.returncode == 1
    assert "no space left" in done.stderr
    assert f"error: {path} was not migrated from {before} and is as it was" in done.stderr and "fix: " in done.stderr
    assert dump(path) == was
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_a_migration_that_is_killed_leaves_the_database_as_it_was(older: tuple[Path, str, str]) -> None:
    path, before, newest = older
    was, part = dump(path), path.with_suffix(".part")
    command, env = command_of("prepare_mlflow.py", MLFLOW_BACKEND_STORE_URI=f"sqlite:///{path}")
    killed = subprocess.Popen(command, env=env, start_new_session=True)
    until(lambda: part.exists() and ask(part, "SELECT 1 FROM sqlite_master WHERE name = 'job_locks'"), 120)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert dump(path) == was and schema(path) == before
    assert prepare(path).returncode == 0
    assert schema(path) == newest and kept(path) == {"losses": [0.5], "models": KEPT}
    assert {one.name for one in path.parent.iterdir()} == {path.name, f"mlflow-{before}.db"}


def test_a_database_of_a_newer_mlflow_is_left_as_it_is_and_the_error_names_the_way_back(
    tmp_path: Path, mlflow_database: Path
) -> None:
    """What an older release's pod finds after a rollback over a migration."""
    from mlflow.exceptions import MlflowException
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    path = Path(shutil.copy(mlflow_database, tmp_path))
    with closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE alembic_version SET version_num = 'fffffffffff0'")
        database.commit()
    (tmp_path / "mlflow-abcabcabcabc.db").write_bytes(b"")
    was = dump(path)
    done = prepare(path)
    assert done.returncode == 1
    assert "was migrated by a newer MLflow (schema fffffffffff0)" in done.stderr
    assert str(tmp_path / "mlflow-abcabcabcabc.db") in done.stderr
    with pytest.raises(MlflowException, match="out-of-date database schema .found version fffffffffff0"):
        SqlAlchemyStore(f"sqlite:///{path}", str(tmp_path))  # and so would its server
    assert dump(path) == was
    assert not list(tmp_path.glob("*.part"))


def test_the_runbooks_backup_is_whole_while_others_write(tmp_path: Path) -> None:
    """The command of docs/runbook.md, but for the folder."""
    found = re.search(r"python3 -c '(\nimport sqlite3.+?)'", RUNBOOK.read_text("utf-8"), flags=re.DOTALL)
    assert found
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as writer:
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute("CREATE TABLE runs (name)")
        writer.execute("INSERT INTO runs VALUES ('done')")
        writer.commit()
        writer.execute("INSERT INTO runs VALUES ('half')")  # neither it nor the log beside the file may be in the way
        subprocess.run([sys.executable, "-c", found[1].replace("/data/", f"{tmp_path}/")], check=True)
    assert ask(tmp_path / "backup.db", "SELECT name FROM runs") == ["done"]


def test_the_users_lie_beside_an_external_database_and_its_password_is_kept_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.server.auth.config import read_auth_config

    path, uri = tmp_path / "auth.ini", "postgresql://medmim:100%25safe@127.0.0.1:1/mlflow"
    written: dict[str, Any] = runpy.run_path(str(CHART / "files" / "prepare_mlflow.py"))
    written["write_auth"](path, uri, "READ")
    monkeypatch.setenv("MLFLOW_AUTH_CONFIG_PATH", str(path))
    read = read_auth_config()
    assert read.database_uri == uri
    assert read.default_permission == "READ" and read.admin_password is None


def test_the_check_of_mlflow_fails_where_none_answers() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
        done = helm_test(named(rendered("laptop"), "Pod", "medmim-check-mlflow"), MLFLOW_TRACKING_URI=address)
    assert done.returncode == 75
    assert done.stdout.startswith(f"fail  mlflow    {address} does not answer") and "; fix: " in done.stdout
    assert done.stderr == ""


def test_the_check_of_the_store_writes_creates_once_and_deletes(bucket: str) -> None:
    pod = named(rendered("laptop"), "Pod", "medmim-check-store", "medmim-runs")
    done = helm_test(pod, MEDMIM_STORE=f"{bucket}/store")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"ok    store     {bucket}/store: writes, reads, creates once, deletes")
    assert list(open_store(bucket).list()) == []


def test_mlflows_key_is_checked_where_mlflow_writes_and_nowhere_else(bucket: str) -> None:
    """One for `store.mlflow` alone, as docs/security.md wants it, failed a check that wrote into the store of steps."""
    objects = rendered("laptop")
    at = {one["metadata"].get("namespace") for one in objects if one["metadata"]["name"] == "medmim-check-store"}
    assert at == {"medmim-runs"}
    pod = named(objects, "Pod", "medmim-check-artifacts")
    done = helm_test(pod, MEDMIM_STORE="s3://no-such-bucket/store", MLFLOW_ARTIFACTS=f"{bucket}/mlflow")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"ok    artifacts {bucket}/mlflow: writes, reads, creates once, deletes")
    assert list(open_store(bucket).list()) == []


def test_the_check_of_the_store_fails_without_its_bucket(bucket: str) -> None:
    pod = named(rendered("laptop"), "Pod", "medmim-check-store", "medmim-runs")
    done = helm_test(pod, MEDMIM_STORE=f"{bucket}-absent/store")
    assert done.returncode == 2
    assert "fail  store" in done.stdout and f"there is no bucket '{bucket[5:]}-absent'" in done.stdout
    assert done.stderr == ""


SETTINGS = [("store", "MEDMIM_STORE"), ("mlflow", "MLFLOW_TRACKING_URI"), ("artifacts", "MLFLOW_ARTIFACTS")]


@pytest.mark.parametrize(("name", "setting"), SETTINGS)
def test_a_check_without_its_setting_names_it(name: str, setting: str) -> None:
    namespace = PLATFORM if name == "artifacts" else "medmim-runs"
    done = helm_test(named(rendered("laptop"), "Pod", f"medmim-check-{name}", namespace), **{setting: ""})
    assert done.returncode == 2 and f"{setting} is not set" in done.stdout
