"""An OpenAI-compatible server on loopback, real HTTP, whose model is a function."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Answers with `say`, an echo by default; the first word of the question may request a failure."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[dict] = []
        self.say: Callable[[str], str] = lambda text: f" echo {text} "
        self.raw: Callable[[str], str | None] = lambda text: None  # the whole body, where it is not a completion
        self.failures: dict[str, int] = {}
        self.error = "no, thanks"  # the words of a failure
        self.error_fields: dict[str, object] = {}  # what its error has beside them
        self.headers: dict[str, str] = {}  # of a failure
        self.finish = "stop"  # why a reply ends
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][0]["content"][-1]["text"]
        status, wanted = 200, text.split()
        with self.server.lock:
            self.server.requests.append({"path": self.path, "auth": self.headers["Authorization"], **body})
            if wanted[0] == "once":  # fail the first time with the given status
                tries = self.server.failures[text] = self.server.failures.get(text, 0) + 1
                status = int(wanted[1]) if tries == 1 else 200
            elif wanted[0] == "always":
                status = int(wanted[1])
        message = {"role": "assistant", "content": None if wanted[0] == "nothing" else self.server.say(text)}
        reply = {"error": {"message": self.server.error, **self.server.error_fields}} if status != 200 else {
            "id": "1", "object": "chat.completion", "created": 0, "model": body["model"],
            "choices": [{"index": 0, "finish_reason": self.server.finish, "message": message}],
        }  # fmt: skip
        kind, data = "application/json", json.dumps(reply).encode()
        if (body := self.server.raw(text)) is not None:
            data = body.encode()
        if wanted[0] == "raw":  # the rest of the question, sent with the content type that it names
            kind, data = wanted[1], text.split(maxsplit=2)[2].encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in self.server.headers.items() if status != 200 else ():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Print no request log."""
