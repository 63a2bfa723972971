"""Inference engines: a reference resolved to a digest and a function that answers; models are loaded on first use."""

import gc
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from medmim.bench import served
from medmim.errors import UserError
from medmim.lvlm import adapters, checkpoint, llava
from medmim.lvlm.features import ALONE
from medmim.lvlm.zoo import lookup
from medmim.lvlm.zoo import model as zoo
from medmim.run.workspace import Workspace
from medmim.sample import digest_of
from medmim.terms import UNKNOWN, Terms, reasons

if TYPE_CHECKING:
    from medmim.lvlm.ask import Question, Reply

    Ask = Callable[[Iterable[Question], int, int], Iterator[Reply]]
    Compare = Callable[[Iterable[Question], int], Iterator[Reply]]

OPENAI = "openai:"


@dataclass(frozen=True)
class Engine:
    """A model or server that answers questions.

    Attributes:
        ref: The reference that the user gave.
        digest: Content digest of the weights; for a server, whose weights are not known, of its address and model name.
            It also depends on `stale_before`, so that older answers are not found in the cache.
        ask: (questions, batch size, longest answer in tokens) -> replies in the order of the questions. A sequence, or
            any iterable where `is_server`.
        compare: (questions, batch size) -> replies with the likelihoods of the options, in order.
        terms: Of the model; a server's are unknown.
        template: Digest of the chat format in which it is asked; empty for a server, which has its own.
        inference: Computes what else of this machine decides the answers: see `llava.inference`; nothing for a
            server.
        release: Frees the memory of the model until it is asked again.
        is_server: Whether it is asked by as many requests at once as the batch size says, all the time: it takes
            questions from an iterable when it has room for them, so that none need be ready before. No batch decides
            an answer.
        learned: What asking showed of it, for the provenance of its answers.
        how: How it is asked; in the keys of its answers where the batch decides some.
        by: What runs a checkpoint, where that is not transformers: its answers have keys of their own.
    """

    ref: str
    digest: str
    ask: "Ask"
    compare: "Compare"
    terms: Terms = UNKNOWN
    template: str = ""
    inference: Callable[[], Mapping[str, str]] = dict
    release: Callable[[], None] = lambda: None
    is_server: bool = False
    learned: Callable[[], Mapping[str, Any]] = dict
    by: str = ""
    how: str = ""


def engine(ref: str, ws: Workspace, stale_before: str = "", by: str = "", room: int | None = None) -> Engine:
    """The engine of a reference: a shipped base, folder, model artifact or `openai:URL#NAME`.

    A folder or artifact is of one of our families, or of a class of the zoo.

    Args:
        ref: The reference.
        ws: The workspace.
        stale_before: Day before which cached answers are stale, because a server or a library changed; empty if none.
        by: What runs a checkpoint, `bench.engine`. [default: transformers]
        room: Bytes of images' features that are kept from one call to the next. [default: `kept.budget`]

    Raises:
        UserError: No such model, or an `openai:` reference with a malformed address or without a name; vLLM is to run
            it and is not installed, or it is of a class that medmim does not serve.
    """
    found = _engine(ref, ws, by, room)
    if not stale_before:
        return found
    return replace(found, digest=digest_of([found.digest, "asked anew", stale_before]))


def refuse_outside(engines: Iterable[Engine], of_data: Terms) -> None:
    """Refuse to send a data set to a server of somebody else where its terms forbid that.

    Ours are those of `openai_client.is_ours`.

    Raises:
        UserError: With the server and the source that forbids it.
    """
    from medmim.lvlm import openai_client

    for one in engines:
        if one.ref.startswith(OPENAI) and (why := reasons(of_data, ["outside_api"])):
            host = urlsplit(one.ref.removeprefix(OPENAI).partition("#")[0]).hostname or ""
            if not openai_client.is_ours(host):
                raise UserError(
                    f"the data set must not be sent to {host}",
                    reason="; ".join(why),
                    fix=f"ask a server of your own, or say that it is one: {openai_client.OWN_SERVERS}={host}",
                )


