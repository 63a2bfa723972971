"""Inference with a loaded LLaVA model: greedy decoding of left-padded batches, replies in order.

While a batch is computed, threads decode, resize and tokenize the questions of the following one (`ahead`); an image
goes through the vision tower once for all questions (`features`).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from medmim.errors import UserError
from medmim.lvlm import ahead, decoding, memory
from medmim.lvlm.ask import Question, Reply, greedy, key, pixel_digest, refusal
from medmim.lvlm.encode import backend, encode
from medmim.lvlm.family import Turn
from medmim.lvlm.features import ALONE, Features, embedded
from medmim.lvlm.llava import FP32, Lvlm, dtype_name, stop_tokens
from medmim.sample import lettered

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
B = TypeVar("B")


class Asked(Protocol):
    """What a key and greedy decoding need of a model: `llava.Lvlm` has it, and `zoo.model.Model`."""

    @property
    def model(self) -> Any:
        """Of transformers."""

    @property
    def tokenizer(self) -> Any:
        """The fast tokenizer."""

    @property
    def digest(self) -> str:
        """Content digest of its folder."""

    @property
    def inference(self) -> tuple[str, ...]:
        """What else decides an answer."""


NOT_FINITE = "the model's logits are not finite (NaN or infinity)"


def ask(
    lvlm: Lvlm,
    questions: Sequence[Question],
    batch_size: int = 32,
    max_new_tokens: int = 32,
    on_done: Callable[[int], None] | None = None,
    features: Features | None = None,
) -> Iterator[Reply]:
    """Answer questions; one that cannot be encoded or is too long gets a reply with its error, and the others go on.

    Args:
        lvlm: The model.
        questions: What to ask.
        batch_size: Questions in one forward pass; in fp32 it changes no answer, in bf16 a few (5 of 96 of the tiny
            Mantis), since sums are rounded otherwise in another batch.
        max_new_tokens: Longest answer.
        on_done: Called after each batch with the number of questions it answered.
        features: Of the model's images; they are kept for other calls. [default: for this call alone]

    Yields:
        One reply for each question, in order.

    Raises:
        UserError: The longest answer alone fills the model's context, or the memory is used up.
    """
    refuse_long_answer(lvlm.path, context_length(lvlm), max_new_tokens)
    seen = features or Features(lvlm)

    def prepare(part: Sequence[Question], check: Callable[[], None]) -> Batch[_Prompt]:
        how = greedy(max_new_tokens)
        return prepared(
            lvlm, part, seen, check, batch_size, lambda _: how, lambda one: _encode(lvlm, one, max_new_tokens)
        )

    yield from in_batches(questions, batch_size, prepare, lambda ready: _answer(ready, seen, max_new_tokens), on_done)


def in_batches(
    questions: Sequence[Question],
    batch_size: int,
    prepare: Callable[[Sequence[Question], Callable[[], None]], B],
    reply: Callable[[B], list[Reply]],
    on_done: Callable[[int], None] | None,
) -> Iterator[Reply]:
    """The replies to questions, batch after batch; the two that follow are prepared meanwhile.

    No more, since a batch that waits holds its pixels: 2 GB of 32 questions with 80 images to Qwen2.5-VL, for each
    probe that is asked in turns.

    Args:
        questions: What to ask.
        batch_size: Questions in a batch.
        prepare: Makes a batch ready to be answered; called by another thread, see `ahead.prepared`.
        reply: Answers a batch, in this thread.
        on_done: Called after each batch with the number of questions in it.

    Raises:
        UserError: The memory is used up.
    """
    parts = [questions[start : start + batch_size] for start in range(0, len(questions), batch_size)]
    with closing(ahead.prepared(parts, prepare, 1)) as made:
        for part in parts:
            with memory.reporting(*asked_at_once(len(part))):
                replies = reply(next(made))
            yield from replies
            if on_done is not None:
                on_done(len(part))


def refuse_long_answer(path: Path, context: int, max_new_tokens: int) -> None:
    """Raise a UserError where the longest answer alone fills the context of the model at `path`."""
    if max_new_tokens >= context:
        raise UserError(
            f"an answer of {max_new_tokens:,} new tokens leaves no tokens for a question",
            reason=f"the context of {path} has {context:,} tokens (max_position_embeddings)",
            fix="lower bench.max_new_tokens, or --max-new-tokens",
        )


def context_length(lvlm: Lvlm) -> int:
    """Positions that the decoder was trained with, for images, question and answer together."""
    return int(lvlm.model.config.text_config.max_position_embeddings)


@dataclass(frozen=True)
class Batch(Generic[T]):
    """Questions that are ready to be asked together.

    Attributes:
        keys: Of the reply to each question.
        reasons: For each question why it is not asked; empty where it is.
        questions: Those that are asked.
        tokens: What was made of each of them.
    """

    keys: list[str]
    reasons: list[str]
    questions: list[Question]
    tokens: list[T]


@dataclass(frozen=True)
class _Prompt:
    """The tokens of a question, and of what its answer may be."""

    ids: list[int]
    drafts: list[list[int]]


def prepared(
    lvlm: Lvlm,
    questions: Sequence[Question],
    features: Features,
    check: Callable[[], None],
    batch_size: int,
    how: Callable[[Question], str],
    encoded: Callable[[Question], T],
) -> Batch[T]:
    """A batch as the model reads it, without the questions that it cannot be asked.

    Args:
        lvlm: The model.
        questions: The batch.
        features: Where the pixels of its images are prepared.
        check: As for `batch_of`.
        batch_size: As in `reply_key`.
        how: Likewise.
        encoded: The tokens of a question; raises UserError where it has none.
    """

    def read(question: Question) -> T:
        if reason := refusal(question):
            raise UserError(reason)
        tokens = encoded(question)
        features.prepare(question, is_exact(lvlm, how(question)))
        return tokens

    return batch_of(questions, check, lambda one: reply_key(lvlm, one, batch_size, how(one)), read)


def batch_of(
    questions: Sequence[Question],
    check: Callable[[], None],
    key_of_reply: Callable[[Question], str],
    read: Callable[[Question], T],
) -> Batch[T]:
    """A batch; several threads read its questions.

    Args:
        questions: The batch.
        check: Called before each question; see `ahead.prepared`.
        key_of_reply: Of a question with its `pixels`.
        read: Makes of it what is asked; it is not asked, for the reason that a UserError, a ValueError or the OSError
            of a decoder says.

    Raises:
        OSError: Of the operating system: an answer would keep for good what may pass.
    """

    def one(given: Question, _: Callable[[], None]) -> tuple[str, str, Question, T | None]:
        check()
        question, name = given, ""
        try:
            known = list(given.pixels) or [pixel_digest(image) for image in given.images]
            question = replace(given, pixels=known)
            name = key_of_reply(question)
            return name, "", question, read(question)
        except (UserError, ValueError, OSError) as error:
            if isinstance(error, OSError) and error.errno:  # a decoder's have no number
                raise
            reason = error.fact if isinstance(error, UserError) else str(error)
            return name, reason or type(error).__name__, question, None

    made: Batch[T] = Batch([], [], [], [])
    with closing(ahead.prepared(questions, one)) as each:
        for name, reason, question, tokens in each:
            made.keys.append(name)
            made.reasons.append(reason)
            if tokens is not None:
                made.questions.append(question)
                made.tokens.append(tokens)
    return made


def left_padded(lvlm: Lvlm, prompts: Sequence[Sequence[int]]) -> "tuple[Tensor, Tensor]":
    """Ids and attention mask, `[prompts, longest]`, on the model's device."""
    import torch

    longest, padding = max(map(len, prompts)), lvlm.tokenizer.pad_token_id
    ids = [[padding] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=lvlm.model.device), torch.tensor(mask, device=lvlm.model.device)


