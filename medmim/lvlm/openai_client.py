"""The client of a server with the OpenAI API: its address and key, and what bounds an answer in bytes and in time."""

import ipaddress
import os
import re
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from medmim.errors import UserError, require
from medmim.lvlm import openai_errors
from medmim.lvlm.ask import writable
from medmim.lvlm.openai_errors import KEY
from medmim.redact import hidden, shown

OWN_SERVERS = "MEDMIM_OWN_SERVERS"
LONGEST = 4_000_000  # bytes of one answer that are read
_LONGEST_PACKED = 50_000  # likewise where it is compressed, which was not asked for: a thousand times as much unpacked
_EXAMPLE = "openai:http://127.0.0.1:8000/v1#my-model"
_PRIVATE_NAMES = (".svc", ".svc.cluster.local", ".local", ".internal", ".localhost", ".home.arpa")
_NO_KEY = "none"  # the client wants some word
_ENDPOINT = re.compile(r"/+(?:(?:chat/)?completions/*)?$")  # of the API; the client adds it


def check(url: str, example: str = _EXAMPLE) -> None:
    """Refuse an address or an API key with which no request can be sent, before anything else is done.

    Args:
        url: The address.
        example: How a right one is written where this one was given.

    Raises:
        UserError: The address is malformed or holds a password, or OPENAI_API_KEY is empty or not ASCII.
    """
    reason, fix = _problem(url, example)
    if reason:
        fact = f"{writable(shown(url))!r} is not the address of a server"
        raise UserError(fact, reason=hidden(writable(reason), url), fix=fix)
    _api_key()


def is_ours(host: str) -> bool:
    """Whether a server is not somebody else's.

    Ours are servers on this machine, in a private network (10.0.0.1) or under a name of one (`vllm`, `vllm.ns.svc`,
    `gpu.internal`), and the hosts in MEDMIM_OWN_SERVERS.
    """
    named = [name.strip().lower() for name in os.environ.get(OWN_SERVERS, "").split(",")]
    if host in named:
        return True
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        pass
    try:
        host = host.encode("idna").decode("ascii").lower()  # as it is looked up: dots and digits of other scripts, too
        address = socket.inet_aton(host)  # resolvers read 134744072 and 0x08080808 as 8.8.8.8
    except UnicodeError:
        return False
    except OSError:
        bare = "." not in host and not host.startswith("0x") and any(map(str.isalpha, host))
        return bare or host.endswith(_PRIVATE_NAMES)
    return ipaddress.ip_address(address).is_private


def _problem(url: str, example: str) -> tuple[str, str]:
    """(reason, fix) where no request can be sent to an address, else empty."""
    write = f"write {example}"
    if not url.isprintable() or any(map(str.isspace, url)):
        return "it holds white space, or a character that cannot be seen", "remove it"
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError as error:
        if shown(url) != url:
            return "it holds a user name or a password", f"leave it out; put a key into {KEY}"
        fix = "an IPv6 address stands in brackets: http://[::1]:8000/v1" if url.count(":") > 2 else write
        return str(error), fix
    if parts.scheme not in ("http", "https"):
        given = f"its scheme is '{parts.scheme}'" if "://" in url else "it has no scheme"
        return f"{given}, not http or https", write
    if parts.username is not None or "@" in parts.path:
        return (
            "it holds a user name or a password, and references to models are shown and written into records",
            f"leave it out; put a key into {KEY}",
        )
    if not host or port == 0:
        return "it names no host" if not host else "its port is 0", write
    try:
        host.encode("idna")
    except UnicodeError:
        return f"'{host}' is not the name of a host", write
    if parts.query or parts.fragment:
        return "it has a query (?...), which is not sent with the path of a request", "leave the query out"
    return "", ""


def _api_key() -> str:
    """The API key.

    Raises:
        UserError: It is empty, or holds what a header cannot. It is not shown.
    """
    given = os.environ.get(KEY)
    if given is None:
        return _NO_KEY
    found = given.strip()  # the line break at the end of a file
    if not found:
        raise UserError(
            f"{KEY} is set, and empty",
            reason="a request needs a key, or no such variable",
            fix=f"set the server's key; for a server without one: unset {KEY}",
        )
    if not found.isascii() or not found.isprintable() or " " in found:
        raise UserError(
            f"{KEY} cannot be sent: it holds {'white space' if found.isascii() else 'a character that is not ASCII'}",
            reason="an HTTP header takes visible ASCII characters only",
            fix="copy the key again, without quotes and dashes that a text processor changed",
        )
    return found


def client(url: str, direct: bool) -> Any:
    """The client of a server; it tries nothing again, and needs a timeout for each request.

    A request raises what the client does, and `Redirected`, `Endless` and `Late` of `openai_errors`.

    Args:
        url: As `check` takes it.
        direct: Whether the server is one that this process started: neither the proxies of the environment nor its
            API key are for that one.

    Raises:
        UserError: The package is not installed, or the environment's settings for it are of no use.
    """
    openai = require("openai", "bench")
    try:
        hooks = {"response": [_refuse_redirect, _bound]}
        limits = {"Accept-Encoding": "identity"}  # what is unpacked has no bound
        http = openai.DefaultHttpxClient(event_hooks=hooks, headers=limits, trust_env=not direct)
        base = _ENDPOINT.sub("", url)
        key = _NO_KEY if direct else _api_key()  # ours is for servers of others
        return openai.OpenAI(base_url=base, api_key=key, max_retries=0, http_client=http)
    except Exception as error:  # httpx's, too, which has no class for all of them
        if not (
            isinstance(error, ImportError | ValueError | OSError) or type(error).__name__ in openai_errors.SETTINGS
        ):
            raise
        raise openai_errors.cannot_send(url, error) from None


def _refuse_redirect(response: Any) -> None:
    """Let a redirect pass only where the request stays what it is: by the others a POST becomes a GET of a web page."""
    if response.status_code in (301, 302, 303):
        raise openai_errors.Redirected(response.headers.get("location", "an address that it does not name"))


def _bound(response: Any) -> None:
    """Read no body without end: neither in bytes nor in time. The client's timeout is that of a single read."""
    base = next(one for one in type(response.stream).__mro__ if one.__name__ == "SyncByteStream")
    longest = _LONGEST_PACKED if response.headers.get("content-encoding", "identity") != "identity" else LONGEST
    end = time.monotonic() + response.request.extensions["timeout"]["read"]
    received = response.stream

    def read(_: Any) -> Iterator[bytes]:
        read = 0
        for chunk in received:
            read += len(chunk)
            if read > longest:
                raise openai_errors.Endless
            if time.monotonic() > end:
                raise openai_errors.Late
            yield chunk

    response.stream = type("Bounded", (base,), {"__iter__": read, "close": lambda _: received.close()})()
