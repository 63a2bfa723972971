"""Inference on a server with the OpenAI chat API (vLLM, SGLang, llama.cpp, a hosted model): images as data URLs."""

import base64
import io
import os
import re
import ssl
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from medmim.errors import Unavailable, UserError, require
from medmim.lvlm import openai_reply
from medmim.lvlm.ask import Question, Reply, key, refusal, writable

if TYPE_CHECKING:
    from PIL.Image import Image

_TRIES = 5
_TIMEOUT = 120.0  # s for one answer
_KEY = "OPENAI_API_KEY"
_EXAMPLE = "openai:http://127.0.0.1:8000/v1#my-model"
_ENDPOINT = re.compile(r"/+(?:(?:chat/)?completions/*)?$")  # of the API; the client adds it
# What makes the client's HTTP library refuse to send a request, by the names of its classes: trying again is no use.
_SETTINGS = ("UnsupportedProtocol", "LocalProtocolError", "InvalidURL", "InvalidProxyURL")
# How servers say, with a status that would else be tried again, that this question will never fit.
_TOO_LONG = re.compile(
    r"context (?:length|size|window)|too (?:long|many tokens|large)|maximum (?:number of )?tokens|max_model_len",
    re.IGNORECASE,
)


def ask(
    url: str,
    model: str,
    questions: Sequence[Question],
    batch_size: int = 32,
    max_new_tokens: int = 32,
    on_done: Callable[[int], None] | None = None,
) -> Iterator[Reply]:
    """Answer questions; one that the server refuses gets a reply with its error, and the others are answered.

    The API key is OPENAI_API_KEY, where the server requires one.

    Args:
        url: Base of the API, such as `http://127.0.0.1:8000/v1`.
        model: Name of the model on that server.
        questions: What to ask.
        batch_size: Concurrent requests.
        max_new_tokens: Longest answer.
        on_done: Called after each answer with 1.

    Yields:
        One reply for each question, in order.

    Raises:
        UserError: As `check` does; the server does not know the model or the path, refuses the API key, or is not
            OpenAI-compatible.
        Unavailable: It does not answer, or answers with a temporary error, after several tries.
    """
    check(url)
    client = _client(url)
    pool = ThreadPoolExecutor(batch_size)
    try:
        for reply in pool.map(partial(_one, client, url, model, max_new_tokens), questions):
            yield reply
            if on_done is not None:
                on_done(1)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # an interrupt does not wait for the requests under way
        client.close()


def check(url: str) -> None:
    """Refuse an address or an API key with which no request can be sent, before anything else is done.

    Raises:
        UserError: The address is malformed or holds a password, or OPENAI_API_KEY is empty or not ASCII.
    """
    shown = re.sub(r"(?<=://)[^/]*@", "***@", url)
    reason, fix = _problem(url)
    if reason:
        raise UserError(f"{writable(shown)!r} is not the address of a server", reason=reason, fix=fix)
    _api_key()


