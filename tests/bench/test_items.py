"""The items of a benchmark by filters: each finds what the rows themselves say, and identifiers stay where they are."""

import json
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from medmim import store
from medmim.bench import items
from medmim.bench.items import Filter, Item
from medmim.data import erased
from medmim.errors import UserError
from medmim.recipe import loading
from medmim.run.index import NotReady
from medmim.run.provenance import provenance_of
from medmim.run.workspace import Workspace
from medmim.sample import Sample
from medmim.store import Artifact
from tests.support.bench import samples
from tests.support.benchmarks import board, publish_bench


def says(sample: Sample, model: str, probe: str) -> str | None:
    """One is right but without images; two is wrong, silent or failing in turn."""
    right = sample.swapped if probe == "swap" else sample.gold
    number = int(sample.question.removeprefix("What changed in ").rstrip("?"))
    if not sample.options:
        return "the mass grew" if model == "one" else ""
    if model == "one" and probe != "blind":
        return "ABC"[right[0]]
    return ("ABC"[(right[0] + 1) % 3], "I do not know", None, "ABC"[right[0]])[number % 4]


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "home", str(tmp_path / "store"), "")


@contextmanager
def opened(ws: Workspace, artifact: Artifact) -> Iterator[Any]:
    while True:
        try:
            with items.opened(ws, artifact, provenance_of(artifact)) as connection:
                yield connection
                return
        except NotReady:
            time.sleep(0.05)


def names(ws: Workspace, artifact: Artifact, wanted: Filter) -> list[str]:
    with opened(ws, artifact) as connection:
        found, total = items.select(connection, wanted, 0, 1000)
        assert len(found) == total
        return [one.id for one in found]


def verdicts(row: dict[str, Any], probe: str = "none") -> dict[str, str]:
    item = Item.model_validate(row)
    return {model: given.verdict for model, own, given in item.given() if own == probe}


def test_each_filter_finds_the_rows_that_are_so(ws: Workspace) -> None:
    rows = board(samples(), says).predictions()
    artifact = publish_bench(ws, "d", rows)
    known = [verdicts(row) for row in rows]
    assert {one for row in known for one in row.values()} == {"right", "wrong", "unread", "error", "open"}
    cases = [
        (Filter(), lambda row: True),
        (Filter(ability="temporal"), lambda row: row["ability"] == "temporal"),
        (Filter(source="phantom-fundus"), lambda row: row["source"] == "phantom-fundus"),
        (Filter(domain="held_out"), lambda row: row["held_out"]),
        (Filter(family="change", domain="held_in"), lambda row: not row["held_out"]),
        (Filter(text="CHANGED in 3"), lambda row: "changed in 3" in row["question"]),
        (Filter(text="worse"), lambda row: "worse" in row["options"]),
        (Filter(verdict="error"), lambda row: "error" in verdicts(row).values()),
        (Filter(verdict="wrong", model="two"), lambda row: verdicts(row)["two"] == "wrong"),
        (Filter(verdict="unread", model="one"), lambda row: verdicts(row)["one"] == "unread"),
        (Filter(verdict="open"), lambda row: "open" in verdicts(row).values()),
        (
            Filter(verdict="right", model="two", probe="swap"),
            lambda row: verdicts(row, "swap").get("two") == "right",
        ),
        (Filter(probe="swap", model="one"), lambda row: "one" in verdicts(row, "swap")),
        (Filter(ability="none such"), lambda row: False),
        (Filter(text="100%_'\"\0"), lambda row: False),
    ]
    for wanted, holds in cases:
        assert names(ws, artifact, wanted) == [row["id"] for row in rows if holds(row)], wanted


