"""Packed rows, padded rows and single samples give the same loss and the same gradients."""

import numpy as np
import pytest
import torch

from medmim.finetune import attention, batch
from medmim.finetune.engines.plain import Plain
from medmim.lvlm.encode import Encoded
from medmim.lvlm.llava import Lvlm
from medmim.recipe.schema import Finetune
from tests.support.finetune import copy_of, make_encoded, make_pixels


def gradients(lvlm: Lvlm, built: batch.Batch, packed: bool) -> tuple[float, dict[str, torch.Tensor]]:
    from contextlib import nullcontext

    model = copy_of(lvlm).model.double()
    built = batch.Batch(tuple(_double(row) for row in built.rows))
    with attention.packed(model) if packed else nullcontext():
        loss, _ = Plain(model, Finetune(), bf16=False).gradients(built)
    return loss, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def _double(row: batch.Row) -> batch.Row:
    from dataclasses import replace

    return row if row.pixel_values is None else replace(row, pixel_values=row.pixel_values.double())


def build(encoded: list[Encoded], packed: bool, max_tokens: int) -> batch.Batch:
    return batch.build(encoded, lambda i: make_pixels(encoded[i]), max_tokens=max_tokens, packed=packed)


@pytest.mark.parametrize(("packed", "max_tokens"), [(True, 400), (True, 10_000), (False, 400), (False, 10_000)])
def test_any_split_into_rows_gives_the_loss_and_gradients_of_single_samples(
    lvlm: Lvlm, packed: bool, max_tokens: int
) -> None:
    encoded = make_encoded(lvlm, 12)
    loss, grads = gradients(lvlm, build(encoded, packed, max_tokens), packed)
    one_by_one = batch.Batch(tuple(row for e in encoded for row in build([e], False, 10_000).rows))
    want, want_grads = gradients(lvlm, one_by_one, False)
    assert loss == pytest.approx(want, rel=1e-6)
    assert grads.keys() == want_grads.keys()
    for name, grad in want_grads.items():
        assert torch.allclose(grads[name], grad, rtol=1e-5, atol=1e-6), name


def test_a_token_of_another_sample_changes_nothing(lvlm: Lvlm) -> None:
    encoded = make_encoded(lvlm, 6)
    first = min(range(6), key=lambda i: len(encoded[i].ids))  # the shortest lies last in the row
    other = [e if i == first else make_encoded(lvlm, 40, seed=7)[i] for i, e in enumerate(encoded)]
    rows = [build(group, True, 10_000).rows[0] for group in (encoded, other)]
    spots = []
    for group in (encoded, other):
        order = sorted(range(6), key=lambda i: (-len(group[i].ids), i))
        spots.append(sum(len(group[i].ids) for i in order[: order.index(first)]))
    with torch.no_grad(), attention.packed(lvlm.model):
        hidden = [
            lvlm.model.model(
                input_ids=r.input_ids,
                pixel_values=r.pixel_values,
                position_ids=r.position_ids,
                use_cache=False,
                cu_seq_lens_q=r.cu_seq_lens,
                max_length_q=max(r.lengths),
                segments=r.lengths,
            ).last_hidden_state[0, s : s + len(encoded[first].ids)]
            for r, s in zip(rows, spots, strict=True)
        ]
    assert torch.allclose(hidden[0], hidden[1], atol=2e-5)


def test_no_position_predicts_the_first_token_of_a_sample() -> None:
    encoded = [Encoded(np.array(ids, np.int32), np.ones(len(ids), bool), 0, 99, 7) for ids in ([1, 2, 3], [4, 5])]
    row = batch.build(encoded, lambda i: None, max_tokens=10).rows[0]
    assert row.predicts.tolist() == [0, 1, 3]
    assert row.targets.tolist() == [2, 3, 5]
    assert row.position_ids is not None
    assert row.position_ids.tolist() == [[0, 1, 2, 0, 1]]
    assert row.cu_seq_lens.tolist() == [0, 3, 5]


@pytest.mark.parametrize("packed", [True, False])
def test_an_image_becomes_its_tokens_in_the_row_and_positions_count_them(packed: bool) -> None:
    one = Encoded(np.array([5, 99, 6, 7, 8], np.int32), np.array([0, 0, 0, 1, 1], bool), 1, 99, 3)
    two = Encoded(np.array([4, 9], np.int32), np.array([1, 1], bool), 0, 99, 3)
    row = batch.build([one, two], lambda i: None, max_tokens=20, packed=packed, padding=0).rows[0]
    assert row.lengths == (7, 2) == (len(one), len(two))
    if packed:
        assert row.input_ids.tolist() == [[5, 99, 99, 99, 6, 7, 8, 4, 9]]
        assert row.predicts.tolist() == [4, 5, 7]
    else:
        assert row.input_ids.tolist() == [[5, 99, 99, 99, 6, 7, 8], [4, 9, 0, 0, 0, 0, 0]]
        assert row.predicts.tolist() == [4, 5, 7]
    assert row.targets.tolist() == [7, 8, 9]


def test_the_shares_of_the_workers_make_up_the_step(lvlm: Lvlm) -> None:
    encoded = make_encoded(lvlm, 9)
    asked: list[int] = []

    def pixels(i: int) -> torch.Tensor | None:
        asked.append(i)
        return make_pixels(encoded[i])

    shares = [batch.build(encoded, pixels, max_tokens=300, rank=r, world=2) for r in range(2)]
    whole = batch.build(encoded, lambda i: None, max_tokens=10_000)
    assert sum(s.tokens for s in shares) == whole.tokens
    assert sum(s.trained for s in shares) == whole.trained
    assert sorted(asked) == list(range(9))


def test_packed_attention_refuses_a_mask_and_a_narrow_window() -> None:
    q = torch.zeros(1, 2, 4, 8)
    borders = torch.tensor([0, 4], dtype=torch.int32)
    with pytest.raises(ValueError, match="no mask"):
        attention.packed_attention(
            torch.nn.Identity(), q, q, q, torch.ones(4, 4), cu_seq_lens_q=borders, max_length_q=4, segments=(4,)
        )
    with pytest.raises(ValueError, match="sliding window of 3"):
        attention.packed_attention(
            torch.nn.Identity(), q, q, q, None, sliding_window=3, cu_seq_lens_q=borders, max_length_q=4, segments=(4,)
        )
