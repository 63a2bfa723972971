"""Inference on a server with the OpenAI chat API (vLLM, SGLang, llama.cpp, a hosted model): images as data URLs."""

import base64
import email.utils
import io
import json
import math
import os
import re
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Lock, Semaphore
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from medmim.errors import MIN_TRIES, Unavailable, UserError, patience, require, retrying
from medmim.lvlm import arrival, openai_reply
from medmim.lvlm.ask import Question, Reply, greedy, key, likelihoods, pixel_digest, refusal, writable
from medmim.lvlm.kept import Kept
from medmim.progress import say, size
from medmim.redact import hidden, shown

if TYPE_CHECKING:
    from PIL.Image import Image
    from tenacity import RetryCallState

_LONGEST_WAIT = 60.0  # s that a server may ask for (Retry-After), or MEDMIM_PATIENCE where that is longer
_SILENCE = 30.0  # s between two reports that the server is waited for
_TIMEOUT = 120.0  # s for one answer,
_PER_TOKEN = 0.25  # and for each token that it may have
_LONGEST = 4_000_000  # bytes of one answer that are read
_LONGEST_PACKED = 50_000  # likewise where it is compressed, which was not asked for: a thousand times as much unpacked
_AHEAD = 4  # times as many questions as are under way may wait for the reply to an earlier one
_KEPT = 128_000_000  # bytes of encoded images
_PROBES = 3  # questions by which it is tried to see whether images arrive
_LIKELIEST = 20  # tokens whose log-probabilities are asked for: the most that OpenAI and vLLM give by default
_BEGIN = 4  # tokens in which the letter must come: white space may precede it
_KEY = "OPENAI_API_KEY"
_EXAMPLE = "openai:http://127.0.0.1:8000/v1#my-model"
_HEADERS = ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID")  # which the client sends along
_ENDPOINT = re.compile(r"/+(?:(?:chat/)?completions/*)?$")  # of the API; the client adds it
# What makes the client's HTTP library refuse to send a request, by the names of its classes: trying again is no use.
_SETTINGS = ("UnsupportedProtocol", "LocalProtocolError", "InvalidURL", "InvalidProxyURL")
_UNKNOWN_FIELD = (400, 422)  # how servers refuse a field that they do not know
_TOO_MANY = re.compile(r"\bat most \d+ image", re.IGNORECASE)  # vLLM
_FAULT = 500  # of the server itself, as one question may be; 502 to 504 are of what stands before it
_TEMPORARY = (408, 409, 425, 429)  # and 5xx, but these:
_LIMIT = 429  # of requests in a time
_NEVER = (501, 505)  # the server cannot do this at all
_UNPAID = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")  # with 429, by OpenAI and others
# How servers say, with a status that would else be tried again, that this question will never fit.
_TOO_LONG = re.compile(
    r"context (?:length|size|window)|too many (?:\w+ )?tokens|maximum (?:number of )?(?:\w+ )?tokens|max_model_len"
    r"|\b(?:prompt|input|question|message|sequence|text)s?\b[^.]{0,40}\btoo (?:long|large)",
    re.IGNORECASE,
)


@dataclass
class Learned:
    """What asking a server shows of it, kept for all questions of a run.

    Attributes:
        uuids: Whether its images may have a `uuid`; None where it is not known yet.
        costs: What images cost; None where it is not known, or not yet.
        untold: Why it is not known whether images arrive; empty where it is, or not yet.
        answered: Requests that it answered.
    """

    uuids: bool | None = None
    costs: arrival.Costs | None = None
    untold: str = ""
    answered: int = 0
    probed: int = 0
    urls: Kept[str] = field(default_factory=lambda: Kept(_KEPT, len))
    slots: dict[int, Semaphore] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)

    def limited(self, requests: int) -> Semaphore:
        """What keeps the requests of several calls that are under way at once below a limit."""
        with self.lock:
            return self.slots.setdefault(requests, Semaphore(requests))

    def facts(self) -> dict[str, Any]:
        """For the provenance of answers: whether images were seen to arrive, and in questions of how many."""
        if self.costs is None:
            return {"images_arrive": f"not verified: {self.untold}"} if self.untold else {}
        return {"images_arrive": f"seen in questions of up to {self.costs.images}, by usage.prompt_tokens"}


