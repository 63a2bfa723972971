"""Asks the server of `data.words`, and keeps each of its replies as soon as it is there.

    HOME/words/STORE/ERASED/XX.jsonl    a reply a line: request (digest), text, error, cut, tokens

A request is named by all that decides its reply but the server's address: model, prompt, limits, revision. So a build
that was killed, or that has another recipe, asks for nothing that is there. STORE names the store, ERASED its list of
erased patients: a build that finds another list removes what was kept before of that store, a plan only reads.
"""

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmim.data.words import prompt
from medmim.errors import Unavailable, UserError
from medmim.progress import say
from medmim.recipe.words import Words
from medmim.sample import digest_of

if TYPE_CHECKING:
    from medmim.lvlm.ask import Reply

FOLDER = "words"
_REFUSES_FORM = ("HTTP 400", "HTTP 422", "HTTP 501")
_FIRST = 3  # requests, all refused, after which a server is taken to refuse every one
_FORMS = ("response_format", "json_schema", "guided", "structured", "schema", "grammar")


@dataclass(frozen=True)
class Request:
    """A text that is asked for; `writes_answer` decides the form of the reply."""

    prompt: str
    writes_answer: bool


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
        asked: Requests that were sent by this process.
        tokens: Of those, of prompts and replies.
        formed: Whether the server takes `response_format`; None where it was not asked yet.
    """

    path: Path
    known: dict[str, Said] = field(default_factory=dict)
    asked: int = 0
    tokens: tuple[int, int] = (0, 0)
    formed: bool | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def find(self, words: Words, request: Request) -> Said | None:
        """The reply to a request; None where there is none yet."""
        return self.known.get(_name(words, request))

    def keep(self, words: Words, request: Request, said: Said) -> None:
        """Count a reply, and keep it where another try would bring the same one.

        Raises:
            Unavailable: The file is gone, as after an erasure.
        """
        with self.lock:
            self.asked += 1
            self.tokens = (self.tokens[0] + said.tokens[0], self.tokens[1] + said.tokens[1])
            name = _name(words, request)
            self.known[name] = said
            if said.error and not said.text:
                return
            line = json.dumps(
                {"request": name, "text": said.text, "error": said.error, "cut": said.cut, "tokens": said.tokens}
            )
            _append(self.path, line.encode() + b"\n")  # one write: another build may add its own


def replies(home: Path, words: Words, store: str = "", erased: str = "") -> Replies:
    """The replies that a home keeps for the model of a recipe, to be read: nothing is made or removed.

    Args:
        home: The home.
        words: The recipe's section.
        store: Address of the store.
        erased: Digest of its list of erased patients.
    """
    path = _folder(home, store) / (erased[:16] or "none") / f"{digest_of([words.model])[:16]}.jsonl"
    known = {}
    data = path.read_bytes() if path.is_file() else b""
    for line in data.split(b"\n"):
        try:
            one = json.loads(line)
            tokens = (int(one["tokens"][0]), int(one["tokens"][1]))
            known[str(one["request"])] = Said(str(one["text"]), str(one["error"]), bool(one["cut"]), tokens)
        except (ValueError, KeyError, TypeError, IndexError):
            continue
    return Replies(path, known)


def writable(home: Path, words: Words, store: str, erased: str, erased_now: Callable[[], str]) -> Replies:
    """As `replies`, for a build: may be added to, and what was kept under earlier lists of the store is removed.

    Args:
        home: The home.
        words: The recipe's section.
        store: Address of the store.
        erased: Digest of the list of erased patients that the build leaves out.
        erased_now: The same, as the list is now.

    Raises:
        Unavailable: The list has grown since.
    """
    kept = replies(home, words, store, erased)
    kept.path.parent.mkdir(parents=True, exist_ok=True)
    kept.path.touch()
    if erased_now() != erased:  # the erasure may have emptied the home before this file was made
        shutil.rmtree(kept.path.parent, ignore_errors=True)
        raise _erased(kept.path)
    for other in _folder(home, store).glob("*"):
        if other != kept.path.parent:
            shutil.rmtree(other, ignore_errors=True)
    data = kept.path.read_bytes()
    if data and not data.endswith(b"\n"):  # torn by a power cut
        _append(kept.path, b"\n")
    return kept


def _folder(home: Path, store: str) -> Path:
    return home / FOLDER / digest_of([store])[:16]


def _append(path: Path, data: bytes) -> None:
    """Add to a file that must be there: made anew it would outlive the erasure that removed it."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_APPEND)
    except FileNotFoundError:
        raise _erased(path) from None
    try:
        os.write(file, data)
    finally:
        os.close(file)


