"""Compares two models of finished benchmarks on the questions that both were asked, and says what else differs."""

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medmim import store
from medmim.bench import columns, metrics, run, scoring
from medmim.bench.columns import Scored
from medmim.bench.likelihood import GENERATE
from medmim.bench.scoring import Columns
from medmim.errors import UserError
from medmim.run.provenance import provenance_of
from medmim.run.workspace import Workspace
from medmim.stats import Ints

Row = Mapping[str, Any]
_MACHINE = {"device": "device", "dtype": "dtype", "images": "what resizes images", "engine": "engine"}
_KEY = {"template": "chat template", "batch_size": "batch size", "limit": "limit"}


@dataclass(frozen=True, eq=False)
class Pair:
    """Two models and the items that both were asked.

    Attributes:
        roles: Of each its role.
        written: Of each the content of `scores.json` of its benchmark.
        items: Of each its scores, of the same items in the same order.
    """

    roles: tuple[str, str]
    written: tuple[Mapping[str, Any], Mapping[str, Any]]
    items: tuple[Scored, Scored]

    @property
    def count(self) -> int:
        """Number of items."""
        return len(self.items[0].ids)

    @property
    def values(self) -> tuple[Columns, Columns]:
        """Of each its scores."""
        (one, other), (ours, theirs) = self.items, self.roles
        return one.values.get(ours, {}), other.values.get(theirs, {})

    @property
    def is_comparable(self) -> bool:
        """Whether both asked exactly these items, without a limit."""
        return all(one["comparable"] and one["items"] == self.count for one in self.written)


def compare(ws: Workspace, first: str, second: str, ours: str = "", theirs: str = "") -> dict[str, Any]:
    """Paired differences, first minus second, of a model of each benchmark.

    Args:
        ws: The workspace.
        first: URI of a bench artifact.
        second: URI of another, or of the same.
        ours: The model of the first one. [default: its first]
        theirs: The model of the second one, likewise.

    Returns:
        `models` (role and digest of each), `items` in both, `comparable` (see `Pair`), `differs` (see `what_differs`)
        and `differences`.

    Raises:
        UserError: They have no question in common, are the same answers, or there is no such model.
    """

    def read(uri: str, roles: Collection[str]) -> Scored:
        return columns.scored(run.predictions(ws, uri), roles)

    found = pair(ws, first, second, ours, theirs, read)
    models = zip(found.roles, found.written, strict=True)
    return {
        "models": [{"role": role, **written["models"][role]} for role, written in models],
        "items": found.count,
        "comparable": found.is_comparable,
        "differs": differs(ws, found),
        "differences": differences(found),
    }


def pair(
    ws: Workspace,
    first: str,
    second: str,
    ours: str,
    theirs: str,
    read: Callable[[str, Collection[str]], Scored],
    scores: Callable[[Workspace, str], Mapping[str, Any]] = run.scores,
) -> Pair:
    """The items that two models were both asked. Arguments and errors are those of `compare`.

    Args:
        ws: See `compare`.
        first: See `compare`.
        second: See `compare`.
        ours: See `compare`.
        theirs: See `compare`.
        read: URI, models -> their scores by item.
        scores: Workspace, URI -> the content of `scores.json`.
    """
    uris = first, second
    written = scores(ws, first), scores(ws, second)
    one, other = (_role(uri, own, role) for uri, own, role in zip(uris, written, (ours, theirs), strict=True))
    same = store.get(first).digest == store.get(second).digest
    if one == other and same:
        names = list(written[0]["models"])
        raise UserError(
            f"both are the answers of {one} in one benchmark",
            reason="differences from itself would be 0 by construction",
            fix=f"RUN#MODEL takes another model of it: {', '.join(names)}" if len(names) > 1 else "give another run",
        )
    if same:
        mine = its = read(first, (one, other))
    else:
        mine, its = read(first, (one,)), read(second, (other,))
    for uri, found in ((first, mine), (second, its)):
        if not found.groups:
            raise UserError(
                f"{uri} is of a version that did not record the groups of its questions",
                fix="bench its models again: their answers are kept, so only the scores are made anew",
            )
    places = columns.in_both(mine, its)
    if not len(places[0]):
        raise UserError(
            f"{first} and {second} have no question in common",
            reason=f"one asked data set {written[0]['data'][:12]}, the other {written[1]['data'][:12]}",
            fix="bench both models on the same data set and tasks",
        )
    return Pair((one, other), written, (mine.take(places[0]), its.take(places[1])))


def differences(found: Pair, only: Collection[str] = scoring.COMPARED) -> list[dict[str, Any]]:
    """Paired differences of some metrics, see `scoring.paired`."""
    items = found.items[0]
    return scoring.paired(items.groups, *found.values, items.clusters, only)


def differs(ws: Workspace, found: Pair) -> list[dict[str, str]]:
    """What decides the answers of the two and is not equal, see `what_differs`."""
    one, other = (_asked(ws, *pair) for pair in zip(found.written, found.roles, strict=True))
    return what_differs(one, other)


def verdicts(found: Pair) -> dict[str, Ints]:
    """Closed questions, as places in `Pair.items`, that `both`, only `first`, only `second` or `neither` got right.

    By accuracy; by likelihood where one of them generated nothing. Empty where they share no such metric.
    """
    ours, theirs = found.values
    metric = next((name for name in metrics.CLOSED if name in ours and name in theirs), None)
    if metric is None:
        return {}
    known = ~np.isnan(ours[metric]) & ~np.isnan(theirs[metric])
    one, other = known & (ours[metric] == 1), known & (theirs[metric] == 1)
    cells = {"both": one & other, "first": one & ~other, "second": ~one & other, "neither": known & ~one & ~other}
    return {name: np.flatnonzero(cell) for name, cell in cells.items()}


def paired(ours: tuple[Sequence[Row], str], theirs: tuple[Sequence[Row], str]) -> list[dict[str, Any]]:
    """Paired differences of two models, see `scoring.paired`.

    Args:
        ours: Items of `predictions.jsonl`, and which model of them.
        theirs: The same items in the same order, and the other model.
    """
    one, other = (columns.scored(rows, [role]) for rows, role in (ours, theirs))
    return scoring.paired(one.groups, one.values[ours[1]], other.values[theirs[1]], one.clusters)


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
        "weights": scores["models"][role].get("digest", ""),
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
