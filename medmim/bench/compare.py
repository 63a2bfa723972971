"""Compares two models of finished benchmarks on the questions that both were asked, and says what else differs."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from medmim import store
from medmim.bench import metrics, run, scoring
from medmim.bench.likelihood import GENERATE
from medmim.errors import UserError
from medmim.run.provenance import provenance_of
from medmim.run.workspace import Workspace

Row = Mapping[str, Any]
_MACHINE = {"device": "device", "dtype": "dtype", "images": "what resizes images", "engine": "engine"}
_KEY = {"template": "chat template", "batch_size": "batch size", "limit": "limit"}


def compare(ws: Workspace, first: str, second: str, ours: str = "", theirs: str = "") -> dict[str, Any]:
    """Paired differences, first minus second, of a model of each benchmark.

    Args:
        ws: The workspace.
        first: URI of a bench artifact.
        second: URI of another, or of the same.
        ours: The model of the first one. [default: its first]
        theirs: The model of the second one, likewise.

    Returns:
        `models` (role and digest of each), `items` in both, `comparable` (both asked exactly these items, without a
        limit), `differs` (see `what_differs`) and `differences`.

    Raises:
        UserError: They have no question in common, are the same answers, or there is no such model.
    """
    uris = first, second
    written = [run.scores(ws, uri) for uri in uris]
    roles = [_role(uri, scores, role) for uri, scores, role in zip(uris, written, (ours, theirs), strict=True)]
    if roles[0] == roles[1] and store.get(first).digest == store.get(second).digest:
        names = list(written[0]["models"])
        raise UserError(
            f"both are the answers of {roles[0]} in one benchmark",
            reason="differences from itself would be 0 by construction",
            fix=f"RUN#MODEL takes another model of it: {', '.join(names)}" if len(names) > 1 else "give another run",
        )
    rows = [{row["id"]: row for row in run.predictions(ws, uri)} for uri in uris]
    both = [name for name in rows[0] if name in rows[1]]
    if not both:
        raise UserError(
            f"{first} and {second} have no question in common",
            reason=f"one asked data set {written[0]['data'][:12]}, the other {written[1]['data'][:12]}",
            fix="bench both models on the same data set and tasks",
        )
    return {
        "models": [{"role": r, **s["models"][r]} for r, s in zip(roles, written, strict=True)],
        "items": len(both),
        "comparable": all(s["comparable"] and s["items"] == len(both) for s in written),
        "differs": what_differs(*(_asked(ws, s, r) for s, r in zip(written, roles, strict=True))),
        "differences": paired(*(([own[name] for name in both], r) for own, r in zip(rows, roles, strict=True))),
    }


def paired(ours: tuple[Sequence[Row], str], theirs: tuple[Sequence[Row], str]) -> list[dict[str, Any]]:
    """Paired differences of two models, see `scoring.paired`.

    Args:
        ours: Items of `predictions.jsonl`, and which model of them.
        theirs: The same items in the same order, and the other model.
    """
    groups: dict[str, list[int]] = {}
    for i, row in enumerate(ours[0]):
        for group in row["groups"]:
            groups.setdefault(group, []).append(i)
    people = [row["people"] for row in ours[0]]
    a, b = ([_scores(row["answers"][role].get("none")) for row in rows] for rows, role in (ours, theirs))
    return scoring.paired(groups, a, b, people)


def what_differs(ours: Mapping[str, str], theirs: Mapping[str, str]) -> list[dict[str, str]]:
    """What decides answers and is not equal, in the order of `ours`: rows of `what`, `first`, `second`."""
    return [
        {"what": what, "first": ours[what], "second": theirs[what]}
        for what in ours
        if what in theirs and ours[what] != theirs[what]
    ]


def _asked(ws: Workspace, scores: Mapping[str, Any], role: str) -> dict[str, str]:
    """What decided a model's answers, in words -> its value; what an earlier version did not record is not in it."""
    found = {
        "weights": scores["models"][role]["digest"],
        "data set": scores["data"],
        "tasks": ", ".join(scores.get("tasks", [])),
        "split": scores.get("split", "test"),
        "protocol": scores.get("protocol", GENERATE),
        "longest answer": f"{scores.get('max_new_tokens', '')} new tokens",
    }
    sets = scores["answers"].get(role) or scores.get("likelihoods", {}).get(role, {})
    known = store.find(f"{ws.store}/answers/{sets['none']}") if "none" in sets else None
    record = provenance_of(known) if known else {}
    inference, key = record.get("inference") or {}, record.get("asked") or {}
    found |= {word: inference[name] for name, word in _MACHINE.items() if name in inference}
    found |= {word: str(key[name]) for name, word in _KEY.items() if name in key}
    return found


def _role(uri: str, scores: Mapping[str, Any], role: str) -> str:
    names = list(scores["models"])
    if not role or role in names:
        return role or names[0]
    near = difflib.get_close_matches(role, names, 1)
    raise UserError(
        f"{uri} has no model '{role[:100]}'",
        fix=(f"did you mean '{near[0]}'? " if near else "") + f"it has: {', '.join(names)}",
    )


def _scores(given: Mapping[str, Any] | None) -> Mapping[str, float]:
    return metrics.if_read(given["scores"], given["status"]) if given else {}
