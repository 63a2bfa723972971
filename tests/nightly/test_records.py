"""The nights' records: written once, read back, claimed by one."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import pytest

from medmim.errors import UserError
from medmim.nightly import records
from medmim.nightly.records import Night
from medmim.run import run_name
from medmim.run.workspace import Workspace
from medmim.store import open_store


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, ws: Workspace) -> Workspace:
    """The workspace on each kind of store."""
    return ws if request.param == "folder" else replace(ws, store=request.getfixturevalue("bucket") + "/store")


def night(date: str = "2026-06-01", run: str = "demo-nightly-20260601-1", window: int = 2, mark: str = "a") -> Night:
    models = {"base": {"weights": "w", "digest": "d", "anew": "", "answers": mark * 64}}
    return Night(date, run, "da" * 32, mark * 63 + "0", models, [], window=window)


def refused(do: Callable[[], object]) -> str:
    with pytest.raises(UserError) as error:
        do()
    assert error.value.exit_code == 2 and error.value.fix
    return str(error.value)


def test_a_night_is_recorded_once(place: Workspace) -> None:
    first = records.record(place, "demo", night())
    assert records.read(place, "demo") == [first] and records.find(place, "demo", "2026-06-01") == first
    assert records.record(place, "demo", replace(night(), who="the same run, resumed")) == first
    other = replace(night(), run="demo-nightly-20260601-2")
    assert "is taken by run demo-nightly-20260601-1" in refused(lambda: records.record(place, "demo", other))
    assert records.read(place, "demo") == [first] and records.read(place, "dem") == []


def test_nights_are_read_in_order(ws: Workspace) -> None:
    for date in ("2026-06-10", "2026-06-02", "2026-05-30"):
        records.record(ws, "demo", night(date))
    assert [one.date for one in records.read(ws, "demo")] == ["2026-05-30", "2026-06-02", "2026-06-10"]


@pytest.mark.parametrize("text", ["", "{}", "[1]", json.dumps(asdict(night()) | {"more": 1}), '{"date": "2026-'])
def test_a_record_that_was_edited_is_named(ws: Workspace, text: str) -> None:
    open_store(ws.store).write("nights/demo/2026-06-01.json", text.encode())
    assert "nights/demo/2026-06-01.json is not the record of a night" in refused(lambda: records.read(ws, "demo"))


def test_of_many_submitters_one_gets_the_night(place: Workspace) -> None:
    def one(_: int) -> str:
        try:
            return records.claim(place, "demo", "2026-06-01")
        except UserError as error:
            return str(error.exit_code)

    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(one, range(8)))
    assert sorted(results) == ["2"] * 7 + ["demo-nightly-20260601-1"]


def test_a_claim_is_withdrawn_or_repeated_by_option(ws: Workspace) -> None:
    run = records.claim(ws, "demo", "2026-06-01")
    assert "--again" in refused(lambda: records.claim(ws, "demo", "2026-06-01"))
    assert records.claim(ws, "demo", "2026-06-01", again=True) == "demo-nightly-20260601-2"
    records.withdraw(ws, "demo", "2026-06-01", run)
    assert records.claim(ws, "demo", "2026-06-01", again=True) == "demo-nightly-20260601-3"
    records.withdraw(ws, "demo", "2026-06-02", records.claim(ws, "demo", "2026-06-02"))
    assert records.claim(ws, "demo", "2026-06-02") == "demo-nightly-20260602-1"
    records.record(ws, "demo", night(run=run))
    for again in (False, True):
        assert run in refused(lambda again=again: records.claim(ws, "demo", "2026-06-01", again))
    assert len(records.read(ws, "demo")) == 1


def test_what_the_next_night_compares_with_is_kept(ws: Workspace) -> None:
    for day, mark in enumerate("abc", 1):
        records.record(ws, "demo", night(f"2026-06-{day:02}", mark=mark))
    records.claim(ws, "demo", "2026-06-04")
    records.record(ws, "other", night(mark="f"))
    kept = records.digests_in_window(open_store(ws.store))
    assert {mark * 64 for mark in "bcf"} <= kept and "a" * 64 not in kept


def test_a_nights_run_is_of_its_recipes_nights() -> None:
    assert run_name.recipe_of(records.run_name("demo", "2026-06-01", "1")) == "demo-nightly"
    assert run_name.recipe_of(records.run_name("a-b", "2026-06-01", "c910")) == "a-b-nightly"
    assert run_name.recipe_of("demo-20260601-020000-ab12") == "demo"
