"""The nearest hash is that of a plain search over all pairs, whatever the blocks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmim.data.audit import nearest as module
from medmim.data.audit.nearest import nearest

hashes = st.lists(st.lists(st.sampled_from([0, 1, 3, 255]), min_size=32, max_size=32), min_size=0, max_size=9)


def arrays(rows: list[list[int]]) -> np.ndarray:
    return np.array(rows, np.uint8).reshape(-1, 32)


@settings(max_examples=60)
@given(hashes, hashes, st.integers(0, 64))
def test_it_is_the_first_of_the_smallest_distances_within_reach(
    asked: list[list[int]], among: list[list[int]], reach: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_ROWS", 2)
        patch.setattr(module, "_COLUMNS", 3)
        bits, places = nearest(arrays(asked), arrays(among), reach)
    for row, found, place in zip(arrays(asked), bits, places, strict=True):
        all_bits = [int(np.bitwise_count(row ^ other).sum()) for other in arrays(among)]
        best = min(all_bits, default=999)
        assert (found, place) == ((best, all_bits.index(best)) if best <= reach else (-1, -1))


def test_of_equally_near_hashes_in_different_blocks_it_is_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COLUMNS", 1)
    bits, places = nearest(arrays([[7] * 32]), arrays([[8] * 32, [7] * 32, [7] * 32]), 24)
    assert (bits[0], places[0]) == (0, 1)


def test_a_hash_that_differs_in_its_last_bits_only_is_found() -> None:
    rng = np.random.default_rng(0)
    among = rng.integers(0, 256, (5000, 32), np.uint8)
    asked = among[[4999]].copy()
    asked[0, 31] ^= 0b111
    assert [int(one[0]) for one in nearest(asked, among, 24)] == [3, 4999]
