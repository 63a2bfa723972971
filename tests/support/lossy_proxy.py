"""A proxy in front of an HTTP server that serves a request and loses its answer, or lets none through."""

import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass
class Lossy:
    """How requests pass.

    Attributes:
        url: Address of the proxy.
        seen: (method, path) of each request.
        lost: Says of a request that the server gets it, and its answer is not sent.
        away: While it is set, no request passes.
        upgrades: Whether WebSockets pass.
    """

    url: str = ""
    seen: list[tuple[str, str]] = field(default_factory=list)
    lost: Callable[[str, str], bool] = lambda method, path: False
    away: threading.Event = field(default_factory=threading.Event)
    upgrades: bool = True

    def lose_first(self, method: str, end: str) -> None:
        """Lose the answer to the next request of a method whose path, without query, ends so."""
        left = [method]

        def first(its: str, path: str) -> bool:
            fits = left == [its] and path.partition("?")[0].rstrip("/").endswith(end)
            return fits and bool(left.pop())

        self.lost = first


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@contextmanager
def lossy(server: str) -> Iterator[Lossy]:
    """A proxy in front of the server at this address."""
    there = urlsplit(server).netloc
    proxy = Lossy()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            proxy.seen.append((self.command, self.path))
            if proxy.away.is_set():
                self.close_connection = True
                return
            if self.headers.get("Upgrade"):
                self.close_connection = True
                if proxy.upgrades:
                    self._tunnel()
                return
            upstream = http.client.HTTPConnection(there, timeout=60)
            try:
                upstream.request(self.command, self.path, body, dict(self.headers))
                answer = upstream.getresponse()
                data = answer.read()
            finally:
                upstream.close()
            if proxy.lost(self.command, self.path):
                self.close_connection = True
                return
            self.send_response_only(answer.status)
            for key, value in answer.getheaders():
                if key.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(key, value)
            told = answer.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(data))
            self.send_header("Content-Length", told)
            self.end_headers()
            self.wfile.write(data)

        def _tunnel(self) -> None:
            """A WebSocket, until the server closes it."""
            host, _, port = there.partition(":")
            with socket.create_connection((host, int(port))) as upstream:
                lines = [self.requestline, *(f"{key}: {value}" for key, value in self.headers.items()), "", ""]
                upstream.sendall("\r\n".join(lines).encode())
                threading.Thread(target=_copy, args=(self.connection, upstream), daemon=True).start()
                _copy(upstream, self.connection)

        do_GET = do_PUT = do_HEAD = do_POST = do_PATCH = do_DELETE = _pass

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        listening.daemon_threads = True
        threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
        proxy.url = f"http://127.0.0.1:{listening.server_port}"
        yield proxy
        listening.shutdown()
