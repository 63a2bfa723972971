"""Tracking URIs: which can be a registry at all, found without asking anybody; and what to write instead."""

import os
import re
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import unquote, urlsplit

from medmim.errors import UserError
from medmim.redact import shown
from medmim.run.workspace import sqlite_uri

_PATH = 489  # bytes of the path of an SQLite database; SQLite's limit is 512, and names of files beside it are longer
_DATABASES = re.compile(r"(postgresql|mysql|mssql)(\+\w+)?://")
ADDRESSES = "http(s)://HOST:PORT, with a port from 1 to 65535, or sqlite:///PATH"
_QUOTED = (
    "in user and password write %40 for @, %3A for :, %2F for /, %3F for ?, %23 for #, %25 for %, %5B for [, "
    "%5D for ]; an IPv6 address stands in brackets: http://[::1]:5000"
)


def is_database_server(tracking: str) -> bool:
    """Whether the URI names a database server that MLflow opens by itself, such as PostgreSQL."""
    return _DATABASES.match(tracking) is not None


def refuse_unusable(uri: str, path: Path | None) -> None:
    """Refuse a tracking URI that cannot work, without asking anybody; `path` is the file of an embedded database."""
    if path is not None:
        return _check_path(uri, path)
    at = shown(uri)
    try:
        where = urlsplit(uri)  # MLflow does the same, without catching what it raises
        if where.scheme in ("http", "https") and (where.port == 0 or not where.hostname):
            raise ValueError("it names no host, or port 0")
    except ValueError as error:
        said = str(error) if at == uri else "user, password, host and port cannot be told apart"
        fix = _QUOTED if at != uri or "[" in uri or uri.count(":") > 2 else f"give {ADDRESSES}"
        raise unusable(uri, said, fix) from None
    if where.scheme.startswith("sqlite"):
        bare = uri.strip("/:").lower() == "sqlite"
        fix = "" if bare else f"did you mean {re.sub('^sqlite:/{0,3}', 'sqlite:///', at, flags=re.IGNORECASE)}?"
        raise unusable(uri, "SQLite is named by sqlite:///PATH, or sqlite:////PATH from the root", fix)
    if uri.startswith("postgres:"):
        fix = f"set it to {re.sub('^postgres', 'postgresql', at)}{', with user and password' if at != uri else ''}"
        raise unusable(uri, "SQLAlchemy calls it postgresql", fix)
    if uri.startswith("file:") and os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() not in ("true", "1"):
        file = sqlite_uri(Path(unquote(where.path)) / "mlflow.db")
        raise unusable(uri, "MLflow 3 keeps no models in a folder of files", f"give {file} or a server")
    if re.match(r"(databricks|databricks-uc|uc)(:|$)", uri):
        raise unusable(uri, "no registry of Databricks has both aliases and plain names", f"give {ADDRESSES}")
    if not re.match(r"[\w+.-]+:/", uri):
        raise unusable(uri, "it names neither a file nor a server", _meant(uri))
    if where.scheme not in ("http", "https", "file") and not is_database_server(uri) and not _is_plugin(where.scheme):
        raise unusable(uri, f"MLflow knows no '{where.scheme}'", f"give {ADDRESSES}")
    return None


def _meant(uri: str) -> str:
    """The fix for a tracking URI without a scheme."""
    if re.match(r"localhost(/|$)|[\w.-]+:\d+(/|$)", uri):
        return f"did you mean http://{uri}?"
    return f"did you mean sqlite:///{uri}?" if uri.strip() and ":" not in uri else f"give {ADDRESSES}"


def _is_plugin(scheme: str) -> bool:
    """Whether an installed package gives MLflow a tracking store of that scheme."""
    return any(found.name == scheme for found in entry_points(group="mlflow.tracking_store"))


def _check_path(uri: str, path: Path) -> None:
    if str(path) in (".", ":memory:") or str(path).startswith("file:"):
        reason = "a registry in memory ends with its process" if str(path) in (".", ":memory:") else ""
        raise unusable(uri, reason, "name a file: sqlite:///mlflow.db")
    if os.path.isdir(path):
        raise unusable(uri, f"{path} is a folder", f"name a file in it: {sqlite_uri(path / 'mlflow.db')}")
    above = next((folder for folder in path.parents if os.path.exists(folder)), path.parent)
    if not os.path.isdir(above):
        raise unusable(uri, f"{above} is a file, not a folder", "name a file in a folder: sqlite:///PATH")
    if len(os.fsencode(path)) > _PATH:
        raise UserError(
            f"the path of the MLflow database is {len(os.fsencode(path))} bytes long: {path}",
            reason=f"SQLite opens no path of more than {_PATH}, with the files that it puts beside it",
            fix="give a shorter --home, or a server as platform.tracking",
        )


def unusable(uri: str, reason: str, fix: str) -> UserError:
    """The error for a tracking URI that cannot work."""
    return UserError(f"{shown(uri)} cannot be the tracking URI", reason, fix)
