"""Confidence intervals and tests clustered by patient: items of one patient are not independent.

Patients are drawn with replacement (cluster bootstrap). An item that shows several patients belongs to the cluster of
each: its deviation counts once for every one of them. Its own noise is thus counted as often as it has patients, so
such intervals are conservative, never too narrow; where every item has one patient it is the plain cluster bootstrap.
(Connected components would be exact, but a few composed items join most patients into one.)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmim.errors import require

MIN_PATIENTS = 20
CONFIDENCE = 0.95
_BLOCK = 4_000_000  # drawn patients in memory at once, 32 MB

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean with its patient-clustered interval.

    Attributes:
        value: Mean over the items.
        low: Lower end of the 95% interval; None under `MIN_PATIENTS` patients or items.
        high: Upper end, likewise.
        p: Two-sided bootstrap p value of "the mean is 0"; None where there is no interval.
        n: Items.
        patients: Distinct patients.
    """

    value: float
    low: float | None
    high: float | None
    p: float | None
    n: int
    patients: int


def estimate(values: Floats, patients: Sequence[Sequence[str]], resamples: int = 2000, seed: int = 0) -> Estimate:
    """Mean and interval of one value per item.

    Args:
        values: Shape (items,), at least one.
        patients: The patients of each item, with names that are unique over all sources.
        resamples: Bootstrap draws.
        seed: Decides the draws.
    """
    people = len({name for names in patients for name in names})
    value = float(np.mean(values))
    if min(people, len(values)) < MIN_PATIENTS:
        return Estimate(value, None, None, None, len(values), people)
    boot = draws(values, patients, resamples, seed)
    low, high = _interval(boot, people)
    if np.ptp(values) == 0 and value in (0.0, 1.0):  # all right or all wrong: resampling gives no width
        bound = float(((1 - CONFIDENCE) / 2) ** (1 / people))  # Clopper-Pearson, patients as the trials
        low, high = (bound, 1.0) if value else (0.0, 1 - bound)
    below, above = int(np.sum(boot <= 0)), int(np.sum(boot >= 0))
    p = min(1.0, 2 * (min(below, above) + 1) / (len(boot) + 1))
    return Estimate(value, low, high, p, len(values), people)


def draws(values: Floats, patients: Sequence[Sequence[str]], resamples: int, seed: int) -> Floats:
    """Bootstrap means, shape (resamples,).

    With one patient per item, each is the mean over the items of the patients drawn, a patient drawn twice counting
    twice. The order of the rows does not matter.
    """
    names = sorted({name for own in patients for name in own})
    at = {name: i for i, name in enumerate(names)}
    item = np.repeat(np.arange(len(values)), [len(set(own)) for own in patients])
    person = np.array([at[name] for own in patients for name in sorted(set(own))])
    centre = float(np.mean(values))
    totals = np.bincount(person, (values - centre)[item], len(names))
    share = np.array([1 / len(set(own)) for own in patients])
    sizes = np.bincount(person, share[item], len(names))
    base = totals.sum()
    blocks = _times(len(names), resamples, seed)
    return np.concatenate([centre + (times @ totals - base) / np.maximum(times @ sizes, 1e-9) for times in blocks])


def difference(
    ours: Floats, theirs: Floats, patients: Sequence[Sequence[str]], resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Paired difference `ours - theirs` on the same items, with its interval and p value."""
    return estimate(ours - theirs, patients, resamples, seed)


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


def _times(people: int, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each patient is drawn; blocks of shape (some resamples, patients), one at a time."""
    rng = np.random.default_rng([seed, people])
    rows = max(1, _BLOCK // people)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = rng.integers(0, people, (count, people)) + np.arange(count)[:, None] * people
        yield np.bincount(drawn.ravel(), minlength=count * people).reshape(count, people).astype(np.float64)


def _interval(boot: Floats, people: int) -> tuple[float, float]:
    """Percentiles, expanded for the number of patients (Hesterberg 2015): plain ones are too narrow for few."""
    tail = _tail(people)
    low, high = np.quantile(boot, [tail, 1 - tail])
    return float(low), float(high)


@lru_cache(maxsize=256)
def _tail(people: int) -> float:
    stats: Any = require("scipy.stats", "bench")
    t = stats.t.ppf((1 - CONFIDENCE) / 2, people - 1)
    return float(stats.norm.cdf(t * np.sqrt(people / (people - 1))))
