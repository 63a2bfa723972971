"""MLflow: one quiet client for each process, on SQLite in the home or on a server; and what is registered there."""

import logging
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from medmim.errors import MIN_TRIES, Unavailable, UserError, from_os_error, patience, retrying
from medmim.progress import say, waiting_for
from medmim.redact import hidden, shown
from medmim.run.workspace import Workspace, sqlite_path, sqlite_uri
from medmim.tracking.address import is_database_server, refuse_unusable, unusable
from medmim.tracking.errors import answering, database_error, first_line, reporting_lock, server_error

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel
    from tenacity import RetryCallState

_SQLITE = "sqlite:///"
_REPORT_EVERY = 60.0  # s between two lines about a server that does not answer
_BUSY = 20.0  # s that another process may hold the lock of an SQLite database
_CONNECT = 10  # s
_SECONDS = (5, 5)  # of a server to connect, to answer that it is there
_NONE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # what MLflow answers to a name that is none
_DRIVERS = {"psycopg": "medmim[cluster]", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}  # module -> package
_KIND = {"mlflow.experimentKind": "custom_model_development"}  # else its pages are those of prompts and agents
_ENVIRONMENT = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # what it logs as an error, with a traceback, it raises as well
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "GIT_PYTHON_REFRESH": "quiet",
}


@dataclass(frozen=True)
class Version:
    """One model version: its number, its tags, when it was made (ms since 1970), its run, and where its files are."""

    number: str
    tags: Mapping[str, str]
    created: int
    run: str
    source: str


@dataclass(frozen=True)
class Registered:
    """A registered model: its versions in order, alias -> version number, and its own tags."""

    versions: tuple[Version, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)

    def version(self, number: str) -> Version | None:
        """The version of that number."""
        return next((v for v in self.versions if v.number == number), None)


def client(ws: Workspace) -> "MlflowClient":
    """The client of this workspace; creates the embedded database on first use.

    MLflow's process-wide tracking URI stays as it is: setting it writes MLFLOW_TRACKING_URI, which would decide
    where every later workspace of this process tracks.

    Raises:
        Unavailable: The server does not answer, or the database cannot be read.
    """
    return _client(ws.tracking)


def registered(ws: Workspace, name: str | None = None) -> dict[str, Registered]:
    """Registered models by name, with their versions and aliases; all of them, or the one asked for.

    Raises:
        UserError: See `answering`.
    """
    if (api := _reader(ws)) is None:
        return {}
    with answering(ws.tracking):
        return _ask(api, name)


def get(ws: Workspace, name: str, number: str) -> Version | None:
    """The version of that number; None where there is no such model or version.

    Raises:
        UserError: See `answering`.
    """
    if not number.isascii() or not number.isdigit() or (api := _reader(ws)) is None:
        return None
    from mlflow.exceptions import MlflowException

    with answering(ws.tracking):
        try:
            return _version(api.get_model_version(name, number))
        except MlflowException as error:
            if error.error_code in _NONE:
                return None
            raise


def aliases(ws: Workspace, name: str) -> dict[str, str] | None:
    """Alias -> version number of a registered model; None where there is no such model.

    Raises:
        UserError: See `answering`.
    """
    if (api := _reader(ws)) is None:
        return None
    from mlflow.exceptions import MlflowException

    with answering(ws.tracking):
        try:
            return {alias: str(number) for alias, number in api.get_registered_model(name).aliases.items()}
        except MlflowException as error:
            if error.error_code in _NONE:
                return None
            raise


def tagged(ws: Workspace, name: str, key: str, value: str) -> list[Version]:
    """The versions of a model with a tag of this value, in order.

    Raises:
        UserError: See `answering`.
    """
    if (api := _reader(ws)) is None:
        return []
    with answering(ws.tracking):
        found = [
            _version(v) for v in _pages(api.search_model_versions, f"{_named(name)} and {_equals(_tag(key), value)}")
        ]
    return sorted(found, key=lambda version: int(version.number))


def page_of_models(ws: Workspace, like: str, number: int, size: int) -> tuple[dict[str, Registered], bool]:
    """A page of registered models, each with its aliases and its newest version alone; and whether there are more.

    Args:
        ws: The workspace.
        like: A part of the name, in lower or upper case; empty: all.
        number: Of the page, from 1.
        size: Models of a page.

    Raises:
        UserError: See `answering`.
    """
    if (api := _reader(ws)) is None:
        return {}, False
    where = _compare("name", "ilike", f"%{like}%") if like else None
    with answering(ws.tracking):
        page = api.search_registered_models(where, size, ["name ASC"], _token(number, size))
    return {str(model.name): _newest(model) for model in page}, bool(page.token)