def reply_key(lvlm: Lvlm, question: Question, batch_size: int, how: str) -> str:
    """The key of a reply, of an error too.

    Args:
        lvlm: The model.
        question: The question.
        batch_size: Counts where it may change the reply: unless text is generated in fp32.
        how: `ask.greedy` or `ask.likelihoods`.
    """
    try:
        rendered = "".join(s.text for s in lvlm.family.render([Turn(question.prompt)], len(question.images)))
    except UserError:
        rendered = question.prompt
    return key_of(lvlm, rendered, question, batch_size, how, ALONE)


def key_of(asked: Asked, rendered: str, question: Question, batch_size: int, how: str, *more: str) -> str:
    """As `reply_key`, of a prompt as the model reads it; `more` counts where the batch does."""
    batch = () if is_exact(asked, how) else (f"batches of {batch_size}", *more)
    return key(asked.digest, rendered, question, how, *asked.inference, *batch)


def is_exact(asked: Asked, how: str) -> bool:
    """Whether what stands together in a batch decides nothing: of text, in fp32."""
    return how.startswith("greedy") and dtype_name(asked.model.dtype) == FP32


def _answer(ready: Batch[_Prompt], features: Features, max_new_tokens: int) -> list[Reply]:
    import torch

    lvlm = features.lvlm
    stop = stop_tokens(lvlm.tokenizer, lvlm.family)
    written: Iterator[tuple[int, list[int], bool]] = iter(())
    if ready.tokens:
        with torch.inference_mode():
            ids, mask = left_padded(lvlm, [one.ids for one in ready.tokens])
            prompts = embedded(lvlm, ids, features.of(ready.questions, is_exact(lvlm, greedy(max_new_tokens))))
            drafts = [one.drafts for one in ready.tokens]
            found = decoding.greedy(lvlm.model, prompts, mask, stop, max_new_tokens, drafts)
            written = zip((len(one.ids) for one in ready.tokens), *found, strict=True)

    def made(name: str, read: int, tokens: list[int], invalid: bool) -> Reply:
        text = lvlm.tokenizer.decode(tokens, skip_special_tokens=True)
        return reply_of(name, text, tokens, invalid, stop, read)

    return [
        Reply("", name, reason) if reason else made(name, *next(written))
        for name, reason in zip(ready.keys, ready.reasons, strict=True)
    ]