def _engine(ref: str, ws: Workspace, by: str, room: int | None) -> Engine:
    if ref.startswith(OPENAI):
        from medmim.lvlm import ask_openai, openai_client

        url, _, name = ref.removeprefix(OPENAI).partition("#")
        openai_client.check(url)
        if not name.strip():
            raise UserError(
                f"{ref} does not name a model of the server",
                fix="write openai:URL#NAME, such as openai:http://127.0.0.1:8000/v1#my-model",
            )
        learned = ask_openai.Learned()
        ask, compare = (partial(how, url, name, learned=learned) for how in (ask_openai.ask, ask_openai.compare))
        return Engine(ref, digest_of(["openai", url, name]), ask, compare, is_server=True, learned=learned.facts)
    found = lookup.locate(ref)
    weights = checkpoint.digest(found) if isinstance(found, Path) else found.digest
    if zoo.is_ours(found) or not zoo.model_type(found):
        family = checkpoint.family_of(found)  # refuse an unsupported one now, not in the middle of the benchmark
        if adapters.are_in(found):
            checkpoint.base_of(found)  # likewise a missing base
        if by == served.VLLM:
            return _by_vllm(ref, weights, family.template_digest, ws)
        return _local(ref, weights, family.template_digest, ws, room, of_zoo=False)
    if by == served.VLLM:
        raise UserError(
            f"{ref} is of a class of the zoo ({zoo.model_type(found)}), which is asked by transformers only",
            reason="its pixel budget, and how it is shown several images, are not put to a server yet",
            fix="set bench.engine to transformers (bench run: --engine transformers), or serve it yourself and bench "
            "openai:URL#NAME",
        )
    zoo.refuse_unusable(found)
    return _local(ref, weights, zoo.template_digest(found), ws, room, of_zoo=True)


def _by_vllm(ref: str, weights: str, template: str, ws: Workspace) -> Engine:
    server = served.Server(ref, weights, template, ws)
    terms = checkpoint.terms_of(ref)
    return Engine(
        ref, weights, server.ask, server.compare, terms, template, served.inference, server.stop,
        is_server=True, learned=server.learned, by=served.VLLM,
    )  # fmt: skip


def _local(ref: str, weights: str, template: str, ws: Workspace, room: int | None, of_zoo: bool) -> Engine:
    @lru_cache(maxsize=1)
    def load() -> Any:
        path = checkpoint.resolve(ref, ws)
        return zoo.load(path) if of_zoo else llava.load(path, cache=ws.cache)

    @lru_cache(maxsize=1)
    def features() -> Any:
        from medmim.lvlm.features import Features

        return Features(load(), room)

    def ask(questions: "Iterable[Question]", batch_size: int, max_new_tokens: int) -> "Iterator[Reply]":
        from medmim.lvlm import ask_hf
        from medmim.lvlm.zoo import asking

        if of_zoo:
            return asking.ask(load(), tuple(questions), batch_size, max_new_tokens)
        return ask_hf.ask(load(), tuple(questions), batch_size, max_new_tokens, features=features())

    def compare(questions: "Iterable[Question]", batch_size: int) -> "Iterator[Reply]":
        from medmim.lvlm import likelihood_hf
        from medmim.lvlm.zoo import asking

        if of_zoo:
            return asking.compare(load(), tuple(questions), batch_size)
        return likelihood_hf.compare(load(), tuple(questions), batch_size, features=features())

    def release() -> None:
        if not load.cache_info().currsize:
            return
        features.cache_clear()
        load.cache_clear()
        gc.collect()  # a model of transformers may refer to itself, and the next one is loaded before Python notices
        if "torch" in sys.modules:
            sys.modules["torch"].cuda.empty_cache()  # else torch keeps the memory to itself; nothing without a GPU

    terms = checkpoint.terms_of(ref)
    how = "" if of_zoo else ALONE
    return Engine(ref, weights, ask, compare, terms, template, llava.inference, release, how=how)
