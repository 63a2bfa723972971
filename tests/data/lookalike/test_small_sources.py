"""The look-alikes of MS-CXR-T, LLaVA-Med, ODIR, VQA-RAD and MedFrameQA; names and values typed from the real files."""

import csv
import gzip
import io
import json
import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import openpyxl
import pytest
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pyarrow import parquet

from medmim.data.lookalike import llava_med, medframeqa, ms_cxr_t, odir, vqa_rad
from medmim.data.lookalike.tables import Written

Made = tuple[Path, Written]
FINDINGS = ("consolidation", "edema", "pleural_effusion", "pneumonia", "pneumothorax")


@pytest.fixture(scope="module")
def cxr(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("cxr") / "ms-cxr-t"
    return folder, ms_cxr_t.write_source(folder, 24, 0, lambda: None)


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("figures") / "llava-med"
    return folder, llava_med.write_source(folder, 13, 0, lambda: None)


@pytest.fixture(scope="module")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("eyes") / "odir"
    return folder, odir.write_source(folder, 13, 0, lambda: None)


@pytest.fixture(scope="module")
def radiology(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("rad") / "vqa-rad"
    return folder, vqa_rad.write_source(folder, 9, 0, lambda: None)


def rows(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode("utf-8"))))


def packed(folder: Path, name: str) -> list[dict[str, str]]:
    return rows(gzip.decompress((folder / f"mimic-cxr-2.0.0-{name}.csv.gz").read_bytes()))


def pairs(folder: Path) -> list[dict[str, str]]:
    return rows((folder / "MS_CXR_T_temporal_image_classification_v1.0.0.csv").read_bytes())


def shown(path: Path) -> NDArray[np.float64]:
    return np.asarray(Image.open(path)).astype(float) / 255


def test_mimic_files_and_tables_fit_each_other(cxr: Made) -> None:
    folder, written = cxr
    metadata, split, chexpert = (packed(folder, name) for name in ("metadata", "split", "chexpert"))
    assert ",".join(metadata[0]) == (
        "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime,"
        "ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,PatientOrientationCodeSequence_CodeMeaning"
    )
    assert ",".join(split[0]) == "dicom_id,study_id,subject_id,split"
    assert ",".join(chexpert[0]) == (
        "subject_id,study_id,Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,"
        "Lung Lesion,Lung Opacity,No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,Support Devices"
    )
    assert list(packed(folder, "negbio")[0]) == list(chexpert[0])
    named = {
        f"files/p{row['subject_id'][:2]}/p{row['subject_id']}/s{row['study_id']}/{row['dicom_id']}.jpg": row
        for row in metadata
    }
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg")}
    assert len(found) == written.images and found < set(named)
    assert len(set(named) - found) == written.dirty["picture missing"] == 1
    for name in found:
        row = named[name]
        assert Image.open(folder / name).size == (int(row["Columns"]), int(row["Rows"]))
    assert all(re.fullmatch(r"([0-9a-f]{8}-){4}[0-9a-f]{8}", row["dicom_id"]) for row in metadata)
    assert all(re.fullmatch(r"1\d{7}", row["subject_id"]) and re.fullmatch(r"5\d{7}", row["study_id"]) for row in split)
    assert {row["ViewPosition"] for row in metadata} == {"AP", "PA", "LATERAL", ""}
    assert all(re.fullmatch(r"2\d{7}", row["StudyDate"]) for row in metadata)
    assert {len(row["StudyTime"].partition(".")[0]) for row in metadata} == {5, 6}, "no leading zeros"
    assert {row["split"] for row in split} <= {"train", "validate", "test"}
    assert {row[name] for row in chexpert for name in list(row)[2:]} == {"1.0", "0.0", "-1.0", ""}


