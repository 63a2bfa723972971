"""EMBED's look-alike against what is known of the real tables and files; names and values typed from there."""

import csv
import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from medmim.data.lookalike import embed
from medmim.data.lookalike.tables import Written

CLINICAL = """GENDER_DESC ETHNICITY_DESC ETHNIC_GROUP_DESC MARITAL_STATUS_DESC ENCOUNTER_QTY empi_anon cohort_num
loc_num tech_init init proccode desc vtype tissueden case age_at_study acc_anon study_date_anon sdate_anon first_3_zip
total_L_find total_R_find massshape massmargin massdens calcfind calcdistri calcnumber otherfind implanfind consistent
side size location depth distance numfind asses recc stable new changed type technique biopsite biop_loc bcomp path_loc
diag_out surgery lymphsurg surg_loc pocomp ltcomp bside path1 path10 concord hgrade tnmpt tnmpn tnmm tnmdesc tnmr stage
loc bdepth bdistance focality nfocal specsize specsize2 specsize3 dcissize invsize superior inferior anterior posterior
medial lateral specinteg specnum specembed est estp her2 fish ki67 extracap methodevl snode_rem node_rem node_pos
macrometa micrometa isocell largedp eic procdate_anon pdate_anon path_group path_severity"""
CLINICAL_REDUCED = """empi_anon acc_anon cohort_num study_date_anon desc numfind side bside asses tissueden
path_severity procdate_anon age_at_study RACE_DESC ETHNIC_GROUP_DESC MARITAL_STATUS_DESC GENDER_DESC first_3_zip"""
METADATA_REDUCED = """Manufacturer ManufacturerModelName PatientSex ProtocolName SeriesDescription SeriesNumber
SeriesTime StudyDescription StudyID ViewPosition WindowCenter WindowWidth has_pix_array category VOILUTFunction
WindowCenterWidthExplanation empi_anon acc_anon study_date_anon cohort_num anon_dicom_path ImageLateralityFinal
FinalImageType spot_mag ROI_coords SRC_DST match_level num_roi"""

