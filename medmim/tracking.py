"""MLflow: one quiet client for each process, on SQLite in the home or on a server; and what is registered there.

Its client opens a database by itself, with SQLAlchemy: what goes wrong there becomes one message, too.
"""

import logging
import os
import re
import shlex
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies

from medmim.errors import MIN_TRIES, Unavailable, UserError, as_user_error, from_os_error, patience, retrying
from medmim.progress import say
from medmim.redact import hidden, shown
from medmim.run.workspace import Workspace, sqlite_path, sqlite_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from tenacity import RetryCallState

_SQLITE = "sqlite:///"
_REPORT_EVERY = 60.0  # s between two lines about a server that does not answer
_BUSY = 20.0  # s that another process may hold the lock of an SQLite database
_SILENCE = 3.0  # s until it is said that it does
_CONNECT = 10  # s
_PATH = 489  # bytes of the path of an SQLite database; SQLite's limit is 512, and names of files beside it are longer
_DATABASES = re.compile(r"(postgresql|mysql|mssql)(\+\w+)?://")
_DRIVERS = {"psycopg": "medmim[cluster]", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}  # module -> package
_ADDRESSES = "http(s)://HOST:PORT, with a port from 1 to 65535, or sqlite:///PATH"
_QUOTED = (
    "in user and password write %40 for @, %3A for :, %2F for /, %3F for ?, %23 for #, %25 for %, %5B for [, "
    "%5D for ]; an IPv6 address stands in brackets: http://[::1]:5000"
)
# What the servers say, in English; an error that is none of them may pass.
_PERMANENT = re.compile(
    r"authentication failed|no password supplied|does not exist|no pg_hba.conf entry|not permitted to log in"
    r"|certificate verify failed|certificate file|does not match host name|alert (unknown ca|certificate)|sslmode"
    r"|no SSL|not support SSL|SSL is required|SSL (is )?not (supported|enabled)"
    r"|permission denied|Access denied|Unknown database|invalid connection option|Login failed"
)
# Likewise MLflow, and what stands before it.
_REFUSED = re.compile(
    r"failed with error code 4(?!08|25|29)\d\d|^(40[13]|PERMISSION_DENIED|UNAUTHENTICATED|CUSTOMER_UNAUTHORIZED):"
)
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
    """One model version: its number, its tags, when it was made (ms since 1970), and its run."""

    number: str
    tags: Mapping[str, str]
    created: int
    run: str


@dataclass(frozen=True)
class Registered:
    """A registered model: its versions in order, and alias -> version number."""

    versions: tuple[Version, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)

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
    path = sqlite_path(ws.tracking)
    _refuse_unusable(ws.tracking, path)
    if path is not None and not path.exists():
        return {}  # a question makes no database
    api = client(ws)
    with answering(ws.tracking):
        return _ask(api, name)


def experiment(ws: Workspace, name: str) -> str:
    """Id of the experiment of that name, made if absent; its files lie in the home, or where the server puts them."""
    from mlflow.exceptions import MlflowException

    api = client(ws)
    location = (ws.home / "mlflow").as_uri() if sqlite_path(ws.tracking) else None
    known = api.get_experiment_by_name(name)
    if known is None:
        try:
            return str(api.create_experiment(name, artifact_location=location))
        except MlflowException:  # another process made it in between
            known = api.get_experiment_by_name(name)
            if known is None:
                raise
    return str(known.experiment_id)


def is_database_server(tracking: str) -> bool:
    """Whether the URI names a database server that MLflow opens by itself, such as PostgreSQL."""
    return _DATABASES.match(tracking) is not None


def check(ws: Workspace) -> None:
    """Whether something can be registered at the tracking URI. MLflow itself starts slowly and gives up after minutes.

    Raises:
        UserError: MLflow cannot use it: a folder, a database in memory, another path, no address at all, a missing
            driver, or what a database refuses.
        Unavailable: The database is locked or does not answer.
    """
    uri, path = ws.tracking, sqlite_path(ws.tracking)
    _refuse_unusable(uri, path)
    if path is not None and path.exists():
        check_sqlite(path)
    elif is_database_server(uri):
        _connect(uri)