def _erased(path: Path) -> Unavailable:
    return Unavailable(
        "a patient was erased while questions were worded",
        reason=f"{path} was removed",
        fix="run it again, without that patient",
    )


def clear(home: Path) -> None:
    """Remove all, as after an erasure."""
    shutil.rmtree(home / FOLDER, ignore_errors=True)


def ask(
    words: Words, requests: Sequence[Request], kept: Replies, on_done: Callable[[int], None] = lambda _: None
) -> list[Said]:
    """The replies to some requests, in their order; those that are kept are not asked for again.

    Args:
        words: The recipe's section.
        requests: What is asked for; each once.
        kept: Added to.
        on_done: Called with 1 for each.

    Raises:
        UserError: As `ask_openai.generate` does.
        Unavailable: Likewise; what came before is kept. Or a patient was erased meanwhile.
    """
    left = [request for request in requests if kept.find(words, request) is None]
    on_done(len(requests) - len(left))
    if left and kept.formed is None:
        kept.formed = _takes_form(words, left, kept)
        before, left = len(left), [request for request in left if kept.find(words, request) is None]
        on_done(before - len(left))
    for writes_answer in (False, True):
        own = [request for request in left if request.writes_answer is writes_answer]
        for _ in _sent(words, own, kept, bool(kept.formed)):
            on_done(1)
    return [kept.find(words, request) or Said("", "was not asked for") for request in requests]


def _takes_form(words: Words, requests: Sequence[Request], kept: Replies) -> bool:
    """Ask the first request; whether the server takes `response_format`. Without, the reply is read all the same.

    Where that one is refused, the next are asked: a content filter refuses one text, a wrong setting all.
    """
    formed = True
    for request in requests[:_FIRST]:
        (said,) = _sent(words, [request], kept, formed, keeps=False)
        if formed and said.error.startswith(_REFUSES_FORM) and any(word in said.error for word in _FORMS):
            formed = False
            say(
                f"{words.endpoint} takes no response_format ({said.error}): replies are asked for as JSON in words, "
                "and checked as ever"
            )
            (said,) = _sent(words, [request], kept, formed, keeps=False)
        kept.keep(words, request, said)
        if not said.error.startswith("HTTP 4"):
            return formed
    raise UserError(
        f"{words.endpoint} refuses the requests to '{words.model}'",
        reason=said.error,
        fix="check data.words: endpoint, model and max_tokens",
    )


def _sent(words: Words, requests: Sequence[Request], kept: Replies, formed: bool, keeps: bool = True) -> Iterator[Said]:
    from medmim.lvlm import ask_openai
    from medmim.lvlm.ask import Question

    if not requests:
        return
    by_prompt = {request.prompt: request for request in requests}

    def arrived(question: Question, reply: "Reply") -> None:
        if keeps:
            kept.keep(words, by_prompt[question.prompt], _said(reply))

    for reply in ask_openai.generate(
        words.endpoint,
        words.model,
        _paced((Question(request.prompt) for request in requests), words.per_minute),
        words.at_once,
        words.max_tokens,
        prompt.response_format(requests[0].writes_answer) if formed else None,
        arrived,
    ):
        yield _said(reply)


def _said(reply: "Reply") -> Said:
    return Said(reply.text, reply.error, reply.cut, (reply.prompt_tokens, reply.new_tokens))


def _paced(questions: Iterable[Any], per_minute: int | None) -> Iterator[Any]:
    """Questions, no faster than so many in a minute."""
    next_at = time.monotonic()
    for question in questions:
        if per_minute is not None:
            time.sleep(max(0.0, next_at - time.monotonic()))
            next_at = max(next_at, time.monotonic()) + 60 / per_minute
        yield question


def _name(words: Words, request: Request) -> str:
    decides: Mapping[str, Any] = {
        "model": words.model,
        "prompt": request.prompt,
        "form": prompt.response_format(request.writes_answer),
        "max_tokens": words.max_tokens,
        "revision": prompt.REVISION,
    }
    return digest_of([json.dumps(decides, sort_keys=True)])
