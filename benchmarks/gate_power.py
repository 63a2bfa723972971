"""How often the gate and the nightly alarm are wrong, simulated with their own rules; exit 1 where a goal is missed.

    python benchmarks/gate_power.py                about 3 minutes of one core
    python benchmarks/gate_power.py --trials 200   a fast look

The benchmark: 100 held-in and 50 held-out patients with 8 questions each, over five abilities; 60% right by the tuned
model, 25% of the questions answered differently by the two models, chances correlated by 0.1 within a patient. The
shipped policy `default` judges; beside it, the same policy with the other values of `regression_by`.

Goals: a candidate that must not be promoted is promoted in at most 5% of the trials; one with a gain of 8 points
held-in that loses nothing, in at least 80%. A night without a true change raises an alarm in at most 1 of 100 nights:
each night 1% of the answers are tossed anew, as noise of an engine would, or every week an equally good champion
answers a tenth otherwise. A champion that is 8 points worse is detected in its first night in at least 80%.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from medmim import stats
from medmim.nightly import regressions
from medmim.nightly.regressions import Answers
from medmim.registry import policy, rules
from medmim.sample import ABILITIES

GAIN = 0.08
HELD_IN, HELD_OUT, EACH = 100, 50, 8
_RHO, _DIFFERENT, _RIGHT, _BLIND = 0.1, 0.25, 0.6, 0.35
_JUDGED_BY = ("interval", "point", "noninferiority")
_WINDOW, _LEVEL, _DROP = 14, 0.01, 0.01  # the defaults of nightly.nights, significance and drop

# name -> gain held-in, gain held-out, accuracy without images, and whether it must be promoted
CANDIDATES = {
    "equally good": (0.0, 0.0, _BLIND, False),
    "3 points worse": (-0.03, -0.03, _BLIND, False),
    "gains 8, by the text alone": (GAIN, 0.0, _RIGHT, False),
    "gains 8, loses 15 held-out": (GAIN, -0.15, _BLIND, False),
    "gains 8": (GAIN, 0.0, _BLIND, True),
}

Floats = stats.Floats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000, help="candidates of each kind")
    parser.add_argument("--nights", type=int, default=1000, help="nights of each kind")
    args = parser.parse_args()
    if args.trials < 1:
        parser.error("--trials must be 1 or more")
    missed = []
    print("| candidate | promoted | by point | by noninferiority | goal |\n|---|---|---|---|---|")
    for name, candidate in CANDIDATES.items():
        rates = promoted(np.random.default_rng(1), args.trials, *candidate[:3])
        must = candidate[3]
        goal = "at least 80%" if must else "at most 5%"
        print(f"| {name} | {' | '.join(f'{100 * rates[by]:.1f}%' for by in _JUDGED_BY)} | {goal} |", flush=True)
        if rates["interval"] < 0.8 if must else rates["interval"] > 0.05:
            missed.append(name)
    print("\n| nights | alarms | goal |\n|---|---|---|")
    for name, changes, drop in (
        ("1% of the answers tossed each night", 1, 0.0),
        ("an equally good champion each week", 7, 0.0),
        ("a champion that is 8 points worse", 0, GAIN),
    ):
        rate = alarms(np.random.default_rng(2), args.nights if not drop else args.nights // 5, changes, drop)
        print(f"| {name} | {100 * rate:.1f}% | {'at least 80%' if drop else 'at most 1%'} |", flush=True)
        if rate < 0.8 if drop else rate > 0.01:
            missed.append(name)
    if missed:
        print(f"\nmissed: {', '.join(missed)}", file=sys.stderr)
        sys.exit(1)


def promoted(
    rng: np.random.Generator, trials: int, gain: float, gain_held_out: float, blind: float
) -> dict[str, float]:
    """Share of the candidates that the gate promotes, by each way to judge a regression."""
    boards = list(_boards(rng, trials, gain, gain_held_out, blind))
    shipped = policy.load("default")
    shares = {}
    for by in _JUDGED_BY:
        limits = shipped.model_copy(update={"regression_by": by})
        passed = [all(rule.passed is not False for rule in rules.apply(limits, one, "base")) for one in boards]
        shares[by] = float(np.mean(passed))
    return shares


def _boards(
    rng: np.random.Generator, trials: int, gain: float, gain_held_out: float, blind: float
) -> Iterator[dict[str, Any]]:
    """What `scores.json` holds for each trial, as far as the gate reads it."""
    people = np.repeat(np.arange(HELD_IN + HELD_OUT), EACH)
    held_in = people < HELD_IN
    ability = rng.integers(0, len(ABILITIES), len(people))
    groups = {"held_in": held_in, "held_out": ~held_in}
    groups |= {f"ability:{name}": held_in & (ability == i) for i, name in enumerate(ABILITIES)}
    gains = np.where(held_in, gain, gain_held_out)
    changes = _changes(rng, trials, people, (_DIFFERENT + gains) / 2, (_DIFFERENT - gains) / 2)
    seen = (_chances(rng, trials, people, _RIGHT) > rng.random(changes.shape)).astype(float)
    unseen = (_chances(rng, trials, people, blind) > rng.random(changes.shape)).astype(float)
    measured: dict[str, dict[str, tuple[Floats, Floats, Floats, int, int]]] = {}
    for name, own in groups.items():
        of = stats.design(tuple((str(one),) for one in people[own]))
        measured[name] = {
            kind: (values[:, own].mean(axis=1), *stats.intervals(values[:, own], of, lowest)[:2], of.items, of.patients)
            for kind, values, lowest in (
                ("difference", changes, -1.0), ("score", seen, 0.0), ("gap", seen - unseen, -1.0)
            )
        }  # fmt: skip
    for trial in range(trials):
        board, differences = [], []
        for name, by_kind in measured.items():
            at = {kind: [float(found[i][trial]) for i in range(3)] for kind, found in by_kind.items()}
            counts = {"n": by_kind["gap"][3], "patients": by_kind["gap"][4]}
            row = {"group": name, "metric": "accuracy", **counts}
            value, low, high = at["score"]
            board.append(
                row
                | {"model": "tuned", "value": value, "low": low, "high": high, "blind": blind}
                | dict(zip(("gap", "gap_low", "gap_high"), at["gap"], strict=True))
                | {"gap_patients": counts["patients"], "swap_n": 0, "unparsed": 0, "errors": 0}
            )
            differences.append(
                row | {"opponent": "base"} | dict(zip(("value", "low", "high"), at["difference"], strict=True))
            )
        yield {"leaderboard": board, "differences": differences, "comparable": True}


def alarms(rng: np.random.Generator, nights: int, every: int, drop: float) -> float:
    """Share of nights with an alarm.

    Args:
        rng: Of the draws.
        nights: Nights after a full window.
        every: Nights between two changes that make nothing better or worse; 0 for a new history each night, of one
            change.
        drop: Share by which that change is worse.
    """
    people = np.repeat(np.arange(HELD_IN + HELD_OUT), EACH)
    state, window, found = _toss(rng, people), [], 0
    for night in range(nights if every == 0 else nights + _WINDOW):
        if every == 0:
            before = _toss(rng, people)
            lost = before & (rng.random(len(people)) < (0.05 + drop) / _RIGHT)
            won = ~before & (rng.random(len(people)) < 0.05 / (1 - _RIGHT))
            window, state = [_answers(people, before, 0)], (before & ~lost) | won
        elif every == 1:
            state = np.where(rng.random(len(people)) < 0.01, rng.random(len(people)) < _RIGHT, state)
        elif night % every == 0:
            moved = (rng.random(HELD_IN + HELD_OUT) < 0.5)[people] & (rng.random(len(people)) < 0.2)
            state = np.where(moved, _toss(rng, people), state)
        tonight = _answers(people, state, night)
        if every == 0 or night >= _WINDOW:
            rows = regressions.differences({"champion": (tonight, window)}, _LEVEL, _DROP)
            found += any(row["dropped"] for row in rows)
        if not window or any(tonight.rows[name]["scores"] != row["scores"] for name, row in window[-1].rows.items()):
            window = [*window, tonight][-_WINDOW // max(1, every) :]
    return found / nights


def _toss(rng: np.random.Generator, people: np.ndarray) -> np.ndarray:
    return rng.random(len(people)) < _chances(rng, 1, people, _RIGHT)[0]


def _answers(people: np.ndarray, right: np.ndarray, night: int) -> Answers:
    rows: dict[str, Mapping[str, Any]] = {
        str(i): {
            "groups": ["held_in" if one < HELD_IN else "held_out"],
            "people": [str(one)],
            "scores": {"accuracy": float(yes)},
        }
        for i, (one, yes) in enumerate(zip(people, right, strict=True))
    }
    return Answers(str(night), rows)


def _chances(rng: np.random.Generator, trials: int, people: np.ndarray, mean: float) -> Floats:
    """Chance of each question, correlated by `_RHO` within a patient."""
    total = (1 - _RHO) / _RHO
    return rng.beta(mean * total, (1 - mean) * total, (trials, people.max() + 1))[:, people]


def _changes(rng: np.random.Generator, trials: int, people: np.ndarray, up: Floats, down: Floats) -> Floats:
    """Paired differences, -1, 0 or 1, with these means for each question, correlated within a patient."""
    first = np.unique(people, return_index=True)[1]
    means = np.stack([up, down, 1 - up - down], axis=1)[first]
    drawn = rng.standard_gamma(means * (1 - _RHO) / _RHO, (trials, *means.shape))
    chances = (drawn / drawn.sum(axis=-1, keepdims=True))[:, people]
    at = rng.random(chances.shape[:2])
    return (at < chances[..., 0]).astype(float) - ((at >= chances[..., 0]) & (at < chances[..., 0] + chances[..., 1]))


if __name__ == "__main__":
    main()