def check_sqlite(path: Path) -> None:
    """Whether an SQLite database can be read.

    Raises:
        UserError: It is damaged or something else.
        Unavailable: Another process has it locked; the message says which.
    """
    try:
        with _reporting_lock(path), closing(sqlite3.connect(path, timeout=_BUSY)) as opened:
            opened.execute("select count(*) from sqlite_master").fetchone()
    except sqlite3.Error as error:
        raise _database_error(str(path), str(error), path) from None


@contextmanager
def answering(tracking: str) -> Iterator[None]:
    """Turn the errors of MLflow, and of the database that it opens, into one message.

    Raises:
        UserError: The database refuses it for good.
        Unavailable: MLflow raised, or its database is locked or does not answer.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    path = sqlite_path(tracking)
    try:
        with _reporting_lock(path):
            yield
    except (MlflowException, SQLAlchemyError) as error:
        said = hidden(str(error), tracking)
        if path is not None or is_database_server(tracking):
            raise _database_error(shown(tracking), said, path) from None
        if "unsupported URI" in said:
            raise _unusable(tracking, "MLflow knows no such registry", f"give {_ADDRESSES}") from None
        raise _server_error(tracking, error, said) from None


@contextmanager
def _reporting_lock(path: Path | None) -> Iterator[None]:
    """Say what is waited for, once, where another process keeps an SQLite database locked."""

    def report() -> None:
        holders = _holders(path) if path is not None else []
        if path is not None and holders and _is_locked(path):
            say(f"waiting for the MLflow database {path}: {' and '.join(holders)} has it open in a transaction")

    timer = threading.Timer(_SILENCE, report)
    timer.daemon = True
    if path is not None:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _is_locked(path: Path) -> bool:
    """Whether nobody else can write into an SQLite database just now."""
    try:
        with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as opened:
            opened.execute("begin immediate")
            opened.execute("rollback")
    except sqlite3.OperationalError as error:
        return "locked" in str(error)
    return False


def _database_error(at: str, text: str, path: Path | None) -> UserError:
    """The error for what a database says; `path` is the file of an embedded one."""
    reason = _first_line(text)
    if path is not None:
        if "is locked" in text:
            who = _holders(path)
            return Unavailable(
                f"the MLflow database {path} is locked",
                reason=f"{' and '.join(who) or 'another process'} has it open in a transaction",
                fix="wait until that ends, or end it; then run the same command again: finished steps are kept",
            )
        if "is not a database" in text or "malformed" in text:
            return UserError(f"{path} is not a database that can be read", reason, "move it away: a new one is made")
        if "unable to open" in text or "readonly" in text:
            fix = "fix the permissions of the file and its folder, or give another --home"
            return UserError(f"the MLflow database {path} cannot be opened", reason, fix)
        if "disk is full" in text:
            return as_user_error(sqlite3.OperationalError(reason), f"writing the MLflow database {path}")
    if "schema" in text and ("out-of-date" in text or "downgrade" in text or "can't locate revision" in text.lower()):
        fix = f"`mlflow db upgrade {shlex.quote(at)}`, or use the version of MLflow that wrote it"
        return UserError(f"the MLflow database {at} is of another version of MLflow", reason, fix)
    if _PERMANENT.search(reason):
        return UserError(
            f"the MLflow database {at} refuses this account or connection",
            reason=reason,
            fix="check user, password, database and options in MLFLOW_TRACKING_URI or platform.tracking",
        )
    return Unavailable(
        f"the MLflow database {at} is not available",
        reason=reason,
        fix="check that it runs and MLFLOW_TRACKING_URI or platform.tracking; then run the same command again",
    )


def _server_error(tracking: str, error: BaseException, said: str) -> UserError:
    """The error for what an MLflow server, or the connection to it, failed with; `said` are MLflow's words for it."""
    from requests import exceptions

    at, check = shown(tracking), "check MLFLOW_TRACKING_URI or platform.tracking"
    causes = list(_causes(error))
    failed = next((cause for cause in causes if isinstance(cause, exceptions.RequestException)), None)
    last = causes[-1]
    words = hidden(_first_line(getattr(last, "strerror", None) or str(last) or type(last).__name__), tracking)
    if isinstance(failed, exceptions.SSLError):
        fix = "set MLFLOW_TRACKING_SERVER_CERT_PATH to its authority's file; write http:// where it has no TLS"
        return UserError(f"no connection with TLS can be made to MLflow at {at}", reason=words, fix=fix)
    if isinstance(failed, exceptions.ProxyError):
        proxies = ", ".join(f"{name.upper()}_PROXY={shown(uri)}" for name, uri in getproxies().items() if name != "no")
        return Unavailable(
            f"MLflow at {at} does not answer through a proxy",
            reason=f"{words}; the environment has {proxies}",
            fix="unset the variable where no proxy is needed, or name the host in NO_PROXY; then run it again",
        )
    if isinstance(failed, exceptions.ConnectionError | exceptions.Timeout):
        fix = f"check that it runs, and {check}; then run the same command again"
        return Unavailable(f"MLflow at {at} does not answer", reason=words, fix=fix)
    if isinstance(failed, exceptions.InvalidURL | exceptions.InvalidSchema | exceptions.InvalidHeader):
        return UserError(f"no request can be sent to MLflow at {at}", reason=words, fix=f"{check}, and HTTP(S)_PROXY")
    if "not in a valid JSON format" in said:
        return UserError(f"what answers at {at} is not MLflow", reason=_first_line(said), fix=check)
    if _REFUSED.search(said):
        fix = f"{check}, MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        return UserError(f"MLflow at {at} refuses a request", reason=_first_line(said), fix=fix)
    fix = f"{check}, then run the same command"
    said = words if failed else _first_line(said)
    return Unavailable(f"MLflow at {at} does not do what it was asked", reason=said, fix=fix)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what caused it, outermost first."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


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
            f"the driver of {at} is missing: {_first_line(str(error))}",
            fix=f"pip install '{_DRIVERS.get(module, module)}'",
        ) from None
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        said = _first_line(hidden(str(error), uri))
        raise _unusable(uri, said, "postgresql://USER:PASSWORD@HOST:PORT/DATABASE") from None
    except DBAPIError as error:
        raise _database_error(at, hidden(str(error), uri), None) from None


