"""Reading ODIR-5K: eyes by their own keywords, spellings, marks of quality, the names of other copies."""

import json
import re
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmim.data.sources import odir
from medmim.data.sources.cells import BadCell
from medmim.data.sources.odir import keywords, load
from medmim.data.sources.source import Source
from medmim.errors import UserError
from tests.support import shared_data
from tests.support.raw_sources import entry, write_csv, write_image

HEADER = (
    "ID", "Patient Age", "Patient Sex", "Left-Fundus", "Right-Fundus", "Left-Diagnostic Keywords",
    "Right-Diagnostic Keywords", "N", "D", "G", "C", "A", "H", "M", "O",
)  # fmt: skip
# The patient's letters say D for both eyes of patient 2; its right eye is normal all the same.
ROWS: list[list[Any]] = [
    [0, 69, "Female", "0_left.jpg", "0_right.jpg", "cataract", "normal fundus", 0, 0, 0, 1, 0, 0, 0, 0],
    [1, 57, "Male", "1_left.jpg", "1_right.jpg", "normal fundus", "normal fundus", 1, 0, 0, 0, 0, 0, 0, 0],
    [2, None, None, "2_left.jpg", "2_right.jpg", "laser spot\uff0cmoderate non proliferative retinopathy",
     "normal fundus", 0, 1, 0, 0, 0, 0, 0, 1],
    [4, 53, "Male", "4_left.jpg", "4_right.jpg", "lens dust\uff0cmacular epiretinal membrane", "low image quality",
     0, 0, 0, 0, 0, 0, 0, 1],
]  # fmt: skip


