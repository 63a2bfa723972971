"""The rows of `scores.json` as CSV: one a model, group and metric, and one a difference."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

LEADERBOARD = (
    "model", "group", "metric", "value", "low", "high", "n", "patients", "chance", "blind", "grey", "gap", "gap_low",
    "gap_high", "gap_patients", "swap", "swap_low", "swap_high", "swap_n", "swap_patients", "unparsed", "cut",
    "unparsed_cut", "errors",
)  # fmt: skip
DIFFERENCES = (
    "model", "opponent", "group", "metric", "value", "low", "high", "p", "p_holm", "n", "patients", "unread",
    "opponent_unread",
)  # fmt: skip


def leaderboard(scores: Mapping[str, Any]) -> str:
    """A row for each model, group and metric; shares are 0 to 1, and what is not known is empty.

    Args:
        scores: The content of `scores.json`; of an earlier version some columns are empty.
    """
    return _csv(LEADERBOARD, scores["leaderboard"])


def differences(scores: Mapping[str, Any]) -> str:
    """A row for each opponent, group and metric: the first model minus the opponent; only its heads for one model."""
    first = next(iter(scores["models"]))
    return _csv(DIFFERENCES, ({"model": first, **row} for row in scores["differences"]))


def _csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
