"""Scores as columns: what is written is read, and a part of the items is scored as if it were all."""

import sqlite3
from contextlib import closing

import numpy as np
import pytest

from medmim.bench import columns, run
from medmim.bench.columns import Scored
from medmim.recipe.schema import Bench
from medmim.run.workspace import workspace
from tests.support.bench import World, publish


@pytest.fixture(scope="module")
def scored(world: World, tmp_path_factory: pytest.TempPathFactory) -> Scored:
    ws = workspace(tmp_path_factory.mktemp("scored"))
    models = {"one": str(world.models[0]), "other": str(world.models[1])}
    settings = Bench(max_new_tokens=2, probes=(), protocol="both")
    return columns.scored(run.predictions(ws, run.bench(ws, publish(world, ws.store), models, settings)[0].uri))


def test_what_is_written_is_read_again(scored: Scored) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(columns.SCHEMA)
        columns.write(connection, scored)
        read = columns.read(connection, ["other"])
    assert read.ids == scored.ids
    assert {name: own.tolist() for name, own in read.groups.items()} == {
        name: own.tolist() for name, own in scored.groups.items()
    }
    assert read.clusters.codes.tolist() == scored.clusters.codes.tolist()
    assert list(read.values) == ["other"]
    for name, own in scored.values["other"].items():
        assert np.array_equal(read.values["other"][name], own, equal_nan=True), name


def test_a_part_in_another_order_keeps_each_item_with_its_groups_and_scores(scored: Scored) -> None:
    order = np.array([7, 3, 40])
    part = scored.take(order)
    assert part.ids == tuple(scored.ids[i] for i in order)
    for group, own in scored.groups.items():
        wanted = [place for place, item in enumerate(order) if item in own]
        assert part.groups.get(group, np.array([])).tolist() == wanted
    assert np.array_equal(part.values["one"]["likelihood"], scored.values["one"]["likelihood"][order], equal_nan=True)
    assert len(set(part.clusters.codes.tolist())) == part.clusters.patients == 3


def test_a_group_within_another_is_scored_on_what_is_in_both(scored: Scored) -> None:
    rows = columns.board(scored, "held_in", "likelihood")
    assert {row["model"] for row in rows} == {"one", "other"}
    assert "held_in" not in {row["group"] for row in rows}
    for row in rows:
        both = np.intersect1d(scored.groups["held_in"], scored.groups[row["group"]])
        values = scored.values[row["model"]]["likelihood"][both]
        assert row["n"] == np.sum(~np.isnan(values))
        assert row["value"] == pytest.approx(np.nanmean(values))
    assert columns.board(scored, "task:none", "likelihood") == []