def test_pairs_name_their_films_by_path_and_ascend_by_patient(cxr: Made) -> None:
    folder, written = cxr
    found = pairs(folder)
    assert set(found[0]) == {
        "subject_id", "study_id", "previous_study_id", "dicom_id", "previous_dicom_id",
        *(f"{finding}_{what}" for finding in FINDINGS for what in ("progression", "label_quality")),
    }  # fmt: skip
    assert len(found) == written.rows
    assert [row["subject_id"] for row in found] == sorted(row["subject_id"] for row in found)
    for row in found:
        patient = row["subject_id"]
        for path, study in (("dicom_id", "study_id"), ("previous_dicom_id", "previous_study_id")):
            head = f"p{patient[:2]}/p{patient}/s{row[study]}/"
            assert re.fullmatch(re.escape(head) + "([0-9a-f]{8}-){4}[0-9a-f]{8}", row[path])
    words = Counter(row[f"{finding}_progression"] for row in found for finding in FINDINGS)
    assert set(words) - {""} >= {"improving", "stable", "worsening"}
    assert {word.lower() for word in words} == {"improving", "stable", "worsening", ""}
    quality = {row[f"{finding}_label_quality"] for row in found for finding in FINDINGS}
    assert quality <= {"one_expert", "multiple_experts", "disagreement", ""}
    blank = [row for row in found if not any(row[f"{finding}_progression"] for finding in FINDINGS)]
    assert written.dirty["no finding labelled"] == len(blank) > 0


def test_a_film_is_whiter_where_the_label_says_worsening(cxr: Made) -> None:
    """Lungs against the mediastinum, of a patient with one finding; a pneumothorax is black, edema hides both."""
    folder, _ = cxr
    checked = set()
    for row in pairs(folder):
        labels = {name: row[f"{name}_progression"].lower() for name in FINDINGS if row[f"{name}_progression"]}
        films = [folder / "files" / f"{row[key]}.jpg" for key in ("previous_dicom_id", "dicom_id")]
        if len(labels) != 1 or "edema" in labels or not all(map(Path.exists, films)):
            continue
        ((finding, word),) = labels.items()
        before, after = (film[60:240, 50:240].mean() / film[100:200, 138:150].mean() for film in map(shown, films))
        change = (before - after if finding == "pneumothorax" else after - before) / before
        assert {"worsening": change > 0, "improving": change < 0, "stable": abs(change) < 0.05}[word], row
        checked.add(word)
    assert checked == {"worsening", "improving", "stable"}


def test_figures_have_the_files_of_the_real_set(figures: Made) -> None:
    folder, written = figures
    urls = [json.loads(line) for line in (folder / "llava_med_image_urls.jsonl").read_text().splitlines()]
    assert all(set(url) == {"pair_id", "pmc_tar_url", "image_file_path"} for url in urls)
    assert max(Counter(url["pmc_tar_url"] for url in urls).values()) > 1
    names = [url["pair_id"] for url in urls]
    assert len(set(names)) == len(names) == written.rows and all(re.fullmatch(r"\d{8}_F\d", name) for name in names)
    keys = set()
    for name in ("instruct_10k", "instruct_60k", "instruct_60k_inline_mention", "alignment_500k"):
        for row in json.loads((folder / f"llava_med_{name}.json").read_text()):
            assert (row["id"] in names, row["image"]) == (True, f"{row['id']}.jpg")
            (key,) = set(row) & {"conversations", "conversatons"}
            keys.add(key)
            talk = row[key]
            assert [turn["from"] for turn in talk] == ["human", "gpt"] * (len(talk) // 2)
            assert talk[0]["value"].startswith("<image>") or talk[0]["value"].endswith("<image>")
            if "domain" in row:
                assert set(row["domain"]) == {"chest_xray", "mri", "histology", "gross", "ct_scan"}
                assert sum(row["domain"].values()) == 1
            else:
                assert name == "alignment_500k"
    assert keys == {"conversations", "conversatons"}
    captions = json.loads((folder / "llava_med_instruct_fig_captions.json").read_text())
    assert [one["pair_id"] for one in captions] == names
    assert all(set(one) == {"pair_id", "fig_label", "fig_caption", "in_text_mention"} for one in captions)
    assert {type(mention) for one in captions for mention in one["in_text_mention"]} == {str, dict}


def test_a_figures_suffix_may_lie_and_its_file_may_be_missing(figures: Made) -> None:
    folder, written = figures
    formats: Counter[str] = Counter()
    for path in (folder / "images").iterdir():
        assert path.suffix == ".jpg"
        try:
            formats[str(Image.open(path).format)] += 1
        except UnidentifiedImageError:
            assert path.read_bytes().startswith(b"version https://git-lfs")
            formats["LFS pointer"] += 1
    assert formats.total() == written.images == written.rows - written.dirty["picture missing"]
    assert (formats["PNG"], formats["GIF"], formats["LFS pointer"]) == (1, 1, 1)
    dirty = [written.dirty[kind] for kind in ("PNG named .jpg", "GIF named .jpg", "LFS pointer", "picture missing")]
    assert dirty == [1, 1, 1, 1]
    contents = Counter(path.read_bytes() for path in (folder / "images").iterdir())
    assert max(contents.values()) == 2, "one figure stands in two articles"


def test_the_picture_of_a_figure_is_of_the_kind_that_its_caption_names(figures: Made) -> None:
    folder, _ = figures
    kinds = set()
    for one in json.loads((folder / "llava_med_instruct_fig_captions.json").read_text()):
        path = folder / "images" / f"{one['pair_id']}.jpg"
        caption = one["fig_caption"].removeprefix("(A) ")
        kind = re.match(r"Chest X-ray|MRI|CT scan|Histology|Gross", caption)
        assert kind is not None, caption
        if path.is_file() and not path.read_bytes().startswith(b"version"):
            red, _, blue = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3).mean(0)
            assert (abs(red - blue) < 5) == (kind[0] not in ("Histology", "Gross")), caption
            kinds.add(kind[0])
    assert len(kinds) == 5