Rows = list[dict[str, str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Written]:
    folder = tmp_path_factory.mktemp("embed") / "embed"
    return folder, embed.write_source(folder, 16, 0, lambda: None)


def table(folder: Path, name: str) -> tuple[list[str], Rows]:
    with open(folder / "tables" / f"EMBED_OpenData_{name}.csv", encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        return list(reader.fieldnames or ()), list(reader)


def path_of(folder: Path, row: dict[str, str]) -> Path:
    tail = re.sub(r"^.*?(?=cohort_[12]/)", "", row["anon_dicom_path"])
    return folder / "images" / tail


def seen(path: Path) -> NDArray[np.float64]:
    """The picture as a viewer shows it, 0 black to 1 white."""
    image = pydicom.dcmread(path)
    values = image.pixel_array / 4095
    return np.asarray(1 - values if image.PhotometricInterpretation == "MONOCHROME1" else values)


def test_the_tables_have_the_columns_of_the_real_ones(made: tuple[Path, Written]) -> None:
    folder, _ = made
    columns, _ = table(folder, "clinical")
    assert set(CLINICAL.split()) <= set(columns) and len(columns) == len(set(columns)) >= 116
    assert "RACE_DESC" not in columns
    columns, _ = table(folder, "clinical_reduced")
    assert set(CLINICAL_REDUCED.split()) == set(columns)
    columns, _ = table(folder, "metadata_reduced")
    assert (columns[0], set(columns[1:])) == ("", set(METADATA_REDUCED.split()))
    columns, _ = table(folder, "metadata")
    tag = "0_ViewCodeSequence_0_ViewModifierCodeSequence_CodeMeaning"
    assert {*METADATA_REDUCED.split(), "png_path", "png_filename", tag} <= set(columns) and len(columns) >= 150
    legend = (folder / "tables" / "AWS_Open_Data_Clinical_Legend.csv").read_text().splitlines()
    assert legend[0] == "Header in export,Discription,Code,Meaning" and "asses,BI-RADS assessment,X   ,No" in legend[8]


def test_values_are_written_as_in_the_real_tables(made: tuple[Path, Written]) -> None:
    folder, _ = made
    _, clinical = table(folder, "clinical")
    _, metadata = table(folder, "metadata")
    assert {row["side"] for row in clinical} == {"", "L", "R", "B"}
    assert {"A", "N", "B", "K", "X", ""} <= {row["asses"] for row in clinical} <= set("ANBPSMKX") | {""}
    assert all(re.fullmatch(r"\d{16}", row["acc_anon"]) for row in clinical)
    lost = [row for row in clinical if int(float(row["acc_anon"])) != int(row["acc_anon"])]
    assert 0 < len(lost) < len(clinical)
    assert all(re.fullmatch(r"\d{8}", row["empi_anon"]) for row in clinical)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", row["study_date_anon"]) for row in clinical)
    assert {len(row["study_date_anon"]) for row in metadata} == {10, 19}
    assert all(row["pdate_anon"] == f"{row['procdate_anon']} 00:00:00" for row in clinical if row["procdate_anon"])
    heads = {row["anon_dicom_path"].partition("cohort_")[0] for row in metadata}
    assert {"./images/", "images/"} < heads and len(heads) == 3
    assert {row["FinalImageType"] for row in metadata} == {"2D", "cview"}
    assert {row["spot_mag"] for row in metadata} == {"", "1"}
    assert {"CC", "MLO", "ML"} <= {row["ViewPosition"] for row in metadata}
    box = r"\(\d+, \d+, \d+, \d+\)"
    forms = {"0": r"\(\)", "1": rf"\({box},\)", "2": rf"\({box}, {box}\)"}
    assert {row["num_roi"] for row in metadata} == set(forms)
    assert all(re.fullmatch(forms[row["num_roi"]], row["ROI_coords"]) for row in metadata)
    assert {(row["num_roi"], row["match_level"]) for row in metadata} == {("0", "[]"), ("1", "[1]"), ("2", "[1, 1]")}
    assert "African American  or Black" in {row["ETHNICITY_DESC"] for row in clinical}


def test_each_file_is_in_the_table_and_is_a_mammogram_of_12_bits(made: tuple[Path, Written]) -> None:
    folder, written = made
    _, metadata = table(folder, "metadata")
    paths = {path_of(folder, row): row for row in metadata}
    assert set(paths) == {path for path in (folder / "images").rglob("*") if path.is_file()}
    assert len(paths) == written.images
    kinds = set()
    for path, row in paths.items():
        cohort, patient, study, series, image = path.relative_to(folder / "images").parts
        file = pydicom.dcmread(path)
        assert (f"cohort_{row['cohort_num']}", row["empi_anon"]) == (cohort, patient)
        assert (file.StudyInstanceUID, file.SeriesInstanceUID, f"{file.SOPInstanceUID}.dcm") == (study, series, image)
        assert study != row["acc_anon"]
        assert (file.BitsAllocated, file.BitsStored, file.Modality) == (16, 12, "MG")
        assert file.pixel_array.shape == (file.Rows, file.Columns) and 500 < file.pixel_array.max() <= 4095
        assert row["ImageLateralityFinal"] in ("", file.ImageLaterality)
        assert row["ViewPosition"] in ("", file.ViewPosition)
        kinds.add((file.PhotometricInterpretation, "WindowCenter" in file))
    assert kinds == {(kind, window) for kind in ("MONOCHROME1", "MONOCHROME2") for window in (True, False)}


def test_a_right_breast_has_its_chest_wall_at_the_right(made: tuple[Path, Written]) -> None:
    folder, _ = made
    for row in table(folder, "metadata")[1]:
        if row["ViewPosition"] == "CC" and not row["spot_mag"] and row["ImageLateralityFinal"]:
            shown = seen(path_of(folder, row))
            left, right = shown[:, :48].mean(), shown[:, -48:].mean()
            assert (row["ImageLateralityFinal"] == "R") == (right > left), row["anon_dicom_path"]


def test_the_mass_is_in_its_box_and_as_large_as_the_assessment_says(made: tuple[Path, Written]) -> None:
    folder, _ = made
    worst = defaultdict(set)
    for row in table(folder, "clinical")[1]:
        worst[row["acc_anon"]].add((row["side"], row["asses"]))
    areas = defaultdict(list)
    for row in table(folder, "metadata")[1]:
        shown = seen(path_of(folder, row))
        if row["num_roi"] != "0":  # the mass first
            top, left, bottom, right = map(int, re.findall(r"\d+", row["ROI_coords"])[:4])
            around = shown[max(top - 20, 0) : bottom + 20, max(left - 20, 0) : right + 20]
            assert shown[top:bottom, left:right].mean() > around.mean() + 0.03, row["anon_dicom_path"]
            for side, letter in worst[row["acc_anon"]]:
                if side == row["ImageLateralityFinal"]:
                    areas[letter].append((bottom - top) * (right - left))
        elif worst[row["acc_anon"]] == {("", "N")}:
            smooth = shown.reshape(24, 8, 24, 8).mean((1, 3))
            assert smooth[8:20, 4:-4].max() < 0.62, row["anon_dicom_path"]
    assert max(areas["B"]) < min(areas["A"]) and max(areas["S"] + [0]) < min(areas["K"])


def test_a_healthy_breast_of_a_bilateral_exam_may_have_no_row(made: tuple[Path, Written]) -> None:
    folder, _ = made
    sides, images = defaultdict(set), defaultdict(set)
    for row in table(folder, "clinical")[1]:
        sides[row["acc_anon"]].add(row["side"])
    for row in table(folder, "metadata")[1]:
        images[row["acc_anon"]].add(row["ImageLateralityFinal"])
    assert any(sides[exam] in ({"L"}, {"R"}) and {"L", "R"} <= images[exam] for exam in sides)


def test_dirty_rows_are_as_many_as_it_says(made: tuple[Path, Written]) -> None:
    folder, written = made
    _, clinical = table(folder, "clinical")
    _, metadata = table(folder, "metadata")
    screening = [row for row in clinical if "screen" in row["desc"].lower()]
    diagnostic = [row for row in clinical if "diagnostic" in row["desc"].lower()]
    owners = defaultdict(set)
    for row in clinical:
        owners[row["acc_anon"]].add(row["empi_anon"])
    with_images, with_rows = {row["acc_anon"] for row in metadata}, {row["acc_anon"] for row in clinical}
    keys = Counter((row["empi_anon"], row["acc_anon"], row["numfind"]) for row in clinical)
    expected = {
        "asses blank": [row for row in clinical if row["asses"] == ""],
        "asses X": [row for row in clinical if row["asses"] == "X"],
        "screening with P, S, M or K": [row for row in screening if row["asses"] and row["asses"] in "PSMK"],
        "diagnostic with A": [row for row in diagnostic if row["asses"] == "A"],
        "screening N or B with pathology": [r for r in screening if r["asses"] in ("N", "B") and r["path_severity"]],
        "desc blank": [row for row in clinical if not row["desc"]],
        "accession of two patients": [row for row in clinical if len(owners[row["acc_anon"]]) == 2],
        "finding without images": [row for row in clinical if row["acc_anon"] not in with_images],
        "image without a finding": [row for row in metadata if row["acc_anon"] not in with_rows],
        "ImageLateralityFinal blank": [row for row in metadata if not row["ImageLateralityFinal"]],
        "ViewPosition blank": [row for row in metadata if not row["ViewPosition"]],
        "finding repeated for a procedure": [key for key in keys.elements() if keys[key] > 1][::2],
    }
    assert {name: written.dirty[name] for name in expected} == {name: len(rows) for name, rows in expected.items()}
    assert all(expected.values()), "each kind occurs"
    assert written.rows == len(clinical)
