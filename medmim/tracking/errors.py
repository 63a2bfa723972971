"""What MLflow, its server and the database that it opens fail with, as one message each."""

import os
import re
import shlex
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.request import getproxies

from medmim.errors import TRY_AGAIN, Unavailable, UserError, as_user_error
from medmim.progress import say
from medmim.redact import hidden, shown
from medmim.run.workspace import sqlite_path
from medmim.tracking.address import ADDRESSES, is_database_server, unusable

_SILENCE = 3.0  # s until it is said that it does
# What the servers say, in English; an error that is none of them may pass.
_PERMANENT = re.compile(
    r"authentication failed|no password supplied|does not exist|no pg_hba.conf entry|not permitted to log in"
    r"|certificate verify failed|certificate file|does not match host name|alert (unknown ca|certificate)|sslmode"
    r"|no SSL|not support SSL|SSL is required|SSL (is )?not (supported|enabled)"
    r"|permission denied|Access denied|Unknown database|invalid connection option|Login failed"
)
_PASSES = (408, 425, 429)  # of MLflow's answers below 500, and of what stands before it


@contextmanager
def answering(tracking: str) -> Iterator[None]:
    """Turn the errors of MLflow, and of the database that it opens, into one message.

    Raises:
        UserError: The server or the database refuses it for good: with 400, 401, 403, 404 or 409.
        Unavailable: It does not answer, answers 5xx or 429, or the database is locked.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    path = sqlite_path(tracking)
    try:
        with reporting_lock(path):
            yield
    except (MlflowException, SQLAlchemyError) as error:
        said = hidden(str(error), tracking)
        if path is not None or is_database_server(tracking):
            found = database_error(shown(tracking), said, path)
            refused = _refused(tracking, error, said) if found.exit_code == TRY_AGAIN else None
            raise refused or found from None
        if "unsupported URI" in said:
            raise unusable(tracking, "MLflow knows no such registry", f"give {ADDRESSES}") from None
        raise server_error(tracking, error, said) from None


@contextmanager
def reporting_lock(path: Path | None) -> Iterator[None]:
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


def database_error(at: str, text: str, path: Path | None) -> UserError:
    """The error for what a database says; `path` is the file of an embedded one."""
    reason = first_line(text)
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


def server_error(tracking: str, error: BaseException, said: str) -> UserError:
    """The error for what an MLflow server, or the connection to it, failed with; `said` are MLflow's words for it."""
    from requests import exceptions

    at, check = shown(tracking), "check MLFLOW_TRACKING_URI or platform.tracking"
    causes = list(_causes(error))
    failed = next((cause for cause in causes if isinstance(cause, exceptions.RequestException)), None)
    last = causes[-1]
    words = hidden(first_line(getattr(last, "strerror", None) or str(last) or type(last).__name__), tracking)
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
        return UserError(f"what answers at {at} is not MLflow", reason=first_line(said), fix=check)
    refused = _refused(tracking, error, said)
    if refused is not None:
        return refused
    fix = f"{check}, then run the same command"
    said = words if failed else first_line(said)
    return Unavailable(f"MLflow at {at} does not do what it was asked", reason=said, fix=fix)


def _refused(tracking: str, error: BaseException, said: str) -> UserError | None:
    """The error for a request that MLflow, or what stands before it, would refuse again; None for any other."""
    given = re.search(r"failed with error code (\d{3})\b|^(40[13]):", said)  # of an answer that is not MLflow's own
    status = int(given[1] or given[2]) if given else getattr(error, "get_http_status_code", lambda: 500)()
    if not 400 <= status < 500 or status in _PASSES:
        return None
    account = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
    fix = {
        401: f"check {account}",
        403: f"check {account}; or have that account given the right to do it (docs/security.md says who may do what)",
    }.get(status, "check MLFLOW_TRACKING_URI or platform.tracking, and the name that it speaks of")
    return UserError(f"MLflow at {shown(tracking)} refuses a request ({status})", reason=first_line(said), fix=fix)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what caused it, outermost first."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


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


def first_line(text: str) -> str:
    """The first line of a message of others, cut off after 300 characters."""
    return text.strip().split("\n", 1)[0][:300]