def page_of_versions(
    ws: Workspace, name: str, number: int, size: int, tags: Mapping[str, str] | None = None
) -> tuple[list[tuple[str, Version]], bool]:
    """A page of versions as (name of the model, version), the newest first, and whether there are further ones.

    Args:
        ws: The workspace.
        name: Of the model; empty: of all models.
        number: Of the page, from 1.
        size: Versions of a page.
        tags: What they must be tagged with.

    Raises:
        UserError: See `answering`.
    """
    if (api := _reader(ws)) is None:
        return [], False
    wanted = [*([_named(name)] if name else []), *(_equals(_tag(k), v) for k, v in (tags or {}).items())]
    order = ["version_number DESC"] if name else ["creation_timestamp DESC", "name ASC", "version_number DESC"]
    with answering(ws.tracking):
        page = api.search_model_versions(" and ".join(wanted) or None, size, order, _token(number, size))
    return [(str(v.name), _version(v)) for v in page], bool(page.token)


def experiment(ws: Workspace, name: str) -> str:
    """Id of the experiment of that name, made if absent; its files lie in the home, or where the server puts them."""
    from mlflow.exceptions import MlflowException

    api = client(ws)
    location = _experiment_files(ws)
    known = api.get_experiment_by_name(name)
    if known is None:
        try:
            return str(api.create_experiment(name, artifact_location=location, tags=_KIND))
        except MlflowException:  # another process made it in between
            known = api.get_experiment_by_name(name)
            if known is None:
                raise
    return str(known.experiment_id)


def new_experiment(ws: Workspace, name: str) -> str:
    """Id of an experiment that this user makes now; where the name is taken, it is called `NAME-1a2b3c4d`."""
    from mlflow.exceptions import MlflowException

    api = client(ws)
    location = _experiment_files(ws)
    try:
        return str(api.create_experiment(name, artifact_location=location, tags=_KIND))
    except MlflowException:  # taken; anything else raises again
        return str(api.create_experiment(f"{name}-{uuid4().hex[:8]}", artifact_location=location, tags=_KIND))


def _experiment_files(ws: Workspace) -> str | None:
    return (ws.home / "mlflow").as_uri() if sqlite_path(ws.tracking) else None


def check(ws: Workspace) -> None:
    """Whether something can be registered at the tracking URI, before hours of work are done for it.

    What does not answer is found without MLflow, which starts slowly and gives up after minutes. A server that does is
    asked what each run asks, by the same client and login: its health may be open, and nothing else.

    Raises:
        UserError: MLflow cannot use it: a folder, a database in memory, another path, no address at all, a missing
            driver, or what a database or a server refuses.
        Unavailable: The database is locked, or it or the server does not answer.
    """
    uri, path = ws.tracking, sqlite_path(ws.tracking)
    refuse_unusable(uri, path)
    if path is not None and path.exists():
        check_sqlite(path)
    elif is_database_server(uri):
        _connect(uri)
    elif uri.startswith(("http://", "https://")):
        with waiting_for(f"MLflow at {shown(uri)}"):
            retrying(Unavailable)(_reach, uri)
        api = client(ws)  # which asks for registered models
        with answering(uri):
            api.search_experiments(max_results=1)


def _reach(uri: str) -> None:
    """Whether anything answers at the address of a server, whatever it answers."""
    import requests

    try:
        requests.get(f"{uri.rstrip('/')}/health", timeout=_SECONDS, allow_redirects=False)
    except requests.exceptions.SSLError:
        return  # MLflow's client knows the authority's file, and reports what is wrong
    except requests.RequestException as error:
        raise server_error(uri, error, hidden(str(error), uri)) from None


def check_sqlite(path: Path) -> None:
    """Whether an SQLite database can be read.

    Raises:
        UserError: It is damaged or something else.
        Unavailable: Another process has it locked; the message says which.
    """
    try:
        with reporting_lock(path), closing(sqlite3.connect(path, timeout=_BUSY)) as opened:
            opened.execute("select count(*) from sqlite_master").fetchone()
    except sqlite3.Error as error:
        raise database_error(str(path), str(error), path) from None


def _connect(uri: str) -> None:
    """Open and close one connection, as often as a server is retried: MLflow itself would try without a word."""

    def report(state: "RetryCallState") -> None:
        if state.attempt_number == MIN_TRIES:
            say(f"waiting for the MLflow database {shown(uri)}, which does not answer")

    retrying(Unavailable, before_sleep=report)(_connect_once, uri)


def _connect_once(uri: str) -> None:
    import sqlalchemy
    from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

    at = shown(uri)
    try:
        url = sqlalchemy.make_url(uri)
        timeout = {"connect_timeout": _CONNECT} if url.drivername.startswith("postgresql") else {}
        given = {name: value for name, value in timeout.items() if name not in url.query}
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool, connect_args=given)
        engine.connect().close()
    except ImportError as error:
        module = getattr(error, "name", None) or url.get_dialect().driver
        raise UserError(
            f"the driver of {at} is missing: {first_line(str(error))}",
            fix=f"pip install '{_DRIVERS.get(module, module)}'",
        ) from None
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        said = first_line(hidden(str(error), uri))
        raise unusable(uri, said, "postgresql://USER:PASSWORD@HOST:PORT/DATABASE") from None
    except DBAPIError as error:
        raise database_error(at, hidden(str(error), uri), None) from None


