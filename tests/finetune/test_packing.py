"""Packing: every sample is in one row, rows are not too long, and the plan depends on lengths and seed only."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmim.finetune import packing

LENGTHS = st.lists(st.integers(1, 64), max_size=60)


@given(LENGTHS, st.integers(1, 9), st.integers(0, 5))
def test_an_epoch_holds_every_sample_once(lengths: list[int], batch_size: int, epoch: int) -> None:
    steps = packing.plan(lengths, 64, batch_size, 0, epoch)
    assert sorted(i for step in steps for i in step) == list(range(len(lengths)))
    assert all(len(step) == batch_size for step in steps[:-1])


def test_epochs_and_seeds_differ_and_each_repeats() -> None:
    lengths = [5] * 40
    orders = {str(packing.plan(lengths, 64, 8, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4
    assert packing.plan(lengths, 64, 8, 1, 1) == packing.plan(lengths, 64, 8, 1, 1)


@given(LENGTHS, st.integers(64, 200), st.integers(1, 4), st.booleans())
def test_rows_hold_every_sample_once_and_fit(lengths: list[int], max_tokens: int, world: int, packed: bool) -> None:
    rows = packing.rows(lengths, max_tokens, world, packed)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    for row in rows:
        size = sum(lengths[i] for i in row) if packed else len(row) * max(lengths[i] for i in row)
        assert size <= max_tokens
        assert [lengths[i] for i in row] == sorted((lengths[i] for i in row), reverse=True)


@given(st.lists(st.integers(40, 64), min_size=16, max_size=60), st.integers(1, 4))
def test_workers_get_about_equally_many_tokens(lengths: list[int], world: int) -> None:
    rows = packing.rows(lengths, 512, world)
    loads = [sum(lengths[i] for row in rows[rank::world] for i in row) for rank in range(world)]
    assert max(loads) - min(loads) <= 64 * max(1, len(rows) // world)


def test_a_sample_longer_than_a_row_is_an_error() -> None:
    with pytest.raises(ValueError, match="65 tokens does not fit"):
        packing.plan([3, 65], 64, 8, 0, 0)