def _refuse_unusable(uri: str, path: Path | None) -> None:
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
        fix = _QUOTED if at != uri or "[" in uri or uri.count(":") > 2 else f"give {_ADDRESSES}"
        raise _unusable(uri, said, fix) from None
    if where.scheme.startswith("sqlite"):
        bare = uri.strip("/:").lower() == "sqlite"
        fix = "" if bare else f"did you mean {re.sub('^sqlite:/{0,3}', 'sqlite:///', at, flags=re.IGNORECASE)}?"
        raise _unusable(uri, "SQLite is named by sqlite:///PATH, or sqlite:////PATH from the root", fix)
    if uri.startswith("postgres:"):
        fix = f"set it to {re.sub('^postgres', 'postgresql', at)}{', with user and password' if at != uri else ''}"
        raise _unusable(uri, "SQLAlchemy calls it postgresql", fix)
    if uri.startswith("file:") and os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() not in ("true", "1"):
        file = sqlite_uri(Path(unquote(where.path)) / "mlflow.db")
        raise _unusable(uri, "MLflow 3 keeps no models in a folder of files", f"give {file} or a server")
    if re.match(r"(databricks|databricks-uc|uc)(:|$)", uri):
        raise _unusable(uri, "no registry of Databricks has both aliases and plain names", f"give {_ADDRESSES}")
    if not re.match(r"[\w+.-]+:/", uri):
        raise _unusable(uri, "it names neither a file nor a server", _meant(uri))
    if where.scheme not in ("http", "https", "file") and not is_database_server(uri) and not _is_plugin(where.scheme):
        raise _unusable(uri, f"MLflow knows no '{where.scheme}'", f"give {_ADDRESSES}")
    return None


