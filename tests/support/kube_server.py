"""Kubernetes' API over HTTP, as far as Ray jobs need it: objects by name with UIDs, merge patches, logs, a clock.

No controller acts on the objects: a test makes the pods and sets the states. What it answers as the real one does is
tested on the real one (`tests/cluster/ray/test_runner.py`); this one can lose answers, refuse and go away.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import pytest

from medmim.cluster import kube
from medmim.cluster.kube import Kube

Object = dict[str, Any]


@dataclass
class Cluster:
    """What the server holds, and how it answers.

    Attributes:
        url: Its address.
        objects: (kind, name) -> object.
        logs: Pod -> its log, with times.
        seen: (method, path without query) of every request, also of those that are lost.
        lost: Says of a request that it is served, and its answer is not sent.
        refused: Status and message instead of serving a request.
        away: While it is set, no request is served.
        changed: Called after each change, with method and object.
    """

    url: str = ""
    objects: dict[tuple[str, str], Object] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    seen: list[tuple[str, str]] = field(default_factory=list)
    lost: Callable[[str, str], bool] = lambda method, path: False
    refused: Callable[[str, str], tuple[int, str] | None] = lambda method, path: None
    away: threading.Event = field(default_factory=threading.Event)
    changed: Callable[[str, Object], None] = lambda method, made: None

    def of(self, kind: str) -> list[Object]:
        return [found for (of, _), found in self.objects.items() if of == kind]

    def put(self, kind: str, body: Object) -> Object:
        """A new object, with what the API server adds."""
        meta = body["metadata"] | {
            "uid": uuid4().hex,
            "creationTimestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        made = {**body, "metadata": meta}
        self.objects[kind, meta["name"]] = made
        return made

    def serve(self, method: str, path: str, query: dict[str, str], body: Object) -> tuple[int, Any]:
        parts = path.strip("/").split("/")
        if parts == ["version"]:
            return 200, {"major": "1"}
        kind, name = [*parts[parts.index("namespaces") + 2 :], "", ""][:2]
        if parts[-1] == "log":
            return 200, self.logs.get(name, "")
        if not kind:
            return 200, {"metadata": {"name": parts[-1]}}
        found = self.objects.get((kind, name))
        if method == "POST":
            if (kind, body["metadata"]["name"]) in self.objects:
                return 409, {"message": "already exists"}
            made = self.put(kind, body)
            self.changed(method, made)
            return 201, made
        if not name:
            wanted = [pair.partition("=") for pair in query.get("labelSelector", "").split(",") if pair]
            return 200, {"items": [one for one in self.of(kind) if _matches(one, wanted)]}
        if found is None:
            return 404, {"message": f'{kind} "{name}" not found'}
        if method == "DELETE":
            if body.get("preconditions", {}).get("uid") not in (None, found["metadata"]["uid"]):
                return 409, {"message": "the UID differs"}
            del self.objects[kind, name]
            if kind == "rayjobs":  # what the garbage collector removes with it
                self.objects = {key: one for key, one in self.objects.items() if key[0] not in ("pods", "leases")}
            self.changed(method, found)
        elif method == "PATCH":
            self.objects[kind, name] = found = _merged(found, body)
            self.changed(method, found)
        return 200, found


def _matches(one: Object, wanted: list[tuple[str, str, str]]) -> bool:
    labels = one["metadata"].get("labels", {})
    return all(key in labels and (not equals or labels[key] == value) for key, equals, value in wanted)


def _merged(old: Any, new: Any) -> Any:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    return {key: _merged(old.get(key), new[key]) if key in new else old[key] for key in {**old, **new}}


@contextmanager
def serving() -> Iterator[Cluster]:
    """A server for as long as the block lasts."""
    cluster, lock = Cluster(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            address = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(address.query).items()}
            cluster.seen.append((self.command, address.path))
            if cluster.away.is_set():
                self.close_connection = True
                return
            with lock:
                status, answer = cluster.refused(self.command, address.path) or (0, None)
                if not status:
                    status, answer = cluster.serve(self.command, address.path, query, json.loads(body or "{}"))
            if cluster.lost(self.command, address.path):
                self.close_connection = True
                return
            answer = {"message": answer} if isinstance(answer, str) and status >= 300 else answer
            data = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
            self.send_response(status)  # with the header Date
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = do_DELETE = _serve

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        cluster.url = f"http://127.0.0.1:{server.server_port}"
        yield cluster
        server.shutdown()


def kubeconfig(folder: Path, url: str) -> Path:
    """A kubeconfig for a server without accounts."""
    context = {"cluster": "c", "user": "u", "namespace": "runs"}
    text = {
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "contexts": [{"name": "c", "context": context}], "users": [{"name": "u", "user": {}}],
    }  # fmt: skip
    path = folder / "kubeconfig"
    path.write_text(json.dumps(text))
    return path


@contextmanager
def connected(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Cluster, Kube]]:
    """A server, and medmim's client of it, which is what `kube.connect` gives then."""
    with serving() as cluster:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig(folder, cluster.url)))
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        monkeypatch.setenv("MEDMIM_IMAGE", "registry.invalid/medmim@sha256:" + "0" * 64)
        yield cluster, kube.connect()
