"""A proxy in front of an S3 server that counts what is read, and may slow it down, alter it, stop it or refuse it."""

import http.client
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

_PIECE = 64 << 10


@dataclass
class Proxy:
    """What passed, and how it passes.

    Attributes:
        url: Its address, for AWS_ENDPOINT_URL.
        reads: (name of the object, header Range or empty, bytes of the body) of each GET of an object.
        latency: Seconds before each answer.
        rate: Bytes a second on each connection; 0: as fast as it can.
        alter: (name, range, body) -> the body that is sent.
        allows: (method, path with its query, headers) -> whether the server gets the request; else AccessDenied.
    """

    url: str = ""
    reads: list[tuple[str, str, int]] = field(default_factory=list)
    latency: float = 0.0
    rate: float = 0.0
    alter: Callable[[str, str, bytes], bytes] = lambda name, range_, body: body
    allows: Callable[[str, str, Mapping[str, str]], bool] = lambda method, path, headers: True

    @property
    def bytes(self) -> int:
        """Bytes of the objects that were read, but for manifests."""
        return sum(count for name, _, count in self.reads if not name.endswith("manifest.json"))

    def names(self) -> set[str]:
        """Last parts of the names of the objects that were read."""
        return {name.rpartition("/")[2] for name, _, _ in self.reads}


@contextmanager
def counting(server: str) -> Iterator[Proxy]:
    """A proxy in front of the server at this address."""
    there = urlsplit(server).netloc
    proxy = Proxy()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            time.sleep(proxy.latency)
            if not proxy.allows(self.command, self.path, dict(self.headers)):
                return self._refuse()
            upstream = http.client.HTTPConnection(there, timeout=60)
            try:
                upstream.request(self.command, self.path, body, dict(self.headers))  # the signature covers the Host
                answer = upstream.getresponse()
                data = answer.read()
            finally:
                upstream.close()
            path, _, query = self.path.partition("?")
            name, range_ = unquote(path.strip("/")), self.headers.get("Range") or ""
            is_read = self.command == "GET" and "/" in name and not query and answer.status < 300
            if is_read:
                data = proxy.alter(name, range_, data)
            self.send_response(answer.status)
            for key, value in answer.getheaders():
                if key.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                    self.send_header(key, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            sent = 0
            try:
                for at in range(0, len(data), _PIECE):
                    self.wfile.write(data[at : at + _PIECE])
                    sent += len(data[at : at + _PIECE])
                    if proxy.rate:
                        time.sleep(_PIECE / proxy.rate)
            except ConnectionError:
                self.close_connection = True
            if is_read:
                proxy.reads.append((name, range_, sent))

        def _refuse(self) -> None:
            text = b"<Error><Code>AccessDenied</Code><Message>Access Denied.</Message></Error>"
            self.send_response(403)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text if self.command != "HEAD" else b"")

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
        proxy.url = f"http://127.0.0.1:{listening.server_port}"
        yield proxy
        listening.shutdown()