def _encode(lvlm: Lvlm, question: Question, max_new_tokens: int) -> _Prompt:
    """The tokens of a question.

    Raises:
        UserError: It holds a special token, or leaves no place for the answer in the model's context.
    """
    ids = encode(lvlm, [Turn(question.prompt)], len(question.images)).ids
    context = context_length(lvlm)
    if len(ids) + max_new_tokens > context:
        raise UserError(
            f"the question has {len(ids):,} tokens with its images, and the model's context of {context:,} takes "
            f"{context - max_new_tokens:,} beside an answer of {max_new_tokens:,}"
        )
    return _Prompt(ids, answers_of(lvlm, lettered(question.options)))


def answers_of(lvlm: Lvlm, texts: Sequence[str]) -> list[list[int]]:
    """Answers as tokens with that which ends them, as far as they can be told without the question."""
    rendered = []
    for text in texts:
        with suppress(UserError):  # it holds a special token
            rendered.append(lvlm.family.render([Turn("", text)], 0)[-1].text)
    read = backend(lvlm.tokenizer)
    return [list(read.encode(text, add_special_tokens=False).ids) for text in rendered]


def reply_of(name: str, text: str, ids: Sequence[int], invalid: bool, stop: list[int], prompt_tokens: int) -> Reply:
    """The reply of a key from what was generated, `ids`, up to the token that ended it."""
    if invalid:
        return Reply("", name, NOT_FINITE)
    cut = not set(stop).intersection(ids)
    return Reply(text.strip(), name, cut=cut, prompt_tokens=prompt_tokens, new_tokens=len(ids))


def asked_at_once(questions: int) -> tuple[str, str]:
    """(what was done, fix) where that many questions at once use up the memory."""
    if questions == 1:
        fix = "ask with fewer images or a shorter question, or use a machine with more memory"
        return "while 1 question was asked at once", fix
    fix = f"lower bench.batch_size (now {questions}; `medmim bench run --batch-size`)"
    return f"while {questions} questions were asked at once", fix
