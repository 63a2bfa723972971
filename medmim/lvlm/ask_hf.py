"""Inference with a loaded Hugging Face model: greedy decoding of left-padded batches, replies in order."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from medmim.errors import UserError
from medmim.lvlm import memory
from medmim.lvlm.ask import Question, Reply, key, refusal
from medmim.lvlm.checkpoint import Lvlm, stop_tokens
from medmim.lvlm.encode import encode
from medmim.lvlm.family import Turn

if TYPE_CHECKING:
    from torch import Tensor


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
        batch_size: Questions in one forward pass; it does not change the answers.
        max_new_tokens: Longest answer.
        on_done: Called after each batch with the number of questions it answered.

    Yields:
        One reply for each question, in order.

    Raises:
        UserError: The longest answer alone fills the model's context, or the memory is used up.
    """
    context = context_length(lvlm)
    if max_new_tokens >= context:
        raise UserError(
            f"an answer of {max_new_tokens:,} new tokens leaves no tokens for a question",
            reason=f"the context of {lvlm.path} has {context:,} tokens (max_position_embeddings)",
            fix="lower bench.max_new_tokens, or --max-new-tokens",
        )
    for start in range(0, len(questions), batch_size):
        part = questions[start : start + batch_size]
        with memory.reporting(*_asked_at_once(len(part))):
            replies = _batch(lvlm, part, max_new_tokens)
        yield from replies
        if on_done is not None:
            on_done(len(part))


def context_length(lvlm: Lvlm) -> int:
    """Positions that the decoder was trained with, for images, question and answer together."""
    return int(lvlm.model.config.text_config.max_position_embeddings)


def pixels(lvlm: Lvlm, images: Sequence[Any]) -> "Tensor":
    """Images as the vision tower reads them: float32 `[images, 3, height, width]`."""
    tensor: Tensor = lvlm.image_processor(list(images), return_tensors="pt")["pixel_values"]
    return tensor


def _batch(lvlm: Lvlm, questions: Sequence[Question], max_new_tokens: int) -> list[Reply]:
    import torch

    replies: list[Reply | None] = []
    prompts: list[list[int]] = []
    shown: list[Tensor] = []  # pixels of all images of the batch, in order
    for question in questions:
        try:
            ids = _encode(lvlm, question, max_new_tokens)
            features = [pixels(lvlm, question.images)] if question.images else []
        except (UserError, ValueError, OSError) as error:
            reason = error.fact if isinstance(error, UserError) else str(error)
            replies.append(Reply("", key(lvlm.digest, question.prompt, (), max_new_tokens), reason))
            continue
        replies.append(None)
        prompts.append(ids)
        shown += features
    if not prompts:
        return [reply for reply in replies if reply]
    model, tokenizer, stop = lvlm.model, lvlm.tokenizer, stop_tokens(lvlm.tokenizer, lvlm.family)
    longest = max(map(len, prompts))
    padded = [[tokenizer.pad_token_id] * (longest - len(ids)) + ids for ids in prompts]
    mask = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts]
    invalid = torch.zeros(len(prompts), dtype=torch.bool, device=model.device)

    def find_invalid(_: "Tensor", logits: "Tensor") -> "Tensor":
        invalid.logical_or_(~logits.amax(dim=-1).isfinite())  # the largest of NaN and anything is NaN
        return logits

    with torch.inference_mode():
        output = model.generate(
            input_ids=torch.tensor(padded, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            # left out, not None: generate() would run the vision tower on None
            **({"pixel_values": torch.cat(shown).to(model.device, model.dtype)} if shown else {}),
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=stop,
            pad_token_id=tokenizer.pad_token_id,
            logits_processor=[find_invalid],
        )
    generated = output[:, longest:].tolist()
    found = zip(tokenizer.batch_decode(generated, skip_special_tokens=True), generated, invalid.tolist(), strict=True)
    return [
        reply or _reply(lvlm, question, max_new_tokens, *next(found), stop)
        for reply, question in zip(replies, questions, strict=True)
    ]


def _encode(lvlm: Lvlm, question: Question, max_new_tokens: int) -> list[int]:
    """The tokens of a question.

    Raises:
        UserError: It holds a special token, is no text, or leaves no place for the answer in the model's context.
    """
    if reason := refusal(question):
        raise UserError(reason)
    ids = encode(lvlm, [Turn(question.prompt)], len(question.images)).ids
    context = context_length(lvlm)
    if len(ids) + max_new_tokens > context:
        raise UserError(
            f"the question has {len(ids):,} tokens with its images, and the model's context of {context:,} takes "
            f"{context - max_new_tokens:,} beside an answer of {max_new_tokens:,}"
        )
    return ids


def _reply(
    lvlm: Lvlm, question: Question, max_new_tokens: int, text: str, ids: Sequence[int], invalid: bool, stop: list[int]
) -> Reply:
    name = _key(lvlm, question, max_new_tokens)
    if invalid:
        return Reply("", name, "the model's logits are not finite (NaN or infinity)")
    return Reply(text.strip(), name, cut=not set(stop).intersection(ids))


def _asked_at_once(questions: int) -> tuple[str, str]:
    """(what was done, fix) where that many questions at once use up the memory."""
    if questions == 1:
        fix = "ask with fewer images or a shorter question, or use a machine with more memory"
        return "while 1 question was asked at once", fix
    fix = f"lower bench.batch_size (now {questions}; `medmim bench run --batch-size`)"
    return f"while {questions} questions were asked at once", fix


def _key(lvlm: Lvlm, question: Question, max_new_tokens: int) -> str:
    rendered = "".join(s.text for s in lvlm.family.render([Turn(question.prompt)], len(question.images)))
    return key(lvlm.digest, rendered, question.images, max_new_tokens)
