"""Before MLflow's server starts: bring SQLite's schema up to date, and write where the server's users are kept."""

import configparser
import os
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path


def revision(path: Path) -> str:
    """The schema's revision; empty for a database without one."""
    with closing(sqlite3.connect(path)) as database, suppress(sqlite3.OperationalError, TypeError):
        return str(database.execute("SELECT version_num FROM alembic_version").fetchone()[0])
    return ""


def migrate(uri: str) -> None:
    """Upgrade the schema; a copy of the file as it was stays beside it if anything changed."""
    path = Path(uri.removeprefix("sqlite:///"))
    before = revision(path) if path.exists() else ""
    copy = path.with_name(f"{path.stem}-{before}.db")
    part = copy.with_suffix(".part")
    if before:
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(part)) as target:
            source.backup(target)
    done = subprocess.run(["mlflow", "db", "upgrade", uri], capture_output=True, text=True)
    if done.returncode:
        part.unlink(missing_ok=True)
        sys.stderr.write(done.stderr[-4000:])
        if "Can't locate revision" in done.stderr:
            kept = ", ".join(sorted(str(one) for one in path.parent.glob(f"{path.stem}-*.db"))) or "none"
            sys.stderr.write(
                f"error: {path} was migrated by a newer MLflow (schema {before})\n"
                f"fix: upgrade the release again, or put a copy from before in its place (docs/runbook.md): {kept}\n"
            )
        sys.exit(1)
    if before and revision(path) != before:
        part.rename(copy)
        sys.stdout.write(f"migrated {path} from {before} to {revision(path)}; the file as it was: {copy}\n")
    part.unlink(missing_ok=True)


def write_auth(path: Path, uri: str, permission: str) -> None:
    """MLflow reads this database's URI from a file only. SQLite: a file of its own; else tables beside MLflow's."""
    users = "sqlite:////data/basic_auth.db" if uri.startswith("sqlite") else uri
    settings = configparser.ConfigParser()
    settings["mlflow"] = {
        "default_permission": permission,
        "database_uri": users.replace("%", "%%"),  # as ConfigParser escapes it
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
        "grant_default_workspace_access": "false",
        "auth_cache_ttl_seconds": "60",  # else it hashes the password anew for each request
    }
    with path.open("w") as file:
        settings.write(file)


if __name__ == "__main__":
    backend = os.environ["MLFLOW_BACKEND_STORE_URI"]
    if backend.startswith("sqlite"):
        migrate(backend)
    if "MLFLOW_AUTH_CONFIG_PATH" in os.environ:
        write_auth(Path(os.environ["MLFLOW_AUTH_CONFIG_PATH"]), backend, os.environ["DEFAULT_PERMISSION"])
