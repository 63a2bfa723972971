"""Whether a model got worse: tonight's answers against those of the last nights, question by question.

The rule. A line is what is followed from night to night: the role `champion`, the role `base`, each reference, and
each challenger or candidate by its weights (a new challenger is no worse version of the last one). Tonight's answers
of a line are compared with each *distinct* set of answers that it gave in the last `nightly.nights` nights, on the
questions that both asked, for accuracy and token F1, held-in and held-out: a paired difference, patients drawn with
replacement (`bench.stats.difference`). Holm's correction goes over all of these tests of tonight. A drop is a mean that
fell by at least `nightly.drop` with a corrected two-sided p below `nightly.significance`.

Why nights may be looked at again and again: an unchanged model gives the very same answers, and the same set of answers
is not tested. Tests are thus made for a change, not for a night, and the next night makes the same ones again.
Comparing with every set of the window and not with yesterday's alone sees what erodes slowly: ten steps of 0.4 points
are 4 points against the oldest. The alarm lasts until the score is back, the old answers leave the window, or a person
accepts them by `nightly.since`.

Under `stats.MIN_PATIENTS` patients nothing is tested, and the night says so.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medmim.bench import stats, tasks

METRICS = ("accuracy", "token_f1")


@dataclass(frozen=True)
class Answers:
    """One line's night: question id -> `scores` (metric -> value), `groups`, `people`, `question`, `text`."""

    date: str
    rows: Mapping[str, Mapping[str, Any]]


def answers(date: str, predictions: Sequence[Mapping[str, Any]], role: str) -> Answers:
    """One model's part of a bench artifact's predictions."""
    rows = {}
    for row in predictions:
        given = row["answers"][role]["none"]
        rows[row["id"]] = {**{key: row[key] for key in ("groups", "people", "question")}, **given}
    return Answers(date, rows)


def changed(ours: Answers, theirs: Answers) -> list[str]:
    """Questions that both answered, and otherwise."""
    return [name for name, row in ours.rows.items() if name in theirs.rows and row["text"] != theirs.rows[name]["text"]]


def differences(
    pairs: Mapping[str, tuple[Answers, Sequence[Answers]]], resamples: int, significance: float, drop: float
) -> list[dict[str, Any]]:
    """All tests of a night.

    Args:
        pairs: Line -> its answers of tonight, and those that differ from them.
        resamples: Bootstrap draws; more are made where p could else not fall below the significance.
        significance: Chance of a false alarm over all tests.
        drop: A smaller one does not count.

    Returns:
        Rows of `model`, `against`, `group`, `metric`, `stats.Estimate`, `p_holm` and `dropped`, where any answer is
        worth more or less; Holm's correction counts the others as well.
    """
    wanted = []
    for line, (ours, before) in pairs.items():
        for theirs in before:
            for group in tasks.DOMAINS:
                for metric in METRICS:
                    names = [name for name in ours.rows if name in theirs.rows and _scored(ours, theirs, name, metric)]
                    own = [name for name in names if group in ours.rows[name]["groups"]]
                    if own:
                        wanted.append((line, ours, theirs, group, metric, own))
    draws = max(resamples, math.ceil(8 * len(wanted) / significance))  # the smallest p is 2 / (draws + 1)
    rows, equal = [], []
    for line, ours, theirs, group, metric, own in wanted:
        a, b = (np.array([side.rows[name]["scores"][metric] for name in own]) for side in (ours, theirs))
        equal.append(bool(np.all(a == b)))
        found = stats.difference(a, b, [ours.rows[name]["people"] for name in own], 1 if equal[-1] else draws)
        rows.append({"model": line, "against": theirs.date, "group": group, "metric": metric, **found.__dict__})
    for row, p in zip(rows, stats.holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = p
        row["dropped"] = p is not None and p < significance and row["value"] <= -drop
    return [row for row, same in zip(rows, equal, strict=True) if not same]


def _scored(ours: Answers, theirs: Answers, name: str, metric: str) -> bool:
    return metric in ours.rows[name]["scores"] and metric in theirs.rows[name]["scores"]
