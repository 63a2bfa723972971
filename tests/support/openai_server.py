"""An OpenAI-compatible server on loopback, real HTTP, whose model is a function."""

import base64
import json
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


def size_of(part: dict) -> tuple[int, int]:
    """(width, height) of an image, from the head of its PNG file."""
    head = base64.b64decode(part["image_url"]["url"].removeprefix("data:image/png;base64,")[:64])
    return struct.unpack(">II", head[16:24])


class Server(ThreadingHTTPServer):
    """Answers with `say`, an echo by default; the first word of the question may request a failure."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.requests: list[dict] = []
        self.say: Callable[[str], str] = lambda text: f" echo {text} "
        self.raw: Callable[[str], str | None] = lambda text: None  # the whole body, where it is not a completion
        self.failures: dict[str, int] = {}
        self.error = "no, thanks"  # the words of a failure
        self.error_fields: dict[str, object] = {}  # what its error has beside them
        self.headers: dict[str, str] = {}  # of a failure
        self.finish = "stop"  # why a reply ends
        # the tokens of a prompt, of its text and its images as (width, height); no usage where it is None
        self.count: Callable[[str, list[tuple[int, int]]], int | None] = lambda text, images: None
        self.fields = {"type", "text", "image_url", "uuid"}  # of a part that are known; another one is refused
        self.status = self.first = 200  # of all replies; of the first to each question
        self.status_of: Callable[[str], int] = lambda text: 200  # of the reply to a question
        self.unknown: set[str] = set()  # fields of a request that it refuses
        self.made = 1  # tokens of an answer, by its usage
        self.refuse: Callable[[list[tuple[int, int]]], str] = lambda images: ""  # why it takes no such question
        self.wait: Callable[[str], None] = lambda text: None  # before the answer
        self.stream: Callable[[str], Iterable[bytes] | None] = lambda text: None  # a body without a length
        self.encoding = ""  # of a body
        self.hung_up = threading.Event()  # set when a client leaves such a body unread
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """`/health` of vLLM."""
        self.send_response(200)
        self.end_headers()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        parts = body["messages"][0]["content"]
        text = parts[-1]["text"]
        status, wanted = 200, text.split()
        unknown = {name for part in parts for name in part} - self.server.fields
        with self.server.lock:
            self.server.requests.append({"path": self.path, "auth": self.headers["Authorization"], **body})
            if wanted[0] == "once":  # fail the first time with the given status
                tries = self.server.failures[text] = self.server.failures.get(text, 0) + 1
                status = int(wanted[1]) if tries == 1 else 200
            elif wanted[0] == "always":
                status = int(wanted[1])
            elif self.server.status_of(text) != 200:
                status = self.server.status_of(text)
            elif (self.server.status, self.server.first) != (200, 200):
                tries = self.server.failures[text] = self.server.failures.get(text, 0) + 1
                status = self.server.first if tries == 1 and self.server.first != 200 else self.server.status
        self.server.wait(text)
        images = [size_of(part) for part in parts[:-1]]
        prompt = self.server.count(text, images)
        message = {"role": "assistant", "content": None if wanted[0] == "nothing" else self.server.say(text)}
        reply = {"error": {"message": self.server.error, **self.server.error_fields}} if status != 200 else {
            "id": "1", "object": "chat.completion", "created": 0, "model": body["model"],
            "choices": [{"index": 0, "finish_reason": self.server.finish, "message": message}],
        }  # fmt: skip
        if status == 200 and unknown:
            status, where = 400, f"messages[0].content[0].{unknown.pop()}"
            reply = {"error": {"message": f"Unknown parameter: '{where}'.", "code": "unknown_parameter"}}
        if status == 200 and (refused := self.server.unknown & body.keys()):
            status, reply = 400, {"error": {"message": f"Unknown parameter: '{refused.pop()}'."}}
        if status == 200 and (words := self.server.refuse(images)):
            status, reply = 400, {"error": {"message": words}}
        if status == 200 and prompt is not None:
            reply["usage"] = {"prompt_tokens": prompt, "completion_tokens": self.server.made}
        kind, data = "application/json", json.dumps(reply).encode()
        if (body := self.server.raw(text)) is not None:
            data = body.encode()
        if wanted[0] == "raw":  # the rest of the question, sent with the content type that it names
            kind, data = wanted[1], text.split(maxsplit=2)[2].encode()
        chunks = self.server.stream(text)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if self.server.encoding:
            self.send_header("Content-Encoding", self.server.encoding)
        if chunks is None:
            self.send_header("Content-Length", str(len(data)))
        for name, value in self.server.headers.items() if status != 200 else ():
            self.send_header(name, value)
        self.end_headers()
        try:
            for chunk in [data] if chunks is None else chunks:
                self.wfile.write(chunk)
        except OSError:
            self.server.hung_up.set()

    def log_message(self, *_: object) -> None:
        """Print no request log."""


@pytest.fixture
def server() -> Iterator[Server]:
    """One that runs."""
    with Server() as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause between two tries."""
    import tenacity

    monkeypatch.setattr(tenacity, "wait_exponential_jitter", lambda *_, **__: tenacity.wait_none())