@lru_cache(maxsize=8)
def _client(tracking: str) -> "MlflowClient":
    for key, value in {**_ENVIRONMENT, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(_retries(patience()))}.items():
        os.environ.setdefault(key, value)
    path = sqlite_path(tracking)
    refuse_unusable(tracking, path)
    if is_database_server(tracking):
        _connect(tracking)
    say("starting MLflow" if path is None or path.exists() else "creating the MLflow database, once")
    logging.getLogger("alembic").setLevel(logging.ERROR)
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.CRITICAL)
    if path is None:
        logging.getLogger("urllib3.connectionpool").addHandler(_Waiting(tracking))
    with answering(tracking):
        if path is not None and not path.exists():
            _create(path, lambda uri: mlflow.MlflowClient(uri, uri))
        made = mlflow.MlflowClient(tracking, tracking)
        made.search_registered_models(max_results=1)
    return made


def _retries(seconds: float) -> int:
    """How often MLflow must try again to go on for so long: it waits 0, 2, 4, ... s, 120 at most, at most 10 times.

    Its own default waits for minutes without a word.
    """
    waits = [0, *(min(2**n, 120) for n in range(1, 10))]
    return next((n for n in range(2, len(waits)) if sum(waits[:n]) >= seconds), len(waits))


class _Waiting(logging.Handler):
    """Reports that MLflow does not answer, where its client logs a warning for each try."""

    def __init__(self, tracking: str) -> None:
        super().__init__(logging.WARNING)
        self.at, self.reported = shown(tracking), -_REPORT_EVERY

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if str(record.msg).startswith("Retrying") and now - self.reported >= _REPORT_EVERY:
            self.reported = now
            say(f"waiting for MLflow at {self.at}, which does not answer")


def _create(path: Path, migrate: Callable[[str], Any]) -> None:
    """Make the database beside its place, then link it there: a kill or a race leaves no partial one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".part-", dir=path.parent) as folder:
            part = Path(folder) / path.name
            migrate(sqlite_uri(part))
            with suppress(FileExistsError):  # another process was first
                os.link(part, path)
    except OSError as error:
        raise from_os_error(error, "creating the MLflow database") from error


def _ask(api: "MlflowClient", name: str | None) -> dict[str, Registered]:
    """In two questions for all models, since one for each takes a minute where there are a thousand."""
    where = _named(name) if name else None
    models = {model.name: model for model in _pages(api.search_registered_models, where)}
    versions: dict[str, list[Version]] = {named: [] for named in models}
    for version in _pages(api.search_model_versions, where):
        versions.setdefault(version.name, []).append(_version(version))
    return {
        named: Registered(
            tuple(sorted(versions[named], key=lambda version: int(version.number))),
            {alias: str(number) for alias, number in model.aliases.items()},
            dict(model.tags),
        )
        for named, model in models.items()
    }


def _reader(ws: Workspace) -> "MlflowClient | None":
    """The client; None where there is no database yet, since a question makes none."""
    path = sqlite_path(ws.tracking)
    refuse_unusable(ws.tracking, path)
    return None if path is not None and not path.exists() else client(ws)


def _version(found: "ModelVersion") -> Version:
    return Version(
        str(found.version), dict(found.tags), int(found.creation_timestamp or 0), found.run_id or "", found.source or ""
    )


def _newest(found: "RegisteredModel") -> Registered:
    listed = sorted((_version(v) for v in found.latest_versions or ()), key=lambda version: int(version.number))
    return Registered(tuple(listed[-1:]), {alias: str(number) for alias, number in found.aliases.items()})


def _named(name: str) -> str:
    return _equals("name", name)


def _equals(key: str, value: str) -> str:
    return _compare(key, "=", value)


def _compare(key: str, how: str, value: str) -> str:
    quote = '"' if "'" in value else "'"  # MLflow's filters know no escape
    return f"{key} {how} {quote}{value}{quote}"


def _tag(key: str) -> str:
    return f"tags.`{key}`"


def _token(number: int, size: int) -> str | None:
    """MLflow's own mark of the page that begins with a row of this number."""
    from mlflow.utils.search_utils import SearchUtils

    return SearchUtils.create_page_token((number - 1) * size) if number > 1 else None


def _pages(search: Callable[..., Any], where: str | None) -> Iterator[Any]:
    token = None
    while True:
        page: Sequence[Any] = search(where, page_token=token)
        yield from page
        token = getattr(page, "token", None)
        if not token:
            return
