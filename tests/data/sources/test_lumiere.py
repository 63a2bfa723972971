"""Reading LUMIERE: pairs of weeks, slices through the tumor, dirty ratings. Rows are typed from its columns and values.

No real table was seen; what the real one must give is known from the published questions that were made of it.
"""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmim.data.sources import lumiere, lumiere_ratings, lumiere_scans
from medmim.data.sources.source import Entry, Source
from medmim.errors import UserError
from medmim.recipe.sources import Lumiere
from medmim.sample import Study
from medmim.store import open_store
from tests.support import shared_data

RATINGS, PEOPLE = "LUMIERE-ExpertRating-v202211.csv", "LUMIERE-Demographics_Pathology.csv"
RATING = (
    "Rating (according to RANO, PD: Progressive disease, SD: Stable disease, PR: Partial response, CR: Complete "
    "response, Pre-Op: Pre-Operative, Post-Op: Post-Operative)"
)
RATIONALE = (
    "Rating rationale (CRET: complete resection of the enhancing tumor, PRET: partial resection of the enhancing "
    "tumor, T2-Progr.: T2-Progression, L: Lesion)"
)
# Pairs of weeks whose later one is Post-Op, with its rationale, as the published questions have them.
COMPLETE = """
004 038 041, 006 000 001, 006 112 114, 007 000 001, 009 014 015, 012 016 022, 014 000 001, 015 083 084, 022 000 001,
023 000 001, 023 097 099, 031 000 002, 031 015 018, 031 165 170, 041 000 002, 050 000 001, 064 000 002, 065 021 025,
066 000 001, 066 046 050, 067 053 059, 069 000 001, 073 000 001, 078 000 001, 080 000 001, 086 000 001
"""
PARTIAL = """
008 000 002, 010 000 001, 015 145 146, 022 037 039, 031 142 148, 033 000 002, 034 040 044, 042 081 082, 050 048 051,
067 156 157, 077 000 001, 085 000-2 001
"""
# Weeks that are rated so, each after another week with images.
STABLE = "003 014, 023 024, 023 039, 080 018"
PROGRESSIVE = """
003 027, 003 038, 007 015, 007 028, 007 041, 007 055, 007 064, 007 075, 007 089, 007 105, 023 046, 023 059, 023 097,
023 111, 023 115, 086 173-1
"""
SEQUENCES = ("CT1", "T1", "T2", "FLAIR")


def entries(text: str) -> list[tuple[str, ...]]:
    return [tuple(entry.split()) for entry in text.replace("\n", " ").split(",")]


def rating(patient: str, week: str, value: str, rationale: str = "") -> dict[str, str]:
    return {
        "Patient": f"Patient-{patient}", "Date": f"week-{week}", "LessThan3Months": "", "NonMeasurableLesions": "",
        RATING: value, RATIONALE: rationale,
    }  # fmt: skip


def table(path: Path, rows: Sequence[Mapping[str, str]], encoding: str = "utf-8-sig") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding=encoding, errors="replace") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def pictures(root: Path, weeks: Iterable[tuple[str, str]], slices: Iterable[int] = (47,)) -> None:
    """PNG trees as Med-MIM's paths name them."""
    for sequence in SEQUENCES:
        for patient, week in weeks:
            for index in slices:
                tree = f"{sequence.lower()}_LUMIERE_images_tumor1200px_256x256"
                path = root / tree / f"Patient-{patient}" / f"slice_{index}" / f"week_{week}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"pixels")


def section(root: Path, **keys: Any) -> Entry[Lumiere]:
    return Entry(Lumiere(name="lumiere", root=str(root), **{"images": "png", **keys}), "data.sources.0")


def read(root: Path, rows: Sequence[Mapping[str, str]], **keys: Any) -> Source:
    """The source of a table, with a picture of each sequence for every week in it."""
    weeks = {(row["Patient"][8:], row["Date"].removeprefix("week-")) for row in rows}
    pictures(root, [(patient, week) for patient, week in weeks if lumiere_ratings.week(f"week-{week}")])
    table(root / RATINGS, rows)
    return lumiere.load(section(root, **keys))


def studies(source: Source) -> list[Study]:
    return list(source.studies or ())


