"""Ray's Jobs API over HTTP, of jobs that run nothing: a test sets their states. It may lose answers and go away.

The real one is asked by the tests marked `slow`; it has WebSockets, which this one refuses.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Jobs:
    """What the server holds, and how it answers.

    Attributes:
        url: Its address.
        jobs: Submission id -> job.
        log: Of every job.
        seen: (method, path) of each request.
        lost: Says of a request that it is served, and its answer is not sent.
        away: While it is set, no request is served.
        before: Called before a request is served.
    """

    url: str = ""
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    log: str = ""
    seen: list[tuple[str, str]] = field(default_factory=list)
    lost: Callable[[str, str], bool] = lambda method, path: False
    away: threading.Event = field(default_factory=threading.Event)
    before: Callable[[str, str], None] = lambda method, path: None

    def put(self, name: str, metadata: dict[str, str]) -> dict[str, Any]:
        job = {"type": "SUBMISSION", "submission_id": name, "status": "RUNNING", "entrypoint": "x"}
        self.jobs[name] = job | {"metadata": metadata}
        return self.jobs[name]

    def serve(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        _, _, *rest = path.strip("/").split("/")
        if path == "/api/version":
            return 200, {"version": "4", "ray_version": "2.60.0", "ray_commit": ""}
        if method == "POST" and not rest:
            name = body["submission_id"]
            if name in self.jobs:
                text = f"Request failed with status code 400: ValueError: Job with submission_id {name} already exists."
                return 500, f"Traceback: RuntimeError: {text}"
            self.put(name, body["metadata"])
            return 200, {"job_id": name, "submission_id": name}
        if not rest:
            return 200, list(self.jobs.values())
        if rest[0] not in self.jobs:
            return 404, f"Job {rest[0]} does not exist"
        if rest[1:] == ["logs"]:
            return 200, {"logs": self.log}
        if rest[1:] == ["stop"]:
            self.jobs[rest[0]]["status"] = "STOPPED"
            return 200, {"stopped": True}
        return (400, "no WebSocket here") if rest[1:] else (200, self.jobs[rest[0]])


@contextmanager
def serving() -> Iterator[Jobs]:
    """A server for as long as the block lasts."""
    jobs, lock = Jobs(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            jobs.seen.append((self.command, self.path))
            if jobs.away.is_set():
                self.close_connection = True
                return
            jobs.before(self.command, self.path)
            with lock:
                status, answer = jobs.serve(self.command, self.path, json.loads(body or "{}"))
            if jobs.lost(self.command, self.path):
                self.close_connection = True
                return
            data = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _serve

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        jobs.url = f"http://127.0.0.1:{server.server_port}"
        yield jobs
        server.shutdown()
