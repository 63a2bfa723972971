"""What goes wrong with a request to a server with the OpenAI API: whether it may pass, and how it is told."""

import email.utils
import math
import os
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from medmim.errors import MIN_TRIES, Unavailable, UserError, patience
from medmim.lvlm import openai_reply
from medmim.lvlm.ask import writable
from medmim.progress import say
from medmim.redact import hidden, shown

if TYPE_CHECKING:
    from tenacity import RetryCallState

KEY = "OPENAI_API_KEY"
# What makes the client's HTTP library refuse to send a request, by the names of its classes: trying again is no use.
SETTINGS = ("UnsupportedProtocol", "LocalProtocolError", "InvalidURL", "InvalidProxyURL")
FAULT = 500  # of the server itself, as one question may be; 502 to 504 are of what stands before it
LIMIT = 429  # of requests in a time
_LONGEST_WAIT = 60.0  # s that a server may ask for (Retry-After), or MEDMIM_PATIENCE where that is longer
_SILENCE = 30.0  # s between two reports that the server is waited for
_HEADERS = ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID")  # which the client sends along
_TEMPORARY = (408, 409, 425, 429)  # and 5xx, but these:
_NEVER = (501, 505)  # the server cannot do this at all
_UNPAID = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")  # with 429, by OpenAI and others
# How servers say, with a status that would else be tried again, that this question will never fit.
_TOO_LONG = re.compile(
    r"context (?:length|size|window)|too many (?:\w+ )?tokens|maximum (?:number of )?(?:\w+ )?tokens|max_model_len"
    r"|\b(?:prompt|input|question|message|sequence|text)s?\b[^.]{0,40}\btoo (?:long|large)",
    re.IGNORECASE,
)


class Redirected(Exception):
    """The server sends the request elsewhere, as a login before a server does; its text is where."""


class Endless(Exception):
    """The server sends more than any answer has."""


class Late(Exception):
    """The server sends an answer for longer than one may take."""


class Failed(Exception):
    """An error with a status, in an answer of status 200: proxies before several servers send it."""

    def __init__(self, body: Mapping[str, Any], status: int, response: Any) -> None:
        super().__init__(openai_reply.error_of(body))
        self.status_code, self.response, self.body = status, response, body.get("error")


def is_temporary(error: BaseException) -> bool:
    """Whether the same request may succeed later, and soon enough to wait for it."""
    if isinstance(error, Endless):
        return False
    if not hasattr(error, "status_code"):
        return is_lost(error)
    return is_passing(error) and retry_after(error) <= _longest_wait()


def is_passing(error: Any) -> bool:
    """Whether an error of a server may pass by itself, and is not about this one question or about money."""
    return may_pass(error.status_code) and not is_unpaid(error) and not _TOO_LONG.search(said(error))


def may_pass(status: int) -> bool:
    """Whether an error of this status may pass by itself."""
    return status in _TEMPORARY or (500 <= status < 600 and status not in _NEVER)


def is_unpaid(error: Any) -> bool:
    """Whether a server wants to be paid first, by the code of its error."""
    fields = error.body if isinstance(error.body, Mapping) else {}
    return bool({str(fields.get("code")), str(fields.get("type"))} & set(_UNPAID))


def is_lost(error: BaseException) -> bool:
    """Whether a connection was lost or refused, and not one that no request can be sent to."""
    import openai

    certificate = any(isinstance(cause, ssl.SSLError) for cause in _causes(error))
    refused = any(type(cause).__name__ in SETTINGS or isinstance(cause, UnicodeError) for cause in _causes(error))
    return isinstance(error, openai.APIConnectionError | Late) and not certificate and not refused


def is_late(error: BaseException) -> bool:
    """Whether a server took the request, and too long for it."""
    import openai

    return isinstance(error, openai.APITimeoutError | Late) and not any(
        type(cause).__name__ in ("ConnectTimeout", "PoolTimeout") for cause in _causes(error)
    )


def said(error: Any) -> str:
    """What a server says in an error, without the words that the client puts before it."""
    if isinstance(error, Failed):
        return writable(str(error))
    return writable(openai_reply.words(error.body) or f"no words, only the status {error.status_code}")


def retry_after(error: BaseException) -> float:
    """The seconds that a server asks to wait (Retry-After, as seconds or as a date); 0 where it does not."""
    response = getattr(error, "response", None)
    given = str(response.headers.get("retry-after", "")) if response is not None else ""
    try:
        seconds = float(given)
    except ValueError:
        parsed = email.utils.parsedate_tz(given)
        seconds = email.utils.mktime_tz(parsed) - time.time() if parsed else 0.0
    return 0.0 if math.isnan(seconds) else max(0.0, seconds)


