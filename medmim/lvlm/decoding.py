"""Greedy decoding of a batch with the decoder of a LLaVA model, and nothing else: see docs/bench.md, "Speed".

`generate` of transformers prepares inputs, cache, masks, processors and criteria for each token. Here, a step is a pass
of the decoder and of the head over the positions that are asked for, and the rows whose answers have ended leave the
batch as soon as they are half of it.

Most answers to a closed question are one of its options, to the letter. So when the tokens are there that tell which,
the rest of it is read in one pass, and what the model itself finds likeliest stands: the tokens are those that it
writes one by one (speculative decoding, arXiv:2211.17192, with the options as drafts).
"""

from collections.abc import Collection, Sequence
from os.path import commonprefix
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

LONGEST_DRAFT = 12  # tokens: logits of 64 answers over a vocabulary of 128K then take 430 MB


def greedy(
    model: Any,
    embedded: "Tensor",
    mask: "Tensor",
    stop: Collection[int],
    max_new_tokens: int,
    drafts: Sequence[Sequence[Sequence[int]]],
) -> tuple[list[list[int]], list[bool]]:
    """The likeliest token, again and again.

    Args:
        model: A `LlavaForConditionalGeneration`.
        embedded: Prompts, padded on the left, `[rows, longest, width]`.
        mask: Which positions are no padding, `[rows, longest]`.
        stop: Tokens that end an answer.
        max_new_tokens: Longest answer.
        drafts: What the answer of each row may be, as tokens; they decide nothing.

    Returns:
        For each row its tokens, with that which ended it, and whether a logit was not finite, which ends it too.
    """
    import torch

    tokens: list[list[int]] = [[] for _ in embedded]
    invalid = [False] * len(embedded)
    rows = list(range(len(embedded)))  # of the batch as it is by now
    given: list[list[int]] = [[] for _ in rows]  # the draft of each of them that is read in this pass
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    read, cache = 1, None  # the positions that are asked for are the last ones
    while True:
        seen = model.model.language_model(
            inputs_embeds=embedded, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        )
        likeliest = _likeliest(model, seen.last_hidden_state[:, -read:])
        going, stand = [], []
        for at, (row, draft) in enumerate(zip(rows, given, strict=True)):
            own, before = tokens[row], len(tokens[row])
            while not invalid[row] and (not own or own[-1] not in stop) and len(own) < max_new_tokens:
                count = len(own) - before
                if count > len(draft) or own[before:] != draft[:count]:
                    going.append(at)
                    break
                token = likeliest[at][count]
                invalid[row] = token < 0
                if not invalid[row]:
                    own.append(token)
            stand.append(len(own) - before)
        if not going:
            return tokens, invalid
        if read > 1:  # what the model did not write is as if it were not there
            places = torch.arange(read, device=mask.device)
            mask[:, -read:] = places < torch.tensor(stand, device=mask.device)[:, None]
        cache = seen.past_key_values
        if 2 * len(going) <= len(rows):
            left = torch.tensor(going, device=mask.device)
            cache.batch_select_indices(left)
            mask, rows, going = mask[left], [rows[at] for at in going], list(range(len(going)))
        given = [[] for _ in rows]
        for at in going:
            given[at] = _draft(tokens[rows[at]], drafts[rows[at]])
        following = [[*tokens[row][-1:], *draft] for row, draft in zip(rows, given, strict=True)]
        read = max(map(len, following))
        ids = torch.tensor([one + [0] * (read - len(one)) for one in following], device=mask.device)
        own_mask = [[1] * len(one) + [0] * (read - len(one)) for one in following]
        positions = mask.sum(-1, keepdim=True) + torch.arange(read, device=mask.device)
        mask = torch.cat([mask, torch.tensor(own_mask, device=mask.device)], dim=1)
        embedded = model.get_input_embeddings()(ids)


def _draft(written: list[int], drafts: Sequence[Sequence[int]]) -> list[int]:
    """How the answer goes on if it is one of these: as far as those agree that begin like it."""
    left = [list(one) for one in drafts if list(one[: len(written)]) == written]
    return list(commonprefix(left)[len(written) : len(written) + LONGEST_DRAFT])


def _likeliest(model: Any, hidden: "Tensor") -> list[list[int]]:
    """The likeliest token at each of `[rows, positions, width]`; -1 where a logit is not finite."""
    import torch

    logits = model.lm_head(hidden).float()
    finite = logits.amax(-1).isfinite()  # the largest of NaN and anything is NaN
    found: list[list[int]] = torch.where(finite, logits.argmax(-1), -1).tolist()
    return found
