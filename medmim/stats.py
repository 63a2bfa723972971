"""Confidence intervals and tests clustered by patient: items of one patient are not independent.

One closed form for every mean and paired difference, from none right to all right; docs/statistics.md derives it and
holds its measured coverage:

1. The correlation of a patient's items is estimated from the products of their deviations. An item that shows several
   patients is correlated with the items of each, in proportion (a multiple-membership model: Browne, Goldstein &
   Rasbash 2001). With one patient an item, the variance is that of the cluster sandwich, unbiased in a small sample;
   it may come out below that of independent items, down to 0.4 of it.
2. Items that are nearly all alike say nothing about their correlation: it is drawn towards `_PRIOR`.
3. Dividing by the design effect gives the effective number of items (Kish 1965; Korn & Graubard 1998), to which a
   pseudo-item at each end of the scale is added (Agresti & Coull 1998 for a share, Bonett & Price 2012 for a paired
   difference): the interval keeps a width where all answers are equal.
4. The centre is moved by the skewness of the patients' sums (Johnson 1978): few faults are likelier too few than many.
5. Student's t, with the degrees of freedom that the variance has in this design (Bell & McCaffrey 2002), or fewer
   where a few patients make up the variance (Satterthwaite 1946).

The p value is of the same t, so p < 0.05 just where 0 lies outside the interval.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmim.errors import require

MIN_PATIENTS = 20
CONFIDENCE = 0.95
_PRIOR = 0.2  # correlation of a patient's items where the items cannot tell
_TOLD_BY = 3.0  # items unlike the rest that weigh as much as the prior
_LEAST = 0.4  # variance of the mean, of that of independent items
_PSEUDO = 1.0  # items at each end of the scale
_WORKING = 0.05  # correlation at which a design's degrees of freedom are taken
_FEW = 6.0  # degrees of freedom that a few patients leave at least

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Estimate:
    """A mean with its patient-clustered interval.

    Attributes:
        value: Mean over the items.
        low: Lower end of the 95% interval; None under `MIN_PATIENTS` patients or items.
        high: Upper end, likewise.
        p: Two-sided p value of "the mean is 0", below 0.05 just where 0 is outside the interval; None where there is no
            interval.
        n: Items.
        patients: Distinct patients.
    """

    value: float
    low: float | None
    high: float | None
    p: float | None
    n: int
    patients: int


@dataclass(frozen=True)
class Design:
    """Which items share patients: what an interval needs beside the values.

    With e the deviations of the items, C the correlation of items that share patients, and rho that correlation's size.

    Attributes:
        items: Their number.
        patients: Number of distinct patients.
        shown: Sparse, shape (items, patients): 1 where an item shows a patient.
        joined: Sum of all elements of C: variance of the sum of the items at rho 1, in variances of one item.
        products: Expected sum of products of deviations over pairs of items that share a patient, in variances of one
            item, at rho 0 and at rho 1; the mean being estimated.
        pairs: The same with the mean known, at rho 1.
        freedom: Degrees of freedom of the estimated variance of the mean, for normal values correlated by `_WORKING`.
    """

    items: int
    patients: int
    shown: Any
    joined: float
    products: tuple[float, float]
    pairs: float
    freedom: float


@dataclass(frozen=True, eq=False)
class Clusters:
    """The patients of each item, by number.

    Attributes:
        codes: Those of all items, item by item; equal numbers are one patient. Shape (items and their patients,).
        starts: Where each item's begin, and where the last one's end. Shape (items + 1,).
    """

    codes: Ints
    starts: Ints

    @staticmethod
    def of(patients: Sequence[Iterable[str]]) -> "Clusters":
        """From names that are unique over all sources."""
        sets = [set(own) for own in patients]
        at = {name: i for i, name in enumerate(sorted(set().union(*sets)))}
        codes = np.fromiter(chain.from_iterable(sorted(map(at.__getitem__, own)) for own in sets), np.int64)
        return Clusters(codes, np.cumsum([0, *map(len, sets)], dtype=np.int64))

    def take(self, items: Ints) -> "Clusters":
        """Those of some of the items, in this order."""
        lengths = (self.starts[1:] - self.starts[:-1])[items]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        inside = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)
        return Clusters(self.codes[np.repeat(self.starts[:-1][items], lengths) + inside], starts)

    @property
    def patients(self) -> int:
        """How many there are."""
        return len(np.unique(self.codes))


def estimate(values: Floats, patients: Sequence[Sequence[str]] | Clusters) -> Estimate:
    """Mean and interval of one value in 0..1 per item.

    Args:
        values: Shape (items,), at least one.
        patients: The patients of each item, with names that are unique over all sources.
    """
    return _estimate(values, patients, 0.0)


def difference(ours: Floats, theirs: Floats, patients: Sequence[Sequence[str]] | Clusters) -> Estimate:
    """Paired difference `ours - theirs` of values in 0..1 on the same items, with its interval and p value."""
    return _estimate(ours - theirs, patients, -1.0)


def design(patients: Sequence[Sequence[str]] | Clusters) -> Design:
    """The design of items with these patients; the order of neither matters."""
    clusters = patients if isinstance(patients, Clusters) else Clusters.of(patients)
    return designed(clusters.codes.tobytes(), clusters.starts.tobytes())


@lru_cache(maxsize=128)  # one for all metrics, models and nights with these items; a bench has some 60 sets of them
def designed(codes: bytes, starts: bytes) -> Design:
    """`design` of the numbers of `Clusters`."""
    sparse = require("scipy.sparse", "bench")
    ends = np.frombuffer(starts, np.int64)
    lengths = ends[1:] - ends[:-1]
    names, person = np.unique(np.frombuffer(codes, np.int64), return_inverse=True)
    items = len(lengths)
    item = np.repeat(np.arange(items), lengths)
    each = lengths**-0.5
    shape = (items, len(names))
    shown = sparse.csr_matrix((np.ones(len(item)), (item, person)), shape)
    weighted = sparse.csr_matrix((each[item], (item, person)), shape)  # C is its product with its transpose
    counts = np.bincount(person, minlength=len(names)).astype(np.float64)
    of_items = weighted @ (weighted.T @ np.ones(items))
    joined = float(of_items.sum())
    shared = shown.T @ weighted
    pairs = np.asarray(shared.multiply(shared).sum(axis=1)).ravel() - counts

    def products(rho: float) -> float:
        rows = (1 - rho) + rho * of_items
        lost = rows / items - rows.sum() / (2 * items**2)  # to the estimated mean
        return float(np.sum(rho * pairs - 2 * (counts - 1) * (shown.T @ lost)))

    expected = (products(0.0), products(1.0))
    return Design(
        items,
        len(names),
        shown,
        joined,
        expected,
        float(pairs.sum()),
        _design_freedom(shown, weighted, joined, expected),
    )


def intervals(values: Floats, of: Design, lowest: float) -> tuple[Floats, Floats, Floats]:
    """Intervals of many sets of values with one design.

    No values have a better lower end than all 1, or a better upper end than all `lowest`: what is seldom wrong tells
    more of how its faults cluster than what is never wrong, and would else get the narrower interval.

    Args:
        values: Shape (sets, items), each `lowest`..1.
        of: The design of the items.
        lowest: 0 for a mean, -1 for a difference.

    Returns:
        Lower ends, upper ends, and p values of "the mean is 0"; each of shape (sets,).
    """
    ends = np.repeat([[1.0], [lowest]], of.items, axis=1)
    low, high, p = _plain(np.concatenate([values, ends]), of, lowest)
    best, worst = len(values), len(values) + 1
    p = np.where(low > 0, np.maximum(p, p[best]), np.where(high < 0, np.maximum(p, p[worst]), p))
    low, high = np.maximum(np.minimum(low, low[best]), lowest), np.minimum(np.maximum(high, high[worst]), 1.0)
    return low[:best], high[:best], p[:best]


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's correction over the p values that exist (Holm 1979); None stays None."""
    known = [p for p in p_values if p is not None]
    if not known:
        return list(p_values)
    # not statsmodels' multipletests, which runs a garbage collection in each call: a second with torch loaded
    order = np.argsort(known, kind="stable")
    steps = np.array(known)[order] * np.arange(len(known), 0, -1)
    corrected = np.empty(len(known))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    rest = iter(corrected)
    return [None if p is None else float(next(rest)) for p in p_values]