def _longest_wait() -> float:
    return max(_LONGEST_WAIT, patience())


def report_waiting(url: str) -> "Callable[[RetryCallState], None]":
    """What says, once for all threads, that a server is waited for."""
    said_at = -_SILENCE

    def report(state: "RetryCallState") -> None:
        nonlocal said_at
        failed = state.outcome.exception() if state.outcome else None
        asked = retry_after(failed) if failed else 0.0
        if (asked > _SILENCE / 10 or state.attempt_number == MIN_TRIES) and time.monotonic() - said_at >= _SILENCE:
            said_at = time.monotonic()
            status = getattr(failed, "status_code", None)
            what = f"answers {status}" if status else "does not answer"
            say(f"waiting for {url}, which {what}" + (f" and asks for {asked:.0f} s" if asked else ""))

    return report


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what caused it, outermost first."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def words(error: BaseException, timeout: float) -> str:
    """What went wrong with a connection, where an answer may take so many seconds."""
    if isinstance(error, Late):
        return f"no whole answer within {timeout:.0f} s"
    if any("timeout" in type(cause).__name__.lower() for cause in _causes(error)):
        return f"no answer within {timeout:.0f} s"
    return _innermost(error)


def _innermost(error: BaseException) -> str:
    """What the innermost cause says: the client's own words are "Connection error."."""
    said = [str(cause) for cause in _causes(error) if str(cause)]
    return writable(said[-1]) if said else type(error).__name__


def cannot_send(url: str, error: BaseException) -> UserError:
    """The error of a request that was not sent: the environment's settings are of no use."""
    words = str(error) if isinstance(error, ImportError) else _innermost(error)
    proxies = _proxies(url)
    unsent = [name for name in _HEADERS if not (value := os.environ.get(name, "")).isascii() or not value.isprintable()]
    names = " and ".join(unsent or [f"{name.upper()}_PROXY" for name in _proxy_names(url)])
    if unsent:
        words = f"{names} has a character that no HTTP header takes"
        fix = f"set {names} again, or unset it"
    elif isinstance(error, ImportError) or "proxy" in words.lower():
        fix = f"unset {names or 'the variable'} for this command; for a SOCKS proxy that is needed: pip install socksio"
    elif any(isinstance(cause, ssl.SSLError) for cause in _causes(error)):
        fix = "write http:// where the server has no TLS; for an authority of your own set SSL_CERT_FILE"
    elif isinstance(error, OSError):
        fix = "check SSL_CERT_FILE and SSL_CERT_DIR"
    elif names:
        fix = f"set {names} to http://HOST:PORT, or unset it for this command"
    else:
        fix = f"check the address, {KEY} and the other OPENAI_* variables"
    reason = hidden("; ".join(filter(None, (words, proxies))), *getproxies().values())
    return UserError(f"no request can be sent to {url}", reason=reason, fix=fix)


def unavailable(url: str, what: str, reason: str, send: Any, asked: float = 0.0) -> Unavailable:
    """The error of a server that was tried in vain.

    Args:
        url: Of the server.
        what: It does.
        reason: Why.
        send: Of `errors.retrying`, which counts the tries.
        asked: Seconds that it asks to wait.
    """
    wait = f"; it asks to wait {asked:,.0f} s" if asked else ""
    tries = send.statistics["attempt_number"]
    longer = "" if asked > _longest_wait() else "; MEDMIM_PATIENCE=300 waits longer by itself"
    return Unavailable(
        f"{url} {what}, after {'one try' if tries == 1 else f'{tries} tries'}{wait}",
        reason=hidden("; ".join(filter(None, (reason, _proxies(url)))), *getproxies().values()),
        fix=f"check address and server, then run the same command: answers so far are kept{longer}",
    )


def _proxies(url: str) -> str:
    """The proxies of the environment through which requests to an address go; empty without any."""
    names, found = _proxy_names(url), getproxies()
    if not names:
        return ""
    return "the environment has the proxy " + ", ".join(f"{name.upper()}_PROXY={shown(found[name])}" for name in names)


def _proxy_names(url: str) -> list[str]:
    """The proxies of the environment through which requests to an address go, as `http`, `https` or `all`."""
    parts, found = urlsplit(url), getproxies()
    names = [name for name in (parts.scheme, "all") if name in found]
    return [] if proxy_bypass(parts.hostname or "") else names
