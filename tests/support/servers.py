"""Servers on loopback for as long as a test needs them: a real MLflow, and one that always answers the same."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import requests

from tests.cluster.conftest import free_port
from tests.support.waiting import until

ALLOWED_HOSTS = "localhost:*"  # no other name, and so not 127.0.0.1


@contextmanager
def mlflow_server(folder: Path, database: Path) -> Iterator[int]:
    """The port of a real MLflow that accepts requests to `localhost` only."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{database}", "--artifacts-destination", str(folder)]
    env = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen([*command, "--allowed-hosts", ALLOWED_HOSTS], env=env, stdout=log, stderr=log)

        def answers() -> bool:
            try:
                return bool(requests.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code == 200)
            except requests.ConnectionError:
                assert server.poll() is None, (folder / "server.log").read_text()
                return False

        try:
            until(answers, 120)
            yield port
        finally:
            server.terminate()
            server.wait(30)


@contextmanager
def healthy_only(status: int, body: str) -> Iterator[str]:
    """The address of an MLflow of which /health alone is open: all else gets this answer, as from a gateway."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(200 if self.path == "/health" else status)
            self.end_headers()
            self.wfile.write(b"OK" if self.path == "/health" else body.encode())

        do_POST = do_GET

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextmanager
def answering(status: int, body: str, only: Callable[[str], bool] = lambda _: True, **headers: str) -> Iterator[str]:
    """The address of a server that gives every request the same answer, or 404 where `only` says no to its path."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if only(self.path) else 404)
            for key, value in headers.items():
                self.send_header(key.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_GET

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


KFP: Mapping[str, Any] = {"commit_sha": "0", "tag_name": "2.17.0", "multi_user": False}
