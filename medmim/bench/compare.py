"""Compares two finished benchmarks on the questions that both contain."""

from collections.abc import Mapping
from typing import Any

from medmim.bench import metrics, run, scoring
from medmim.errors import UserError
from medmim.run.workspace import Workspace


def compare(ws: Workspace, first: str, second: str) -> dict[str, Any]:
    """Paired differences, first minus second, of the first model of each benchmark.

    Args:
        ws: The workspace.
        first: URI of a bench artifact.
        second: URI of another.

    Returns:
        `models` (role and digest of each), `items` in both, `comparable` (both asked exactly these items, without a
        limit), and `differences`.

    Raises:
        UserError: They have no question in common.
    """
    written = [run.scores(ws, uri) for uri in (first, second)]
    rows = [{row["id"]: row for row in run.predictions(ws, uri)} for uri in (first, second)]
    both = [name for name in rows[0] if name in rows[1]]
    if not both:
        raise UserError(
            f"{first} and {second} have no question in common",
            reason=f"one asked data set {written[0]['data'][:12]}, the other {written[1]['data'][:12]}",
            fix="bench both models on the same data set and tasks",
        )
    roles = [next(iter(scores["models"])) for scores in written]
    values = [
        [_scores(own[name]["answers"][role].get("none")) for name in both]
        for own, role in zip(rows, roles, strict=True)
    ]
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(both):
        for group in rows[0][name]["groups"]:
            groups.setdefault(group, []).append(i)
    people = [rows[0][name]["people"] for name in both]
    return {
        "models": [{"role": r, **s["models"][r]} for r, s in zip(roles, written, strict=True)],
        "items": len(both),
        "comparable": all(s["comparable"] and s["items"] == len(both) for s in written),
        "differences": scoring.paired(groups, values[0], values[1], people),
    }


def _scores(given: Mapping[str, Any] | None) -> Mapping[str, float]:
    return metrics.if_read(given["scores"], given["status"]) if given else {}
