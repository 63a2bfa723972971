"""Whom to ask: a model's content digest at once, the model itself when the first question comes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from medmim import store
from medmim.errors import UserError
from medmim.lvlm import checkpoint
from medmim.run.workspace import Workspace
from medmim.sample import digest_of

if TYPE_CHECKING:
    from medmim.lvlm.ask import Question, Reply

    Ask = Callable[[Sequence[Question], int, int], Iterator[Reply]]

OPENAI = "openai:"


@dataclass(frozen=True)
class Engine:
    """Something that answers questions.

    Attributes:
        ref: What the user called it.
        digest: Content digest of the weights; of address and name for a server, whose weights nobody sees. What is
            asked anew since a day has another one from then on, so that no answer from before is found.
        ask: (questions, batch size, longest answer in tokens) -> replies in the order of the questions.
    """

    ref: str
    digest: str
    ask: "Ask"


def engine(ref: str, ws: Workspace, anew: str = "") -> Engine:
    """The engine behind a reference: a shipped base, folder, model artifact or `openai:URL#NAME`.

    Args:
        ref: The reference.
        ws: The workspace.
        anew: Since when it no longer answers as its cached answers say: a server or a library changed.

    Raises:
        UserError: No such model, or an `openai:` reference without a name.
    """
    found = _engine(ref, ws)
    return replace(found, digest=digest_of([found.digest, "asked anew", anew])) if anew else found


def _engine(ref: str, ws: Workspace) -> Engine:
    if ref.startswith(OPENAI):
        url, _, name = ref.removeprefix(OPENAI).rpartition("#")
        if not url or not name:
            raise UserError(
                f"{ref} names no model of the server",
                fix="write openai:URL#NAME, such as openai:http://127.0.0.1:8000/v1#my-model",
            )
        return Engine(ref, digest_of(["openai", url, name]), _server(url, name))
    path = checkpoint.resolve(ref, ws)
    checkpoint.family_of(path)  # refuse another family now, not after the benchmark's first half
    artifact = store.find(ref)
    return Engine(ref, artifact.digest if artifact else checkpoint.digest(path), _local(path))


def _local(path: Path) -> "Ask":
    @lru_cache(maxsize=1)
    def load() -> checkpoint.Lvlm:
        return checkpoint.load(path)

    def ask(questions: "Sequence[Question]", batch_size: int, max_new_tokens: int) -> "Iterator[Reply]":
        from medmim.lvlm.ask_hf import ask as put

        return put(load(), questions, batch_size, max_new_tokens)

    return ask


def _server(url: str, name: str) -> "Ask":
    def ask(questions: "Sequence[Question]", batch_size: int, max_new_tokens: int) -> "Iterator[Reply]":
        from medmim.lvlm.ask_openai import ask as put

        return put(url, name, questions, batch_size, max_new_tokens)

    return ask