def _meant(uri: str) -> str:
    """The fix for a tracking URI without a scheme."""
    if re.match(r"localhost(/|$)|[\w.-]+:\d+(/|$)", uri):
        return f"did you mean http://{uri}?"
    return f"did you mean sqlite:///{uri}?" if uri.strip() and ":" not in uri else f"give {_ADDRESSES}"


def _is_plugin(scheme: str) -> bool:
    """Whether an installed package gives MLflow a tracking store of that scheme."""
    return any(found.name == scheme for found in entry_points(group="mlflow.tracking_store"))


def _check_path(uri: str, path: Path) -> None:
    if str(path) in (".", ":memory:") or str(path).startswith("file:"):
        reason = "a registry in memory ends with its process" if str(path) in (".", ":memory:") else ""
        raise _unusable(uri, reason, "name a file: sqlite:///mlflow.db")
    if os.path.isdir(path):
        raise _unusable(uri, f"{path} is a folder", f"name a file in it: {sqlite_uri(path / 'mlflow.db')}")
    above = next((folder for folder in path.parents if os.path.exists(folder)), path.parent)
    if not os.path.isdir(above):
        raise _unusable(uri, f"{above} is a file, not a folder", "name a file in a folder: sqlite:///PATH")
    if len(os.fsencode(path)) > _PATH:
        raise UserError(
            f"the path of the MLflow database is {len(os.fsencode(path))} bytes long: {path}",
            reason=f"SQLite opens no path of more than {_PATH}, with the files that it puts beside it",
            fix="give a shorter --home, or a server as platform.tracking",
        )


def _unusable(uri: str, reason: str, fix: str) -> UserError:
    return UserError(f"{shown(uri)} cannot be the tracking URI", reason, fix)


def _holders(path: Path) -> list[str]:
    """The processes that hold a lock on a file or on SQLite's files beside it, as far as Linux shows them."""
    inodes = set()
    for name in (path, path.with_name(f"{path.name}-shm")):
        with suppress(OSError):
            inodes.add(str(name.stat().st_ino))
    found: dict[str, None] = {}
    with suppress(OSError):
        for line in Path("/proc/locks").read_text(encoding="utf-8").splitlines():
            fields = line.replace("->", "").split()
            if fields[5].rpartition(":")[2] in inodes and fields[4] not in ("-1", "0", str(os.getpid())):
                found[fields[4]] = None
    holders = []
    for pid in found:
        with suppress(OSError):
            program = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
            holders.append(f"process {pid} ({program})")
    return holders


def _first_line(text: str) -> str:
    return text.strip().split("\n", 1)[0][:300]


@lru_cache(maxsize=8)
def _client(tracking: str) -> "MlflowClient":
    for key, value in {**_ENVIRONMENT, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(_retries(patience()))}.items():
        os.environ.setdefault(key, value)
    path = sqlite_path(tracking)
    _refuse_unusable(tracking, path)
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
    found = {}
    for model in _pages(api.search_registered_models, _named(name) if name else None):
        listed = [
            Version(str(v.version), dict(v.tags), v.creation_timestamp, v.run_id or "")
            for v in _pages(api.search_model_versions, _named(model.name))
        ]
        listed.sort(key=lambda version: int(version.number))
        aliases = api.get_registered_model(model.name).aliases  # a search may leave them out
        found[model.name] = Registered(tuple(listed), {alias: str(number) for alias, number in aliases.items()})
    return found


def _named(name: str) -> str:
    quote = '"' if "'" in name else "'"  # MLflow's filters know no escape
    return f"name = {quote}{name}{quote}"


def _pages(search: Callable[..., Any], where: str | None) -> Iterator[Any]:
    token = None
    while True:
        page: Sequence[Any] = search(where, page_token=token)
        yield from page
        token = getattr(page, "token", None)
        if not token:
            return
