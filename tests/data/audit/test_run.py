"""The audit: leakage between splits is found and refused, and the clean rows are listed."""

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medmim import shards, store
from medmim.data import build, reading
from medmim.data.audit import leakage
from medmim.data.audit import run as audit
from medmim.data.sources.published_rows import kind_of, sample_of
from medmim.errors import Refused, UserError
from medmim.recipe.schema import Audit, Recipe
from medmim.run.cache import remember, step_key
from medmim.run.stage import outcomes
from medmim.run.workspace import Workspace, workspace
from medmim.sample import Sample
from medmim.store import Artifact
from medmim.terms import APACHE
from tests.support import med_mim_files as files
from tests.support import shared_data

COMPARISON = "Med_MIM_train_inherent_Comparison.json"
TEMPORAL = "Med_MIM_benchmark_Held_in_Temporal.json"


def recipe(root: Path) -> Recipe:
    data = {"source": "published", "root": str(root), "rows_only": True}
    return Recipe.model_validate({"name": "audit", "data": data})


def place(tmp_path: Path) -> Workspace:
    return workspace(tmp_path / "home", run="run-1")


def leaky_set() -> dict[str, list[files.Row]]:
    """The clean set with three leaks: patients 20 and 21 by other images, a pair of patient 22 in reverse order."""
    found = files.clean_set()
    turned = files.comparison([22])[0]
    turned["images"].reverse()
    found[COMPARISON] += [*files.comparison([20, 21], visits=(7, 8)), turned]
    return found


def sample(split: str, ability: str, patients: tuple[str, ...], images: tuple[str, ...], source: str = "PMC") -> Sample:
    return Sample(ability, "any", source, split, False, patients, images, images, "What?", (), "That.")


def pair(report: dict, first: str, second: str) -> dict:
    found = [p for p in report["pairs"] if (p["first"]["file"], p["second"]["file"]) == (first, second)]
    assert len(found) == 1
    return found[0]


def shared(pair: dict) -> tuple[int, ...]:
    return tuple(pair[measure]["shared"] for measure in leakage.MEASURES)


def test_a_clean_set_passes_and_all_its_benchmark_is_clean(tmp_path: Path) -> None:
    ws, asked = place(tmp_path), recipe(files.write(tmp_path / "raw", files.clean_set()))
    data = build.run(asked, ws)
    outcome = audit.run(asked, ws, data.uri)
    assert outcome.facts["shared"] == {"patients": 0, "image_sets": 0, "images": 0}
    clean = (ws.fetch(outcome.uri) / audit.CLEAN).read_text().splitlines()
    tested = shards.read_samples(ws.fetch(data.uri), "test")
    assert [json.loads(line)["id"] for line in clean] == [s.id for part in _parts(tested) for s in part]
    assert not (ws.fetch(outcome.uri) / "clean").exists()


def _parts(samples: list[Sample]) -> list[list[Sample]]:
    names = sorted({(s.held_out and f"held-out/{s.source}/") or s.ability for s in samples})
    return [[s for s in samples if ((s.held_out and f"held-out/{s.source}/") or s.ability) == n] for n in names]


def test_a_leak_is_refused_with_both_counts_and_its_record_is_kept(tmp_path: Path) -> None:
    ws, asked = place(tmp_path), recipe(files.write(tmp_path / "raw", leaky_set()))
    data = build.run(asked, ws)
    with pytest.raises(Refused) as caught:
        audit.run(asked, ws, data.uri)
    assert caught.value.exit_code == 1
    assert "3 patients and 2 images" in caught.value.fact
    assert "17 of 17 patients are clean" in caught.value.fact
    kept = outcomes(ws)["audit"]
    assert (kept.status, kept.facts["benchmark"]["rows"], kept.facts["benchmark"]["clean_rows"]) == ("refused", 20, 17)
    found = pair(kept.facts, COMPARISON, "Med_MIM_benchmark_Held_in_Comparison.json")
    assert shared(found) == (3, 1, 2)
    assert found["patients"] == {"shared": 3, "first": 23, "second": 10}
    checks = {check["name"]: check for check in kept.facts["checks"]}
    assert [checks[measure]["value"] for measure in leakage.MEASURES] == [3, 1, 2]
    listed = list(audit.rows(store.get(kept.uri)))
    assert sum(row["check"] == "patients" for row in listed) == checks["patients"]["rows"] == 6
    assert f"patients: {listed[0]['id']}" in str(caught.value)


