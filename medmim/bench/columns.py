"""What the models of a benchmark scored on each item, as columns: for differences of any two, without their texts."""

import json
import sqlite3
import zlib
from array import array
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medmim import stats
from medmim.bench import metrics
from medmim.bench.scoring import Columns

SCHEMA = "CREATE TABLE columns (kind TEXT, name TEXT, data BLOB, PRIMARY KEY (kind, name)) WITHOUT ROWID;"
"""For an index: what `write` fills, and `read` reads."""

Row = Mapping[str, Any]
Answered = Mapping[str, tuple[Mapping[str, float], str]]  # model -> scores and status of its answer, without probes


@dataclass(frozen=True, eq=False)
class Scored:
    """The scores of a benchmark.

    Attributes:
        ids: Of the items, in the order of the data.
        groups: Group -> indices of its items.
        clusters: Patients of each item, by number.
        values: Model -> its scores without probes; `accuracy_if_read` is among them.
    """

    ids: tuple[str, ...]
    groups: Mapping[str, stats.Ints]
    clusters: stats.Clusters
    values: Mapping[str, Columns]

    def take(self, items: stats.Ints) -> "Scored":
        """Those of some items, in this order."""
        if np.array_equal(items, np.arange(len(self.ids))):
            return self
        place = np.full(len(self.ids), -1)
        place[items] = np.arange(len(items))
        moved = {name: np.sort(place[own][place[own] >= 0]) for name, own in self.groups.items()}
        values = {role: {name: own[items] for name, own in columns.items()} for role, columns in self.values.items()}
        return Scored(
            tuple(self.ids[i] for i in items.tolist()),
            {name: own for name, own in moved.items() if len(own)},
            self.clusters.take(items),
            values,
        )


@dataclass
class Gathering:
    """Collects a benchmark item by item; holds a number for each score, and no text."""

    _ids: list[str] = field(default_factory=list)
    _groups: dict[str, list[int]] = field(default_factory=dict)
    _people: list[tuple[str, ...]] = field(default_factory=list)
    _values: dict[str, dict[str, "array[float]"]] = field(default_factory=dict)

    def add(self, name: str, groups: Iterable[str], people: Iterable[str], answered: Answered) -> None:
        """The next item: its id, groups, patients, and what was answered."""
        place = len(self._ids)
        self._ids.append(name)
        self._people.append(tuple(people))
        for group in groups:
            self._groups.setdefault(group, []).append(place)
        for role, (scores, status) in answered.items():
            columns = self._values.setdefault(role, {})
            for metric, value in metrics.if_read(scores, status).items():
                column = columns.setdefault(metric, array("d"))
                _pad(column, place)
                column.append(value)

    def scored(self) -> Scored:
        """All of them."""
        for columns in self._values.values():
            for column in columns.values():
                _pad(column, len(self._ids))
        return Scored(
            tuple(self._ids),
            {name: np.array(own, np.int64) for name, own in self._groups.items()},
            stats.Clusters.of(self._people),
            {role: {name: np.array(own) for name, own in columns.items()} for role, columns in self._values.items()},
        )


def scored(rows: Iterable[Row], roles: Collection[str] = ()) -> Scored:
    """From items of `predictions.jsonl`.

    Args:
        rows: The items.
        roles: The models. [default: all]
    """
    found = Gathering()
    for row in rows:
        given = {role: own["none"] for role, own in row["answers"].items() if "none" in own}
        answered = {r: (own["scores"], own["status"]) for r, own in given.items() if not roles or r in roles}
        found.add(row["id"], row["groups"], row["people"], answered)
    return found.scored()


def board(found: Scored, inside: str, metric: str) -> list[dict[str, Any]]:
    """Rows as of a leaderboard, of the items of one group alone: what of the other groups is in it.

    Args:
        found: The scores.
        inside: The group.
        metric: The one metric.
    """
    own = np.zeros(len(found.ids), bool)
    own[found.groups.get(inside, np.array([], np.int64))] = True
    rows: dict[str, list[dict[str, Any]]] = {role: [] for role in found.values}
    for group, places in found.groups.items():
        alike: dict[bytes, tuple[stats.Ints, list[str]]] = {}  # models that have a score of the same items
        for role, columns in found.values.items():
            if group != inside and metric in columns:
                known = places[own[places] & ~np.isnan(columns[metric][places])]
                alike.setdefault(known.tobytes(), (known, []))[1].append(role)
        for known, roles in alike.values():
            if not len(known):
                continue
            values = np.stack([found.values[role][metric][known] for role in roles])
            for role, one in zip(roles, stats.estimates(values, found.clusters.take(known)), strict=True):
                read = found.values[role].get(metrics.IF_READ)
                unread = int(np.isnan(read[known]).sum()) if metric == "accuracy" and read is not None else 0
                facts = {"value": one.value, "low": one.low, "high": one.high, "n": one.n, "patients": one.patients}
                rows[role].append({"model": role, "group": group, "metric": metric, **facts, "unparsed": unread})
    return [row for of_role in rows.values() for row in of_role]


def in_both(ours: Scored, theirs: Scored) -> tuple[stats.Ints, stats.Ints]:
    """Places of the items that both have, in each of them, in the order of `ours`."""
    if ours.ids == theirs.ids:
        same = np.arange(len(ours.ids))
        return same, same
    at = {name: i for i, name in enumerate(theirs.ids)}
    pairs = [(i, at[name]) for i, name in enumerate(ours.ids) if name in at]
    first, second = np.array(pairs, np.int64).reshape(-1, 2).T
    return first, second


def write(connection: sqlite3.Connection, found: Scored) -> None:
    """Into the table of `SCHEMA`."""
    rows = {
        ("ids", ""): "\n".join(found.ids).encode(),
        ("clusters", "codes"): found.clusters.codes.tobytes(),
        ("clusters", "starts"): found.clusters.starts.tobytes(),
        **{("group", name): own.tobytes() for name, own in found.groups.items()},
        **{
            ("score", json.dumps([role, metric])): own.tobytes()
            for role, columns in found.values.items()
            for metric, own in columns.items()
        },
    }
    packed = [(kind, name, zlib.compress(data, 1)) for (kind, name), data in rows.items()]
    connection.executemany("INSERT INTO columns VALUES (?, ?, ?)", packed)


def read(connection: sqlite3.Connection, roles: Collection[str]) -> Scored:
    """What `write` wrote, of some of the models."""

    def of(kind: str) -> dict[str, bytes]:
        chosen = connection.execute("SELECT name, data FROM columns WHERE kind = ?", (kind,))
        return {name: zlib.decompress(data) for name, data in chosen}

    values: dict[str, dict[str, stats.Floats]] = {role: {} for role in roles}
    for (name,) in connection.execute("SELECT name FROM columns WHERE kind = 'score'").fetchall():
        role, metric = json.loads(name)
        if role in values:
            found = connection.execute("SELECT data FROM columns WHERE kind = 'score' AND name = ?", (name,))
            values[role][metric] = np.frombuffer(zlib.decompress(found.fetchone()[0]))
    clusters = {name: np.frombuffer(data, np.int64) for name, data in of("clusters").items()}
    return Scored(
        tuple(of("ids")[""].decode().split("\n")),
        {name: np.frombuffer(data, np.int64) for name, data in of("group").items()},
        stats.Clusters(**clusters),
        values,
    )


def _pad(column: "array[float]", length: int) -> None:
    if len(column) < length:
        column.extend([np.nan] * (length - len(column)))