def test_eyes_are_in_a_spreadsheet_with_full_width_commas(eyes: Made) -> None:
    folder, written = eyes
    book = openpyxl.load_workbook(folder / "ODIR-5K" / "data.xlsx", read_only=True)
    assert book.sheetnames == ["Sheet1"]
    header, *patients = list(book["Sheet1"].iter_rows(values_only=True))
    assert header == (
        "ID", "Patient Age", "Patient Sex", "Left-Fundus", "Right-Fundus", "Left-Diagnostic Keywords",
        "Right-Diagnostic Keywords", "N", "D", "G", "C", "A", "H", "M", "O",
    )  # fmt: skip
    assert len(patients) == written.rows == written.patients
    keywords = [text for row in patients for text in row[5:7]]
    assert any("\uff0c" in text for text in keywords) and not any(", " in text for text in keywords)
    assert {row[1] is None for row in patients} == {row[2] is None for row in patients} == {True, False}
    signs = {"N": "normal fundus", "D": "retinopathy", "C": "cataract", "A": "macular|drusen", "O": "laser"}
    for row in patients:
        assert row[3:5] == (f"{row[0]}_left.jpg", f"{row[0]}_right.jpg")
        labels = {letter for letter, value in zip(header[7:], row[7:], strict=True) if value}
        told = {letter for letter, sign in signs.items() if re.search(sign, f"{row[5]} {row[6]}")}
        assert labels == (told - {"N"} or told), row
    missing = [
        name for row in patients for name in row[3:5] if not (folder / "ODIR-5K/Training Images" / name).is_file()
    ]
    assert len(missing) == written.dirty["picture missing"] == 1
    by_eye = rows((folder / "full_df.csv").read_bytes())
    assert list(by_eye[0]) == [*header, "filepath", "labels", "target", "filename"]
    assert len(by_eye) == 2 * len(patients) and by_eye[0]["labels"] in [f"['{letter}']" for letter in "NDGCAHMO"]
    assert json.loads(by_eye[0]["target"]).count(1) == 1
    assert {path.name for path in (folder / "preprocessed_images").iterdir()} == {
        row["filename"] for row in by_eye if row["filename"] not in missing
    }


