"""Test for regressions: tonight's answers against those of the last nights, question by question.

The rule. A series is what is followed from night to night: the role `champion`, the role `base`, each reference, and
each challenger or candidate by its weights (a new challenger is no worse version of the last one). Tonight's answers
of a series are compared with each *distinct* set of answers that it gave in the last `nightly.nights` nights, on the
questions that both have, for accuracy and token F1, held-in and held-out: a paired difference, clustered by patient
(`stats.difference`). Holm's correction goes over all of these tests of tonight. A regression is a
mean that fell by at least `nightly.drop` with a corrected two-sided p below `nightly.significance`.

Why testing every night does not add false alarms: an unchanged model gives the very same answers, and equal sets of
answers are not tested. Tests are thus made for a change, not for a night, and the next night repeats the same ones.
Comparing with every set of the window and not with yesterday's alone detects slow erosion: ten steps of 0.4 points are
4 points against the oldest. The alarm lasts until the score is back, the old answers leave the window, or a person
accepts the regression by `nightly.since`.

Under `stats.MIN_PATIENTS` patients nothing is tested, and the night's notes say so.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from medmim import stats
from medmim.bench import tasks

METRICS = ("accuracy", "token_f1")


@dataclass(frozen=True)
class Answers:
    """A series' night: question id -> `scores` (metric -> value), `groups`, `people`, `question`, `text`.

    And `source` and `patients`, by which an erased patient is known.
    """

    date: str
    rows: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class _Test:
    """One paired test: a series' scores of tonight and of an earlier night on the same questions."""

    model: str
    against: str
    group: str
    metric: str
    tonight: stats.Floats
    before: stats.Floats
    people: Sequence[Sequence[str]]

    @property
    def equal(self) -> bool:
        """No question's score changed."""
        return bool(np.all(self.tonight == self.before))


def answers(date: str, predictions: Sequence[Mapping[str, Any]], role: str) -> Answers:
    """One model's part of a bench artifact's predictions."""
    rows = {}
    for row in predictions:
        given = row["answers"][role]["none"]
        own = {key: row[key] for key in ("groups", "people", "question")}
        own |= {"source": row.get("source", ""), "patients": row.get("patients", ())}
        rows[row["id"]] = {**own, **given}
    return Answers(date, rows)


def changed(ours: Answers, theirs: Answers) -> list[str]:
    """Ids of the questions that both answered, and differently."""
    return [name for name, row in ours.rows.items() if name in theirs.rows and row["text"] != theirs.rows[name]["text"]]


def differences(
    pairs: Mapping[str, tuple[Answers, Sequence[Answers]]], significance: float, smallest: float
) -> list[dict[str, Any]]:
    """All tests of a night.

    Args:
        pairs: Series -> its answers of tonight, and the earlier ones to compare with.
        significance: Probability of a false alarm over all tests.
        smallest: Share by which a mean must fall to be a regression.

    Returns:
        Rows of `model`, `against`, `group`, `metric`, `stats.Estimate`, `p_holm` and `dropped` (a regression), where
        any score changed; Holm's correction counts the other tests as well.
    """
    tests = list(_tests(pairs))
    estimates = [stats.difference(test.tonight, test.before, test.people) for test in tests]
    corrected = stats.holm([estimate.p for estimate in estimates])
    rows = []
    for test, estimate, p in zip(tests, estimates, corrected, strict=True):
        if not test.equal:
            row = {"model": test.model, "against": test.against, "group": test.group, "metric": test.metric}
            dropped = p is not None and p < significance and estimate.value <= -smallest
            rows.append({**row, **estimate.__dict__, "p_holm": p, "dropped": dropped})
    return rows


def _tests(pairs: Mapping[str, tuple[Answers, Sequence[Answers]]]) -> Iterator[_Test]:
    for model, (ours, earlier) in pairs.items():
        for theirs, group, metric in product(earlier, tasks.DOMAINS, METRICS):
            names = [
                name
                for name, row in ours.rows.items()
                if group in row["groups"]
                and metric in row["scores"]
                and name in theirs.rows
                and metric in theirs.rows[name]["scores"]
            ]
            if names:
                yield _Test(
                    model,
                    theirs.date,
                    group,
                    metric,
                    tonight=np.array([ours.rows[name]["scores"][metric] for name in names]),
                    before=np.array([theirs.rows[name]["scores"][metric] for name in names]),
                    people=[ours.rows[name]["people"] for name in names],
                )