@dataclass(frozen=True)
class _Link:
    """How a question is sent.

    Attributes:
        client: Of the API.
        url: Base of the API.
        model: Its name on the server.
        settings: Of each request.
        name_of: The key of the reply to a question.
        read: A reply of what the server sent.
        report: Says that the server is waited for.
        learned: What is known of it.
        slots: One for each request that may be under way.
    """

    client: Any
    url: str
    model: str
    settings: Mapping[str, Any]
    name_of: Callable[[Question], str]
    read: Callable[[Mapping[str, Any], Question, str], Reply]
    report: "Callable[[RetryCallState], None]"
    learned: Learned
    slots: Semaphore

    @property
    def timeout(self) -> float:
        return _TIMEOUT + _PER_TOKEN * float(self.settings["max_tokens"])


def ask(
    url: str,
    model: str,
    questions: Iterable[Question],
    batch_size: int = 32,
    max_new_tokens: int = 32,
    on_done: Callable[[int], None] | None = None,
    learned: Learned | None = None,
    own: str = "",
) -> Iterator[Reply]:
    """Answer questions; one that the server refuses gets a reply with its error, and the others are answered.

    The API key is OPENAI_API_KEY, where the server requires one. Before the first question with images, and the first
    with more of them, the tokens of prompts with and without images are counted: see `arrival`.

    Args:
        url: Base of the API, such as `http://127.0.0.1:8000/v1`.
        model: Name of the model on that server.
        questions: What to ask. One is taken when a request can be sent, or soon; where the reply to an earlier one
            is late, up to four times `batch_size` are on the way.
        batch_size: Concurrent requests, from the first question to the last.
        max_new_tokens: Longest answer.
        on_done: Called after each answer with 1.
        learned: What earlier calls learned of the server; it is added to.
        own: Of a server that this process started, what stands for weights, chat format and engine in the key of a
            reply: not its address, which changes. No proxy stands between, then.

    Yields:
        One reply for each question, in order.

    Raises:
        UserError: As `check` does; the server does not know the model or the path, refuses the API key, wants to be
            paid, is not OpenAI-compatible, or drops images.
        Unavailable: It does not answer, or answers with a temporary error, also after MEDMIM_PATIENCE; or it asks to
            wait longer than that.
    """
    yield from _all(
        url,
        model,
        questions,
        batch_size,
        on_done,
        greedy(max_new_tokens),
        lambda body, question, name: openai_reply.read(body, name, max_new_tokens),
        {"max_tokens": max_new_tokens},
        learned,
        own,
    )


def compare(
    url: str,
    model: str,
    questions: Iterable[Question],
    batch_size: int = 32,
    on_done: Callable[[int], None] | None = None,
    learned: Learned | None = None,
    own: str = "",
) -> Iterator[Reply]:
    """Compare the options of closed questions by the log-probabilities of their letters as the begin of the answer.

    A server tells the likeliest tokens with which its answer may begin (`top_logprobs` of the chat API); of texts it
    tells nothing. Arguments are those of `ask`.

    Yields:
        One reply for each question, in order, with `letters`; see `openai_reply.letters`.

    Raises:
        UserError: As `ask` does, or the server gives no log-probabilities.
        Unavailable: As `ask` does.
    """

    def read(body: Mapping[str, Any], question: Question, name: str) -> Reply:
        found = openai_reply.letters(body, name, len(question.options))
        if found is None:
            raise _no_likelihoods(url, "its answer has no `logprobs`")
        return found

    yield from _all(
        url,
        model,
        questions,
        batch_size,
        on_done,
        "",
        read,
        {"max_tokens": _BEGIN, "logprobs": True, "top_logprobs": _LIKELIEST},
        learned,
        own,
    )


