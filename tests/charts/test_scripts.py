"""The chart's scripts against the real thing: MLflow's migrations, an S3 server."""

import re
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from charts.chart import CHART
from charts.scripts import run


def older(path: Path) -> tuple[str, str]:
    """A database of the schema before the newest, with an experiment in it; the two revisions."""
    from alembic import command
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base
    from sqlalchemy import create_engine

    uri = f"sqlite:///{path}"
    config = _get_alembic_config(uri)
    newest, before, *_ = (one.revision for one in ScriptDirectory.from_config(config).walk_revisions())
    engine = create_engine(uri)
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, before)
    engine.dispose()
    with closing(sqlite3.connect(path)) as database:
        database.execute(
            "INSERT INTO experiments (name, artifact_location, lifecycle_stage) VALUES ('kept', '/', 'active')"
        )
        database.commit()
    return before, newest


def ask(path: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as database:
        return [row[0] for row in database.execute(query)]


def test_an_older_database_is_migrated_and_the_file_as_it_was_stays(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    before, newest = older(path)
    for expected in (f"migrated {path} from {before} to {newest}", ""):  # the second start finds nothing to do
        done = run("prepare_mlflow.py", MLFLOW_BACKEND_STORE_URI=f"sqlite:///{path}")
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout
        assert ask(path, "SELECT version_num FROM alembic_version") == [newest]
        assert "kept" in ask(path, "SELECT name FROM experiments")
        copy = tmp_path / f"mlflow-{before}.db"
        assert sorted(one.name for one in tmp_path.iterdir()) == sorted([path.name, copy.name])
        assert ask(copy, "SELECT version_num FROM alembic_version") == [before]
        assert "kept" in ask(copy, "SELECT name FROM experiments")


def test_a_database_of_a_newer_mlflow_is_left_alone_and_the_way_back_is_told(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        database.execute("INSERT INTO alembic_version VALUES ('fffffffffff0')")
        database.commit()
    (tmp_path / "mlflow-abc.db").write_bytes(b"")
    done = run("prepare_mlflow.py", MLFLOW_BACKEND_STORE_URI=f"sqlite:///{path}")
    assert done.returncode == 1
    assert "was migrated by a newer MLflow (schema fffffffffff0)" in done.stderr
    assert str(tmp_path / "mlflow-abc.db") in done.stderr
    assert ask(path, "SELECT version_num FROM alembic_version") == ["fffffffffff0"]
    assert not list(tmp_path.glob("*.part"))


def test_the_runbooks_backup_is_whole_while_others_write(tmp_path: Path) -> None:
    """The very words of docs/runbook.md, but for the folder."""
    text = (CHART.parents[1] / "docs" / "runbook.md").read_text("utf-8")
    found = re.search(r"python3 -c '(\nimport sqlite3.+?)'", text, flags=re.DOTALL)
    assert found
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as writer:
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute("CREATE TABLE runs (name)")
        writer.execute("INSERT INTO runs VALUES ('done')")
        writer.commit()
        writer.execute("INSERT INTO runs VALUES ('half')")  # neither it nor the log beside the file may be in the way
        subprocess.run([sys.executable, "-c", found[1].replace("/data/", f"{tmp_path}/")], check=True)
    assert ask(tmp_path / "backup.db", "SELECT name FROM runs") == ["done"]


def test_the_users_lie_beside_an_external_database_and_its_password_is_kept_as_it_is(tmp_path: Path) -> None:
    from mlflow.server.auth.config import read_auth_config

    path, uri = tmp_path / "auth.ini", "postgresql://medmim:100%25safe@db:5432/mlflow"
    settings = {"MLFLOW_AUTH_CONFIG_PATH": str(path), "DEFAULT_PERMISSION": "READ"}
    done = run("prepare_mlflow.py", MLFLOW_BACKEND_STORE_URI=uri, **settings)
    assert done.returncode == 0, done.stderr
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MLFLOW_AUTH_CONFIG_PATH", str(path))
        read = read_auth_config()
    assert read.database_uri == uri
    assert read.default_permission == "READ" and read.admin_password is None
    assert uri not in done.stdout + done.stderr


def test_the_check_of_mlflow_says_what_is_wrong() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
        done = run("check_mlflow.py", MLFLOW_TRACKING_URI=address, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    assert done.returncode == 1
    assert f"error: MLflow at {address} does not keep a run" in done.stderr
    assert "fix: " in done.stderr and "Traceback" not in done.stderr


def test_the_check_of_the_store_writes_reads_and_deletes(bucket: str) -> None:
    done = run("check_store.py", MEDMIM_STORE=f"{bucket}/store")
    assert done.returncode == 0, done.stderr
    assert f"{bucket}/store: written, read, deleted" in done.stdout


def test_the_check_of_the_store_says_what_is_wrong(bucket: str) -> None:
    done = run("check_store.py", MEDMIM_STORE=f"{bucket}-not-there/store")
    assert done.returncode == 1
    assert "error: " in done.stderr and "Traceback" not in done.stderr
