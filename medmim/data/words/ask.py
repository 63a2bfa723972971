"""Asks a server for wordings, and keeps each of its replies as soon as it is there.

    HOME/words/MODEL.jsonl    a reply a line: request (digest), text, error, cut, tokens

A request is named by all that decides its reply but the server's address: model, prompt, form and limit. So whoever was
killed, or asks for more, asks for nothing that is there. No request holds anything of a data set, so no reply does.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from medmim.data.words import prompt
from medmim.errors import UserError
from medmim.progress import say
from medmim.sample import digest_of

if TYPE_CHECKING:
    from medmim.lvlm.ask import Question, Reply

FOLDER = "words"
_REFUSES_FORM = ("HTTP 400", "HTTP 422", "HTTP 501")
_FIRST = 3  # requests, all refused, after which a server is taken to refuse every one
_FORMS = ("response_format", "json_schema", "guided", "structured", "schema", "grammar")


@dataclass(frozen=True)
class Server:
    """A server with the OpenAI API, and how it is asked.

    Attributes:
        endpoint: Base address.
        model: Its name there.
        max_tokens: Longest reply.
        at_once: Requests under way.
        per_minute: Most requests in a minute, whatever for; None: no limit.
    """

    endpoint: str
    model: str
    max_tokens: int = 200
    at_once: int = 8
    per_minute: int | None = None


@dataclass(frozen=True)
class Said:
    """What a server replied: its text, or why there is none; tokens of prompt and reply as it counts them, else 0."""

    text: str
    error: str = ""
    cut: bool = False
    tokens: tuple[int, int] = (0, 0)


@dataclass
class Replies:
    """The replies that a home keeps for a model.

    Attributes:
        path: The file.
        known: Digest of the request -> reply.
        asked: Requests that were sent by this process, those not counted that a server did not answer at first.
        tokens: Of those, of prompts and replies.
        formed: Whether the server takes `response_format`; None where it was not asked yet.
        next_at: When the next request may be sent, on the monotonic clock.
    """

    path: Path
    known: dict[str, Said] = field(default_factory=dict)
    asked: int = 0
    tokens: tuple[int, int] = (0, 0)
    formed: bool | None = None
    next_at: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def find(self, server: Server, request: str) -> Said | None:
        """The reply to a request; None where there is none yet."""
        return self.known.get(_name(server, request))

    def keep(self, server: Server, request: str, said: Said) -> None:
        """Count a reply, and keep it where another try would bring the same one."""
        with self.lock:
            self.asked += 1
            self.tokens = (self.tokens[0] + said.tokens[0], self.tokens[1] + said.tokens[1])
            name = _name(server, request)
            self.known[name] = said
            if said.error and not said.text:
                return
            line = json.dumps(
                {"request": name, "text": said.text, "error": said.error, "cut": said.cut, "tokens": said.tokens}
            )
            _append(self.path, line.encode() + b"\n")  # one write: another process may add its own

    def pace(self, per_minute: int | None) -> None:
        """Wait until the next request may be sent."""
        if per_minute is None:
            return
        with self.lock:
            begin = max(self.next_at, time.monotonic())
            self.next_at = begin + 60 / per_minute
        time.sleep(max(0.0, begin - time.monotonic()))


def replies(home: Path, model: str) -> Replies:
    """The replies that a home keeps for a model; lines that a power cut tore are passed over."""
    path = home / FOLDER / f"{digest_of([model])[:16]}.jsonl"
    known = {}
    data = path.read_bytes() if path.is_file() else b""
    for line in data.split(b"\n"):
        try:
            one = json.loads(line)
            tokens = (int(one["tokens"][0]), int(one["tokens"][1]))
            known[str(one["request"])] = Said(str(one["text"]), str(one["error"]), bool(one["cut"]), tokens)
        except (ValueError, KeyError, TypeError, IndexError):
            continue
    if data and not data.endswith(b"\n"):
        _append(path, b"\n")
    return Replies(path, known)


def unused(home: Path, since: float) -> list[tuple[float, int, Path]]:
    """(last written, bytes, file) of all that is kept and was not added to since a time, in s since 1970."""
    found = [(path.stat(), path) for path in (home / FOLDER).rglob("*") if path.is_file()]
    return [(stat.st_mtime, stat.st_size, path) for stat, path in found if stat.st_mtime < since]


def ask(
    server: Server, requests: Sequence[str], kept: Replies, on_done: Callable[[int], None] = lambda _: None
) -> list[Said]:
    """The replies to some requests, in their order; those that are kept are not asked for again.

    Args:
        server: Whom to ask.
        requests: Prompts, each once.
        kept: Added to.
        on_done: Called with 1 for each.

    Raises:
        UserError: As `ask_openai.generate` does, or the server refuses the first requests.
        Unavailable: Likewise; what came before is kept.
    """
    left = [request for request in requests if kept.find(server, request) is None]
    on_done(len(requests) - len(left))
    if left and kept.formed is None:
        kept.formed = _takes_form(server, left, kept)
        before, left = len(left), [request for request in left if kept.find(server, request) is None]
        on_done(before - len(left))
    for request, said in zip(left, _sent(server, left, kept, bool(kept.formed)), strict=True):
        if kept.find(server, request) is None:  # a reply that was given up, of which `arrived` hears nothing
            kept.keep(server, request, said)
        on_done(1)
    return [kept.known[_name(server, request)] for request in requests]


def _takes_form(server: Server, requests: Sequence[str], kept: Replies) -> bool:
    """Ask the first request; whether the server takes `response_format`. Without, the reply is read all the same.

    Where that one is refused, the next are asked: a content filter refuses one text, a wrong setting all.
    """
    formed = True
    for request in requests[:_FIRST]:
        (said,) = _sent(server, [request], kept, formed, keeps=False)
        if formed and said.error.startswith(_REFUSES_FORM) and any(word in said.error for word in _FORMS):
            formed = False
            say(
                f"{server.endpoint} takes no response_format ({said.error}): replies are asked for as JSON in words, "
                "and checked as ever"
            )
            (said,) = _sent(server, [request], kept, formed, keeps=False)
        kept.keep(server, request, said)
        if not said.error.startswith("HTTP 4"):
            return formed
    raise UserError(
        f"{server.endpoint} refuses the requests to '{server.model}'",
        reason=said.error,
        fix="check --endpoint, --model and --max-tokens",
    )


def _sent(server: Server, requests: Sequence[str], kept: Replies, formed: bool, keeps: bool = True) -> Iterator[Said]:
    from medmim.lvlm import ask_openai
    from medmim.lvlm.ask import Question

    def arrived(question: "Question", reply: "Reply") -> None:
        if keeps:
            kept.keep(server, question.prompt, _said(reply))

    for reply in ask_openai.generate(
        server.endpoint,
        server.model,
        (Question(request) for request in requests),
        server.at_once,
        server.max_tokens,
        prompt.response_format() if formed else None,
        arrived,
        lambda: kept.pace(server.per_minute),
    ):
        yield _said(reply)


def _said(reply: "Reply") -> Said:
    return Said(reply.text, reply.error, reply.cut, (reply.prompt_tokens, reply.new_tokens))


def _append(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, data)
    finally:
        os.close(file)


def _name(server: Server, request: str) -> str:
    decides = {
        "model": server.model,
        "prompt": request,
        "form": prompt.response_format(),
        "max_tokens": server.max_tokens,
    }
    return digest_of([json.dumps(decides, sort_keys=True)])
