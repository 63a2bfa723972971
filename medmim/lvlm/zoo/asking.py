"""Inference with a loaded model of the zoo: greedy answers, and the likelihoods of options; replies in order.

Of each option, as in `likelihood_hf`, two log-likelihoods: that its letter begins the answer, and that its text is the
whole answer, up to the token that ends it. Each answer is a row with the question's images: positions and masks of
these classes differ too much to share what is computed of a question among its answers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from medmim.errors import UserError
from medmim.lvlm import ask_hf, likelihood_hf
from medmim.lvlm.ask import Question, Reply, greedy, likelihoods
from medmim.lvlm.zoo import model as zoo
from medmim.lvlm.zoo.adapter import Row
from medmim.lvlm.zoo.model import Model
from medmim.sample import lettered

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


def ask(
    model: Model,
    questions: Sequence[Question],
    batch_size: int = 32,
    max_new_tokens: int = 32,
    on_done: Callable[[int], None] | None = None,
) -> Iterator[Reply]:
    """Answer questions; arguments, replies and errors as of `ask_hf.ask`."""
    ask_hf.refuse_long_answer(model.path, zoo.context_length(model), max_new_tokens)

    def prepare(part: Sequence[Question], check: Callable[[], None]) -> ask_hf.Batch[Row]:
        def read(question: Question) -> Row:
            row = zoo.read(model, question)
            _refuse_long(model, len(row), f"an answer of {max_new_tokens:,}", max_new_tokens)
            return row

        return _prepared(model, part, check, batch_size, lambda _: greedy(max_new_tokens), read)

    yield from ask_hf.in_batches(
        questions, batch_size, prepare, lambda ready: _answer(model, ready, max_new_tokens), on_done
    )


def compare(
    model: Model,
    questions: Sequence[Question],
    batch_size: int = 32,
    on_done: Callable[[int], None] | None = None,
) -> Iterator[Reply]:
    """Compare the options of closed questions; arguments, replies and errors as of `likelihood_hf.compare`."""

    def prepare(part: Sequence[Question], check: Callable[[], None]) -> ask_hf.Batch[_Answers]:
        return _prepared(model, part, check, batch_size, likelihoods, lambda question: _read(model, question))

    def reply(ready: ask_hf.Batch[_Answers]) -> list[Reply]:
        found = _log_likelihoods(model, ready.tokens, batch_size)
        each = [
            (sum(len(line.row) + len(line.tail) for line in _lines(one)), one.texts, letters, texts)
            for one, letters, texts in found
        ]
        return likelihood_hf.replies(ready.keys, ready.reasons, each)

    yield from ask_hf.in_batches(questions, batch_size, prepare, reply, on_done)


def _prepared(
    model: Model,
    questions: Sequence[Question],
    check: Callable[[], None],
    batch_size: int,
    how: Callable[[Question], str],
    read: Callable[[Question], T],
) -> ask_hf.Batch[T]:
    """As `ask_hf.prepared`, of a model of the zoo."""
    return ask_hf.batch_of(questions, check, lambda one: _key(model, one, batch_size, how(one)), read)


def _answer(model: Model, ready: ask_hf.Batch[Row], max_new_tokens: int) -> list[Reply]:
    stop, rows = model.stop, ready.tokens
    found = _generated(model, zoo.batch(model, rows), stop, max_new_tokens) if rows else iter(())
    lengths = iter(map(len, rows))
    return [
        Reply("", name, reason) if reason else ask_hf.reply_of(name, *next(found), stop, next(lengths))
        for name, reason in zip(ready.keys, ready.reasons, strict=True)
    ]


def _generated(
    model: Model, arguments: "Mapping[str, Tensor]", stop: list[int], max_new_tokens: int
) -> Iterator[tuple[str, list[int], bool]]:
    """Greedy answers of a batch.

    Args:
        model: The model.
        arguments: Of its `generate`, rows padded on the left.
        stop: Tokens that end an answer.
        max_new_tokens: Longest answer.

    Returns:
        For each row text, tokens with that which ended it, and whether a logit was not finite.
    """
    import torch

    ids = arguments["input_ids"]
    invalid = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

    def find_invalid(_: "Tensor", logits: "Tensor") -> "Tensor":
        invalid.logical_or_(~logits.amax(dim=-1).isfinite())  # the largest of NaN and anything is NaN
        return logits

    with torch.inference_mode():
        output = model.model.generate(
            **arguments,
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=stop,
            pad_token_id=model.tokenizer.pad_token_id,
            logits_processor=[find_invalid],
        )
    tokens = output[:, ids.shape[1] :].tolist()
    texts = model.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    ends = [next((at + 1 for at, token in enumerate(row) if token in stop), len(row)) for row in tokens]
    return zip(texts, [row[:end] for row, end in zip(tokens, ends, strict=True)], invalid.tolist(), strict=True)


def _refuse_long(model: Model, tokens: int, beside: str, more: int) -> None:
    context = zoo.context_length(model)
    if tokens + more > context:
        raise UserError(
            f"the question has {tokens:,} tokens with its images, and the model's context of {context:,} takes "
            f"{context - more:,} beside {beside}"
        )


def _key(model: Model, question: Question, batch_size: int, how: str) -> str:
    try:
        zoo.refuse(model, question)
        rendered = zoo.rendered(model, question)
    except UserError:
        rendered = question.prompt
    return ask_hf.key_of(model, rendered, question, batch_size, how)


@dataclass(frozen=True)
class _Answers:
    """A question with its answers.

    Attributes:
        row: The question, up to what all of the answers begin with.
        lead: What follows it in front of each letter.
        letters: The letter of each option.
        texts: What follows `row` where the text of an option is the answer, up to the end of the answer.
    """

    row: Row
    lead: list[int]
    letters: list[int]
    texts: list[list[int]]


def _read(model: Model, question: Question) -> _Answers:
    """A question with its answers as tokens.

    Each is tokenized with the question as a whole, since a token may span the border between the two.

    Raises:
        UserError: As `model.read` does; it has no options, does not fit the context, or one token does not tell the
            letters apart.
    """
    if not question.options:
        raise UserError("the question has no options, whose likelihoods could be compared")
    row = zoo.read(model, question)
    for option in question.options:
        zoo.refuse(model, Question(option))
    prompt = zoo.rendered(model, question)
    texts = [_tokens(model, prompt + zoo.answered(model, question, text)) for text in question.options]
    letters = [_tokens(model, prompt + zoo.answered(model, question, text)) for text in lettered(question.options)]
    asked = _tokens(model, prompt)
    begin = likelihood_hf.common([asked, *texts, *letters])
    at = likelihood_hf.common(letters)
    told_apart = [tokens[at] for tokens in letters if len(tokens) > at]
    if len(set(told_apart)) < len(letters):
        raise UserError("its tokenizer has no token that tells the letters of the options apart")
    _refuse_long(model, len(row), "its longest option", max(map(len, (*texts, *letters))) - len(asked))
    shared = zoo.cut(row, len(asked) - begin)
    return _Answers(shared, letters[0][begin:at], told_apart, [tokens[begin:] for tokens in texts])


def _tokens(model: Model, text: str) -> list[int]:
    ids: list[int] = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _log_likelihoods(
    model: Model, asked: Sequence[_Answers], batch_size: int
) -> "list[tuple[_Answers, Tensor, Tensor]]":
    """The log-likelihoods of the letters and of the texts of each question, float32 `[options]`, on the CPU."""
    import torch

    lines = [line for one in asked for line in _lines(one)]
    found: list[Tensor] = []
    with torch.inference_mode():
        for start in range(0, len(lines), batch_size):
            part = lines[start : start + batch_size]
            arguments = zoo.batch(model, [zoo.extended(line.row, line.tail) for line in part])
            hidden = model.model.model(**arguments).last_hidden_state
            ends = range(hidden.shape[1], hidden.shape[1] * (len(part) + 1), hidden.shape[1])
            places = [end - back for line, end in zip(part, ends, strict=True) for back in line.backs]
            targets = [token for line in part for token in line.targets]
            values = likelihood_hf.log_softmax_at(model.model, hidden.flatten(0, 1), places, targets)
            found += torch.split(values, [len(line.targets) for line in part])
    each = iter(found)
    return [(one, next(each), torch.stack([next(each).sum() for _ in one.texts])) for one in asked]


@dataclass(frozen=True)
class _Line:
    """A row with a tail, which tokens are asked for, and how far from its end each is predicted: 1 is the last."""

    row: Row
    tail: list[int]
    targets: list[int]
    backs: list[int]


def _lines(one: _Answers) -> list[_Line]:
    """The letters in one row, all at its end, and each text in its own."""
    letters = _Line(one.row, one.lead, one.letters, [1] * len(one.letters))
    return [letters, *(_Line(one.row, text[:-1], text, list(range(len(text), 0, -1))) for text in one.texts)]
