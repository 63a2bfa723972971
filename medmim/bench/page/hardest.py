"""The questions of a benchmark that tell most of its models: those that most got wrong, and those that divide them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medmim.bench.metrics import right

Row = Mapping[str, Any]


def hardest(rows: Iterable[Row], count: int) -> list[Row]:
    """Closed questions that fewest models got right.

    Of equally many, those come first on which the most models chose the same wrong option, which may be the label's
    fault; then in the order of their ids.

    Args:
        rows: Items of `predictions.jsonl`.
        count: How many at most; none that every model got right.
    """
    judged = [(row, verdicts(row)) for row in rows]
    missed = [(row, given) for row, given in judged if given and not all(given.values())]
    missed.sort(key=lambda pair: (sum(pair[1].values()) / len(pair[1]), -_agreed(pair[0]), pair[0]["id"]))
    return [row for row, _ in missed[:count]]


def dividing(rows: Iterable[Row], count: int, but: Sequence[Row] = ()) -> list[Row]:
    """Closed questions that half of the models got right and half wrong, or as near to it as there are.

    Args:
        rows: Items of `predictions.jsonl`.
        count: How many at most; none on which all agree.
        but: Items that are shown already.
    """
    shown = {row["id"] for row in but}
    judged = [(row, list(verdicts(row).values())) for row in rows if row["id"] not in shown]
    split = [(row, given) for row, given in judged if 0 < sum(given) < len(given)]
    split.sort(key=lambda pair: (abs(2 * sum(pair[1]) - len(pair[1])) / len(pair[1]), pair[0]["id"]))
    return [row for row, _ in split[:count]]


def verdicts(row: Row) -> dict[str, bool]:
    """Role -> whether it answered a closed question right; none for open questions and errors."""
    found = {role: right(given["none"]["scores"]) for role, given in row["answers"].items() if "none" in given}
    return {role: one for role, one in found.items() if one is not None}


def _agreed(row: Row) -> int:
    """How many models chose the most frequent wrong option."""
    chosen = [given["none"]["choice"] for given in row["answers"].values() if "none" in given]
    wrong = Counter(choice for choice in chosen if choice is not None and choice not in row["gold"])
    return max(wrong.values(), default=0)