def test_an_audit_of_an_earlier_version_is_found_and_read_with_its_checks(tmp_path: Path) -> None:
    ws, asked = place(tmp_path), recipe(files.write(tmp_path / "raw", leaky_set()))
    data = build.run(asked, ws)
    made, _ = audit.audit_artifact(ws, data.uri)
    report = {key: value for key, value in audit.read(made).items() if key != "checks"}
    old = tmp_path / "old"
    old.mkdir()
    (old / audit.REPORT).write_text(json.dumps(report))
    (old / audit.CLEAN).write_text("")
    other = workspace(tmp_path / "other")
    earlier = store.publish(old, other.store, "audit", {}, {})
    remember(other, "audit", step_key("audit", 1, None, {"data": data.digest}), earlier)
    found = audit.find(other, data.digest)
    assert found is not None and found.digest == earlier.digest
    assert [check["value"] for check in audit.read(found)["checks"]] == [3, 1, 2]
    assert list(audit.rows(found)) == []


def test_clean_rows_are_written_in_the_published_layout_and_read_back_equal(tmp_path: Path) -> None:
    ws, asked = place(tmp_path), recipe(files.write(tmp_path / "raw", leaky_set()))
    artifact, _ = audit.audit_artifact(ws, build.run(asked, ws).uri)
    folder = ws.fetch(artifact.uri)
    listed = [json.loads(line) for line in (folder / audit.CLEAN).read_text().splitlines()]
    read = []
    for file in sorted((folder / "clean").iterdir()):
        kind = kind_of(file.name)
        assert kind is not None
        read += [sample_of(row, kind)[0] for row in json.loads(file.read_text())]
    assert {one.id for one in read if one} == {row["id"] for row in listed}
    assert len(listed) == 17


def test_limits_of_the_recipe_let_a_known_leak_pass(tmp_path: Path) -> None:
    ws, asked = place(tmp_path), recipe(files.write(tmp_path / "raw", leaky_set()))
    allowed = asked.model_copy(update={"audit": asked.audit.model_copy(update={"max_shared_patients": 3})})
    with pytest.raises(Refused):
        audit.run(allowed, ws, build.run(asked, ws).uri)
    wider = allowed.audit.model_copy(update={"max_shared_images": 2})
    outcome = audit.run(asked.model_copy(update={"audit": wider}), ws, build.run(asked, ws).uri)
    assert outcome.status == "done"


def saved_twice(tmp_path: Path, ws: Workspace, **section: object) -> Artifact:
    """One picture as PNG to train on and as JPEG to test on, made by a recipe with this section `audit`."""
    noise = np.random.default_rng(1).integers(0, 256, (8, 8), np.uint8)
    picture, samples, images = Image.fromarray(noise).resize((200, 200), Image.Resampling.BICUBIC), [], []
    for split, form in (("train", "PNG"), ("test", "JPEG")):
        picture.save(written := io.BytesIO(), form)
        name = f"sha256:{hashlib.sha256(written.getvalue()).hexdigest()}"
        images.append((name, f"{split}.{form.lower()}", written.getvalue()))
        asked = (f"What is shown in {split}?", (), "That.")
        samples.append(Sample("single", "any", "own", split, False, (split,), (name,), (images[-1][1],), *asked))
    shards.write(tmp_path / "made", samples, images)
    record = {"terms": APACHE.as_dict(), "recipe": {"name": "own", "audit": section}}
    return store.publish(tmp_path / "made", ws.store, "data", {}, record)


def test_a_run_tells_what_it_finds_without_a_limit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ws = place(tmp_path)
    made = saved_twice(tmp_path, ws)
    audit.run(Recipe.model_validate({"name": "own", "data": {"source": "phantom"}}), ws, made.uri)
    said = capsys.readouterr().err
    assert "look-alikes: 1 of 2" in said
    assert "no two splits share a patient or the bytes of an image" in said


def test_the_limits_of_a_data_set_are_those_of_its_recipe_and_its_audit_is_found_by_them(tmp_path: Path) -> None:
    ws = place(tmp_path)
    made = saved_twice(tmp_path, ws, max_look_alikes=0)
    assert audit.limits_of(made) == Audit(max_look_alikes=0)
    default, _ = audit.audit_artifact(ws, made.uri, allowed=Audit())
    assert audit.find(ws, made.digest) == default, "another's is better than none"
    own, _ = audit.audit_artifact(ws, made.uri)
    assert own.digest != default.digest
    assert audit.find(ws, made.digest) == own


@pytest.mark.parametrize("section", [{"max_of_a_later_version": 1}, "0.3", {"max_label": 7}])
def test_limits_that_this_version_does_not_know_are_as_by_default(tmp_path: Path, section: object) -> None:
    (tmp_path / "made").mkdir()
    record = {"recipe": {"name": "own", "audit": section}}
    made = store.publish(tmp_path / "made", place(tmp_path).store, "data", {}, record)
    assert audit.limits_of(made) == Audit()


