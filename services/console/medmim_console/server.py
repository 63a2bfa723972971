"""The process of the console: who may promote, the address, uvicorn."""

import logging
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import uvicorn

from medmim import hints, stats
from medmim.errors import UserError
from medmim.lvlm.zoo import entry as zoo
from medmim.network import address, bound, is_loopback, networks
from medmim.progress import say
from medmim.redact import shown
from medmim.run.person import current_user, is_person
from medmim.run.workspace import workspace
from medmim_console import app, starting
from medmim_console.identity import Access, read_tokens
from medmim_console.site import Site

_PATIENCE = "5"  # s that a store or MLflow which is away is waited for: a person waits for the page that says so
_HERE = ("localhost", "127.0.0.1", "[::1]")


def access(host: str, tokens: Path | None, header: str, proxies: Sequence[str], promoters: Sequence[str]) -> Access:
    """Who may promote.

    Raises:
        UserError: A file of tokens or a network that is none, or a header that anybody could send.
    """
    if tokens is not None:
        read_tokens(tokens)
    known = networks(proxies)
    if header and not known:
        raise UserError(
            "--identity-header needs --proxy",
            reason="from elsewhere than the ingress, anybody could send the header",
            fix="give the network of the ingress: --proxy 10.0.0.0/8",
        )
    if promoters and not header:
        raise UserError("--promoter is of no use without --identity-header", fix="name people in --tokens FILE")
    own = None
    if tokens is None and not header and is_loopback(host) and is_person(current_user()):
        own = current_user(), secrets.token_urlsafe(24)
    return Access(tokens, own, header, known, frozenset(promoters))


def run(home: Path | None, host: str, port: int, who: Access, names: Sequence[str]) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        home: Folder of everything it writes.
        host: Address.
        port: Port; 0 takes a free one.
        who: Who may promote.
        names: Host names by which it is reached; empty: those of this machine, on another address any.

    Raises:
        UserError: The address cannot be used.
    """
    hints.nothing_to_resume()
    os.environ.setdefault("MEDMIM_PATIENCE", _PATIENCE)
    listening = bound(host, port)
    listening.listen()  # so that who reads the address can ask already
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("medmim.console").setLevel(logging.INFO)
    ws = workspace(home)
    known = {
        "kfp": os.environ.get("MEDMIM_KFP_UI", ""),
        "mlflow": os.environ.get("MEDMIM_MLFLOW_UI", ws.tracking),
        "ray": os.environ.get("MEDMIM_RAY_UI", ""),
    }
    links = {name: shown(uri).rstrip("/") for name, uri in known.items() if uri.startswith("http")}
    site = Site(ws, who, links=links)
    made = app.make(site, names or ((*_HERE, host) if is_loopback(host) else ("*",)))
    _warm(site)
    starting.begin(ws)
    settings = uvicorn.Config(
        made,
        proxy_headers=False,  # who asks is ours to say: uvicorn would believe what 127.0.0.1 forwards
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=10,
    )
    here = address(listening)
    say(f"home {ws.home}\nstore {ws.store}\ntracking {shown(ws.tracking)}")
    if who.own:
        say(f"{here}/login?token={who.own[1]} lets you promote, as {who.own[0]}; others read at {here}")
    else:
        say(here if who.has_login or who.header else f"{here} is for reading: {_nobody(host)}")
    uvicorn.Server(settings).run([listening])


def _nobody(host: str) -> str:
    """Why nobody may promote, where nothing says who may."""
    if not is_loopback(host):
        return "give --tokens FILE, or --identity-header, --proxy and --promoter, for people who promote"
    return f"'{current_user()}' is no person's name; set MEDMIM_USER to yours to promote"


def _warm(site: Site) -> None:
    """Do what the first reader of a page would else wait for: compile its template, load what it computes with."""
    for name in site.environment.list_templates(extensions=["j2"]):
        site.environment.get_template(name)
    ones = np.ones(stats.MIN_PATIENTS)
    stats.difference(ones, ones, [(str(n),) for n in range(stats.MIN_PATIENTS)])
    zoo.entries()
    pc.greater(pa.array([1]), 0)  # loads pandas
