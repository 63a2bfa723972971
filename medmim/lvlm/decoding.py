"""Greedy decoding of a batch with the decoder of a LLaVA model, and nothing else: see docs/bench.md, "Speed".

`generate` of transformers prepares inputs, cache, masks, processors and criteria for each token. Here, a step is a pass
of the decoder and of the head over the last position of each answer, and the rows whose answers have ended leave the
batch as soon as they are half of it.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def greedy(
    model: Any, embedded: "Tensor", mask: "Tensor", stop: Collection[int], max_new_tokens: int
) -> tuple[list[list[int]], list[bool]]:
    """The likeliest token, again and again.

    Args:
        model: A `LlavaForConditionalGeneration`.
        embedded: Prompts, padded on the left, `[rows, longest, width]`.
        mask: Which positions are no padding, `[rows, longest]`.
        stop: Tokens that end an answer.
        max_new_tokens: Longest answer.

    Returns:
        For each row its tokens, with that which ended it, and whether a logit was not finite, which ends it too.
    """
    import torch

    decoder, embed = model.model.language_model, model.get_input_embeddings()
    tokens: list[list[int]] = [[] for _ in embedded]
    invalid = [False] * len(embedded)
    rows = list(range(len(embedded)))  # of the batch as it is by now
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    cache = None
    for step in range(max_new_tokens):
        seen = decoder(
            inputs_embeds=embedded, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        )
        logits = model.lm_head(seen.last_hidden_state[:, -1:])[:, -1].float()
        likeliest = logits.argmax(-1)
        finite = logits.amax(-1).isfinite()  # the largest of NaN and anything is NaN
        going = []
        for at, (row, token) in enumerate(zip(rows, torch.where(finite, likeliest, -1).tolist(), strict=True)):
            if invalid[row] or (tokens[row] and tokens[row][-1] in stop):
                continue  # it ended before, and has not left
            invalid[row] = token < 0
            if not invalid[row]:
                tokens[row].append(token)
                if token not in stop:
                    going.append(at)
        if not going or step + 1 == max_new_tokens:
            break
        cache, positions = seen.past_key_values, positions[:, -1:] + 1
        if 2 * len(going) <= len(rows):
            left = torch.tensor(going, device=mask.device)
            cache.batch_select_indices(left)
            mask, positions, likeliest = mask[left], positions[left], likeliest[left]
            rows = [rows[at] for at in going]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        embedded = embed(likeliest[:, None])
    return tokens, invalid