def test_models_disagree_where_some_are_right_and_some_are_not(ws: Workspace) -> None:
    three = {"one": "one", "two": "two", "three": "two"}
    rows = board(samples(), lambda s, model, probe: says(s, three[model], probe), list(three)).predictions()
    artifact = publish_bench(ws, "d", rows, models=three)
    judged = ("right", "wrong", "unread")

    def apart(row: dict[str, Any], *models: str) -> bool:
        own = [one == "right" for model, one in verdicts(row).items() if one in judged and model in models]
        return True in own and False in own

    for wanted, models in (
        (Filter(verdict="disagree"), ("one", "two", "three")),
        (Filter(verdict="disagree", model="one", against="two"), ("one", "two")),
        (Filter(verdict="disagree", model="two", against="three"), ("two", "three")),
    ):
        assert names(ws, artifact, wanted) == [row["id"] for row in rows if apart(row, *models)], wanted
    assert names(ws, artifact, Filter(verdict="disagree", model="two", against="three")) == []
    assert names(ws, artifact, Filter(verdict="disagree"))


def test_the_hardest_come_first_and_what_nobody_can_be_judged_on_last(ws: Workspace) -> None:
    rows = board(samples(), says).predictions()
    order = names(ws, publish_bench(ws, "d", rows), Filter(order="hardest"))
    by_name = {
        row["id"]: [one for one in verdicts(row).values() if one in ("right", "wrong", "unread")] for row in rows
    }
    shares = [by_name[name].count("right") / len(by_name[name]) if by_name[name] else 2 for name in order]
    assert shares == sorted(shares)
    assert len(order) == len(rows)


def test_neighbours_are_those_of_the_filter(ws: Workspace) -> None:
    artifact = publish_bench(ws, "d", board(samples(), says).predictions())
    for wanted in (Filter(), Filter(verdict="wrong"), Filter(order="hardest", ability="temporal")):
        found = names(ws, artifact, wanted)
        with opened(ws, artifact) as connection:
            for n, name in enumerate(found):
                place = items.beside(connection, wanted, name)
                assert (place.place, place.total) == (n + 1, len(found))
                assert place.before == (found[n - 1] if n else "")
                assert place.after == (found[n + 1] if n + 1 < len(found) else "")
            other = next((name for name in names(ws, artifact, Filter()) if name not in found), "no such item")
            assert items.beside(connection, wanted, other) == items.Beside(0, len(found))


def test_an_item_is_shown_as_it_was_written(ws: Workspace) -> None:
    rows = board(samples(), says).predictions()
    artifact = publish_bench(ws, "d", rows, loading.load("demo", ["platform.show_patients=true"]))
    with opened(ws, artifact) as connection:
        for row in rows:
            found = items.find(connection, row["id"])
            assert found is not None
            assert json.loads(found.model_dump_json(exclude_none=True)) == json.loads(
                Item.model_validate(row).model_dump_json(exclude_none=True)
            )
            assert found.paths == tuple(row["paths"])
            assert found.people == tuple(row["people"])
        assert items.find(connection, "0" * 20) is None


def test_no_identifier_is_in_the_index_unless_the_recipe_says_so(ws: Workspace) -> None:
    secret = "p10-ANNA-KARENINA"
    hidden = [
        replace(
            one,
            patients=(secret,),
            paths=tuple(f"{secret}/{n}.png" for n in range(len(one.images))),
            images=(f"{secret}/0.png", *one.images[1:]),
        )  # fmt: skip
        for one in samples()
    ]
    for says_so in (False, True):
        recipe = loading.load("demo", [f"platform.show_patients={says_so}"])
        artifact = publish_bench(ws, f"d{says_so}", board(hidden, says).predictions(), recipe)
        with opened(ws, artifact) as connection:
            found, _ = items.select(connection, Filter(), 0, 100)
            dump = "\n".join(connection.iterdump()) + "".join(one.model_dump_json() for one in found)
        assert (secret in dump) is says_so
        assert all(one.images[0] == (f"{secret}/0.png" if says_so else "") for one in found)


