"""MLflow that is being started: a page says so at once, and shows itself when it is up or known to be away."""

import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from medmim_console import app
from medmim_console.identity import Access
from medmim_console.site import Site

from medmim.run.workspace import Workspace, workspace
from tests.support.waiting import until


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as listening:
        yield listening


@pytest.fixture
def ws(tmp_path: Path, silent: socket.socket, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("MEDMIM_PATIENCE", "0")
    return replace(workspace(tmp_path), tracking=f"http://127.0.0.1:{silent.getsockname()[1]}")


def test_pages_that_ask_mlflow_say_that_it_is_being_started(ws: Workspace, silent: socket.socket) -> None:
    made = app.make(Site(ws, Access(), patience=0.05))
    client = TestClient(made, base_url="http://console.test", raise_server_exceptions=False)
    for path in ("/models", "/models/a", "/models/a/1"):
        begun = time.perf_counter()
        answer = client.get(path)
        assert answer.status_code == 202 and "MLflow is being started" in answer.text, path
        assert 'http-equiv="refresh"' in answer.text and time.perf_counter() - begun < 5
    assert client.get("/leaderboard").status_code == 200
    silent.close()
    over = until(lambda: found if (found := client.get("/models")).status_code != 202 else None, 60)
    assert over.status_code == 503 and "MLflow at" in over.text
