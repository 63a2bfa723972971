"""Registered models and a server of one, over real HTTP, in this process."""

import base64
import io
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from medmim_inference import app
from medmim_inference.access import Access
from medmim_inference.batching import Batcher
from medmim_inference.connections import Patient
from medmim_inference.following import Following
from medmim_inference.limits import Limits
from medmim_inference.metrics import Metrics
from medmim_inference.rules import Rules
from openai import OpenAI
from PIL import Image

from medmim import store
from medmim.bench import run as bench
from medmim.recipe.schema import Bench, Recipe
from medmim.registry import promote, register
from medmim.run.workspace import Workspace
from medmim.terms import APACHE, Terms
from tests.support.waiting import until

SETTINGS = Bench(max_new_tokens=4, probes=(), limit=8)


def register_model(ws: Workspace, recipe: Recipe, data: str, folder: Path, terms: Terms = APACHE) -> str:
    """Publish, bench and register a model; the number of its version."""
    model = store.publish(folder, ws.store, "model", {}, {"terms": terms.as_dict()})
    scores, _ = bench.bench(ws, data, {"tuned": model.uri}, SETTINGS)
    return str(register.run(recipe, ws, data, model.uri, scores.uri).facts["version"])


def promote_version(ws: Workspace, recipe: Recipe, number: str) -> None:
    promote.promote(ws, recipe.register_.model, number, "a test", "a tester", despite_terms=True)


@dataclass
class Running:
    """A server.

    Attributes:
        url: Of the API.
        following: Its models.
        metrics: What it counts.
    """

    url: str
    following: Following
    metrics: Metrics

    @property
    def client(self) -> OpenAI:
        """Tries nothing again."""
        return OpenAI(base_url=self.url, api_key="none", max_retries=0)

    @property
    def port(self) -> int:
        """On 127.0.0.1."""
        return int(self.url.removesuffix("/v1").rpartition(":")[2])

    def ask(self, text: str, *images: Image.Image, **more: Any) -> Any:
        """A completion."""
        content = [*({"type": "image_url", "image_url": {"url": data_url(one)}} for one in images)]
        messages: Any = [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]
        name = self.following.replica().target.alias
        return self.client.chat.completions.create(**{"model": name, "messages": messages, "max_tokens": 4, **more})


def data_url(image: Image.Image) -> str:
    out = io.BytesIO()
    image.save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


@contextmanager
def running(
    ref: str, ws: Workspace, access: Access | None = None, limits: Limits | None = None, **rules: Any
) -> Iterator[Running]:
    """A server of a model, without the thread that looks at the registry: tests call `following.look`."""
    metrics, limits = Metrics(), limits or Limits()
    following = Following(ref, ws, Rules(**rules), on_event=lambda event: metrics.events.labels(event).inc())
    following.start()
    batcher = Batcher(following.replica, 8, 1, limits.waiting, metrics.batches.observe)
    following.free = batcher.wait_until_free
    made = app.make(following, batcher, metrics, access or Access(), limits)
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(made, http=Patient, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    until(lambda: server.started, 30)
    try:
        yield Running(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", following, metrics)
    finally:
        server.should_exit = True
        thread.join()
        following.end()