def _no_likelihoods(url: str, reason: str) -> UserError:
    return UserError(
        f"{url} does not tell how likely the letters of the options are",
        reason=reason,
        fix="set bench.protocol to generate (bench run: --protocol generate), or take a server with `top_logprobs` in "
        f"its chat API that gives {_LIKELIEST} of them, such as vLLM",
    )


def _all(
    url: str,
    model: str,
    questions: Iterable[Question],
    batch_size: int,
    on_done: Callable[[int], None] | None,
    how: str,
    read: Callable[[Mapping[str, Any], Question, str], Reply],
    settings: Mapping[str, Any],
    learned: Learned | None,
    own: str,
) -> Iterator[Reply]:
    check(url)
    known, where = learned or Learned(), own or f"{url}#{model}"

    def name_of(question: Question) -> str:
        return key(where, question.prompt, question, how or likelihoods(question))

    report, slots = _report_waiting(url), known.limited(batch_size)
    link = _Link(_client(url, bool(own)), url, model, settings, name_of, read, report, known, slots)
    pool = ThreadPoolExecutor(batch_size)
    try:
        for reply in _in_order(pool, link, iter(questions), batch_size):
            yield reply
            if on_done is not None:
                on_done(1)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # an interrupt does not wait for the requests under way
        link.client.close()


def _in_order(pool: ThreadPoolExecutor, link: _Link, questions: Iterator[Question], batch_size: int) -> Iterator[Reply]:
    """Keep `batch_size` requests under way, and yield their replies in the order of the questions."""
    sent: deque[Future[Reply]] = deque()
    more = True
    while more or sent:
        open_ = [one for one in sent if not one.done()]
        # as many wait for a thread as are under way: the next request follows a reply at once
        if more and len(open_) < 2 * batch_size and len(sent) < _AHEAD * batch_size:
            question = next(questions, None)
            if question is None:
                more = False
            else:
                _see_images_arrive(link, question)
                sent.append(pool.submit(_one, link, question))
        elif not sent[0].done():
            wait(open_, return_when=FIRST_COMPLETED)
        while sent and sent[0].done():
            yield sent.popleft().result()


class _Uncounted(Exception):
    """A request that was to count tokens counted none; its text is the server's error, if it sent one."""


def _room(images: int) -> str:
    """The option of vLLM for so many images in a prompt."""
    return f"--limit-mm-per-prompt '{json.dumps({'image': images})}'"


def _see_images_arrive(link: _Link, question: Question) -> None:
    """Count what the images of a question cost, where it has more than any before.

    Raises:
        UserError: The server drops images, or takes only fewer.
    """
    learned = link.learned
    number = len(question.images)
    if learned.untold or number <= (learned.costs.images if learned.costs else 0) or refusal(question):
        return

    def read(body: Mapping[str, Any], _: Question, name: str) -> Reply:
        return Reply("", name, openai_reply.error_of(body), prompt_tokens=openai_reply.usage(body)[0])

    counting = replace(link, settings={"max_tokens": 1}, name_of=lambda _: "", read=read)

    def count(images: "Sequence[Image]") -> int:
        reply = _sent(counting, replace(question, images=images, pixels=()))
        if reply.error or not reply.prompt_tokens:
            raise _Uncounted(reply.error)
        return reply.prompt_tokens

    try:
        learned.costs = arrival.measure(question, count, learned.costs)
    except arrival.Dropped as dropped:
        raise UserError(
            f"{link.url} drops images of the questions to '{link.model}'",
            reason=str(dropped),
            fix="serve a model that reads images, with a chat template that writes all of them (vLLM: "
            f"--chat-template), and room for them ({_room(number)})",
        ) from None
    except _Uncounted as failed:
        if _TOO_MANY.search(str(failed)):
            raise UserError(
                f"{link.url} takes no question with {number} images",
                reason=str(failed),
                fix=f"start the server with room for them: {_room(number)}",
            ) from None
        learned.probed += 1
        if not str(failed) or learned.probed == _PROBES:
            learned.untold = str(failed) or "the server tells no usage.prompt_tokens"
            say(f"not verified that images reach '{link.model}' at {link.url}: {learned.untold}")