def pairs(source: Source, finding: str) -> dict[tuple[str, str, str], str]:
    """(patient, week before, week) -> state, by the images after contrast."""
    by_path = {study.image: study for study in studies(source)}
    return {
        (study.patient[8:], str(by_path[change.since].exam)[5:], str(study.exam)[5:]): change.state
        for study in studies(source)
        for change in study.changes
        if study.sequence == "CT1" and change.finding == finding
    }


def real_rows() -> list[dict[str, str]]:
    """A table that holds what is known of the real one, in another order, with its dirt."""
    rows = {}
    for text, why in ((COMPLETE, "CRET"), (PARTIAL, "PRET")):
        for patient, before, after in entries(text):
            rows.setdefault((patient, before), rating(patient, before, "Pre-Op" if before[:3] == "000" else "PD"))
            rows[patient, after] = rating(patient, after, "Post-Op ", f"{why} ")  # blanks behind
    rows["003", "000-2"] = rating("003", "000-2", "Post-Op")
    rows["023", "084"] = rating("023", "084", "PR")
    for text, value in ((STABLE, "SD"), (PROGRESSIVE, "PD")):
        rows |= {(patient, week): rating(patient, week, value) for patient, week in entries(text)}
    dirty = [
        rating("042", "010", "SD"),  # twice: the last counts
        rating("042", "000", "Pre-Op"),
        rating("042", "010", "PD"),
        rating("020", "000", "Post-Op", "CRET"),  # the other way round
        rating("020", "000-1", "Pre-Op"),
        rating("020", "012", "PD"),
        rating("060", "000", "Pre-Op"),
        rating("060", "001", "Post-Op/PD"),
        rating("060", "020", "None"),
        rating("060", "030", ""),
        rating("060", "069", "Pre-Op"),
    ]
    return [*dirty, *reversed(rows.values())]


def test_the_pairs_of_the_published_questions_come_out(tmp_path: Path) -> None:
    source = read(tmp_path, real_rows())
    complete = {entry: "complete" for entry in entries(COMPLETE)}
    partial = {entry: "partial" for entry in entries(PARTIAL)}
    assert pairs(source, "resection") == complete | partial
    course = pairs(source, "tumor")
    for text, state in ((STABLE, "stable"), (PROGRESSIVE, "worse")):
        for patient, week in entries(text):
            assert [found for (who, _, at), found in course.items() if (who, at) == (patient, week)] == [state]
    before = {(who, at): first for who, first, at in course}
    assert before["003", "014"] == "000-2" and before["086", "173-1"] == "001" and before["023", "111"] == "099"
    assert [who for who, *_ in course if who in ("020", "060")] == []


def test_dirty_ratings_are_quarantined_or_counted(tmp_path: Path) -> None:
    source = read(tmp_path, real_rows())
    assert [(row.file, row.row, row.key, row.reason.split(" is ")[0]) for row in source.bad] == [
        (RATINGS, 9, "Rating", "'Post-Op/PD'")
    ]
    skipped = source.facts["skipped"]
    assert skipped["ratings that a later row of the same week replaces"] == 1
    assert skipped["weeks without a rating"] == 2
    assert skipped["weeks after surgery without CRET or PRET"] == 1  # of patient 003
    rated = {(study.patient[8:], study.exam): study.rating for study in studies(source)}
    assert rated["042", "week-010"] == "progressive disease"
    assert rated["060", "week-001"] is rated["060", "week-020"] is rated["060", "week-030"] is None


@pytest.mark.parametrize(
    ("weeks", "resection", "tumor"),
    [
        # week, rating, rationale; then the pairs with their states
        ("000 Pre-Op, 001 Post-Op CRET, 010 PD", {"000 001": "complete"}, {"001 010": "worse"}),
        ("000 Pre-Op, 010 PD", {}, {}),  # surgery between them, without images
        ("001 Post-Op PRET, 010 PR, 020 CR", {}, {"001 010": "improved", "010 020": "improved"}),
        ("000 Post-Op CRET, 001 Post-Op CRET, 009 SD", {}, {"001 009": "stable"}),
        ("000-1 Pre-Op, 000-2 Post-Op PRET, 000 SD", {"000-1 000-2": "partial"}, {}),
        ("000-1 PD, 000-2 Post-Op PRET", {}, {}),  # within a week, the suffix says nothing about the order
        ("009-1 SD, 009-2 PD, 020 PD", {}, {"009-2 020": "worse"}),
        ("000 Pre-Op, 001 Post-Op L, 002 Post-Op CRET CRET", {}, {}),
        ("000 Pre-Op, 001 Post-Op CRET PRET", {}, {}),
        ("000 Pre-Op, 001 Post-Op CRET, 001 Post-Op", {}, {}),  # the last row counts, with what it leaves out
        ("000 Pre-Op, 001 Post-Op CRET, 002 Post-Op", {"000 001": "complete"}, {}),
        ("020 PD, 021 Post-Op T2-Progr.,PRET", {"020 021": "partial"}, {}),
        ("010 None, 020 PD", {}, {"010 020": "worse"}),
    ],
)
def test_a_change_is_since_the_week_before_unless_surgery_is_between(
    tmp_path: Path, weeks: str, resection: dict[str, str], tumor: dict[str, str]
) -> None:
    rows = []
    for text in weeks.split(", "):
        week, value, why = (*text.split(" ", 2), "")[:3]
        rows.append(rating("001", week, value, why))
    source = read(tmp_path, rows)
    for finding, expected in (("resection", resection), ("tumor", tumor)):
        assert {f"{first} {at}": state for (_, first, at), state in pairs(source, finding).items()} == expected


