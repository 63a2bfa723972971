"""Inference on a server with the OpenAI chat API (vLLM, SGLang, llama.cpp, a hosted model): images as data URLs."""

import base64
import io
import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Lock, Semaphore
from typing import TYPE_CHECKING, Any

from medmim.errors import UserError, retrying
from medmim.lvlm import arrival, openai_client, openai_errors, openai_reply
from medmim.lvlm.ask import Question, Reply, greedy, key, likelihoods, pixel_digest, refusal, writable
from medmim.lvlm.kept import Kept
from medmim.progress import say, size
from medmim.redact import shown

if TYPE_CHECKING:
    from PIL.Image import Image
    from tenacity import RetryCallState

_TIMEOUT = 120.0  # s for one answer,
_PER_TOKEN = 0.25  # and for each token that it may have
_AHEAD = 4  # times as many questions as are under way may wait for the reply to an earlier one
_KEPT = 128_000_000  # bytes of encoded images
_PROBES = 3  # questions by which it is tried to see whether images arrive
_LIKELIEST = 20  # tokens whose log-probabilities are asked for: the most that OpenAI and vLLM give by default
_BEGIN = 4  # tokens in which the letter must come: white space may precede it
_UNKNOWN_FIELD = (400, 422)  # how servers refuse a field that they do not know
_TOO_MANY = re.compile(r"\bat most \d+ image", re.IGNORECASE)  # vLLM


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
        pace: Called before each request, those that are sent again included.
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
    pace: Callable[[], None]

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
        UserError: As `openai_client.check` does; the server does not know the model or the path, refuses the API key,
            wants to be paid, is not OpenAI-compatible, or drops images.
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


def generate(
    url: str,
    model: str,
    questions: Iterable[Question],
    batch_size: int,
    max_new_tokens: int,
    response_format: Mapping[str, Any] | None,
    on_reply: Callable[[Question, Reply], None],
    pace: Callable[[], None] = lambda: None,
) -> Iterator[Reply]:
    """Have texts written; a refusal of the model is an error of its request. Other arguments are those of `ask`.

    Args:
        url: Base of the API.
        model: Name of the model.
        questions: What to ask; equal ones are not told apart by `on_reply`.
        batch_size: Concurrent requests.
        max_new_tokens: Longest text.
        response_format: The form of the replies, for a server that can be told of one; else None.
        on_reply: Called with each reply as soon as it is there, by the thread that waited for it.
        pace: Called by that thread before each request, those that are sent again included; waits for its turn.

    Yields:
        One reply for each question, in order.

    Raises:
        UserError: As `ask` does.
        Unavailable: As `ask` does.
    """
    settings: dict[str, Any] = {"max_tokens": max_new_tokens}
    if response_format is not None:
        settings["response_format"] = response_format

    def read(body: Mapping[str, Any], question: Question, name: str) -> Reply:
        reply = openai_reply.read(body, name, max_new_tokens)
        if why := openai_reply.refused(body):
            reply = replace(reply, text="", error=why)
        on_reply(question, reply)
        return reply

    how = greedy(max_new_tokens)
    yield from _all(url, model, questions, batch_size, None, how, read, settings, learned=None, own="", pace=pace)


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
    pace: Callable[[], None] = lambda: None,
) -> Iterator[Reply]:
    if not own:
        openai_client.check(url)
    known, where = learned or Learned(), own or f"{url}#{model}"

    def name_of(question: Question) -> str:
        return key(where, question.prompt, question, how or likelihoods(question))

    report, slots = openai_errors.report_waiting(url), known.limited(batch_size)
    link = _Link(openai_client.client(url, bool(own)), url, model, settings, name_of, read, report, known, slots, pace)
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
        late += openai_errors.is_late(error)
        return openai_errors.is_temporary(error) and not (late > 1 and learned.answered > answered)

    while True:
        answered = learned.answered
        send = retrying(may_pass, 20, link.report, asked=openai_errors.retry_after)
        try:
            body = send(_send, link, question)
        except openai_errors.Redirected as redirect:
            raise UserError(
                f"{url} redirects to {writable(shown(str(redirect)))}",
                reason="it is a login before the server, or the server has another address",
                fix="give the address of the API itself; where a login is needed, log in first",
            ) from None
        except openai_errors.Endless:
            return Reply("", name, f"the server sent more than {size(openai_client.LONGEST)}, and no end of an answer")
        except (openai.APIConnectionError, openai_errors.Late, UnicodeError) as error:
            if openai_errors.is_late(error) and learned.answered > answered:
                return Reply("", name, f"{openai_errors.words(error, link.timeout)}, while others were answered")
            if not openai_errors.is_lost(error):
                raise openai_errors.cannot_send(url, error) from None
            raise openai_errors.unavailable(
                url, "does not answer", openai_errors.words(error, link.timeout), send
            ) from None
        except (openai.APIStatusError, openai_errors.Failed) as error:
            said = openai_errors.said(error)
            if error.status_code == 402 or openai_errors.is_unpaid(error):
                raise UserError(
                    f"{url} does not answer '{model}' before it is paid",
                    reason=said,
                    fix=f"pay there, or give another key as {openai_errors.KEY}; answers so far are kept",
                ) from None
            if error.status_code in (401, 403, 404):
                raise UserError(
                    f"{url} refuses the model '{model}'",
                    reason=said,
                    fix=f"check address (usually it ends in /v1), name and {openai_errors.KEY}",
                ) from None
            if error.status_code == openai_errors.LIMIT and may_pass(error) and learned.answered > answered:
                continue
            if error.status_code == openai_errors.FAULT and learned.answered > answered:
                return Reply("", name, f"HTTP {openai_errors.FAULT}: {said}, while others were answered")
            if openai_errors.is_passing(error):
                raise openai_errors.unavailable(
                    url, f"answers {error.status_code}", said, send, openai_errors.retry_after(error)
                ) from None
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
        openai_errors.Failed: An error of the kind that may pass, or that wants to be paid, with status 200.
        openai_errors.Late: An answer that takes too long.
        openai_errors.Endless: An answer that is too long.
        ValueError: Something else than a JSON object.
    """
    digests = question.pixels or [pixel_digest(image) for image in question.images]
    content: list[dict[str, Any]] = []
    for place, digest in enumerate(digests):
        url = link.learned.urls.get(digest, partial(_data_url_of, question, place))
        content.append({"type": "image_url", "image_url": {"url": url}, **({"uuid": digest} if named else {})})
    link.pace()
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
    if status == 402 or (status is not None and openai_errors.may_pass(status)):
        raise openai_errors.Failed(body, status, response)
    return body


def _data_url_of(question: Question, place: int) -> str:
    return data_url(question.images[place])  # only now, it may have to be decoded


def data_url(image: "Image") -> str:
    """An image as a data URL; PNG, so nothing is lost."""
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)  # 3 times as fast as 6, for some more bytes
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"