def write_xlsx(path: Path, rows: list[list[Any]]) -> Path:
    book = openpyxl.Workbook()
    book.active.title = "Sheet1"
    for row in [list(HEADER), *rows]:
        book.active.append(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    book.save(path)
    return path


def folder(root: Path, rows: list[list[Any]] = ROWS, table: str = "data.xlsx", images: str = "Training Images") -> Path:
    write_xlsx(root / table, rows)
    for row in ROWS:
        for side in ("left", "right"):
            write_image(root / images / f"{row[0]}_{side}.jpg")
    return root


def read(root: Path, rows: list[list[Any]] = ROWS, **options: Any) -> Source:
    return load(entry("odir", folder(root, rows), **options))


def test_each_eye_shows_what_its_own_keywords_say(tmp_path: Path) -> None:
    source = read(tmp_path)
    assert [(s.patient, s.image, s.laterality, s.age, [f.name for f in s.findings]) for s in source.studies or []] == [
        ("0", "Training Images/0_left.jpg", "left", 69.0, ["cataract"]),
        ("0", "Training Images/0_right.jpg", "right", 69.0, []),
        ("1", "Training Images/1_left.jpg", "left", 57.0, []),
        ("1", "Training Images/1_right.jpg", "right", 57.0, []),
        ("2", "Training Images/2_left.jpg", "left", None, ["laser spot", "moderate nonproliferative retinopathy"]),
        ("2", "Training Images/2_right.jpg", "right", None, []),
        ("4", "Training Images/4_left.jpg", "left", 53.0, ["macular epiretinal membrane"]),
    ]
    assert {(s.source, s.modality, s.held_out, s.exam == s.patient) for s in source.studies or []} == {
        ("odir", "fundus", True, True)
    }
    assert all(source.identity(study.image) for study in source.studies or [])
    assert (source.bad, source.missing) == ([], [])
    assert source.facts == {
        "rows": 4, "images": 7, "patients": 4, "missing_images": 0, "without_age": 2, "rows_again": 0,
        "marks_of_quality": {"lens dust": 1, "low image quality": 1},
        "skipped": {"an eye of which only marks of quality are said": 1},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("cell", "found", "marks"),
    [
        ("normal fundus", ["normal fundus"], []),
        ("Drusen, MYELINATED nerve fibers ", ["drusen", "myelinated nerve fibers"], []),
        ("drusen\uff0cdrusen", ["drusen"], []),
        ("mild nonproliferative retinopathy", ["mild nonproliferative retinopathy"], []),
        ("mild non proliferative retinopathy", ["mild nonproliferative retinopathy"], []),
        ("mild non-proliferative retinopathy", ["mild nonproliferative retinopathy"], []),
        ("proliferative diabetic retinopathy", ["proliferative diabetic retinopathy"], []),
        ("wet age related macular degeneration", ["wet age-related macular degeneration"], []),
        ("lens dust, normal fundus", ["normal fundus"], ["lens dust"]),
        ("anterior segment image\uff0cno fundus image", [], ["anterior segment image", "no fundus image"]),
        ("image offset\uff0coptic disk photographically invisible\uff0clow image quality\uff0c", [],
         ["image offset", "optic disk photographically invisible", "low image quality"]),
    ],
)  # fmt: skip
def test_keywords_are_split_spelled_alike_and_rid_of_marks(cell: str, found: list[str], marks: list[str]) -> None:
    assert keywords(cell) == (found, marks)


@pytest.mark.parametrize("cell", ["", "nan", "\uff0c", "12", "normal fundus\uff0cdrusen", "x" * 121])
def test_a_cell_that_says_nothing_or_contradicts_itself_is_bad(cell: str) -> None:
    with pytest.raises(BadCell):
        keywords(cell)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        (0, None, "is empty"),
        (0, "4.37886E+15", "exponent"),
        (0, 7, "is not the left eye of this patient"),
        (1, "old", "no number of years"),
        (1, -3, "less than 0"),
        (3, "0_right.jpg", "is not the left eye of this patient"),
        (4, "0_left.jpg", "is not the right eye of this patient"),
        (3, "../0_left.jpg", "is not the left eye of this patient"),
        (5, None, "no keyword at all"),
    ],
)
def test_a_row_that_cannot_be_used_is_quarantined(tmp_path: Path, column: int, value: Any, words: str) -> None:
    source = read(tmp_path, [[*ROWS[0][:column], value, *ROWS[0][column + 1 :]], ROWS[1]])
    assert {(row.file, row.row) for row in source.bad} == {("data.xlsx", 2)}
    assert any(words in row.reason for row in source.bad)
    assert {study.patient for study in source.studies or []} == {"1"}


def test_rows_of_one_patient_that_differ_are_all_quarantined(tmp_path: Path) -> None:
    other = [*ROWS[0][:5], "glaucoma", *ROWS[0][6:]]
    source = read(tmp_path, [ROWS[0], other, ROWS[1], ROWS[1]])
    assert [(row.row, row.key) for row in source.bad] == [(2, "id"), (3, "id")]
    assert {study.patient for study in source.studies or []} == {"1"}
    assert source.facts["rows_again"] == 1


@pytest.mark.parametrize(
    ("table", "images"),
    [
        ("ODIR-5K_Training_Annotations(Updated)_V2.xlsx", "ODIR-5K_Training_Dataset"),
        ("data.xlsx", "preprocessed_images"),
        ("ODIR-5K_Training_Annotations(Updated)_V2.xlsx", "Training Images"),
    ],
)
def test_the_names_of_other_copies_are_found(tmp_path: Path, table: str, images: str) -> None:
    source = load(entry("odir", folder(tmp_path, table=table, images=images)))
    assert (len(source.studies or ()), source.missing, source.bad) == (7, [], [])
    assert (source.studies or [])[0].image == f"{images}/0_left.jpg"
    assert table in odir.inputs(entry("odir", tmp_path))


