"""The process of a server: the model's threads, the one that follows the registry, and uvicorn."""

import logging
import threading
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from medmim import hints
from medmim.errors import UserError
from medmim.network import address, bound, is_loopback, networks
from medmim.progress import say
from medmim.run.workspace import workspace
from medmim_inference import app, connections
from medmim_inference.access import Access, read_tokens
from medmim_inference.batching import Batcher
from medmim_inference.connections import Patient
from medmim_inference.following import Following
from medmim_inference.limits import Limits
from medmim_inference.metrics import Metrics
from medmim_inference.replica import AT_ONCE
from medmim_inference.rules import Rules


def access(host: str, tokens: Path | None, header: str, proxies: Sequence[str], anyone: bool) -> Access:
    """Who may ask.

    Raises:
        UserError: A file of tokens or a network that is none; a header that anybody could send; or nothing that says
            who may ask, though not only this machine reaches the address.
    """
    if tokens is not None:
        read_tokens(tokens)
    known = networks(proxies)
    if bool(header) != bool(known):
        raise UserError(
            "--identity-header and --proxy belong together",
            reason="from elsewhere than the ingress, anybody could send the header",
            fix="give the network of the ingress: --proxy 10.0.0.0/8",
        )
    found = Access(tokens, header, known)
    if found.is_open and not anyone and not is_loopback(host):
        raise UserError(
            f"whoever reaches {host} could ask",
            fix="give --tokens FILE, or --identity-header and --proxy; or say so: --anyone",
        )
    return found


def run(
    ref: str,
    home: Path | None,
    host: str,
    port: int,
    who: Access,
    limits: Limits,
    rules: Rules,
    batch_size: int,
) -> None:
    """Serve until SIGTERM or Ctrl-C; what was accepted is answered first.

    Args:
        ref: The model.
        home: Folder of everything it writes.
        host: Address.
        port: Port; 0 takes a free one.
        who: Who may ask.
        limits: What one request may ask for.
        rules: How a model comes to be served.
        batch_size: Questions asked together.

    Raises:
        UserError: The address cannot be used; the model cannot be served.
        Unavailable: The registry or the store does not answer.
    """
    listening = bound(host, port)
    connections.allow_many()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("medmim.inference").setLevel(logging.INFO)
    metrics = Metrics()
    following = Following(ref, workspace(home), rules, on_event=lambda event: metrics.events.labels(event).inc())
    following.start()
    size, threads = (1, AT_ONCE) if rules.by == "vllm" else (batch_size, 1)
    batcher = Batcher(following.replica, size, threads, limits.waiting, metrics.batches.observe)
    following.free = batcher.wait_until_free
    threading.Thread(target=following.run, name="following", daemon=True).start()
    made = app.make(following, batcher, metrics, who, limits)
    settings = uvicorn.Config(
        made, http=Patient, log_level="warning", access_log=False, server_header=False,
        timeout_graceful_shutdown=int(limits.wait) + 5,
    )  # fmt: skip
    say(f"{address(listening)}/v1 answers as {following.replica().target.alias}")
    hints.nothing_to_resume()
    try:
        uvicorn.Server(settings).run([listening])
    finally:
        following.end()