@pytest.mark.parametrize("value", ["Post-Op", "Pre-Op", "Post-Op/PD"])
def test_a_surgery_without_images_stands_between_two_weeks(tmp_path: Path, value: str) -> None:
    rows = [rating("001", "010", "SD"), rating("001", "015", value, "CRET"), rating("001", "020", "PD")]
    pictures(tmp_path, [("001", "010"), ("001", "020")])
    table(tmp_path / RATINGS, rows)
    source = lumiere.load(section(tmp_path))
    assert pairs(source, "tumor") == {}
    assert source.facts["skipped"]["weeks with a row of ratings and without images"] == 1


def test_two_surgeries_of_which_one_has_no_images_are_no_pair(tmp_path: Path) -> None:
    pictures(tmp_path, [("001", "010"), ("001", "020")])
    rows = [rating("001", "015", "Post-Op", "PRET"), rating("001", "020", "Post-Op", "CRET")]
    table(tmp_path / RATINGS, rows)
    assert pairs(lumiere.load(section(tmp_path)), "resection") == {}


def test_a_study_says_all_of_its_week(tmp_path: Path) -> None:
    people = {"Patient": "Patient-001", "Age at surgery (years)": "61", "Sex": "male", "MGMT quantitative": "12%"}
    table(tmp_path / PEOPLE, [people, people | {"Patient": "Patient-002", "Age at surgery (years)": "N/A"}])
    source = read(tmp_path, [rating("001", "000-1", "Pre-Op"), rating("001", "053", "SD"), rating("002", "001", "CR")])
    assert source.bad == []
    by_place = {(study.patient[8:], study.exam, study.sequence): study for study in studies(source)}
    assert {key[2] for key in by_place} == {"CT1", "T1", "T2", "FLAIR"}
    first, late, other = (
        by_place[key] for key in (("001", "week-000-1", "T2"), ("001", "week-053", "FLAIR"), ("002", "week-001", "CT1"))
    )
    assert (first.source, first.modality, first.view, first.slice) == ("lumiere", "MRI", "coronal", 47)
    assert (first.time, late.time, first.rating, late.rating) == (1.0, 371.0, "pre-operative", "stable disease")
    assert late.age == pytest.approx(61 + 371 / 365.25) and other.age is None
    assert source.read(first.image) == b"pixels"


def test_weeks_are_ordered_by_number_and_suffix_no_suffix_first() -> None:
    names = ["week-010", "week-000-2", "week-002", "week-000", "week-000-1", "week-100"]
    weeks = sorted(week for name in names if (week := lumiere_ratings.week(name)))
    assert [str(week) for week in weeks] == [names[i] for i in (3, 4, 1, 2, 0, 5)]
    days = [week.days for week in weeks]
    assert days == sorted(set(days)) and days[3] == 14


def test_images_without_ratings_and_ratings_without_images_are_counted(tmp_path: Path) -> None:
    pictures(tmp_path, [("025", "000"), ("025", "009")])
    (tmp_path / "t1_LUMIERE_images_tumor1200px_256x256/Patient-025/slice_47/week_009.png").unlink()
    table(tmp_path / RATINGS, [rating("025", "000", "Pre-Op"), rating("025", "008", "PD"), rating("025", "020", "PD")])
    source = lumiere.load(section(tmp_path))
    assert source.facts["skipped"] == {
        "weeks with a row of ratings and without images": 2,
        "weeks with images and without a row of ratings": 1,
        "sequences that a week with images lacks": 1,
    }
    assert {(study.exam, study.rating) for study in studies(source)} == {
        ("week-000", "pre-operative"),
        ("week-009", None),
    }


