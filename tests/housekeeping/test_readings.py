"""What is read of a store for garbage collection: once, unless it was written since, whatever lies in the inventory."""

import json
import os
from pathlib import Path

import pytest

from medmim import store
from medmim.housekeeping import inventory, readings
from medmim.run.workspace import Workspace
from medmim.store import open_store
from medmim.store.removal import INVENTORY, finish
from tests.support.s3_proxy import Proxy

ONE, TWO = "1" * 64, "2" * 64


@pytest.fixture
def all_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readings, "_MANY", 1)
    monkeypatch.setattr(readings, "_SETTLED", -1.0)


def _of(place: store.Store) -> readings.Readings:
    return readings.of(place, place.ages())


def test_a_second_plan_reads_the_inventory_alone(
    tmp_path: Path, bucket: str, proxy: Proxy, all_kept: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = open_store(bucket)
    keys = [f"runs/r{n}/data.json" for n in range(20)]
    for n, key in enumerate(keys):
        place.write(key, json.dumps({"digest": f"{n:064x}"}).encode())
    first = _of(place)
    known = first.digests(keys)
    first.keep()
    requests: list[str] = []
    monkeypatch.setattr(proxy, "allows", lambda method, path, _: requests.append(path) is None)
    assert _of(place).digests(keys) == known == {f"{n:064x}" for n in range(20)}
    assert len(requests) == 2  # the listing, the inventory


def test_what_was_written_since_is_read_again(ws: Workspace, all_kept: None) -> None:
    place, key = open_store(ws.store), f"data/{ONE}/{store.PROVENANCE}"
    place.write(key, json.dumps({"parents": {"base": TWO}, "step": "import", "recipe": {"name": "one"}}).encode())
    first = _of(place)
    (said,) = first.read([key])
    first.keep()
    assert said == _of(place).read([key])[0] == readings.Reading(frozenset({TWO}), {"name": "one"}, True)
    place.write(key, json.dumps({"parents": {"base": ONE}}).encode())
    assert _of(place).read([key]) == [readings.Reading(frozenset({ONE}))]
    assert _of(place).read(["data/none"]) == [readings.Reading()]


def test_what_was_written_just_now_is_not_kept(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readings, "_MANY", 1)
    place = open_store(ws.store)
    for name in ("old", "new"):
        place.write(f"runs/{name}/data.json", json.dumps({"digest": ONE}).encode())
    path = Path(ws.store) / "runs/old/data.json"
    os.utime(path, (path.stat().st_mtime - 3600,) * 2)
    known = _of(place)
    known.digests(known.ages)
    known.keep()
    assert set(_of(place).found) == {"runs/old/data.json"}


@pytest.mark.parametrize("content", [b"", b"{}", b"\x1f\x8b", None])
def test_an_inventory_that_cannot_be_read_is_made_again(ws: Workspace, all_kept: None, content: bytes | None) -> None:
    place = open_store(ws.store)
    place.write("runs/r/data.json", json.dumps({"digest": ONE}).encode())
    known = _of(place)
    known.digests(["runs/r/data.json"])
    known.keep()
    data = place.read(INVENTORY)
    place.write(INVENTORY, data[:-9] if content is None else content)
    assert _of(place).digests(["runs/r/data.json"]) == {ONE}


def test_the_end_of_a_removal_leaves_the_inventory(ws: Workspace) -> None:
    place = open_store(ws.store)
    place.write(INVENTORY, b"x")
    finish(place)
    assert place.read(INVENTORY) == b"x"


def test_a_store_in_s3_is_listed_in_parts_and_nothing_is_left_out(bucket: str) -> None:
    place = open_store(bucket)
    keys = {"data/a b+c%/x", "model/y/z", "decisions/m/1.json", "runs/demo-1-20260101-000000-a/data.json"}
    runs = (
        "demo-20260101-000000-a",
        "demo-nightly-20260101-a",
        "demo-20260101-000000-a-00000000",
        "émil-20260101-000000-a",
    )
    keys |= {f"runs/{run}/jobs/x/order.json" for run in runs}
    for key in keys:
        place.write(key, b"x")
    assert dict(inventory.listed(place)) == place.ages() and set(place.ages()) == keys
    place.write("runs/by hand/data.json", b"x")
    assert dict(inventory.listed(place)) == place.ages()
