"""The list of erased patients: it holds no identifiers, and a build leaves them out."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmim import shards
from medmim.data import build, erased
from medmim.data.sources import phantom
from medmim.data.sources.source import Source
from medmim.recipe import loading, schema
from medmim.run.workspace import workspace
from medmim.sample import Sample, Study
from medmim.store import open_store

NAMES = st.text(st.characters(exclude_characters="."), min_size=1, max_size=4)  # `1.` and `1` are one patient


def no_pictures(path: str) -> bytes:
    raise FileNotFoundError(path)


@given(st.lists(st.lists(NAMES, min_size=1, max_size=3), max_size=12), st.sets(NAMES, max_size=4))
def test_nothing_of_erased_patients_is_kept_and_nothing_else_is_lost(rows: list[list[str]], out: set[str]) -> None:
    key = b"k"
    listed = erased.Erased(key, frozenset(erased.mark(key, name) for name in out))
    samples = [
        Sample("temporal", "change", "s", "train", False, tuple(names), (), (), str(i), (), "a")
        for i, names in enumerate(rows)
    ]
    studies = [Study("s", names[0], str(i), "CT") for i, names in enumerate(rows)]
    left = erased.leave_out(Source(no_pictures, studies=studies, samples=samples, facts={"rows": 1}), listed)
    assert left.samples == [sample for sample in samples if not out.intersection(sample.patients)]
    assert left.studies == [study for study in studies if study.patient not in out]
    if out:
        counts = left.facts["erased"]
        assert counts["samples"] == len(samples) - len(left.samples) and left.facts["rows"] == 1
        assert counts["patients"] == len(out & {name for names in rows for name in names})
    else:
        assert "erased" not in left.facts


@pytest.fixture
def demo() -> schema.Recipe:
    data = {"source": "phantom", "patients": 30, "rows_only": True}
    return loading.validate({"name": "test", "data": data}, "test")


def test_a_build_leaves_erased_patients_out_counts_them_and_is_cached(tmp_path: Path, demo: schema.Recipe) -> None:
    ws = workspace(tmp_path)
    first = build.run(demo, ws)
    patients = erased.patients_of(open_store(ws.store), f"data/{first.digest}")
    assert patients == {study.patient for study in phantom.patients(30, 0)}
    gone = sorted(patients)[:2]
    erased.add(ws.store, gone)
    second = build.run(demo, ws)
    assert not second.cached and second.digest != first.digest
    assert second.facts["source"]["erased"]["patients"] == 2
    left = shards.read_samples(ws.fetch(second.uri))
    assert {name for sample in left for name in sample.patients} == patients - set(gone)
    split = {name: s.split for s in shards.read_samples(ws.fetch(first.uri)) for name in s.patients}
    assert all(split[name] == sample.split for sample in left for name in sample.patients)
    assert build.run(demo, ws).cached
    other = demo.model_copy(update={"data": demo.data.model_copy(update={"patients": 1})})
    spared = sorted(study.patient for study in phantom.patients(1, 0))[0] not in gone
    if spared:
        assert build.run(other, ws).digest == build.run(other, workspace(tmp_path / "new")).digest


def test_the_list_holds_no_identifiers_and_adding_twice_changes_nothing(tmp_path: Path) -> None:
    ws = workspace(tmp_path)
    once = erased.add(ws.store, ["chest-00001", "MRN 4711"])
    assert erased.add(ws.store, ["MRN 4711"]) == once == erased.load(ws.store)
    assert "MRN 4711" in once and "MRN 4712" not in once and len(once.marks) == 2
    place = open_store(ws.store)
    everything = " ".join(f"{key} {place.read(key)!r}" for key in place.list())
    assert "4711" not in everything and "chest" not in everything
    other = erased.add(str(tmp_path / "other"), ["MRN 4711"])
    assert not other.marks & once.marks  # the mark of a patient differs between stores


def test_patients_of_quarantined_rows_are_found_too(tmp_path: Path, demo: schema.Recipe) -> None:
    ws = workspace(tmp_path)
    made = build.run(demo, ws)
    place, name = open_store(ws.store), f"data/{made.digest}"
    place.write(f"{name}/quarantine.jsonl", json.dumps({"file": "a", "row": 0, "key": "P9", "reason": "x"}).encode())
    assert "P9" in erased.patients_of(place, name)
    assert replace(made).digest == made.digest


@pytest.mark.parametrize("form", ["1.0", "1.", "1"])
def test_a_patient_stays_erased_under_the_name_that_a_spreadsheet_gave_it(tmp_path: Path, form: str) -> None:
    listed = erased.add(str(tmp_path), [form])
    assert "1" in listed and "11" not in listed and "1.5" not in listed
    place = open_store(str(tmp_path))
    place.write("data/x/quarantine.jsonl", json.dumps({"file": "a", "row": 0, "key": form, "reason": "x"}).encode())
    assert erased.patients_of(place, "data/x") == {form, "1"}
