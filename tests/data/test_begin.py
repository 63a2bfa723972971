"""From a folder of images to a table, terms and a recipe that builds."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from medmim.data import build
from medmim.data.begin import begin
from medmim.errors import UserError
from medmim.recipe import loading
from medmim.run.workspace import workspace
from tests.data.sources.test_studies import dicom, picture


def folder(tmp_path: Path) -> Path:
    raw = tmp_path / "raw"
    for patient in range(24):
        for eye in ("left", "right"):
            picture(raw / f"p{patient}" / f"{patient}_{eye}.png")
    dicom(raw / "scan.dcm", Rows=8, Modality="MG", PatientID="17", StudyDate="20240201", ViewPosition="CC")
    (raw / "notes.txt").write_text("no image")
    return raw


def test_the_table_holds_what_tags_and_names_say(tmp_path: Path) -> None:
    raw = folder(tmp_path)
    found = begin(raw, tmp_path / "eyes.yaml", "eyes")
    assert (found.images, found.patients, found.guessed, found.passed_over) == (49, 25, 48, {".txt": 1})
    lines = (raw / "studies.csv").read_text().splitlines()
    assert "p3,p3/3_left.png,,,,,left,,,,,,,," in lines
    assert "17,scan.dcm,2024-02-01,,mammography,CC,,,,,,,,," in lines
    assert found.further["change"] == ("finding", "size") and found.further["birads"] == ("rating",)


def test_the_recipe_builds_once_the_table_is_completed(tmp_path: Path) -> None:
    raw = folder(tmp_path)
    (raw / "scan.dcm").unlink()
    begin(raw, tmp_path / "eyes.yaml", "eyes")
    header, *rows = (raw / "studies.csv").read_text().splitlines()
    at = header.split(",").index("finding")
    done = [row.split(",") for row in rows]
    for number, cells in enumerate(done):
        cells[at] = ("cataract", "normal")[number % 2]
        cells[header.split(",").index("modality")] = "fundus"
    (raw / "studies.csv").write_text("\n".join([header, *map(",".join, done)]) + "\n")
    recipe = loading.load(str(tmp_path / "eyes.yaml"), ["data.rows_only=true"])
    outcome = build.run(recipe, workspace(tmp_path / "home"))
    assert outcome.facts["rows"] > 0 and outcome.facts["patients"] == 24


def test_of_a_volume_the_middle_slice_is_listed_and_its_modality_is_left_open(tmp_path: Path) -> None:
    (tmp_path / "raw" / "p1").mkdir(parents=True)
    voxels = np.arange(4 * 5 * 7, dtype=np.int16).reshape(4, 5, 7)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "raw" / "p1" / "flair.nii.gz")
    (tmp_path / "raw" / "p1" / "broken.nii").write_bytes(b"no volume")
    found = begin(tmp_path / "raw", tmp_path / "brain.yaml", "brain")
    assert (found.images, found.passed_over) == (1, {"NIfTI that cannot be read": 1})
    assert (
        "p1,p1/flair.nii.gz#axial=3,,,,axial,,,,,,,,FLAIR,"
        in (tmp_path / "raw" / "studies.csv").read_text().splitlines()
    )


def test_nothing_is_overwritten_and_an_empty_folder_is_told(tmp_path: Path) -> None:
    raw = folder(tmp_path)
    (raw / "terms.json").write_text("mine")
    with pytest.raises(UserError, match="there already"):
        begin(raw, tmp_path / "eyes.yaml", "eyes")
    assert not (raw / "studies.csv").exists() and not (tmp_path / "eyes.yaml").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="there are no images"):
        begin(tmp_path / "empty", tmp_path / "eyes.yaml", "eyes")


def test_what_the_tags_say_is_asked_while_findings_are_still_blank(tmp_path: Path) -> None:
    for patient in range(30):
        for month in (1, 2, 3):
            name = f"1.2.840.{patient}.{month}"  # as a PACS names files: no ending
            tags = {"Modality": "DX", "ViewPosition": "PA", "PatientID": f"P{patient}", "StudyDate": f"20240{month}01"}
            dicom(tmp_path / "raw" / name, Rows=8, **tags)
    dicom(tmp_path / "raw" / "report.dcm", Modality="SR", PatientID="P1")
    dicom(tmp_path / "raw" / "cine.png", Modality="US", PatientID="P1", Rows=8, NumberOfFrames=9)
    found = begin(tmp_path / "raw", tmp_path / "chest.yaml", "chest")
    assert (found.images, found.patients, found.guessed) == (91, 30, 0)
    assert found.passed_over == {"DICOM without an image": 1}
    assert found.families["temporal: order"] > 0 and "order" not in found.further
    assert found.further["change"] == ("finding", "size")
    assert "P1,cine.png#frame=4,,,ultrasound," in (tmp_path / "raw" / "studies.csv").read_text()


def test_a_folder_of_pictures_names_no_patient(tmp_path: Path) -> None:
    for name in ("anna_1.png", "anna_2.png", "bert_1.png"):
        picture(tmp_path / "raw" / "images" / name)
    assert begin(tmp_path / "raw", tmp_path / "x.yaml", "x").patients == 2