def check(url: str) -> None:
    """Refuse an address or an API key with which no request can be sent, before anything else is done.

    Raises:
        UserError: The address is malformed or holds a password, or OPENAI_API_KEY is empty or not ASCII.
    """
    reason, fix = _problem(url)
    if reason:
        fact = f"{writable(shown(url))!r} is not the address of a server"
        raise UserError(fact, reason=hidden(writable(reason), url), fix=fix)
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
        if shown(url) != url:
            return "it holds a user name or a password", f"leave it out; put a key into {_KEY}"
        fix = "an IPv6 address stands in brackets: http://[::1]:8000/v1" if url.count(":") > 2 else write
        return str(error), fix
    if parts.scheme not in ("http", "https"):
        given = f"its scheme is '{parts.scheme}'" if "://" in url else "it has no scheme"
        return f"{given}, not http or https", write
    if parts.username is not None or "@" in parts.path:
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


def _client(url: str, direct: bool) -> Any:
    openai = require("openai", "bench")
    try:
        hooks = {"response": [_refuse_redirect, _bound]}
        limits = {"Accept-Encoding": "identity"}  # what is unpacked has no bound
        http = openai.DefaultHttpxClient(event_hooks=hooks, headers=limits, trust_env=not direct)
        base = _ENDPOINT.sub("", url)
        return openai.OpenAI(base_url=base, api_key=_api_key(), max_retries=0, timeout=_TIMEOUT, http_client=http)
    except Exception as error:
        if not isinstance(error, ImportError | ValueError | OSError) and type(error).__name__ not in _SETTINGS:
            raise
        raise _cannot_send(url, error) from None


class _Redirected(Exception):
    """The server sends the request elsewhere, as a login before a server does; its text is where."""


def _refuse_redirect(response: Any) -> None:
    """Let a redirect pass only where the request stays what it is: by the others a POST becomes a GET of a web page."""
    if response.status_code in (301, 302, 303):
        raise _Redirected(response.headers.get("location", "an address that it does not name"))


class _Endless(Exception):
    """The server sends more than any answer has."""


class _Late(Exception):
    """The server sends an answer for longer than one may take."""


def _bound(response: Any) -> None:
    """Read no body without end: neither in bytes nor in time. The client's timeout is that of a single read."""
    base = next(one for one in type(response.stream).__mro__ if one.__name__ == "SyncByteStream")
    longest = _LONGEST_PACKED if response.headers.get("content-encoding", "identity") != "identity" else _LONGEST
    end = time.monotonic() + response.request.extensions["timeout"]["read"]
    received = response.stream

    def read(_: Any) -> Iterator[bytes]:
        read = 0
        for chunk in received:
            read += len(chunk)
            if read > longest:
                raise _Endless
            if time.monotonic() > end:
                raise _Late
            yield chunk

    response.stream = type("Bounded", (base,), {"__iter__": read, "close": lambda _: received.close()})()


class _Failed(Exception):
    """An error with a status, in an answer of status 200: proxies before several servers send it."""

    def __init__(self, body: Mapping[str, Any], status: int, response: Any) -> None:
        super().__init__(openai_reply.error_of(body))
        self.status_code, self.response, self.body = status, response, body.get("error")


def _one(link: _Link, question: Question) -> Reply:
    """The reply to a question, or an error where too few tokens were counted for its images."""
    reply = _sent(link, question)
    costs = link.learned.costs
    if costs is None or not question.images or not 0 < reply.prompt_tokens <= costs.of(question):
        return reply
    return Reply(
        "",
        reply.key,
        f"images did not arrive: the prompt has {reply.prompt_tokens:,} tokens, and its {len(question.images)} images "
        f"alone should have {costs.of(question):,}",
        prompt_tokens=reply.prompt_tokens,
        new_tokens=reply.new_tokens,
    )


