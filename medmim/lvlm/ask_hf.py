"""Inference with a loaded Hugging Face model: greedy decoding of left-padded batches, replies in order."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from medmim.errors import UserError
from medmim.lvlm import memory
from medmim.lvlm.ask import Question, Reply, greedy, key, refusal
from medmim.lvlm.checkpoint import FP32, Lvlm, dtype_name, stop_tokens
from medmim.lvlm.encode import encode
from medmim.lvlm.family import Turn

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


class Asked(Protocol):
    """What a key and greedy decoding need of a model: `checkpoint.Lvlm` has it, and `zoo.model.Model`."""

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
) -> Iterator[Reply]:
    """Answer questions; one that cannot be encoded or is too long gets a reply with its error, and the others go on.

    Args:
        lvlm: The model.
        questions: What to ask.
        batch_size: Questions in one forward pass; in fp32 it changes no answer, in bf16 a few (5 of 96 of the tiny
            Mantis), since sums are rounded otherwise in another batch.
        max_new_tokens: Longest answer.
        on_done: Called after each batch with the number of questions it answered.

    Yields:
        One reply for each question, in order.

    Raises:
        UserError: The longest answer alone fills the model's context, or the memory is used up.
    """
    refuse_long_answer(lvlm.path, context_length(lvlm), max_new_tokens)
    yield from in_batches(questions, batch_size, lambda part: _batch(lvlm, part, max_new_tokens, batch_size), on_done)


def in_batches(
    questions: Sequence[Question],
    batch_size: int,
    reply: Callable[[Sequence[Question]], list[Reply]],
    on_done: Callable[[int], None] | None,
) -> Iterator[Reply]:
    """The replies to questions, batch after batch.

    Args:
        questions: What to ask.
        batch_size: Questions in a batch.
        reply: Answers a batch.
        on_done: Called after each batch with the number of questions in it.

    Raises:
        UserError: The memory is used up.
    """
    for start in range(0, len(questions), batch_size):
        part = questions[start : start + batch_size]
        with memory.reporting(*asked_at_once(len(part))):
            replies = reply(part)
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


def pixels(lvlm: Lvlm, images: Sequence[Any]) -> "Tensor":
    """Images as the vision tower reads them: float32 `[images, 3, height, width]`."""
    tensor: Tensor = lvlm.image_processor(list(images), return_tensors="pt")["pixel_values"]
    return tensor


def prepared(
    lvlm: Lvlm, questions: Sequence[Question], encoded: Callable[[Question], T]
) -> "tuple[list[str], list[T], Tensor | None]":
    """A batch as the model reads it, without the questions that it cannot be asked.

    Args:
        lvlm: The model.
        questions: The batch.
        encoded: The tokens of a question; raises UserError where it has none.

    Returns:
        For each question why it is left out, empty where it is not; what `encoded` gave for the others; the pixels of
        all their images, in order, on the model's device. None without images.
    """
    import torch

    reasons: list[str] = []
    tokens: list[T] = []
    shown: list[Tensor] = []
    for question in questions:
        try:
            if reason := refusal(question):
                raise UserError(reason)
            own = encoded(question)
            features = [pixels(lvlm, question.images)] if question.images else []
        except (UserError, ValueError, OSError) as error:
            reasons.append(error.fact if isinstance(error, UserError) else str(error) or type(error).__name__)
            continue
        reasons.append("")
        tokens.append(own)
        shown += features
    return reasons, tokens, torch.cat(shown).to(lvlm.model.device, lvlm.model.dtype) if shown else None


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
    return key_of(lvlm, rendered, question, batch_size, how)


def key_of(asked: Asked, rendered: str, question: Question, batch_size: int, how: str) -> str:
    """As `reply_key`, of a prompt as the model reads it."""
    exact = how.startswith("greedy") and dtype_name(asked.model.dtype) == FP32
    batch = () if exact else (f"batches of {batch_size}",)
    return key(asked.digest, rendered, question, how, *asked.inference, *batch)


def _batch(lvlm: Lvlm, questions: Sequence[Question], max_new_tokens: int, batch_size: int) -> list[Reply]:
    keys = [reply_key(lvlm, question, batch_size, greedy(max_new_tokens)) for question in questions]
    reasons, prompts, shown = prepared(lvlm, questions, lambda question: _encode(lvlm, question, max_new_tokens))
    if not prompts:
        return [Reply("", name, reason) for name, reason in zip(keys, reasons, strict=True)]
    stop = stop_tokens(lvlm.tokenizer, lvlm.family)
    ids, mask = left_padded(lvlm, prompts)
    arguments = {"input_ids": ids, "attention_mask": mask}
    if shown is not None:  # left out, not None: generate() would run the vision tower on None
        arguments["pixel_values"] = shown
    found = generated(lvlm, arguments, stop, max_new_tokens)
    return [
        Reply("", name, reason) if reason else reply_of(name, *next(found), stop)
        for name, reason in zip(keys, reasons, strict=True)
    ]


def generated(
    asked: Asked, arguments: "Mapping[str, Tensor]", stop: list[int], max_new_tokens: int
) -> Iterator[tuple[str, list[int], bool]]:
    """Greedy answers of a batch.

    Args:
        asked: The model.
        arguments: Of its `generate`, rows padded on the left.
        stop: Tokens that end an answer.
        max_new_tokens: Longest answer.

    Returns:
        For each row text, tokens, and whether a logit was not finite.
    """
    import torch

    ids = arguments["input_ids"]
    invalid = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

    def find_invalid(_: "Tensor", logits: "Tensor") -> "Tensor":
        invalid.logical_or_(~logits.amax(dim=-1).isfinite())  # the largest of NaN and anything is NaN
        return logits

    with torch.inference_mode():
        output = asked.model.generate(
            **arguments,
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=stop,
            pad_token_id=asked.tokenizer.pad_token_id,
            logits_processor=[find_invalid],
        )
    tokens = output[:, ids.shape[1] :].tolist()
    texts = asked.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return zip(texts, tokens, invalid.tolist(), strict=True)


def _encode(lvlm: Lvlm, question: Question, max_new_tokens: int) -> list[int]:
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
    return ids


def reply_of(name: str, text: str, ids: Sequence[int], invalid: bool, stop: list[int]) -> Reply:
    """The reply of a key from what was generated."""
    if invalid:
        return Reply("", name, NOT_FINITE)
    return Reply(text.strip(), name, cut=not set(stop).intersection(ids))


def asked_at_once(questions: int) -> tuple[str, str]:
    """(what was done, fix) where that many questions at once use up the memory."""
    if questions == 1:
        fix = "ask with fewer images or a shorter question, or use a machine with more memory"
        return "while 1 question was asked at once", fix
    fix = f"lower bench.batch_size (now {questions}; `medmim bench run --batch-size`)"
    return f"while {questions} questions were asked at once", fix
