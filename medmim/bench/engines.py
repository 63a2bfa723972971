"""Inference engines: a reference resolved to a digest and a function that answers; models are loaded on first use."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from medmim.errors import UserError
from medmim.lvlm import adapters, checkpoint
from medmim.run.workspace import Workspace
from medmim.sample import digest_of
from medmim.terms import UNKNOWN, Terms

if TYPE_CHECKING:
    from medmim.lvlm.ask import Question, Reply

    Ask = Callable[[Sequence[Question], int, int], Iterator[Reply]]

OPENAI = "openai:"


@dataclass(frozen=True)
class Engine:
    """A model or server that answers questions.

    Attributes:
        ref: The reference that the user gave.
        digest: Content digest of the weights; for a server, whose weights are not known, of its address and model name.
            It also depends on `stale_before`, so that older answers are not found in the cache.
        ask: (questions, batch size, longest answer in tokens) -> replies in the order of the questions.
        terms: Of the model; a server's are unknown.
        template: Digest of the chat format in which it is asked; empty for a server, which has its own.
    """

    ref: str
    digest: str
    ask: "Ask"
    terms: Terms = UNKNOWN
    template: str = ""


def engine(ref: str, ws: Workspace, stale_before: str = "") -> Engine:
    """The engine of a reference: a shipped base, folder, model artifact or `openai:URL#NAME`.

    Args:
        ref: The reference.
        ws: The workspace.
        stale_before: Day before which cached answers are stale, because a server or a library changed; empty if none.

    Raises:
        UserError: No such model, or an `openai:` reference with a malformed address or without a name.
    """
    found = _engine(ref, ws)
    if not stale_before:
        return found
    return replace(found, digest=digest_of([found.digest, "asked anew", stale_before]))


def _engine(ref: str, ws: Workspace) -> Engine:
    if ref.startswith(OPENAI):
        from medmim.lvlm import ask_openai

        url, _, name = ref.removeprefix(OPENAI).partition("#")
        ask_openai.check(url)
        if not name.strip():
            raise UserError(
                f"{ref} does not name a model of the server",
                fix="write openai:URL#NAME, such as openai:http://127.0.0.1:8000/v1#my-model",
            )
        return Engine(ref, digest_of(["openai", url, name]), _server(url, name))
    found = checkpoint.locate(ref)
    family = checkpoint.family_of(found)  # refuse an unsupported family now, not in the middle of the benchmark
    if adapters.are_in(found):
        checkpoint.base_of(found)  # likewise a missing base
    weights = checkpoint.digest(found) if isinstance(found, Path) else found.digest
    return Engine(ref, weights, _local(ref, ws), checkpoint.terms_of(ref), family.template_digest)


def _local(ref: str, ws: Workspace) -> "Ask":
    @lru_cache(maxsize=1)
    def load() -> checkpoint.Lvlm:
        return checkpoint.load(checkpoint.resolve(ref, ws), cache=ws.cache)

    def ask(questions: "Sequence[Question]", batch_size: int, max_new_tokens: int) -> "Iterator[Reply]":
        from medmim.lvlm import ask_hf

        return ask_hf.ask(load(), questions, batch_size, max_new_tokens)

    return ask


def _server(url: str, name: str) -> "Ask":
    def ask(questions: "Sequence[Question]", batch_size: int, max_new_tokens: int) -> "Iterator[Reply]":
        from medmim.lvlm import ask_openai

        return ask_openai.ask(url, name, questions, batch_size, max_new_tokens)

    return ask
