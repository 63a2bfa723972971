"""The process of a server: the model's threads, the one that follows the registry, and uvicorn."""

import ipaddress
import logging
import socket
import threading
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from medmim import hints
from medmim.errors import UserError
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
    try:
        networks = tuple(ipaddress.ip_network(proxy) for proxy in proxies)
    except ValueError as error:
        raise UserError(f"--proxy: {error}", fix="give a network, such as 10.0.0.0/8") from None
    if bool(header) != bool(networks):
        raise UserError(
            "--identity-header and --proxy belong together",
            reason="from elsewhere than the ingress, anybody could send the header",
            fix="give the network of the ingress: --proxy 10.0.0.0/8",
        )
    found = Access(tokens, header, networks)
    if found.is_open and not anyone and not _is_loopback(host):
        raise UserError(
            f"whoever reaches {host} could ask",
            fix="give --tokens FILE, or --identity-header and --proxy; or say so: --anyone",
        )
    return found


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


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
    listening = _listen(host, port)
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
    place, number = listening.getsockname()[:2]
    say(f"http://{f'[{place}]' if ':' in place else place}:{number}/v1 answers as {following.replica().target.alias}")
    hints.nothing_to_resume()
    try:
        uvicorn.Server(settings).run([listening])
    finally:
        following.end()


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket: an address that is taken is told before a model is loaded."""
    try:
        kind, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        found = socket.socket(kind)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(where)
    except OSError as error:
        raise UserError(f"{host}:{port} cannot be used: {error.strerror or error}", fix="give another --port") from None
    return found