@pytest.mark.parametrize("week", ["Date", "Timepoint", "Time point"])
def test_the_column_of_the_week_has_three_names_and_the_file_any(tmp_path: Path, week: str) -> None:
    rows = [rating("001", "000", "Pre-Op"), rating("001", "001", "Post-Op", "CRET")]
    rows = [{(week if key == "Date" else key): cell for key, cell in row.items()} for row in rows]
    pictures(tmp_path, [("001", "000"), ("001", "001")])
    table(tmp_path / "copies" / "ratings.csv", rows, "utf-8")
    source = lumiere.load(section(tmp_path, ratings="copies/ratings.csv"))
    assert pairs(source, "resection") == {("001", "000", "001"): "complete"}


def test_a_table_without_ratings_is_refused_with_its_columns(tmp_path: Path) -> None:
    rows = [{key: cell for key, cell in rating("001", "000", "PD").items() if key != RATING}]
    with pytest.raises(UserError, match=r"lacks columns: Rating \(according to RANO") as caught:
        read(tmp_path, rows)
    assert "Rating rationale" in caught.value.reason


@pytest.mark.parametrize("images", ["nii", "png"])
def test_no_images_at_all_is_said_with_where_they_are_looked_for(tmp_path: Path, images: str) -> None:
    table(tmp_path / RATINGS, [rating("001", "000", "PD")])
    with pytest.raises(UserError, match="no images") as caught:
        lumiere.load(section(tmp_path, images=images))
    assert ("Imaging/" if images == "nii" else "_LUMIERE_images_") in caught.value.reason


@pytest.mark.parametrize(
    ("cells", "key"),
    [
        ({"Patient": ""}, "Patient"),
        ({"Date": "1"}, "Date"),
        ({"Date": "week-000-9"}, "Date"),
        ({RATING: "PD?"}, "Rating"),
    ],
)
def test_a_bad_cell_quarantines_its_row(tmp_path: Path, cells: dict[str, str], key: str) -> None:
    source = read(tmp_path, [rating("001", "000", "PD"), rating("001", "001", "PD") | cells])
    assert [(row.row, row.key) for row in source.bad] == [(3, key)]


@pytest.mark.parametrize(("age", "key"), [("old", "Age at surgery (years)"), ("-3", "Age at surgery (years)")])
def test_a_bad_age_is_quarantined(tmp_path: Path, age: str, key: str) -> None:
    table(tmp_path / PEOPLE, [{"Patient": "Patient-001", "Age at surgery (years)": age}])
    source = read(tmp_path, [rating("001", "000", "PD")])
    assert [(row.file, row.row, row.key) for row in source.bad] == [(PEOPLE, 2, key)]
    assert {study.age for study in studies(source)} == {None}


def volume(path: Path, tumor: Mapping[int, int], label: int = 1) -> None:
    """A segmentation of 40 x 12 x 40 mm in the orientation of LUMIERE's atlas: coronal slice -> voxels of tumor."""
    import nibabel

    voxels = np.zeros((40, 12, 40), np.uint8)
    for index, count in tumor.items():
        plane = voxels[:, index, :]
        plane.flat[:count] = label
        voxels[:, index, :] = plane
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-1.0, 1, 1, 1])), path)


def week_of(root: Path, patient: str, week: str, tumor: Mapping[int, int], label: int = 1) -> Path:
    """The files of a week as unpacked, with those that are not read."""
    folder = root / f"Imaging/Patient-{patient}/week-{week}"
    atlas = folder / "DeepBraTumIA-segmentation/atlas"
    volume(atlas / "segmentation/seg_mask.nii.gz", tumor, label)
    volume(folder / "DeepBraTumIA-segmentation/native/segmentation/ct1_seg_mask.nii.gz", {1: 1600})
    for sequence in SEQUENCES:
        for path in (atlas / f"skull_strip/{sequence.lower()}_skull_strip.nii.gz", folder / f"{sequence}.nii.gz"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"volume")
    return atlas