def _sent(link: _Link, question: Question) -> Reply:
    """The reply to a question.

    A limit of requests is waited for as long as the server answers others: it is no failure.
    A question that takes too long twice, or fails the server each time, while others are answered gets that as its
    error.
    """
    import openai

    url, model, learned = link.url, link.model, link.learned
    name = link.name_of(question)
    if reason := refusal(question):
        return Reply("", name, reason)
    answered, late = learned.answered, 0

    def may_pass(error: BaseException) -> bool:
        nonlocal late
        late += _is_late(error)
        return _is_temporary(error) and not (late > 1 and learned.answered > answered)

    while True:
        answered = learned.answered
        send = retrying(may_pass, 20, link.report, asked=_retry_after)
        try:
            body = send(_send, link, question)
        except _Redirected as redirect:
            raise UserError(
                f"{url} redirects to {writable(shown(str(redirect)))}",
                reason="it is a login before the server, or the server has another address",
                fix="give the address of the API itself; where a login is needed, log in first",
            ) from None
        except _Endless:
            return Reply("", name, f"the server sent more than {size(_LONGEST)}, and no end of an answer")
        except (openai.APIConnectionError, _Late, UnicodeError) as error:
            if _is_late(error) and learned.answered > answered:
                return Reply("", name, f"{_words(error, link.timeout)}, while others were answered")
            if not _is_lost(error):
                raise _cannot_send(url, error) from None
            raise _unavailable(url, "does not answer", _words(error, link.timeout), send) from None
        except (openai.APIStatusError, _Failed) as error:
            said = _said(error)
            if error.status_code == 402 or _is_unpaid(error):
                raise UserError(
                    f"{url} does not answer '{model}' before it is paid",
                    reason=said,
                    fix=f"pay there, or give another key as {_KEY}; answers so far are kept",
                ) from None
            if error.status_code in (401, 403, 404):
                raise UserError(
                    f"{url} refuses the model '{model}'",
                    reason=said,
                    fix=f"check address (usually it ends in /v1), name and {_KEY}",
                ) from None
            if error.status_code == _LIMIT and may_pass(error) and learned.answered > answered:
                continue
            if error.status_code == _FAULT and learned.answered > answered:
                return Reply("", name, f"HTTP {_FAULT}: {said}, while others were answered")
            if _is_passing(error):
                raise _unavailable(url, f"answers {error.status_code}", said, send, _retry_after(error)) from None
            if "logprobs" in link.settings and "logprob" in said.lower():
                raise _no_likelihoods(url, said) from None
            return Reply("", name, f"HTTP {error.status_code}: {said}")
        except ValueError as error:
            raise UserError(
                f"what answers at {url} is not an OpenAI-compatible server",
                reason=f"its answer is not a chat completion: {writable(str(error))}",
                fix="check the address: usually it ends in /v1; it may be that of a web page or a login before the "
                "server",
            ) from None
        learned.answered += 1
        return link.read(body, question, name)


def _send(link: _Link, question: Question) -> Mapping[str, Any]:
    """What the server sent to a question; one that knows no `uuid` of an image is asked without it, once."""
    import openai

    learned = link.learned
    named = bool(question.images) and learned.uuids is not False
    try:
        body = _post(link, question, named)
    except openai.APIStatusError as error:
        if not named or learned.uuids or error.status_code not in _UNKNOWN_FIELD:
            raise
        body = _post(link, question, named=False)
        learned.uuids = False
    if named and learned.uuids is None:
        learned.uuids = True
    return body


def _post(link: _Link, question: Question, named: bool) -> Mapping[str, Any]:
    """One request; what the server sent.

    Args:
        link: To the server.
        question: What is asked.
        named: Whether images have a `uuid`, by which vLLM knows one that it has prepared before.

    Raises:
        _Failed: An error of the kind that may pass, or that wants to be paid, with status 200.
        _Late: An answer that takes too long.
        _Endless: An answer that is too long.
        ValueError: Something else than a JSON object.
    """
    digests = question.pixels or [pixel_digest(image) for image in question.images]
    content: list[dict[str, Any]] = []
    for place, digest in enumerate(digests):
        url = link.learned.urls.get(digest, partial(_data_url_of, question, place))
        content.append({"type": "image_url", "image_url": {"url": url}, **({"uuid": digest} if named else {})})
    with link.slots:
        response = link.client.chat.completions.with_raw_response.create(
            model=link.model,
            messages=[{"role": "user", "content": [*content, {"type": "text", "text": question.prompt}]}],
            temperature=0.0,
            seed=0,
            timeout=link.timeout,
            **link.settings,
        ).http_response
    body = openai_reply.parse(response.content)
    status = openai_reply.status_of(body)
    if status == 402 or (status is not None and _may_pass(status)):
        raise _Failed(body, status, response)
    return body


