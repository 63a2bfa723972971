"""Do the intervals and tests of medmim/stats.py hold what they promise? One table; exit 1 where they do not.

    python benchmarks/coverage.py                 20,000 trials a cell: about 10 minutes of one core
    python benchmarks/coverage.py --trials 2000   a fast look

Simulated: patients with 8 questions each on average (4 where there are 200), as many each or by the quantiles of a
log-normal of sigma 1 (25 patients: 1 to 39 questions); one or two patients a question; 0/1 answers whose chance differs
by patient (Dirichlet, so that two answers of a patient are correlated by rho), or fractions. Differences are of two
models with the same answer on half of the questions: equally good (`null`), or one that repairs 15% of the faults and
makes 5% of new ones (`gain`). p is the accuracy; 1 - p mirrors p but for `gain`. A cell shows the range over p.

The goals, each judged at the 99% bound of its simulation error: the 95% interval covers in at least 93% of the trials,
everywhere; in at most 97% where 0.1 <= p <= 0.9 and the patients are 25 or more; p < 0.05 just where 0 is outside the
interval; at most 5.5% of p below 0.05 where the models are equally good.

The second does not hold everywhere: the column `over 97%` counts the cells that are above, of those asked, and shows
the highest coverage; docs/statistics.md says why. Exit 1 is of a tolerance there: over a fifth of the cells asked.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import stats as distributions

from medmim import stats

PATIENTS = (20, 25, 50, 200)
CORRELATIONS = (0.0, 0.1, 0.3)
KINDS = {
    "accuracy": (0.02, 0.05, 0.1, 0.3, 0.5),
    "fraction": (0.02, 0.1, 0.5),
    "null": (0.02, 0.05, 0.1, 0.3, 0.5),
    "gain": (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98),
}
COLUMNS = (
    "patients", "questions each", "patients a question", "rho", *KINDS, "size", "over 97%",
)  # fmt: skip
_TOLERATED = 0.2  # of the cells that are asked to cover at most 97%
_BLOCK = 4_000_000  # values at once
_Z = 2.326

Floats = stats.Floats


@dataclass(frozen=True)
class Cell:
    """What one setting gave."""

    patients: int
    skewed: bool
    shown: int
    rho: float
    kind: str
    share: float
    covered: float
    rejected: float
    trials: int

    def missed(self) -> Iterator[str]:
        """The goals that this cell misses beyond its simulation error, but for the 97%."""
        error = _Z * np.sqrt(np.array([0.93, 0.055]) * (1 - np.array([0.93, 0.055])) / self.trials)
        if self.covered < 0.93 - error[0]:
            yield "under 93%"
        if self.kind == "null" and self.rejected > 0.055 + error[1]:
            yield "size over 5.5%"

    @property
    def asked(self) -> bool:
        """Whether a coverage of at most 97% is asked."""
        return self.patients >= 25 and 0.1 <= self.share <= 0.9

    @property
    def wide(self) -> bool:
        """A coverage above 97% where at most that is asked."""
        return self.asked and self.covered > 0.97


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20_000, help="trials of a cell")
    parser.add_argument("--patients", type=int, nargs="+", default=PATIENTS)
    args = parser.parse_args()
    if args.trials < 1:
        parser.error("--trials must be 1 or more")
    print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
    missed, wide, asked, lowest, largest = [], [], 0, 1.0, 0.0
    for people in args.patients:
        for skewed in (False, True):
            for shown in (1, 2):
                for rho in CORRELATIONS:
                    cells = list(_cells(people, skewed, shown, rho, args.trials))
                    _print(cells)
                    missed += [f"{_name(cell)}: {goal}" for cell in cells for goal in cell.missed()]
                    wide += [cell for cell in cells if cell.wide]
                    asked += sum(cell.asked for cell in cells)
                    lowest = min(lowest, *(cell.covered for cell in cells))
                    largest = max(largest, *(cell.rejected for cell in cells if cell.kind == "null"))
    print(f"\nlowest coverage {100 * lowest:.1f}%, largest size {100 * largest:.1f}%")
    print(f"over 97%: {len(wide)} of {asked} cells with 0.1 <= p <= 0.9 and 25 patients or more")
    if len(wide) > _TOLERATED * asked:
        missed.append(f"over 97% in more than {_TOLERATED:.0%} of the cells")
    if missed:
        print("\nmissed:\n" + "\n".join(missed), file=sys.stderr)
        sys.exit(1)


def _cells(people: int, skewed: bool, shown: int, rho: float, trials: int) -> Iterator[Cell]:
    """The row of a table: every kind and share."""
    rng = np.random.default_rng([people, skewed, shown, int(100 * rho)])
    sizes = _sizes(people, skewed)
    pairs = _pairs(sizes, shown)
    of = stats.design(tuple((f"{a}", f"{b}") for a, b in pairs))
    for kind in KINDS:
        for share in KINDS[kind]:
            draw, truth, lowest = _model(kind, share, rho, people, pairs)
            covered = rejected = disagree = done = 0
            while done < trials:
                values = draw(rng, min(trials - done, max(1, _BLOCK // (3 * len(pairs)))))
                low, high, p = stats.intervals(values, of, lowest)
                covered += int(np.sum((low <= truth + 1e-9) & (truth - 1e-9 <= high)))
                rejected += int(np.sum(p < 0.05))
                disagree += int(np.sum((p < 0.05) != ((low > 0) | (high < 0))))
                done += len(values)
            assert not disagree, f"p and interval disagree in {disagree} trials"
            yield Cell(people, skewed, shown, rho, kind, share, covered / done, rejected / done, done)


def _sizes(people: int, skewed: bool) -> np.ndarray:
    """Questions of each patient."""
    each = 8 if people < 200 else 4
    if not skewed:
        return np.full(people, each)
    drawn = np.exp(distributions.norm.ppf((np.arange(people) + 0.5) / people))
    return np.maximum(1, np.round(drawn / drawn.mean() * each)).astype(int)


def _pairs(sizes: np.ndarray, shown: int) -> np.ndarray:
    """First and second patient of each question; the same twice where it shows one."""
    first = np.repeat(np.arange(len(sizes)), sizes)
    if shown == 1:
        return np.stack([first, first], axis=1)
    rng = np.random.default_rng(0)
    second = first.copy()
    while np.any(same := second == first):
        second[same] = rng.choice(len(sizes), int(same.sum()), p=sizes / sizes.sum())
    return np.stack([first, second], axis=1)


def _model(
    kind: str, share: float, rho: float, people: int, pairs: np.ndarray
) -> tuple[Callable[[np.random.Generator, int], Floats], float, float]:
    """How values are drawn, their true mean and the lowest value."""
    if kind == "gain":
        up, down = 0.15 * (1 - share), 0.05 * share
    else:
        up = down = share * (1 - share) / 2
    means = [share, 1 - share] if kind in ("accuracy", "fraction") else [up, down, 1 - up - down]

    def draw(rng: np.random.Generator, trials: int) -> Floats:
        chances = _dirichlet(rng, trials, people, np.array(means), rho)
        own = (chances[:, pairs[:, 0]] + chances[:, pairs[:, 1]]) / 2
        at = rng.random(own.shape[:2])
        if kind == "accuracy":
            return (at < own[..., 0]).astype(np.float64)
        if kind == "fraction":  # a word score: the mean of three words, each right with the item's chance
            return rng.binomial(3, own[..., 0]) / 3
        return (at < own[..., 0]).astype(np.float64) - ((at >= own[..., 0]) & (at < own[..., 0] + own[..., 1]))

    if kind in ("accuracy", "fraction"):
        return draw, share, 0.0
    return draw, up - down, -1.0


def _dirichlet(rng: np.random.Generator, trials: int, people: int, means: Floats, rho: float) -> Floats:
    """Chances of each patient, shape (trials, people, outcomes), with these means; rho 0: the means."""
    if rho == 0:
        return np.broadcast_to(means, (trials, people, len(means)))
    drawn = rng.standard_gamma(means * (1 - rho) / rho, (trials, people, len(means)))
    total = drawn.sum(axis=-1, keepdims=True)
    return np.where(total > 0, drawn / np.where(total > 0, total, 1), means)  # all underflow: about never


def _print(cells: list[Cell]) -> None:
    first = cells[0]
    texts = []
    for kind in KINDS:
        own = [100 * cell.covered for cell in cells if cell.kind == kind]
        texts.append(f"{min(own):.1f} to {max(own):.1f}")
    size = max(100 * cell.rejected for cell in cells if cell.kind == "null")
    wide, asked = [100 * cell.covered for cell in cells if cell.wide], sum(cell.asked for cell in cells)
    each = "log-normal" if first.skewed else "equal"
    row = [str(first.patients), each, str(first.shown), f"{first.rho}", *texts, f"{size:.1f}"]
    over = f"{len(wide)} of {asked}, to {max(wide):.1f}" if wide else f"0 of {asked}" if asked else "-"
    print("|", " | ".join([*row, over]), "|", flush=True)


def _name(cell: Cell) -> str:
    each = "log-normal" if cell.skewed else "equal"
    return (
        f"{cell.patients} patients, {each}, {cell.shown} a question, rho {cell.rho}, {cell.kind} at p {cell.share}: "
        f"coverage {100 * cell.covered:.1f}%, p < 0.05 in {100 * cell.rejected:.1f}%"
    )


if __name__ == "__main__":
    main()
