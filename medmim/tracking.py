"""MLflow: one quiet client for each process, on SQLite in the home or on a server; and what is registered there."""

import logging
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmim import __version__
from medmim.errors import Unavailable, from_os_error, patience
from medmim.progress import say
from medmim.run.workspace import Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SQLITE = "sqlite:///"
_REPORT_EVERY = 60.0  # s between two lines about a server that does not answer
_ENVIRONMENT = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
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
    """Registered models by name, with their versions and aliases; all of them, or the one asked for."""
    path = database(ws.tracking)
    if path is not None and not path.exists():
        return {}  # a question makes no database
    api = client(ws)
    with answering(ws.tracking):
        return _ask(api, name)


def experiment(ws: Workspace, name: str) -> str:
    """Id of the experiment of that name, made if absent; its files lie in the home, or where the server puts them."""
    from mlflow.exceptions import MlflowException

    api = client(ws)
    location = (ws.home / "mlflow").as_uri() if database(ws.tracking) else None
    known = api.get_experiment_by_name(name)
    if known is None:
        try:
            return str(api.create_experiment(name, artifact_location=location))
        except MlflowException:  # another process made it in between
            known = api.get_experiment_by_name(name)
            if known is None:
                raise
    return str(known.experiment_id)


def database(tracking: str) -> Path | None:
    """The file of an embedded database; None for a server."""
    return Path(tracking.removeprefix(_SQLITE)) if tracking.startswith(_SQLITE) else None


@contextmanager
def answering(tracking: str) -> Iterator[None]:
    """Turn MLflow's own errors into one message.

    Raises:
        Unavailable: MLflow raised.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise Unavailable(
            f"a request to MLflow at {tracking} failed",
            reason=str(error).strip().split("\n", 1)[0],
            fix="check MLFLOW_TRACKING_URI or platform.tracking, then run the same command",
        ) from None


def code_version() -> dict[str, str]:
    """Package version, and the git commit where the package is part of a checkout (`+changes` if edited)."""
    package = Path(__file__).parent
    found = {"medmim": __version__}
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is not None:
        commit = _git(package, "rev-parse", "HEAD")
        if commit:
            found["commit"] = commit + ("+changes" if _git(package, "status", "--porcelain", "--", ".") else "")
    return found


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)  # noqa: S603, S607
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@lru_cache(maxsize=8)
def _client(tracking: str) -> "MlflowClient":
    for key, value in {**_ENVIRONMENT, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(_retries(patience()))}.items():
        os.environ.setdefault(key, value)
    path = database(tracking)
    say("starting MLflow" if path is None or path.exists() else "creating the MLflow database, once")
    logging.getLogger("alembic").setLevel(logging.ERROR)
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.ERROR)
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
        self.tracking, self.reported = tracking, -_REPORT_EVERY

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if str(record.msg).startswith("Retrying") and now - self.reported >= _REPORT_EVERY:
            self.reported = now
            say(f"waiting for MLflow at {self.tracking}, which does not answer")


def _create(path: Path, migrate: Callable[[str], Any]) -> None:
    """Make the database beside its place, then link it there: a kill or a race leaves no partial one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".part-", dir=path.parent) as folder:
            part = Path(folder) / path.name
            migrate(f"{_SQLITE}{part}")
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
