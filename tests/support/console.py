"""The console in this process, as a browser of a reader or of a promoter sees it; and as a process of its own."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
from fastapi.testclient import TestClient
from medmim_console import app
from medmim_console.identity import Access
from medmim_console.site import Site

from medmim import tracking
from medmim.registry import lookup
from medmim.run.workspace import Workspace
from medmim.store.flock import try_lock
from tests.support.registry import model
from tests.support.waiting import until

TOKEN = "a-token-of-a-promoter"
MODEL = "medmim-demo"  # a registered one


def browser(ws: Workspace, access: Access | None = None, links: Mapping[str, str] | None = None) -> TestClient:
    """Of a reader; `log_in` makes it that of a promoter."""
    known = access or Access(own=("ann", TOKEN))
    made = app.make(Site(ws, known, links=links or {}, patience=60))
    return TestClient(made, base_url="http://console.test", raise_server_exceptions=False)


def log_in(client: TestClient) -> TestClient:
    assert client.post("/login", data={"token": TOKEN}).status_code == 200
    return client


def csrf(html: str) -> str:
    """Of the forms of a page."""
    found = re.search(r'name="csrf" value="(\w+)"', html)
    assert found, "no form of this page has a CSRF token"
    return found[1]


@contextmanager
def being_indexed(home: Path, digest: str) -> Iterator[None]:
    """Hold the lock of an artifact's index in a new home, as another process does that makes it."""
    (home / "console").mkdir()
    lock = try_lock(home / "console" / f"{digest}.lock")
    assert lock
    with lock:
        yield


@contextmanager
def serving(ws: Workspace, tokens: Path, **environment: str) -> Iterator[str]:
    """The address of a console that runs as its command does."""
    command = [sys.executable, "-m", "medmim.cli.main", "console", "--home", str(ws.home), "--tokens", str(tokens)]
    environment = {**os.environ, "MEDMIM_STORE": ws.store, "MLFLOW_TRACKING_URI": ws.tracking, **environment}
    process = subprocess.Popen([*command, "--port", "0"], stderr=subprocess.PIPE, text=True, env=environment)
    lines: list[str] = []

    def read() -> None:
        assert process.stderr
        lines.extend(iter(process.stderr.readline, ""))

    threading.Thread(target=read, daemon=True).start()

    def found() -> "re.Match[str] | None":
        assert process.poll() is None, lines
        return re.search(r"http://127\.0\.0\.1:\d+", "".join(lines))

    try:
        yield until(found, 60)[0]
    finally:
        process.terminate()
        process.wait(30)


def wait_for_mlflow(url: str) -> None:
    """Wait until a console that was just started has started MLflow: until then its pages of models say so."""
    until(lambda: httpx.get(f"{url}/models").status_code != 202, 60)


def add_version(ws: Workspace, letter: str, name: str = MODEL, **tags: str) -> str:
    """A real version in MLflow, of a small model."""
    api = tracking.client(ws)
    if tracking.aliases(ws, name) is None:
        api.create_registered_model(name)
    made = model(ws, letter)
    known = {
        lookup.DIGEST: made.digest,
        lookup.URI: made.uri,
        **{f"medmim.{key}": value for key, value in tags.items()},
    }
    return str(api.create_model_version(name, source=ws.home.as_uri(), tags=known).version)