def _is_temporary(error: BaseException) -> bool:
    """Whether the same request may succeed later, and soon enough to wait for it."""
    if isinstance(error, _Endless):
        return False
    if not hasattr(error, "status_code"):
        return _is_lost(error)
    return _is_passing(error) and _retry_after(error) <= _longest_wait()


def _is_passing(error: Any) -> bool:
    """Whether an error of a server may pass by itself, and is not about this one question or about money."""
    return _may_pass(error.status_code) and not _is_unpaid(error) and not _TOO_LONG.search(_said(error))


def _may_pass(status: int) -> bool:
    return status in _TEMPORARY or (500 <= status < 600 and status not in _NEVER)


def _is_unpaid(error: Any) -> bool:
    fields = error.body if isinstance(error.body, Mapping) else {}
    return bool({str(fields.get("code")), str(fields.get("type"))} & set(_UNPAID))


def _is_lost(error: BaseException) -> bool:
    """Whether a connection was lost or refused, and not one that no request can be sent to."""
    import openai

    certificate = any(isinstance(cause, ssl.SSLError) for cause in _causes(error))
    refused = any(type(cause).__name__ in _SETTINGS or isinstance(cause, UnicodeError) for cause in _causes(error))
    return isinstance(error, openai.APIConnectionError | _Late) and not certificate and not refused


def _is_late(error: BaseException) -> bool:
    """Whether a server took the request, and too long for it."""
    import openai

    return isinstance(error, openai.APITimeoutError | _Late) and not any(
        type(cause).__name__ in ("ConnectTimeout", "PoolTimeout") for cause in _causes(error)
    )


def _said(error: Any) -> str:
    """What a server says in an error, without the words that the client puts before it."""
    if isinstance(error, _Failed):
        return writable(str(error))
    return writable(openai_reply.words(error.body) or f"no words, only the status {error.status_code}")


def _retry_after(error: BaseException) -> float:
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


def _report_waiting(url: str) -> "Callable[[RetryCallState], None]":
    """What says, once for all threads, that a server is waited for."""
    said_at = -_SILENCE

    def report(state: "RetryCallState") -> None:
        nonlocal said_at
        failed = state.outcome.exception() if state.outcome else None
        asked = _retry_after(failed) if failed else 0.0
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


def _words(error: BaseException, timeout: float = _TIMEOUT) -> str:
    """What the innermost cause says: the client's own words are "Connection error."."""
    if isinstance(error, _Late):
        return f"no whole answer within {timeout:.0f} s"
    said = [str(cause) for cause in _causes(error) if str(cause)]
    if any("timeout" in type(cause).__name__.lower() for cause in _causes(error)):
        return f"no answer within {timeout:.0f} s"
    return writable(said[-1]) if said else type(error).__name__


def _cannot_send(url: str, error: BaseException) -> UserError:
    words = str(error) if isinstance(error, ImportError) else _words(error)
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
        fix = f"check the address, {_KEY} and the other OPENAI_* variables"
    reason = hidden("; ".join(filter(None, (words, proxies))), *getproxies().values())
    return UserError(f"no request can be sent to {url}", reason=reason, fix=fix)


def _unavailable(url: str, what: str, reason: str, send: Any, asked: float = 0.0) -> Unavailable:
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


def _data_url_of(question: Question, place: int) -> str:
    return data_url(question.images[place])  # only now, it may have to be decoded


def data_url(image: "Image") -> str:
    """An image as a data URL; PNG, so nothing is lost."""
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)  # 3 times as fast as 6, for some more bytes
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"
