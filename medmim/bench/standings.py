"""How the models of a benchmark stand beside each other: what a page of them shows, whoever draws it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medmim.bench import metrics, tasks
from medmim.bench.likelihood import LIKELIHOOD

KINDS = ("domain", "task", "ability", "source")
_OF_OPEN = "token_f1"  # leads where no question is closed

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Standings:
    """The models of a benchmark by one metric.

    Attributes:
        metric: The metric.
        roles: The models, the best first: by the first domain that they have a score in; equal ones by name.
        groups: All groups with a score, in the order of `scores.json`.
        by: (model, group) -> row of the leaderboard.
    """

    metric: str
    roles: tuple[str, ...]
    groups: tuple[str, ...]
    by: Mapping[tuple[str, str], Row]

    def of_kind(self, kind: str) -> tuple[str, ...]:
        """The groups of one of `KINDS`."""
        return tuple(group for group in self.groups if kind_of(group) == kind)

    @property
    def is_of_open(self) -> bool:
        """Whether the metric is one of open questions."""
        return self.metric in metrics.OPEN

    def best(self, group: str) -> float:
        """The best score in a group."""
        return max(float(self.by[role, group]["value"]) for role in self.roles if (role, group) in self.by)

    def leads(self) -> list[dict[str, Any]]:
        """Of each domain: `group`, the best model's `row`, how many `others` were asked, and how many come `near`.

        Near is an interval that reaches into the best one's; None where not all have intervals.
        """
        found = []
        for group in self.of_kind("domain"):
            rows = (self.by[role, group] for role in self.roles if (role, group) in self.by)
            best, *others = sorted(rows, key=lambda row: -row["value"])
            known = best["low"] is not None and all(row["high"] is not None for row in others)
            near = sum(row["high"] >= best["low"] for row in others) if known else None
            found.append({"group": group, "row": best, "others": len(others), "near": near})
        return found


def kind_of(group: str) -> str:
    """Which of `KINDS` a group is."""
    return "domain" if group in tasks.DOMAINS else group.partition(":")[0]


def metrics_of(scores: Mapping[str, Any]) -> list[str]:
    """The metrics of a benchmark, the one that leads first: accuracy, else likelihood, else token F1."""
    given = {row["metric"] for row in scores["leaderboard"]}
    return [
        name
        for name in dict.fromkeys(("accuracy", LIKELIHOOD, _OF_OPEN, *metrics.CLOSED, *metrics.OPEN))
        if name in given
    ]


def standings(scores: Mapping[str, Any], metric: str = "") -> Standings:
    """The models by a metric.

    Args:
        scores: The content of `scores.json`.
        metric: One of `metrics_of`. [default: its first]
    """
    board: Sequence[Row] = scores["leaderboard"]
    chosen = metric or next(iter(metrics_of(scores)), _OF_OPEN)
    by = {(row["model"], row["group"]): row for row in board if row["metric"] == chosen}
    groups = tuple(dict.fromkeys(row["group"] for row in board if row["metric"] == chosen))
    domains = [group for group in tasks.DOMAINS if group in groups]

    def place(role: str) -> tuple[float, str]:
        values = [by[role, group]["value"] for group in domains or groups if (role, group) in by]
        return (-values[0] if values else 1.0), role

    return Standings(chosen, tuple(sorted(scores["models"], key=place)), groups, by)


def leaks(scores: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Group -> how many `models` answer it without images surely above `chance`, and the best of them (`blind`)."""
    found: dict[str, dict[str, Any]] = {}
    for row in scores.get("text_only", ()):
        if row["above"]:
            own = found.setdefault(row["group"], {"models": 0, "blind": 0.0, "chance": row["chance"]})
            own["models"] += 1
            own["blind"] = max(own["blind"], row["blind"])
    return found
