"""LUMIERE's look-alike against what is known of the real files; names and values typed from there."""

import csv
import json
from collections import defaultdict
from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from medmim.data.lookalike import lumiere
from medmim.data.lookalike.tables import Written

RATING = (
    "Rating (according to RANO, PD: Progressive disease, SD: Stable disease, PR: Partial response, CR: Complete "
    "response, Pre-Op: Pre-Operative, Post-Op: Post-Operative)"
)
RATIONALE = (
    "Rating rationale (CRET: complete resection of the enhancing tumor, PRET: partial resection of the enhancing "
    "tumor, T2-Progr.: T2-Progression, L: Lesion)"
)
WEEK = """CT1.nii.gz T1.nii.gz T2.nii.gz FLAIR.nii.gz
DeepBraTumIA-segmentation/native/segmentation/ct1_seg_mask.nii.gz
DeepBraTumIA-segmentation/native/segmentation/t1_seg_mask.nii.gz
DeepBraTumIA-segmentation/native/segmentation/t2_seg_mask.nii.gz
DeepBraTumIA-segmentation/native/segmentation/flair_seg_mask.nii.gz
DeepBraTumIA-segmentation/atlas/skull_strip/ct1_skull_strip.nii.gz
DeepBraTumIA-segmentation/atlas/skull_strip/t1_skull_strip.nii.gz
DeepBraTumIA-segmentation/atlas/skull_strip/t2_skull_strip.nii.gz
DeepBraTumIA-segmentation/atlas/skull_strip/flair_skull_strip.nii.gz
DeepBraTumIA-segmentation/atlas/segmentation/seg_mask.nii.gz
DeepBraTumIA-segmentation/atlas/segmentation/measured_volumes_in_mm3.json
HD-GLIO-AUTO-segmentation/native/segmentation_CT1_origspace.nii.gz
HD-GLIO-AUTO-segmentation/native/segmentation_T1_origspace.nii.gz
HD-GLIO-AUTO-segmentation/native/segmentation_T2_origspace.nii.gz
HD-GLIO-AUTO-segmentation/native/segmentation_FLAIR_origspace.nii.gz
HD-GLIO-AUTO-segmentation/registered/segmentation.nii.gz
HD-GLIO-AUTO-segmentation/registered/CT1_r2s_bet_reg.nii.gz
HD-GLIO-AUTO-segmentation/registered/T1_r2s_bet_reg.nii.gz
HD-GLIO-AUTO-segmentation/registered/T2_r2s_bet_reg.nii.gz
HD-GLIO-AUTO-segmentation/registered/FLAIR_r2s_bet_reg.nii.gz"""
DEEP = "DeepBraTumIA-segmentation"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Written]:
    folder = tmp_path_factory.mktemp("lumiere") / "lumiere"
    return folder, lumiere.write_source(folder, 9, 0, lambda: None)


