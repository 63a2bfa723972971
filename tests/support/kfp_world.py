"""A cluster as `medmim submit` finds it: KFP's contract server, a registry with the image, a bucket. No Kubernetes."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from medmim import __version__
from medmim.cluster.kfp import submit
from medmim.cluster.kfp.access import Access, resolve
from medmim.recipe.loading import load
from medmim.recipe.schema import Recipe
from medmim.run.stage import Outcome
from medmim.store import open_store
from tests.support.kfp_server import Kfp, kfp_server

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@dataclass
class Registry:
    """Holds one image, `medmim:TAG` and `medmim-cuda:TAG`; requires a login where one is set."""

    address: str = ""
    login: tuple[str, str] | None = None
    sends_digest: bool = True
    down: bool = False
    content: dict[str, tuple[str, bytes]] = field(default_factory=dict)  # `manifests/REF`, `blobs/DIGEST`
    requests: list[str] = field(default_factory=list)
    bearers: list[str] = field(default_factory=list)

    def push(self, tag: str, version: str | None = __version__) -> str:
        """The digest of a new image with that label."""
        labels = {"org.opencontainers.image.version": version} if version else {}
        config = json.dumps({"config": {"Labels": labels}}).encode()
        manifest = json.dumps({"mediaType": MANIFEST, "config": {"digest": digest(config)}, "layers": []}).encode()
        index = json.dumps({"mediaType": INDEX, "manifests": [{"digest": digest(manifest)}]}).encode()
        self.content[f"blobs/{digest(config)}"] = "application/octet-stream", config
        self.content[f"manifests/{digest(manifest)}"] = MANIFEST, manifest
        for reference in (tag, digest(index)):
            self.content[f"manifests/{reference}"] = INDEX, index
        return digest(index)


@contextmanager
def registry_server() -> Iterator[Registry]:
    registry = Registry()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            registry.requests.append(f"{self.command} {path}")
            if registry.down:
                self.send(503, b"", "text/plain")
            elif path == "/token":
                self.token()
            elif registry.login and self.headers.get("Authorization") != "Bearer good":
                challenge = f'Bearer realm="http://{registry.address}/token",service="r",scope="repository:medmim:pull"'
                self.send(401, b"", "text/plain", **{"WWW-Authenticate": challenge})
            else:
                kind, content = registry.content.get(re.sub("^/v2/medmim(-cuda)?/", "", path), ("", b""))
                extra = {"Docker-Content-Digest": digest(content)} if registry.sends_digest else {}
                self.send(200 if kind else 404, content, kind or "application/json", **extra)

        do_HEAD = do_GET

        def token(self) -> None:
            from base64 import b64encode

            good = registry.login and b64encode(":".join(registry.login).encode()).decode()
            given = (self.headers.get("Authorization") or "").removeprefix("Basic ")
            self.send(200, json.dumps({"token": "good" if given == good else "bad"}).encode(), "application/json")

        def send(self, status: int, content: bytes, kind: str, **headers: str) -> None:
            self.send_response(status)
            for key, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        registry.address = f"127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield registry
        server.shutdown()


def nothing_set(monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    """Remove the settings of the environment in which the tests run."""
    for name in (
        "KFP_ENDPOINT", "KF_PIPELINES_ENDPOINT", "KFP_TOKEN", "KFP_TOKEN_FILE", "KF_PIPELINES_SA_TOKEN_PATH",
        "KFP_COOKIE", "KFP_CA_FILE", "KFP_NAMESPACE", "KF_PIPELINES_UI_ENDPOINT", "KUBERNETES_SERVICE_HOST",
        "MEDMIM_IMAGE", "MEDMIM_CUDA_IMAGE", "MEDMIM_STORE", "MEDMIM_HOME", "MLFLOW_TRACKING_URI", "MEDMIM_PATIENCE",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KUBECONFIG", f"{folder}/no-kubeconfig")
    monkeypatch.setenv("DOCKER_CONFIG", folder)
    monkeypatch.setenv("HOME", folder)


@dataclass
class World:
    kfp: Kfp
    registry: Registry
    store: str
    folder: Path

    @property
    def recipe(self) -> Recipe:
        """One that can run on a cluster."""
        return load("demo", [f"platform.store={self.store}", "platform.tracking=http://mlflow:5000"])

    @property
    def image(self) -> str:
        return f"{self.registry.address}/medmim:v1"

    @property
    def access(self) -> Access:
        return resolve(self.kfp.address, "team-a")

    def start(self, name: str = "demo-1", recipe: str = "demo") -> dict[str, Any]:
        """A run that is submitted, as KFP has it."""
        changed = self.recipe.model_copy(update={"name": recipe})
        submit.start(submit.plan("train", changed, name, access=lambda: self.access, image=self.image))
        return self.kfp.run(name)

    def left(self) -> list[str]:
        """The keys in the store."""
        return list(open_store(self.store).list())

    def record(self, run: str, stage: str, **facts: Any) -> None:
        """Write a stage's record."""
        text = json.dumps(Outcome(stage, **facts).__dict__)
        open_store(self.store).write(f"runs/{run}/{stage}.json", text.encode())


@contextmanager
def a_world(folder: Path, store: str, monkeypatch: pytest.MonkeyPatch, multi_user: bool = False) -> Iterator[World]:
    nothing_set(monkeypatch, str(folder))
    with kfp_server(multi_user) as kfp, registry_server() as registry:
        registry.push("v1")
        yield World(kfp, registry, store, folder)
