"""The nearest of many perceptual hashes, exactly and without a loop over them.

Nearly all pairs are told apart by the 64 bits of one word, in blocks that stay in the processor's cache; only the few
that are left are compared whole. 75,000 against 75,000 hashes take seconds: benchmarks/audit.py.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_ROWS, _COLUMNS = 64, 4096  # of a block


def nearest(asked: "np.ndarray", among: "np.ndarray", reach: int) -> "tuple[np.ndarray, np.ndarray]":
    """For each hash the nearest one within reach; of several equally near, the first.

    Args:
        asked: (n, 32) uint8.
        among: (m, 32) uint8.
        reach: The largest number of different bits that counts.

    Returns:
        (n,) the number of different bits, and (n,) the place in `among`; both -1 where none is within reach.
    """
    import numpy as np

    one, two = (np.ascontiguousarray(words).view(np.uint64) for words in (asked, among))
    best = np.full(len(one), reach + 1, np.int64)
    place = np.full(len(one), -1, np.int64)
    halves = [two[at : at + _COLUMNS, :2].T.copy() for at in range(0, len(two), _COLUMNS)]
    for begin in range(0, len(one), _ROWS):
        rows = one[begin : begin + _ROWS]
        begins = rows[:, :2].T[:, :, None].copy()
        for number, half in enumerate(halves):
            apart = np.bitwise_count(begins[0] ^ half[0])
            apart += np.bitwise_count(begins[1] ^ half[1])
            near = np.flatnonzero(apart <= reach)
            if not len(near):
                continue
            row, other = np.divmod(near, half.shape[1])
            other += number * _COLUMNS
            bits = np.bitwise_count(rows[row] ^ two[other]).sum(axis=1, dtype=np.int64)
            order = np.lexsort((other, bits, row))
            row, first = np.unique(row[order], return_index=True)
            bits, other = bits[order][first], other[order][first]
            nearer = bits < best[begin + row]
            best[begin + row[nearer]], place[begin + row[nearer]] = bits[nearer], other[nearer]
    best[place < 0] = -1
    return best, place