def table(folder: Path, name: str) -> list[dict[str, str]]:
    with open(folder / f"LUMIERE-{name}.csv", encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def voxels(path: Path) -> NDArray[np.generic]:
    return np.asarray(nibabel.load(path).dataobj)


def weeks(folder: Path) -> list[Path]:
    return sorted((folder / "Imaging").glob("Patient-*/week-*"))


def enhancing(week: Path) -> float:
    volumes = json.loads((week / DEEP / "atlas/segmentation/measured_volumes_in_mm3.json").read_text())
    return float(volumes["Enhancing_Core"])


def test_a_week_has_the_files_of_a_real_one(made: tuple[Path, Written]) -> None:
    folder, written = made
    counts = defaultdict(list)
    for week in weeks(folder):
        found = {path.relative_to(week).as_posix() for path in week.rglob("*") if path.is_file()}
        counts[len(set(WEEK.split()) - found)].append(week)
        assert found <= set(WEEK.split())
    assert len(counts.pop(5)) == 1, "one week lacks a sequence, with all that is made of it"
    assert set(counts) == {0}
    assert written.images == len(list(folder.rglob("*.nii.gz")))


def test_the_tables_have_the_columns_of_the_real_ones(made: tuple[Path, Written]) -> None:
    folder, _ = made
    names = {path.name for path in folder.iterdir()}
    assert "LUMIERE-ExpertRating-v202211.csv" in names
    header = ["Patient", "Date", "LessThan3Months", "NonMeasurableLesions", RATING, RATIONALE]
    assert list(table(folder, "ExpertRating-v202211")[0]) == header
    assert list(table(folder, "Demographics_Pathology")[0]) == [
        "Patient", "Age at surgery (years)", "Sex", "Survival time (weeks)", "IDH (WT: wild type)", "IDH method",
        "MGMT qualitative", "MGMT quantitative",
    ]  # fmt: skip
    assert list(table(folder, "datacompleteness")[0]) == [
        "Patient", "Timepoint", "CT1", "T1", "T2", "FLAIR", "DeepBraTumIA", "HD-GLIO-AUTO", "DeepBraTumIA-CoLlAGe",
        "HD-GLIO-AUTO-CoLlAGe",
    ]  # fmt: skip
    assert list(table(folder, "MRinfo")[0]) == [
        "Patient", "Timepoint", "Sequence", "Manufacturer", "Model", "Field strength", "Spacing", "Slice thickness",
        "Voxel size", "Slice count",
    ]  # fmt: skip
    for name in ("deepbratumia", "hdglioauto"):
        found = list(table(folder, f"pyradiomics-{name}-features")[0])
        assert found[:6] == ["Patient", "Time point", "Image", "Mask", "Label name", "Sequence"]
    raw = (folder / "LUMIERE-ExpertRating-v202211.csv").read_bytes()
    assert raw.startswith(b"\xef\xbb\xbf") and b'"Rating (according to RANO, PD' in raw


def test_atlas_volumes_lie_on_the_mni_grid_and_show_what_the_mask_says(made: tuple[Path, Written]) -> None:
    folder, _ = made
    for week in weeks(folder)[::6]:
        atlas = week / DEEP / "atlas"
        mask = nibabel.load(atlas / "segmentation/seg_mask.nii.gz")
        labels = np.asarray(mask.dataobj)
        assert mask.shape == (182, 218, 182) and nibabel.aff2axcodes(mask.affine) == ("L", "A", "S")
        assert set(np.unique(labels)) <= {0, 1, 2, 3}
        volumes = json.loads((atlas / "segmentation/measured_volumes_in_mm3.json").read_text())
        names = ("Enhancing_Core", "Necrotic_NonEnhancing", "Edema_Compartment")
        assert volumes == {name: float((labels == label).sum()) for label, name in enumerate(names, 1)}
        contrast = nibabel.load(atlas / "skull_strip/ct1_skull_strip.nii.gz")
        shown = np.asarray(contrast.dataobj).astype(float)
        assert contrast.shape == mask.shape and np.array_equal(contrast.affine, mask.affine)
        assert shown.max() > 100 and 0.1 < (shown > 0).mean() < 0.5 and (shown[labels > 0] > 0).all()
        if volumes["Enhancing_Core"]:
            assert shown[labels == 1].mean() > 1.3 * shown[(shown > 0) & (labels == 0)].mean()
        native, other = (
            voxels(week / DEEP / "native/segmentation/ct1_seg_mask.nii.gz"),
            voxels(week / "HD-GLIO-AUTO-segmentation/native/segmentation_CT1_origspace.nii.gz"),
        )
        assert np.array_equal(native == 1, other == 2) and np.array_equal(native > 1, other == 1)


def test_a_patient_with_several_weeks_has_slices_with_enough_tumor(made: tuple[Path, Written]) -> None:
    folder, _ = made
    for patient in sorted((folder / "Imaging").iterdir()):
        found = sorted(patient.iterdir())
        if len(found) > 1:
            first = max(found, key=enhancing)
            labels = voxels(first / DEEP / "atlas/segmentation/seg_mask.nii.gz")
            assert (np.isin(labels, (1, 2)).sum((0, 2)) > 1200).sum() > 5, patient.name


def test_the_tumor_changes_as_the_rating_says(made: tuple[Path, Written]) -> None:
    folder, _ = made
    told = {(row["Patient"], row["Date"]): row for row in table(folder, "ExpertRating-v202211")}  # the last one wins
    checked = set()
    for patient in sorted((folder / "Imaging").iterdir()):
        before = None
        found = [(week, told.get((patient.name, week.name))) for week in sorted(patient.iterdir())]
        found.sort(key=lambda one: (one[0].name[:8], not one[1] or one[1][RATING] != "Pre-Op"))  # within a week
        for week, row in found:
            rating = row[RATING].strip() if row else ""
            size = enhancing(week)
            if row and row[RATIONALE] in ("CRET", "PRET"):
                assert rating == "Post-Op" and (size == 0) == (row[RATIONALE] == "CRET")
                checked.add(row[RATIONALE])
            if before is not None and rating in ("PD", "SD", "PR", "CR"):
                right = {"PD": size > before, "SD": size == before, "PR": 0 < size < before, "CR": size == 0}
                assert right[rating], (patient.name, week.name, rating, before, size)
                checked.add(rating)
            before = size
    assert {"CRET", "PRET", "PD", "SD"} <= checked


def test_the_dirty_values_of_the_real_tables_occur_as_often_as_it_says(made: tuple[Path, Written]) -> None:
    folder, written = made
    rows = table(folder, "ExpertRating-v202211")
    ratings = [row[RATING] for row in rows]
    keys = [(row["Patient"], row["Date"]) for row in rows]
    imaged = {(week.parent.name, week.name) for week in weeks(folder)}
    expected = {
        "blank behind a rating": ratings.count("Post-Op "),
        "rated Post-Op/PD": ratings.count("Post-Op/PD"),
        "rated None": ratings.count("None"),
        "rating blank": ratings.count(""),
        "week rated twice": len(keys) - len(set(keys)),
        "rating without images": len(set(keys) - imaged),
        "images without a rating": len(imaged - set(keys)),
    }
    assert {name: written.dirty[name] for name in expected} == expected
    assert set(expected.values()) == {1}
    twice = next(key for key in keys if keys.count(key) == 2)
    assert [rating for key, rating in zip(keys, ratings, strict=True) if key == twice] == ["SD", "PD"]
    order = [(row["Date"], row[RATING]) for row in rows if row["Patient"] == "Patient-007"]
    assert order[:2] == [("week-000", "Post-Op"), ("week-000-1", "Pre-Op")]
    assert (len(rows), written.patients) == (written.rows, 9)