def test_a_second_audit_is_taken_from_the_cache(tmp_path: Path) -> None:
    ws, asked = place(tmp_path), recipe(files.write(tmp_path / "raw", files.clean_set()))
    data = build.run(asked, ws)
    first, second = audit.audit_artifact(ws, data.uri), audit.audit_artifact(ws, data.uri)
    assert (first[1], second[1]) == (False, True)
    assert first[0].digest == second[0].digest


def test_only_a_data_set_is_audited(tmp_path: Path) -> None:
    ws, asked = place(tmp_path), recipe(files.write(tmp_path / "raw", files.clean_set()))
    done, _ = audit.audit_artifact(ws, build.run(asked, ws).uri)
    with pytest.raises(UserError, match="of kind 'audit'"):
        audit.audit_artifact(ws, done.uri)
    with pytest.raises(UserError, match="no artifact"):
        audit.audit_artifact(ws, f"{ws.store}/data/none")
    assert store.find(done.uri) is not None


def test_a_leak_across_abilities_is_found() -> None:
    rows = [sample("train", "comparison", ("a",), ("1", "2")), sample("test", "temporal", ("b",), ("2", "3"))]
    report, clean = leakage.examine(rows)
    assert shared(report["pairs"][0]) == (0, 0, 1)
    assert (report["pairs"][0]["within_ability"], clean) == (False, [])


def test_equal_numbers_in_two_data_sets_are_two_patients_but_a_mixed_source_shares_them() -> None:
    rows = [
        sample("train", "comparison", ("1",), ("a",), "EMBED"),
        sample("test", "comparison", ("1",), ("b",), "ODIR"),
    ]
    assert leakage.examine(rows)[0]["shared"]["patients"] == 0
    mixed = [replace(rows[0], source="phantom-chest"), replace(rows[1], source="phantom-mixed")]
    assert leakage.examine(mixed)[0]["shared"]["patients"] == 1


@given(
    st.lists(
        st.builds(
            sample,
            st.sampled_from(["train", "dev", "test"]),
            st.sampled_from(["temporal", "comparison"]),
            st.lists(st.sampled_from("abcdef"), min_size=1, max_size=2, unique=True).map(tuple),
            st.lists(st.sampled_from("uvwxyz"), min_size=1, max_size=3, unique=True).map(tuple),
        ),
        max_size=12,
    )
)
def test_clean_rows_share_nothing_with_training_and_no_other_row_is_clean(rows: list[Sample]) -> None:
    report, clean = leakage.examine(rows)
    trained = [row for row in rows if row.split == "train"]
    tested = [row for row in rows if row.split == "test"]

    def touches(row: Sample) -> bool:
        return any(set(row.patients) & set(t.patients) or set(row.images) & set(t.images) for t in trained)

    assert sorted(row.id for row in clean) == sorted(row.id for row in tested if not touches(row))
    assert report["benchmark"]["rows"] == len(tested)
    train_test = [p for p in report["pairs"] if (p["first"]["split"], p["second"]["split"]) == ("train", "test")]
    assert any(p["patients"]["shared"] or p["images"]["shared"] for p in train_test) == (len(clean) < len(tested))


@shared_data.needs("med-mim")
def test_the_known_leaks_of_the_published_split_are_found() -> None:
    source = reading.of(recipe(shared_data.FOLDER / "med-mim").data).load()[0]
    report, clean = leakage.examine(source.samples or [])
    found = pair(report, COMPARISON, "Med_MIM_benchmark_Held_in_Comparison.json")
    assert found["image_sets"] == {"shared": 184, "first": 1865, "second": 288}
    assert found["patients"] == {"shared": 177, "first": 807, "second": 198}
    across = pair(report, COMPARISON, TEMPORAL)
    assert (across["images"]["shared"], across["within_ability"]) == (109, False)
    assert across["patients_by_source"]["LUMIERE"]["shared"] == 4
    assert across["patients_by_source"]["LUMIERE"]["second"] == 5
    assert pair(report, COMPARISON, "Med_MIM_benchmark_Held_in_Coreference.json")["images"]["shared"] == 36
    parts = {part["name"]: part for part in report["parts"]}
    assert (parts["test/comparison"]["rows"], parts["test/comparison"]["patients"]) == (344, 198)
    assert (parts["test/comparison"]["clean_rows"], parts["test/comparison"]["clean_patients"]) == (110, 21)
    carried = {name: parts[f"test/{name}"]["sources"]["LUMIERE"] for name in ("temporal", "coreference", "comparison")}
    assert {name: (part["rows"], part["patients"]) for name, part in carried.items()} == {
        "temporal": (631, 5),
        "coreference": (344, 2),
        "comparison": (74, 3),
    }
    assert len(clean) == report["benchmark"]["clean_rows"] == 2347