def estimates(values: Floats, patients: Sequence[Sequence[str]] | Clusters) -> list[Estimate]:
    """`estimate` of many sets of values of the same items.

    Args:
        values: Shape (sets, items).
        patients: Of each item.
    """
    return _estimates(values, patients, 0.0)


def _estimate(values: Floats, patients: Sequence[Sequence[str]] | Clusters, lowest: float) -> Estimate:
    return _estimates(values[None], patients, lowest)[0]


def _estimates(values: Floats, patients: Sequence[Sequence[str]] | Clusters, lowest: float) -> list[Estimate]:
    clusters = patients if isinstance(patients, Clusters) else Clusters.of(patients)
    people, items = clusters.patients, values.shape[1]
    means = [float(np.mean(own)) for own in values]
    if min(people, items) < MIN_PATIENTS:
        return [Estimate(value, None, None, None, items, people) for value in means]
    ends = zip(*intervals(values, design(clusters), lowest), strict=True)
    return [
        Estimate(value, float(low), float(high), float(p), items, people)
        for value, (low, high, p) in zip(means, ends, strict=True)
    ]


def _plain(values: Floats, of: Design, lowest: float) -> tuple[Floats, Floats, Floats]:
    """`intervals`, unbounded and each set by itself."""
    special = require("scipy.special", "bench")
    mean = values.mean(axis=1)
    deviations = values - mean[:, None]
    squares = np.sum(deviations**2, axis=1)
    sums = of.shown.T @ deviations.T  # of each patient
    rho = _correlation(deviations, squares, sums, of)
    joined = of.items + rho * (of.joined - of.items)  # variance of the sum of the items, in variances of one
    variance = squares / np.maximum(of.items - joined / of.items, 1e-9)
    effective = of.items**2 / joined
    total = effective + 2 * _PSEUDO
    centre = (effective * mean + _PSEUDO * (1 + lowest)) / total
    scatter = effective * (variance + (mean - centre) ** 2) + _PSEUDO * ((1 - centre) ** 2 + (centre - lowest) ** 2)
    error = np.sqrt(scatter) / total
    second, third, fourth = (np.sum(sums**power, axis=0) for power in (2, 3, 4))
    skewed = third / np.maximum(second, 1e-9) / of.items * effective / total
    centre = centre + np.clip(skewed, -error, error)
    few = np.maximum(2 * second**2 / np.maximum(fourth, 1e-9), _FEW)
    freedom = np.minimum(of.freedom, few)
    half = special.stdtrit(freedom, (1 + CONFIDENCE) / 2) * error
    return centre - half, centre + half, 2 * special.stdtr(freedom, -np.abs(centre) / error)