def test_an_optic_disc_lies_towards_the_nose(eyes: Made) -> None:
    folder, _ = eyes
    for row in rows((folder / "full_df.csv").read_bytes()):
        side = row["filename"].partition("_")[2][:-4].title()
        path = folder / "ODIR-5K/Training Images" / row["filename"]
        if row[f"{side}-Diagnostic Keywords"] == "normal fundus" and path.is_file():
            middle = np.asarray(Image.open(path))[120:168, :, 0].astype(float)
            left, right = middle[:, 40:100].mean(), middle[:, 188:248].mean()
            assert (side == "Left") == (left > right), row["filename"]


def test_radiology_questions_are_as_in_the_public_file(radiology: Made) -> None:
    folder, written = radiology
    found = json.loads((folder / "VQA_RAD Dataset Public.json").read_text())
    keys = {
        "qid", "phrase_type", "qid_linked_id", "image_case_url", "image_name", "image_organ", "evaluation", "question",
        "question_rephrase", "question_relation", "question_frame", "question_type", "answer", "answer_type",
    }  # fmt: skip
    absent = [row for row in found if set(row) != keys]
    assert absent and all(keys - set(row) == {"question_rephrase", "question_relation"} for row in absent)
    assert len(found) == written.rows
    assert {row["image_organ"] for row in found} == {"HEAD", "CHEST", "ABD"}
    assert {row["answer_type"] for row in found} == {"OPEN", "CLOSED", "CLOSED "}
    assert {row["phrase_type"].removeprefix("test_") for row in found} == {"freeform", "para"}
    assert {type(row["answer"]) for row in found} == {str, int} == {type(row["qid"]) for row in found}
    assert written.dirty["answer_type with a blank behind"] == sum(row["answer_type"] == "CLOSED " for row in found)
    assert written.dirty["answer with a tab"] == sum("\t" in str(row["answer"]) for row in found) > 0
    linked = defaultdict(set)
    for row in found:
        linked[row["qid_linked_id"]].add((row["image_name"], str(row["answer"])))
    assert all(len(answers) == 1 for answers in linked.values()) and len(linked) < len(found)
    names = {row["image_name"] for row in found}
    there = {path.name for path in (folder / "VQA_RAD Image Folder").iterdir()}
    assert len(names) == 9 and there < names and len(names - there) == written.dirty["picture missing"] == 1
    sheet = openpyxl.load_workbook(folder / "VQA_RAD Dataset Public.xlsx", read_only=True)["Sheet1"]
    assert " ".join(str(cell.value) for cell in next(iter(sheet.rows))) == (
        "QID_unique QID_para QID_linked IMAGEID_case IMAGE IMAGE_organ EVALUATION QUESTION Q_REPHASE Q_RELATION "
        "Q_FRAMED Q_TYPE ANSWER A_TYPE"
    )


def test_video_questions_are_a_parquet_file_with_frames(tmp_path: Path) -> None:
    written = medframeqa.write_source(tmp_path / "medframeqa", 5, 0, lambda: None)
    table = parquet.read_table(tmp_path / "medframeqa" / "data" / "test-00000-of-00001.parquet")
    images = [f"image_{number}" for number in range(1, 6)]
    assert set(table.column_names) == {
        "question_id", "system", "organ", "keyword", "modality", "video_id", "question", "options", "correct_answer",
        *images, "image_url", "reasoning_chain",
    }  # fmt: skip
    found = table.to_pylist()
    assert (len(found), written.rows) == (written.rows, len(found))
    frames = 0
    for row in found:
        there = [row[name] is not None for name in images]
        assert there == sorted(there, reverse=True) and 2 <= sum(there) == len(row["image_url"])
        frames += sum(there)
        assert 2 <= len(row["options"]) <= 6 and len(set(row["options"])) == len(row["options"])
        gold = row["options"]["ABCDEF".index(row["correct_answer"])]
        assert gold.lower() in row["reasoning_chain"].lower()
        assert Image.open(io.BytesIO(row["image_1"]["bytes"])).size == (1280, 720)
    assert frames == written.images and len({row["video_id"] for row in found}) == 5