def test_the_csv_with_a_row_for_each_eye_reads_the_same(tmp_path: Path) -> None:
    wanted = read(tmp_path)
    (tmp_path / "data.xlsx").unlink()
    rows = [
        dict(zip(HEADER, row, strict=True)) | {"filepath": f"../input/{row[0]}_{side}.jpg", "labels": "['N']",
                                               "target": "[1, 0, 0, 0, 0, 0, 0, 0]", "filename": f"{row[0]}_{side}.jpg"}
        for side in ("right", "left") for row in ROWS
    ]  # fmt: skip
    write_csv(tmp_path / "full_df.csv", (*HEADER, "filepath", "labels", "target", "filename"), rows)
    found = load(entry("odir", tmp_path))
    assert (found.studies, found.bad) == (wanted.studies, [])
    assert (found.facts["rows"], found.facts["rows_again"]) == (8, 4)
    assert found.facts["marks_of_quality"] == wanted.facts["marks_of_quality"]


def test_a_missing_image_is_named_and_the_other_eye_stays(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "Training Images/0_left.jpg").unlink()
    source = load(entry("odir", tmp_path))
    assert source.missing == ["Training Images/0_left.jpg"]
    assert [study.image for study in source.studies or []][:1] == ["Training Images/0_right.jpg"]


def test_a_table_that_is_something_else_is_named(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "data.xlsx").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    with pytest.raises(UserError, match="a Git LFS pointer"):
        load(entry("odir", tmp_path))
    write_xlsx(tmp_path / "data.xlsx", [])
    with pytest.raises(UserError, match="has no rows"):
        load(entry("odir", tmp_path))
    (tmp_path / "data.xlsx").unlink()
    with pytest.raises(UserError, match=r"there is no data\.xlsx"):
        load(entry("odir", tmp_path))


def test_terms_allow_nothing() -> None:
    assert len(odir.TERMS.refused) == 5 and odir.TERMS.text


CELL = st.text(max_size=24) | st.sampled_from(["0", "1", "0_left.jpg", "cataract", "NaN", "1e5", "normal fundus,,"])


@settings(max_examples=80)
@given(cells=st.dictionaries(st.sampled_from(HEADER[:7]), CELL))
def test_any_text_in_any_cell_is_read_or_quarantined(
    cells: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("fuzz")
    write_csv(root / "full_df.csv", HEADER, [dict(zip(HEADER, ROWS[0], strict=True)) | cells])
    try:
        source = load(entry("odir", root))
    except UserError as error:
        assert "full_df.csv" in str(error)
    else:
        assert len(source.bad) + len(source.missing) > 0


@shared_data.needs("med-mim")
def test_published_questions_name_the_images_as_this_reader_does(tmp_path: Path) -> None:
    """Ids are those of the patients, images are (left, right), and every gold keyword is one that would be kept."""
    file = shared_data.FOLDER / "med-mim" / "Med_MIM_benchmark_Held_out_ODIR.json"
    published = json.loads(file.read_text(encoding="utf-8"))
    golds = {}
    for row in published:
        if "multichoice" in row["source"]:
            gold = row["conversation"][1]["content"].split(": ", 1)[1]
            first = re.fullmatch("First: (.*?)[,;] Second: (.*)", gold)
            golds[row["id"].removeprefix("VQA_RAD-")] = first.groups() if first else (gold, gold)
    ids = [row["id"].removeprefix("VQA_RAD-") for row in published]
    rows = [
        [int(n), 60, "Male", f"{n}_left.jpg", f"{n}_right.jpg", *golds.get(n, ("drusen", "drusen")), *[0] * 8]
        for n in ids
    ]
    write_xlsx(tmp_path / "data.xlsx", rows)
    source = load(entry("odir", tmp_path))
    assert source.bad == []
    paths = iter([path for row in published for path in row["images"]])  # (left, right) of each patient
    assert all(path in paths for path in source.missing)
    assert len(source.missing) + source.facts["skipped"]["an eye of which only marks of quality are said"] == 1200
    found = {name for pair in golds.values() for cell in pair for name in keywords(cell)[0]}
    assert not [name for name in found if re.search(r"non[ -]prolif", name)]
    assert found >= {"cataract", "drusen", "moderate nonproliferative retinopathy"}
