"""Inference with a loaded Hugging Face model: greedy decoding of left-padded batches, replies in order."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from medmim.errors import UserError
from medmim.lvlm.ask import Question, Reply, key
from medmim.lvlm.checkpoint import Lvlm
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
    """Answer questions; a question that cannot be encoded gets a reply with its error, and the others are answered.

    Args:
        lvlm: The model.
        questions: What to ask.
        batch_size: Questions in one forward pass; it does not change the answers.
        max_new_tokens: Longest answer.
        on_done: Called after each batch with the number of questions it answered.

    Yields:
        One reply for each question, in order.
    """
    for start in range(0, len(questions), batch_size):
        part = questions[start : start + batch_size]
        yield from _batch(lvlm, part, max_new_tokens)
        if on_done is not None:
            on_done(len(part))


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
        turns, count = [Turn(question.prompt)], len(question.images)
        try:
            encoded = encode(lvlm, turns, count)
            features = [pixels(lvlm, question.images)] if count else []
        except (UserError, ValueError, OSError) as error:
            reason = error.fact if isinstance(error, UserError) else str(error)
            replies.append(Reply("", key(lvlm.digest, question.prompt, (), max_new_tokens), reason))
            continue
        replies.append(None)
        prompts.append(encoded.ids)
        shown += features
    if not prompts:
        return [reply for reply in replies if reply]
    model, tokenizer = lvlm.model, lvlm.tokenizer
    longest = max(map(len, prompts))
    padded = [[tokenizer.pad_token_id] * (longest - len(ids)) + ids for ids in prompts]
    mask = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts]
    with torch.inference_mode():
        output = model.generate(
            input_ids=torch.tensor(padded, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            # left out, not None: generate() would run the vision tower on None
            **({"pixel_values": torch.cat(shown).to(model.device, model.dtype)} if shown else {}),
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=_stop_tokens(lvlm),
            pad_token_id=tokenizer.pad_token_id,
        )
    texts = iter(tokenizer.batch_decode(output[:, longest:], skip_special_tokens=True))
    return [
        reply or Reply(next(texts).strip(), _key(lvlm, question, max_new_tokens))
        for reply, question in zip(replies, questions, strict=True)
    ]


def _stop_tokens(lvlm: Lvlm) -> list[int]:
    known = lvlm.tokenizer.get_vocab()
    return [known[token] for token in lvlm.family.stop if token in known]


def _key(lvlm: Lvlm, question: Question, max_new_tokens: int) -> str:
    rendered = "".join(s.text for s in lvlm.family.render([Turn(question.prompt)], len(question.images)))
    return key(lvlm.digest, rendered, question.images, max_new_tokens)