def _problem(url: str) -> tuple[str, str]:
    """(reason, fix) where no request can be sent to an address, else empty."""
    write = f"write {_EXAMPLE}"
    if not url.isprintable() or any(map(str.isspace, url)):
        return "it holds white space, or a character that cannot be seen", "remove it"
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError as error:
        fix = "an IPv6 address stands in brackets: http://[::1]:8000/v1" if url.count(":") > 2 else write
        return str(error), fix
    if parts.scheme not in ("http", "https"):
        given = f"its scheme is '{parts.scheme}'" if "://" in url else "it has no scheme"
        return f"{given}, not http or https", write
    if parts.username is not None:
        return (
            "it holds a user name or a password, and references to models are shown and written into records",
            f"leave it out; put a key into {_KEY}",
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
    """The API key; any word where none is set, since the client wants one.

    Raises:
        UserError: It is empty, or holds what a header cannot. It is not shown.
    """
    given = os.environ.get(_KEY)
    if given is None:
        return "none"
    found = given.strip()  # the line break at the end of a file
    if not found:
        raise UserError(
            f"{_KEY} is set, and empty",
            reason="a request needs a key, or no such variable",
            fix=f"set the server's key; for a server without one: unset {_KEY}",
        )
    if not found.isascii() or not found.isprintable() or " " in found:
        raise UserError(
            f"{_KEY} cannot be sent: it holds {'white space' if found.isascii() else 'a character that is not ASCII'}",
            reason="an HTTP header takes visible ASCII characters only",
            fix="copy the key again, without quotes and dashes that a text processor changed",
        )
    return found


def _client(url: str) -> Any:
    openai = require("openai", "bench")
    try:
        return openai.OpenAI(base_url=_ENDPOINT.sub("", url), api_key=_api_key(), max_retries=0, timeout=_TIMEOUT)
    except Exception as error:
        if not isinstance(error, ImportError | ValueError | OSError) and type(error).__name__ not in _SETTINGS:
            raise
        raise _cannot_send(url, error) from None


def _one(client: Any, url: str, model: str, max_new_tokens: int, question: Question) -> Reply:
    import openai
    import tenacity

    name = key(f"{url}#{model}", question.prompt, question.images, max_new_tokens)
    if reason := refusal(question):
        return Reply("", name, reason)
    content = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in question.images]
    send = tenacity.retry(
        retry=tenacity.retry_if_exception(_is_temporary),
        stop=tenacity.stop_after_attempt(_TRIES),
        wait=tenacity.wait_random_exponential(0.2, max=20),
        reraise=True,
    )(client.chat.completions.with_raw_response.create)
    try:
        answer = send(
            model=model,
            messages=[{"role": "user", "content": [*content, {"type": "text", "text": question.prompt}]}],
            temperature=0.0,
            seed=0,
            max_tokens=max_new_tokens,
        )
    except (openai.APIConnectionError, UnicodeError) as error:
        if not _is_temporary(error):
            raise _cannot_send(url, error) from None
        raise _unavailable(url, "does not answer", _words(error)) from None
    except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
        raise UserError(
            f"{url} refuses the model '{model}'",
            reason=writable(error.message),
            fix=f"check address (usually it ends in /v1), name and {_KEY}",
        ) from None
    except openai.APIStatusError as error:
        if _is_temporary(error):
            raise _unavailable(url, f"answers {error.status_code}", writable(error.message)) from None
        return Reply("", name, f"HTTP {error.status_code}: {openai_reply.shortened(error.message)}")
    try:
        return openai_reply.read(openai_reply.parse(answer.http_response.content), name, max_new_tokens)
    except ValueError as error:
        raise UserError(
            f"what answers at {url} is not an OpenAI-compatible server",
            reason=f"its answer is not a chat completion: {writable(str(error))}",
            fix="check the address: usually it ends in /v1; it may be that of a web page or a login before the server",
        ) from None


def _is_temporary(error: BaseException) -> bool:
    import openai

    if isinstance(error, openai.InternalServerError):
        return not _TOO_LONG.search(error.message)
    certificate = any(isinstance(cause, ssl.SSLError) for cause in _causes(error))
    refused = any(type(cause).__name__ in _SETTINGS or isinstance(cause, UnicodeError) for cause in _causes(error))
    lost = isinstance(error, openai.APIConnectionError) and not certificate and not refused
    return lost or isinstance(error, openai.RateLimitError)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what caused it, outermost first."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def _words(error: BaseException) -> str:
    """What the innermost cause says: the client's own words are "Connection error."."""
    said = [str(cause) for cause in _causes(error) if str(cause)]
    if any("timeout" in type(cause).__name__.lower() for cause in _causes(error)):
        return f"no answer within {_TIMEOUT:.0f} s"
    return writable(said[-1]) if said else type(error).__name__


def _cannot_send(url: str, error: BaseException) -> UserError:
    words = str(error) if isinstance(error, ImportError) else _words(error)
    proxies = _proxies(url)
    if isinstance(error, ImportError) or "proxy" in words.lower():
        fix = "unset the variable for this command; for a SOCKS proxy that is needed: pip install socksio"
    elif any(isinstance(cause, ssl.SSLError) for cause in _causes(error)):
        fix = "write http:// where the server has no TLS; for an authority of your own set SSL_CERT_FILE"
    elif isinstance(error, OSError):
        fix = "check SSL_CERT_FILE and SSL_CERT_DIR"
    else:
        fix = f"check the address, {_KEY} and the other OPENAI_* variables"
    return UserError(f"no request can be sent to {url}", reason="; ".join(filter(None, (words, proxies))), fix=fix)


def _unavailable(url: str, what: str, reason: str) -> Unavailable:
    return Unavailable(
        f"{url} {what}, after {_TRIES} tries",
        reason="; ".join(filter(None, (reason, _proxies(url)))),
        fix="check address and server, then run the same command: answers so far are kept",
    )


def _proxies(url: str) -> str:
    """The proxies of the environment through which requests to an address go; empty without any."""
    parts, found = urlsplit(url), getproxies()
    names = [name for name in (parts.scheme, "all") if name in found]
    if not names or proxy_bypass(parts.hostname or ""):
        return ""
    return "the environment has the proxy " + ", ".join(
        f"{name.upper()}_PROXY={re.sub(r'(?<=://)[^/]*@', '***@', found[name])}" for name in names
    )


def data_url(image: "Image") -> str:
    """An image as a data URL; PNG, so nothing is lost."""
    out = io.BytesIO()
    image.save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"