def test_of_an_erased_patients_item_only_its_id_is_left(ws: Workspace) -> None:
    rows = board(samples(), says).predictions()
    artifact = publish_bench(ws, "d", rows, loading.load("demo", ["platform.show_patients=true"]))
    assert len(names(ws, artifact, Filter(text="What changed"))) == len(rows)
    erased.add(ws.store, ["phantom/p3"])
    gone = [row["id"] for row in rows if "p3" in row["patients"]]
    assert gone
    assert len(names(ws, artifact, Filter(text="What changed"))) == len(rows) - len(gone)
    with opened(ws, artifact) as connection:
        for name in gone:
            found = items.find(connection, name)
            assert found is not None
            assert found.erased
            blank = {field: getattr(found, field) for field in ("question", "options", "images", "paths", "people")}
            assert not any(blank.values()), blank
            assert not found.answers
        assert "phantom/p3" not in "\n".join(connection.iterdump())


ROW = json.dumps({**board(samples()[:1], lambda *_: "A").predictions()[0], "id": "0" * 20})


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "line 3"),
        ("[]", "line 3"),
        ('{"id": "x"}', "Field required"),
        (ROW.replace('"choice": 0', '"choice": 26'), "less than 8"),
        ('{"id": "\\ud800"}', "line 3"),
        ("\0\0\0", "line 3"),
    ],
)
def test_a_row_that_is_none_is_named_by_its_line(ws: Workspace, line: str, reason: str) -> None:
    artifact = publish_bench(ws, "d", board(samples(), says).predictions())
    artifact = rewritten(ws, artifact, lambda lines: [*lines[:2], line, *lines[2:]])
    with pytest.raises(UserError) as told, opened(ws, artifact):
        pass
    assert "line 3 " in told.value.fact
    assert reason in told.value.fact + told.value.reason
    assert "bench these models again" in told.value.fix


def test_an_item_that_is_there_twice_is_no_benchmark(ws: Workspace) -> None:
    artifact = publish_bench(ws, "d", board(samples(), says).predictions())
    artifact = rewritten(ws, artifact, lambda lines: [*lines, lines[0]])
    with pytest.raises(UserError, match=r"line 49 of .* is no row"), opened(ws, artifact):
        pass


def test_a_file_that_was_replaced_is_not_indexed(ws: Workspace) -> None:
    artifact = publish_bench(ws, "d", board(samples(), says).predictions())
    path = Path(artifact.uri) / "predictions.jsonl"
    path.write_text(path.read_text("utf-8").replace("What changed", "Who changed "), encoding="utf-8")
    with pytest.raises(UserError, match="is damaged"), opened(ws, artifact):
        pass
    assert not list((ws.home / "console").glob("*.sqlite"))


def test_memory_stays_flat_however_many_rows_there_are(ws: Workspace) -> None:
    (row, *_) = board(samples(), says).predictions()
    peaks = []
    for count in (200, 4000):
        artifact = publish_bench(
            ws, f"d{count}", ({**row, "id": f"{n:020x}", "question": "x" * 2000} for n in range(count))
        )
        tracemalloc.start()
        with opened(ws, artifact) as connection:
            assert items.select(connection, Filter(), 0, 25)[1] == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 3 * peaks[0] + 12e6, peaks  # two pieces of 4 MiB, whatever the size of the file


def test_every_field_of_a_filter_changes_what_is_found(ws: Workspace) -> None:
    """A field that is forgotten in the query would find all."""
    artifact = publish_bench(ws, "d", board(samples(), says).predictions())
    everything = names(ws, artifact, Filter())
    for one in fields(Filter):
        base = {"against": Filter(verdict="disagree", model="one")}.get(one.name, Filter(model="one"))
        other = "hardest" if one.name == "order" else "nothing like it"
        assert names(ws, artifact, replace(base, **{one.name: other})) != everything, one.name


def rewritten(ws: Workspace, artifact: Artifact, change: Any) -> Artifact:
    """The benchmark with other lines in its predictions, published as such."""
    folder = ws.home / "rewritten"
    folder.mkdir(parents=True)
    for name in artifact.files:
        (folder / name).write_bytes(store.read_file(artifact, name))
    path = folder / "predictions.jsonl"
    path.write_text("\n".join(change(path.read_text("utf-8").splitlines())) + "\n", encoding="utf-8")
    return store.publish(folder, ws.store, "bench", {}, provenance_of(artifact))