def test_slices_are_those_with_much_tumor_in_some_week(tmp_path: Path) -> None:
    week_of(tmp_path, "001", "000", {3: 1201, 4: 1200, 5: 1500})
    week_of(tmp_path, "001", "009", {7: 1400}, label=2)
    week_of(tmp_path, "001", "020", {9: 1600}, label=3)  # edema
    week_of(tmp_path, "002", "000", {9: 900})
    table(tmp_path / RATINGS, [rating("001", "000", "Pre-Op"), rating("001", "009", "Post-Op", "PRET")])
    source = lumiere.load(section(tmp_path, images="nii"))
    assert source.bad == []
    assert {study.slice for study in studies(source)} == {3, 5, 7}
    assert len(studies(source)) == 3 * 3 * len(SEQUENCES)
    start = "Imaging/Patient-001/week-009/DeepBraTumIA-segmentation/atlas/skull_strip"
    assert f"{start}/flair_skull_strip.nii.gz#coronal=7" in {study.image for study in studies(source)}
    assert pairs(source, "resection") == {("001", "000", "009"): "partial"}
    assert source.facts["skipped"]["patients without a slice that shows enough tumor"] == 1
    assert source.read(studies(source)[0].image) == b"volume"


def test_a_bad_segmentation_is_quarantined_and_a_week_without_one_counted(tmp_path: Path) -> None:
    week_of(tmp_path, "001", "000", {3: 1300})
    bad = week_of(tmp_path, "001", "009", {4: 1300}) / "segmentation/seg_mask.nii.gz"
    bad.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    (week_of(tmp_path, "001", "020", {5: 1300}) / "segmentation/seg_mask.nii.gz").unlink()
    week_of(tmp_path, "001", "odd", {6: 1300})
    table(tmp_path / RATINGS, [rating("001", "000", "Pre-Op")])
    source = lumiere.load(section(tmp_path, images="nii"))
    assert [(row.file, row.row) for row in source.bad] == [(bad.relative_to(tmp_path).as_posix(), 0)]
    assert {(study.exam, study.slice) for study in studies(source)} == {("week-000", 3), ("week-009", 3)}
    assert source.facts["skipped"]["weeks without a segmentation or without volumes"] == 1
    assert source.facts["skipped"]["files of a folder that names no week"] == 5


@pytest.mark.parametrize(("count", "chosen"), [(1, [4]), (2, [0, 9]), (3, [0, 5, 9]), (10, list(range(10)))])
def test_slices_are_spread_evenly(tmp_path: Path, count: int, chosen: list[int]) -> None:
    pictures(tmp_path, [("001", "000")], range(10))
    table(tmp_path / RATINGS, [rating("001", "000", "PD")])
    source = lumiere.load(section(tmp_path, slices=count))
    found = sorted({study.slice for study in studies(source) if study.slice is not None})
    assert found == chosen


@given(st.sets(st.integers(0, 500)).map(sorted), st.integers(1, 30))
def test_a_choice_of_slices_is_as_large_as_it_may_be_and_wide(indexes: list[int], count: int) -> None:
    chosen = lumiere_scans.evenly(indexes, count)
    assert len(chosen) == min(count, len(indexes)) == len(set(chosen)) and set(chosen) <= set(indexes)
    if len(chosen) > 1:
        assert (chosen[0], chosen[-1]) == (indexes[0], indexes[-1])
        places = [indexes.index(index) for index in chosen]
        steps = {b - a for a, b in zip(places, places[1:], strict=False)}
        assert max(steps) - min(steps) <= 1


def test_the_parents_change_with_tables_volumes_and_segmentations(tmp_path: Path) -> None:
    atlas = week_of(tmp_path, "001", "000", {3: 1300})
    table(tmp_path / RATINGS, [rating("001", "000", "PD")])
    entry = section(tmp_path, images="nii")
    before = lumiere.inputs(entry)
    assert list(before) == [RATINGS, "images"]
    (tmp_path / "Imaging/Patient-001/week-000/CT1.nii.gz").write_bytes(b"not read")
    assert lumiere.inputs(entry) == before
    volume(atlas / "segmentation/seg_mask.nii.gz", {4: 1300, 5: 1400})
    changed = lumiere.inputs(entry)
    assert changed["images"] != before["images"]
    (atlas / "skull_strip/t1_skull_strip.nii.gz").write_bytes(b"another volume")
    assert lumiere.inputs(entry)["images"] != changed["images"]
    table(tmp_path / PEOPLE, [{"Patient": "Patient-001", "Age at surgery (years)": "50"}])
    assert list(lumiere.inputs(entry)) == [RATINGS, PEOPLE, "images"]