def _correlation(deviations: Floats, squares: Floats, sums: Floats, of: Design) -> Floats:
    """Correlation of two items of the same one patient, up to 1, for each set of deviations."""
    if of.joined - of.items < 1e-9:  # no two items share a patient
        return np.zeros(len(squares))
    within = of.shown.T @ (deviations**2).T
    unlike = squares**2 / np.maximum(np.sum(deviations**4, axis=1), 1e-12)  # items over kurtosis: k if k of many differ
    told = unlike**2 / (unlike**2 + _TOLD_BY**2)
    ratio = np.sum(sums**2 - within, axis=0) / np.where(squares > 0, squares, 1.0)
    # expected: products = (1 - rho) * products[0] + rho * products[1], squares = items - joined / items
    slope = of.products[1] - of.products[0] + ratio * (of.joined / of.items - 1)
    found = (ratio * (of.items - 1) - of.products[0]) / np.where(slope > 1e-9, slope, 1.0)
    least = (_LEAST - 1) * of.items / (of.joined - of.items)
    found = np.where(slope > 1e-9, np.clip(found, least, 1.0), _PRIOR)
    return np.asarray(told * found + (1 - told) * np.maximum(found, _PRIOR))


def _design_freedom(shown: Any, weighted: Any, joined: float, products: tuple[float, float]) -> float:
    """Twice the squared mean of the estimated variance over its variance, for normal items; at least 1.5.

    The estimate is a quadratic form e'Ae of the deviations e = My, A = a I + b (KK' - diag(k)), with K the patients
    that the items show and k their number; the items y have the covariance S = (1 - rho) I + rho WW'. Its variance is
    2 tr(A MSM A MSM), written here in matrices of items by patients, which stay sparse.
    """
    sparse = require("scipy.sparse", "bench")
    items = int(shown.shape[0])
    more = joined - items
    if more < 1e-9:
        return max(items - 1.0, 1.5)
    rates = np.array([[items - 1, products[0]], [-more / items, products[1] - products[0]]])
    if abs(np.linalg.det(rates)) < 1e-9:  # all items show the same patients
        return 1.5
    a, b = np.linalg.solve(rates, [items, more])
    own = a - b * np.asarray(shown.sum(axis=1)).ravel()
    rest = 1 - _WORKING

    def form(x: Floats) -> Floats:
        return np.asarray(own * x + b * (shown @ (shown.T @ x)))

    def covariance(x: Floats) -> Floats:
        return np.asarray(rest * x + _WORKING * (weighted @ (weighted.T @ x)))

    # AS = rest diag(own) + left right'
    left = sparse.hstack([shown, sparse.diags(own) @ weighted]).tocsr()
    reach = shown.T @ weighted
    right = sparse.hstack([rest * b * shown + _WORKING * b * (weighted @ reach.T), _WORKING * weighted]).tocsr()
    inner = right.T @ left
    trace = rest**2 * np.sum(own**2) + 2 * rest * (sparse.diags(own) @ right).multiply(left).sum()
    trace += inner.multiply(inner.T).sum()
    # MSM = S - u 1' - 1 u'
    ones = np.ones(items)
    u = covariance(ones) / items
    u -= u.sum() / (2 * items)
    of_ones, of_u = form(ones), form(u)
    trace += -4 * of_ones @ covariance(of_u) + 2 * (ones @ of_u) ** 2 + 2 * (ones @ of_ones) * (u @ of_u)
    return max(float((items + _WORKING * more) ** 2 / trace), 1.5)
