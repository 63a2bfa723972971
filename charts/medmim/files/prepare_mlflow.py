"""Before MLflow's server starts: upgrade the schemas of its database, and write the settings of its users."""

import configparser
import os
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

COPIES = 2  # of files as they were before a migration
LOCK = 0x6D65646D696D  # "medmim", by which pods migrate one after the other


def revision(path: Path, table: str) -> str:
    """The schema's revision; empty for a database without one."""
    if not path.exists():
        return ""
    with closing(sqlite3.connect(path)) as database, suppress(sqlite3.OperationalError, TypeError):
        return str(database.execute(f"SELECT version_num FROM {table}").fetchone()[0])  # noqa: S608 ours
    return ""


def copies(path: Path) -> list[Path]:
    """Files as they were before each migration, the oldest first."""
    found = path.parent.glob(f"{path.stem}-{'[0-9a-f]' * 12}.db")
    return sorted(found, key=lambda one: one.stat().st_mtime)


def clear(part: Path) -> None:
    """Remove an unfinished copy, with SQLite's own files beside it."""
    for one in (part, *part.parent.glob(f"{part.name}-*")):
        one.unlink(missing_ok=True)


def migrate(path: Path, table: str, *command: str) -> None:
    """Upgrade a schema on a copy, which takes the file's place in one step if anything changed.

    MLflow's migrations are not transactional: one that fails or is killed half-way leaves half a schema, so never in
    the file itself. As it was before, it stays beside the new one.
    """
    before, part = revision(path, table), path.with_suffix(".part")
    clear(part)
    if path.exists():
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(part)) as target:
            source.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # nothing may stay beside the file that is replaced
            source.backup(target)
    done = subprocess.run(
        [*command, f"sqlite:///{part}"], capture_output=True, text=True, encoding="utf-8", errors="replace"
    )
    after = revision(part, table)  # and closes it, so that no file of SQLite's is left beside the copy
    if done.returncode:
        clear(part)
        sys.stderr.write(done.stderr[-4000:])
        if "Can't locate revision" in done.stderr:
            kept = ", ".join(map(str, copies(path))) or "none"
            sys.exit(
                f"error: {path} was migrated by a newer MLflow (schema {before})\n"
                f"fix: upgrade the release again, or put a copy from before in its place (docs/runbook.md): {kept}"
            )
        sys.exit(
            f"error: {path} was not migrated from {before or 'nothing'} and is as it was\n"
            "fix: see MLflow's output above; `helm rollback` starts the previous server on it"
        )
    if after == before:
        clear(part)
        return
    if before:
        copy = path.with_name(f"{path.stem}-{before}.db")
        copy.unlink(missing_ok=True)
        os.link(path, copy)
        sys.stdout.write(f"migrated {path} from {before} to {after}; the file as it was: {copy}\n")
    part.replace(path)
    for old in copies(path)[:-COPIES]:
        old.unlink()


def migrate_shared(uri: str, users: bool) -> None:
    """Upgrade the schemas of an external PostgreSQL, one pod at a time: several start at once.

    A transaction holds the lock, not a session, which a pooler such as PgBouncer would hand to others between two
    statements. It ends with this process, whatever kills that.
    """
    from alembic.util import CommandError
    from mlflow.db import commands
    from mlflow.store.db.utils import create_sqlalchemy_engine_with_retry
    from sqlalchemy import make_url, text

    kind = make_url(uri).get_backend_name()
    if kind != "postgresql":
        sys.exit(
            f"error: the database of MLflow is {kind}, which this chart cannot migrate\n"
            "fix: put a postgresql:// address into mlflow.database.existingSecret, or use your MLflow: mlflow.external"
        )
    engine = create_sqlalchemy_engine_with_retry(uri)
    try:
        with engine.begin() as holder:
            holder.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            holder.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
            commands(["upgrade", uri], standalone_mode=False)
            if users:
                from mlflow.server.auth.db.utils import migrate_if_needed

                migrate_if_needed(engine, "head")
    except CommandError as error:
        if "Can't locate revision" not in str(error):
            raise
        sys.exit(
            f"error: the database was migrated by a newer MLflow: {error}\n"
            "fix: upgrade the release again, or restore a dump from before (docs/runbook.md)"
        )


def write_auth(path: Path, users: str, permission: str) -> None:
    """MLflow reads this database's URI from a file only."""
    settings = configparser.ConfigParser()
    settings["mlflow"] = {
        "default_permission": permission,
        "database_uri": users.replace("%", "%%"),  # as ConfigParser escapes it
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
        "grant_default_workspace_access": "false",
        "auth_cache_ttl_seconds": "60",  # else it hashes the password anew for each request
    }
    with path.open("w", encoding="utf-8") as file:
        settings.write(file)


if __name__ == "__main__":
    backend, auth = os.environ["MLFLOW_BACKEND_STORE_URI"], os.environ.get("MLFLOW_AUTH_CONFIG_PATH")
    runs = Path(backend.removeprefix("sqlite:///")) if backend.startswith("sqlite") else None
    users = runs and runs.with_name("basic_auth.db")  # external: tables beside MLflow's
    if auth:  # first, since without it nothing of the users starts
        write_auth(Path(auth), f"sqlite:///{users}" if users else backend, os.environ["DEFAULT_PERMISSION"])
    if not runs:
        migrate_shared(backend, bool(auth))
    if runs:
        migrate(runs, "alembic_version", "mlflow", "db", "upgrade")
    if users and auth and users.exists():  # the server makes a fresh one itself
        migrate(users, "alembic_version_auth", sys.executable, "-m", "mlflow.server.auth", "db", "upgrade", "--url")
