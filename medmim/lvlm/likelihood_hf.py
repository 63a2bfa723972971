"""Likelihoods of a question's options, by a loaded Hugging Face model; nothing is generated, so nothing is read.

Of each option, two log-likelihoods: that its letter begins the answer, in the form `B: text` of the training data, as
validation compares them too (`encode.options`); and that its text is the whole answer, up to the token that ends it.

A question is tokenized with each of its answers as a whole, since a token may span the border between the two
(EleutherAI/lm-evaluation-harness, `_encode_pair`). One forward pass over what all of them share, with the images, gives
the letters, as a rule: they follow it. A second one, over a few tokens and with the first one's keys and values, gives
the texts: the answers of a question stand in one row, and a mask hides them from each other.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from medmim.errors import UserError
from medmim.lvlm import ask_hf
from medmim.lvlm.ask import Question, Reply, likelihoods
from medmim.lvlm.encode import Encoded, encode, options
from medmim.lvlm.family import Turn
from medmim.lvlm.features import Features, embedded
from medmim.lvlm.llava import Lvlm
from medmim.sample import lettered

if TYPE_CHECKING:
    from torch import Tensor

_POSITIONS = 256  # whose logits are computed at once: 128 MB at a vocabulary of 128K
_DECIMALS = 6


def compare(
    lvlm: Lvlm,
    questions: Sequence[Question],
    batch_size: int = 32,
    on_done: Callable[[int], None] | None = None,
    features: Features | None = None,
) -> Iterator[Reply]:
    """Compare the options of closed questions; one that cannot be encoded or is too long gets a reply with its error.

    Args:
        lvlm: The model.
        questions: What to ask, with `options`.
        batch_size: Questions in one forward pass; another one changes the last digits.
        on_done: Called after each batch with the number of questions in it.
        features: As for `ask_hf.ask`.

    Yields:
        One reply for each question, in order, with `letters`, `texts` and `tokens`.

    Raises:
        UserError: The memory is used up.
    """
    seen = features or Features(lvlm)

    def prepare(part: Sequence[Question], check: Callable[[], None]) -> "ask_hf.Batch[_Encoded]":
        return ask_hf.prepared(lvlm, part, seen, check, batch_size, likelihoods, lambda one: _encode(lvlm, one))

    yield from ask_hf.in_batches(questions, batch_size, prepare, lambda ready: _compared(ready, seen), on_done)


@dataclass(frozen=True)
class _Encoded:
    """A question with its answers as tokens.

    Attributes:
        shared: What all of them begin with, at most the prompt; those of the images included.
        lead: What follows it in front of each letter.
        letters: The letter of each option.
        texts: What follows `shared` where the text of an option is the answer, up to the end of the answer.
    """

    shared: list[int]
    lead: list[int]
    letters: list[int]
    texts: list[list[int]]

    @property
    def read(self) -> int:
        """How many tokens the model reads."""
        return len(self.shared) + sum(map(len, self.branches))

    @property
    def branches(self) -> list[list[int]]:
        """The tokens behind `shared` that the model reads: what follows the last one of a text is not asked."""
        return [self.lead, *(text[:-1] for text in self.texts)]


def _compared(ready: "ask_hf.Batch[_Encoded]", features: Features) -> list[Reply]:
    import torch

    with torch.inference_mode():
        shown = features.of(ready.questions, exact=False)
        found = _log_likelihoods(features.lvlm, ready.tokens, shown) if ready.tokens else []
    return replies(ready.keys, ready.reasons, [(one.read, one.texts, letters, texts) for one, letters, texts in found])


def replies(
    keys: Sequence[str], reasons: Sequence[str], found: "Sequence[tuple[int, Sequence[Sequence[int]], Tensor, Tensor]]"
) -> list[Reply]:
    """The replies of a batch.

    Args:
        keys: Of each question.
        reasons: For each question why it was not asked; empty where it was.
        found: Of those that were asked, in order: how many tokens were read, tokens of the texts, log-likelihoods of
            the letters and of the texts.
    """
    each = iter(found)
    return [
        Reply("", name, reason) if reason else _reply(name, *next(each))
        for name, reason in zip(keys, reasons, strict=True)
    ]


def _reply(name: str, read: int, asked: Sequence[Sequence[int]], letters: "Tensor", texts: "Tensor") -> Reply:
    if not (letters.isfinite().all() and texts.isfinite().all()):
        return Reply("", name, ask_hf.NOT_FINITE)
    return Reply(
        "",
        name,
        letters=tuple(round(value, _DECIMALS) for value in letters.tolist()),
        texts=tuple(round(value, _DECIMALS) for value in texts.tolist()),
        tokens=tuple(map(len, asked)),
        prompt_tokens=read,
    )


def common(lines: Sequence[Sequence[int]]) -> int:
    """How many tokens all of some lines begin with."""
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*lines, strict=False)))


def _encode(lvlm: Lvlm, question: Question) -> _Encoded:
    """A question with its answers as tokens.

    Raises:
        UserError: It has no options, holds a special token, does not fit the model's context, or one token does not
            tell the letters apart.
    """
    if not question.options:
        raise UserError("the question has no options, whose likelihoods could be compared")
    shown = len(question.images)

    def encoded(answer: str | None) -> Encoded:
        return encode(lvlm, [Turn(question.prompt, answer)], shown)

    prompt, texts = encoded(None), [encoded(text) for text in question.options]
    answers = [encoded(answer) for answer in lettered(question.options)]
    told_apart = options(answers[0], answers, [False] * len(answers))
    if told_apart is None:
        raise UserError("its tokenizer has no token that tells the letters of the options apart")
    at = len(answers[0].tokens) - told_apart.back
    begin = common([one.tokens.tolist() for one in (prompt, *texts, *answers)])
    shared = Encoded(prompt.tokens[:begin], prompt.trained[:begin], shown, prompt.image_token, prompt.tokens_per_image)
    found = _Encoded(
        shared.ids,
        answers[0].tokens[begin:at].tolist(),
        told_apart.tokens.tolist(),
        [text.tokens[begin:].tolist() for text in texts],
    )
    longest = len(found.shared) + max(map(len, [found.lead, *found.texts]))
    if longest > (context := ask_hf.context_length(lvlm)):
        raise UserError(
            f"the question has {longest:,} tokens with its images and its longest option, and the model's context "
            f"takes {context:,}"
        )
    return found


def _log_likelihoods(
    lvlm: Lvlm, asked: Sequence[_Encoded], shown: "Tensor | None"
) -> "list[tuple[_Encoded, Tensor, Tensor]]":
    """The log-likelihoods of the letters and of the texts of each question, float32 `[options]`, on the CPU."""
    import torch

    model = lvlm.model
    ids, mask = ask_hf.left_padded(lvlm, [one.shared for one in asked])
    first = model.model(
        inputs_embeds=embedded(lvlm, ids, shown),
        attention_mask=mask,
        position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
        use_cache=True,
    )
    hidden = first.last_hidden_state[:, -1:]  # [questions, 1 + tokens of the branches, width]
    if any(map(any, (one.branches for one in asked))):
        following, position_ids, seen = _branches(asked, mask, model.dtype)
        second = model.model(
            input_ids=following,
            attention_mask=seen,
            position_ids=position_ids,
            past_key_values=first.past_key_values,
            use_cache=True,
        )
        hidden = torch.cat([hidden, second.last_hidden_state], dim=1)
    width = hidden.shape[1]
    places: list[int] = []  # in `hidden`, flattened: what predicts each of `targets`
    targets: list[int] = []
    for row, one in enumerate(asked):
        begin = 1
        letters, *texts = one.branches
        places += [row * width + (begin + len(letters) - 1 if letters else 0)] * len(one.letters)
        targets += one.letters
        begin += len(letters)
        for text, read in zip(one.texts, texts, strict=True):
            places += [row * width + at for at in (0, *range(begin, begin + len(read)))]
            targets += text
            begin += len(read)
    values = iter(torch.split(log_softmax_at(model, hidden.flatten(0, 1), places, targets), _counts(asked)))
    return [(one, next(values), torch.stack([next(values).sum() for _ in one.texts])) for one in asked]


def _counts(asked: Sequence[_Encoded]) -> list[int]:
    """How many values there are of the letters of a question, and of each of its texts."""
    return [count for one in asked for count in (len(one.letters), *map(len, one.texts))]


def _branches(asked: Sequence[_Encoded], mask: "Tensor", dtype: Any) -> "tuple[Tensor, Tensor, Tensor]":
    """Ids, positions and additive attention mask of what follows the shared tokens; a question is a row.

    Args:
        asked: The questions.
        mask: Of the shared tokens, `[questions, longest]`.
        dtype: Of the model.

    Returns:
        `[questions, tokens]` twice, and `[questions, 1, tokens, longest + tokens]`: a token sees what is shared, and
        its own branch up to itself. One of padding sees itself, too, so that no row of the softmax is empty.
    """
    import torch

    width = max(sum(map(len, one.branches)) for one in asked)
    ids = torch.zeros(len(asked), width, dtype=torch.long)
    positions = torch.zeros_like(ids)
    own = torch.eye(width, dtype=torch.bool).repeat(len(asked), 1, 1)
    for row, one in enumerate(asked):
        begin = 0
        for branch in one.branches:
            end = begin + len(branch)
            ids[row, begin:end] = torch.tensor(branch, dtype=torch.long)
            positions[row, begin:end] = len(one.shared) + torch.arange(len(branch))
            own[row, begin:end, begin:end] = torch.ones(len(branch), len(branch), dtype=torch.bool).tril()
            begin = end
    device = mask.device
    seen = torch.cat([mask.bool()[:, None].expand(-1, width, -1), own.to(device)], dim=-1)
    hidden = torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill(~seen, torch.finfo(dtype).min)
    return ids.to(device), positions.to(device), hidden[:, None]


def log_softmax_at(model: Any, hidden: "Tensor", places: Sequence[int], targets: Sequence[int]) -> "Tensor":
    """The log-probability of each target at its place in `[positions, width]`, float32, on the CPU.

    The head is computed in float32 whatever the model's dtype: in bfloat16 the logits of letters are often equal.
    """
    import torch

    where, each = torch.unique(torch.tensor(places, device=hidden.device), return_inverse=True)
    wanted = torch.tensor(targets, device=hidden.device)
    weight = model.lm_head.weight.float()
    found = torch.empty(len(targets), device=hidden.device)
    for start in range(0, len(where), _POSITIONS):
        logits = hidden[where[start : start + _POSITIONS]].float() @ weight.T
        own = (each >= start) & (each < start + _POSITIONS)
        rows = each[own] - start
        found[own] = logits[rows, wanted[own]] - logits.logsumexp(-1)[rows]
    return found.cpu()