@shared_data.needs("med-mim")
def test_the_published_files_of_pictures_give_the_published_pairs(tmp_path: Path) -> None:
    """Trees of the names that Med-MIM's questions have, with ratings typed above."""
    named: dict[str, set[tuple[str, str]]] = {"typeB": set(), "typeC": set()}
    for file in sorted((shared_data.FOLDER / "med-mim").glob("*.json")):
        for row in json.loads(file.read_text("utf-8")):
            kind = next((kind for kind in named if f"LUMIERE_multichoice_{kind}" in row["source"]), None)
            if kind:
                named[kind].add(tuple(row["images"]))
    for path in {path for pairs in named.values() for pair in pairs for path in pair}:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"pixels")
    table(tmp_path / RATINGS, real_rows())
    source = lumiere.load(section(tmp_path, slices=1000))
    assert source.bad and len(studies(source)) > 1000
    found = {
        finding: {
            (change.since, study.image)
            for study in studies(source)
            for change in study.changes
            if change.finding == finding
        }
        for finding in ("resection", "tumor")
    }
    assert named["typeB"] <= found["resection"] and len(named["typeB"]) == 924  # not of all slices
    assert named["typeC"] <= found["tumor"] and len(named["typeC"]) == 631

    def weeks(pairs: set[tuple[str, str]]) -> set[tuple[str, ...]]:
        return {(before.split("/")[1], *(path.rpartition("/")[2] for path in (before, at))) for before, at in pairs}

    assert weeks(named["typeB"]) == weeks(found["resection"])


def test_a_folder_in_s3_reads_the_same(tmp_path: Path, bucket: str) -> None:
    week_of(tmp_path, "001", "000", {3: 1300})
    week_of(tmp_path, "001", "001", {4: 1300})
    table(tmp_path / RATINGS, [rating("001", "000", "Pre-Op"), rating("001", "001", "Post-Op", "CRET")])
    place = open_store(f"{bucket}/raw")
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        place.upload(path.relative_to(tmp_path).as_posix(), path)
    here = lumiere.load(section(tmp_path, images="nii"))
    entry = Entry(Lumiere(name="lumiere", root=f"{bucket}/raw", images="nii"), "data.sources.0")
    there = lumiere.load(entry)
    assert studies(there) == studies(here) and (there.facts, there.bad) == (here.facts, [])
    assert there.read(studies(there)[0].image) == b"volume"
    assert list(lumiere.inputs(entry)) == [RATINGS, "images"]


def test_another_patient_changes_no_study(tmp_path: Path) -> None:
    rows = [rating("005", "000", "Pre-Op"), rating("005", "001", "Post-Op", "CRET"), rating("005", "009", "SD")]
    before = studies(read(tmp_path, rows))
    after = studies(read(tmp_path, [rating("001", "000", "PD"), rating("009", "004", "CR"), *rows[::-1]]))
    assert [study for study in after if study.patient == "Patient-005"] == before


def test_use_for_money_is_not_allowed_nor_passing_images_on() -> None:
    assert set(lumiere.TERMS.refused) == {"redistribute_data", "commercial_use", "outside_api"}


CELL = st.text(max_size=12) | st.sampled_from(
    ["", "PD", "Post-Op", "CRET", "week-001", "week-1-2", "Patient-001", "na"]
)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_cell_crashes_the_reader(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever is in the cells: records, quarantine, or an error for people."""
    root = tmp_path_factory.mktemp("lumiere")
    pictures(root, [("001", "000"), ("001", "001"), ("001", "009")])
    rows = [rating("001", "000", "Pre-Op"), rating("001", "001", "Post-Op", "CRET"), rating("001", "009", "PD")]
    people = [{"Patient": "Patient-001", "Age at surgery (years)": "50", "Sex": "male"}]
    for some in (rows, people):
        row = data.draw(st.sampled_from(some))
        for column in data.draw(st.lists(st.sampled_from(sorted(row)), min_size=1, max_size=3)):
            row[column] = data.draw(CELL)
    table(root / RATINGS, rows)
    table(root / PEOPLE, people)
    try:
        source = lumiere.load(section(root))
    except UserError:
        return
    assert all(row.reason and row.row for row in source.bad)
    assert {study.rating for study in studies(source)} <= {None, *lumiere.RATINGS.values()}
