"""A hospital's own table: what each column may hold, what DICOM tags fill in, and what is quarantined."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medmim.data import build
from medmim.data.sources import studies
from medmim.data.sources.source import Entry, Source
from medmim.errors import UserError
from medmim.recipe.schema import Data
from medmim.recipe.sources import Studies
from medmim.sample import Finding
from medmim.terms import Terms


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.linear_gradient("L").resize((8, 8)).save(path)


def read(folder: Path, table: str, name: str = "studies.csv", **own: Any) -> Source:
    (folder / name).write_text(table, encoding="utf-8")
    return studies.load(Entry(Studies(name="studies", root=str(folder), table=name, **own)))


def dicom(path: Path, **tags: object) -> None:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.2"
    file.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    for name, value in tags.items():
        setattr(file, name, value)
    out = io.BytesIO()
    file.save_as(out, enforce_file_format=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(out.getvalue())


def test_patient_and_path_are_enough(tmp_path: Path) -> None:
    picture(tmp_path / "p1" / "a.png")
    source = read(tmp_path, "path,patient\np1/a.png,7\n")
    assert source.studies and (source.studies[0].patient, source.studies[0].image) == ("7", "p1/a.png")
    assert (source.studies[0].modality, source.studies[0].time, source.bad) == ("", None, [])
    assert not {name for name in source.families if "finding" in name or "modality" in name}


def test_every_column_is_read(tmp_path: Path) -> None:
    for name in "ab":
        picture(tmp_path / f"{name}.png")
    source = read(
        tmp_path,
        "patient,path,date,exam,modality,view,laterality,finding,size,side,rating,caption,age,sequence,held_out\n"
        "P1,a.png,2024-03-01,E1,DX,pa,L,nodule;effusion,small,right,BI-RADS 4b,A nodule.,61.5,t1,no\n"
        "P1,b.png,01.04.2024,E2,mr,Axial,,normal,,,2,,62,FLAIR,yes\n",
    )
    assert source.bad == [] and source.studies is not None
    first, second = source.studies
    assert (first.time, second.time, first.exam, first.age) == (0.0, 31.0, "E1", 61.5)
    assert (first.modality, first.view, first.laterality) == ("X-ray", "PA", "left")
    assert first.findings == (Finding("nodule", "small", "right"), Finding("effusion", "small", "right"))
    assert (first.rating, first.caption, first.sequence) == ("suspicious", "A nodule.", "T1")
    assert (second.modality, second.view, second.findings, second.rating) == ("MRI", "axial", (), "benign")
    assert first.held_out and second.held_out  # a patient is held out as a whole


@pytest.mark.parametrize(
    ("later", "after"),
    [("left,6", "worse"), ("right,6", None), ("left,2", "stable"), ("left,blue?", "stable"), ("up,2", None)],
)
def test_a_forecast_is_judged_by_rows_whose_image_is_missing_or_that_are_bad(
    tmp_path: Path, later: str, after: str | None
) -> None:
    for name in "ac":
        picture(tmp_path / f"{name}.png")
    rows = ["a.png,0,left,1", f"missing.png,200,{later}", "c.png,365,left,2"]
    source = read(tmp_path, "patient,path,day,laterality,rating\n" + "".join(f"P,{row}\n" for row in rows))
    assert [study.year_after for study in source.studies or ()] == [after, None]


def test_columns_may_have_other_names_and_json_lines_say_the_same(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    row = {"PatNr": 12, "Bild": "a.png", "Befund": ["nodule"], "Tag": 3}
    mapped = {"patient": "PatNr", "path": "Bild", "finding": "Befund", "day": "Tag"}
    lines = read(tmp_path, json.dumps(row) + "\n", "t.jsonl", columns=mapped)
    table = read(tmp_path, "Pat-Nr,BILD,Befund,tag\n12,a.png,nodule,3\n", columns=mapped)
    assert lines.studies == table.studies and table.studies is not None
    assert (table.studies[0].patient, table.studies[0].time, table.studies[0].findings) == (
        "12",
        3.0,
        (Finding("nodule"),),
    )
    with pytest.raises(UserError, match="lacks columns: PatNr"):
        read(tmp_path, "patient,Bild\n1,a.png\n", columns=mapped)
    with pytest.raises(UserError, match="columns maps colour"):
        read(tmp_path, "patient,path\n1,a.png\n", columns={"colour": "x"})


def test_dicom_tags_fill_what_the_table_lacks_and_never_overwrite_it(tmp_path: Path) -> None:
    tags = {"Modality": "MG", "ViewPosition": "MLO", "ImageLaterality": "R", "PatientAge": "006M", "PatientID": "other"}
    for name, day in (("a.dcm", "20200101"), ("b.dcm", "20200301")):
        dicom(tmp_path / name, StudyDate=day, StudyInstanceUID="1.2.3", **tags)
    source = read(tmp_path, "patient,path,view\n1,a.dcm,\n1,b.dcm,CC\n")
    assert source.studies is not None and source.bad == []
    first, second = source.studies
    assert (first.patient, first.modality, first.view, first.laterality) == ("1", "mammography", "MLO", "right")
    assert (first.age, first.exam, second.view, second.time) == (0.5, "1.2.3", "CC", 60.0)
    assert {"which_view", "order"} <= set(source.families)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("4.37886E+15,a.png,,,", "spreadsheet"),
        (",a.png,,,", "is empty"),
        ("1,../a.png,,,", "leaves the root"),
        ("1,a.png,3/1/24,,", "is no date"),
        ("1,a.png,,nodule;normal,", "normal beside a finding"),
        ("1,a.png,,17,", "is a number"),
        ("1,a.png,,nodule,huge", "is not small, medium, large"),
    ],
)
def test_a_bad_cell_is_quarantined_with_its_row(tmp_path: Path, row: str, reason: str) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    source = read(tmp_path, f"patient,path,date,finding,size\n2,b.png,2024-01-01,nodule,small\n{row}\n")
    assert [study.patient for study in source.studies or ()] == ["2"]
    assert [(bad.file, bad.row) for bad in source.bad] == [("studies.csv", 3)] and reason in source.bad[0].reason


@pytest.mark.parametrize("cell", ["NaN", "N/A", "unknown", "?", ";", "None; nan"])
def test_a_finding_that_is_no_value_is_blank_and_never_normal(tmp_path: Path, cell: str) -> None:
    for name in "abc":
        picture(tmp_path / f"{name}.png")
    source = read(tmp_path, f'patient,path,finding\n1,a.png,nodule\n2,b.png,normal\n3,c.png,"{cell}"\n')
    assert [study.image for study in source.studies or ()] == ["a.png", "b.png"]
    assert sum(source.facts["skipped"].values()) == 1 and source.bad == []


@pytest.mark.parametrize("cell", ["", "NaN"])
def test_a_column_that_says_nothing_is_as_one_that_is_absent(tmp_path: Path, cell: str) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    source = read(tmp_path, f"patient,path,date,finding\n1,a.png,2024-01-01,{cell}\n1,b.png,2024-02-01,{cell}\n")
    assert [study.image for study in source.studies or ()] == ["a.png", "b.png"]
    assert "order" in source.families and "what_finding" not in source.families


def test_days_and_dates_of_one_patient_are_on_no_common_scale(tmp_path: Path) -> None:
    for name in "abcd":
        picture(tmp_path / f"{name}.png")
    source = read(tmp_path, "patient,path,date,day\n1,a.png,2020-01-01,\n1,b.png,2020-06-01,\n1,c.png,,9\n2,d.png,,9\n")
    assert [(study.image, study.time) for study in source.studies or ()] == [("a.png", 0), ("b.png", 152), ("d.png", 9)]
    assert [(bad.row, bad.key) for bad in source.bad] == [(4, "day")]


def test_an_exam_of_two_patients_is_bad_where_exams_are_not_counted_for_each(tmp_path: Path) -> None:
    for number in range(22):
        picture(tmp_path / f"{number}.png")
    unique = [f"{n},{n}.png,E{n}" for n in range(20)]
    source = read(tmp_path, "\n".join(["patient,path,exam", *unique, "20,20.png,E3", "20,21.png,E99"]))
    assert [(bad.row, bad.key) for bad in source.bad] == [(5, "exam"), (22, "exam")]
    assert len(source.studies or ()) == 20
    counted = [f"{n // 2},{n}.png,{n % 2}" for n in range(22)]
    assert read(tmp_path, "\n".join(["patient,path,exam", *counted])).bad == []


def test_ages_that_time_does_not_explain_are_bad(tmp_path: Path) -> None:
    for name in "abcd":
        picture(tmp_path / f"{name}.png")
    rows = ["1,a.png,2010-01-01,50", "1,b.png,2015-01-01,55", "2,c.png,2010-01-01,55", "2,d.png,2015-01-01,35"]
    source = read(tmp_path, "\n".join(["patient,path,date,age", *rows]))
    assert [study.patient for study in source.studies or ()] == ["1", "1"]
    assert [(bad.row, bad.key) for bad in source.bad] == [(4, "age"), (5, "age")]


def test_a_tag_gives_no_date_where_the_table_has_days(tmp_path: Path) -> None:
    for name in "ab":
        dicom(tmp_path / f"{name}.dcm", StudyDate="20200101", Modality="CT")
    source = read(tmp_path, "patient,path,day\n1,a.dcm,40\n1,b.dcm,\n")
    assert [study.time for study in source.studies or ()] == [40.0, None]


@pytest.mark.parametrize("name", ["IM0001", "1.2.840.113619.2.55", "scan.ima", "A.DCM"])
def test_a_dicom_file_needs_no_ending(tmp_path: Path, name: str) -> None:
    dicom(tmp_path / name, Modality="CT")
    source = read(tmp_path, f"patient,path\n1,{name}\n")
    assert [study.modality for study in source.studies or ()] == ["CT"]


def test_a_column_that_the_recipe_maps_must_be_there(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    with pytest.raises(UserError, match="lacks columns: Befunde") as error:
        read(tmp_path, "patient,path,Befund\n1,a.png,nodule\n", columns={"finding": "Befunde"})
    assert "closest: Befund for Befunde" in error.value.reason and "columns: {patient: PatNr}" in error.value.fix


def test_json_that_no_cell_can_hold_is_a_bad_row(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    deep = "[" * 900 + "]" * 900
    lines = [
        '{"patient": "1", "path": "a.png", "finding": ["nodule"]}',
        '{"patient": "2", "path": "b.png", "finding": {"a": 1}}',
        f'{{"patient": "3", "path": "c.png", "finding": {deep}}}',
        "7",
        '{"patient": "NaN", "path": "d.png"}',
    ]
    source = read(tmp_path, "\n".join(lines), "t.jsonl")
    assert [study.findings for study in source.studies or ()] == [(Finding("nodule"),)]
    assert [(bad.row, bad.key) for bad in source.bad] == [(2, "finding"), (3, "finding"), (4, ""), (5, "patient")]


def test_what_is_blank_missing_or_twice_is_counted_and_never_silent(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    source = read(tmp_path, "patient,path,finding\n1,a.png,nodule\n1,a.png,nodule\n1,b.png,\n1,c.png,nodule\n")
    assert [study.image for study in source.studies or ()] == ["a.png"]
    assert [(bad.row, bad.reason) for bad in source.bad] == [(3, "the image of row 2 again")]
    assert source.missing == ["c.png"] and sum(source.facts["skipped"].values()) == 1


def test_questions_come_of_it_and_its_terms_are_the_hospital_s_own(tmp_path: Path) -> None:
    lines = ["patient,path,date,modality,view,finding,size"]
    for patient in range(30):
        for visit, size in enumerate(("small", "large", "small")):
            picture(tmp_path / f"{patient}-{visit}.png")
            lines.append(f"{patient},{patient}-{visit}.png,2024-0{visit + 1}-01,CT,axial,nodule,{size}")
    source = read(tmp_path, "\n".join(lines))
    asked = build.questions(source.studies or [], source.families, Data(source="studies", root=str(tmp_path)))
    assert {"change", "order", "larger"} <= {sample.family for sample in asked}
    entry = Entry(Studies(name="studies", root=str(tmp_path), source="our-ct"))
    assert studies.terms(entry).refused and "our-ct" in studies.terms(entry).text[0]
    (tmp_path / "terms.json").write_text(Terms(serve=True, text=("our-ct: board of 2024",)).dump())
    assert studies.terms(Entry(entry.own.model_copy(update={"terms": "terms.json"}))).serve


def test_terms_that_allow_something_say_who_allows_it(tmp_path: Path) -> None:
    entry = Entry(Studies(name="studies", root=str(tmp_path), terms="terms.json"))
    for text in ('{"serve": true}', '{"serve": true, "text": [" "]}'):
        (tmp_path / "terms.json").write_text(text)
        with pytest.raises(UserError, match="allows serve, and does not say who"):
            studies.terms(entry)
    (tmp_path / "terms.json").write_text('{"serve": false}')
    assert studies.terms(entry).refused


def test_inputs_follow_the_table_and_the_images(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    read(tmp_path, "patient,path\n1,a.png\n")
    entry = Entry(Studies(name="studies", root=str(tmp_path)))
    before = studies.inputs(entry)
    picture(tmp_path / "b.png")
    assert studies.inputs(entry) == before
    Image.new("L", (9, 9)).save(tmp_path / "a.png")
    assert studies.inputs(entry)["images"] != before["images"]


@settings(max_examples=60, deadline=None)
@given(cells=st.lists(st.text(max_size=30), min_size=15, max_size=15))
def test_no_text_in_a_cell_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, cells: list[str]) -> None:
    folder = tmp_path_factory.mktemp("raw")
    row = dict(zip(studies.COLUMNS, cells, strict=False))
    source = read(folder, json.dumps(row) + "\n", "t.jsonl")
    assert len(source.studies or ()) + len(source.missing) <= 1


def test_a_name_of_the_header_in_the_table_s_text_is_flagged_and_not_repeated(tmp_path: Path) -> None:
    texts = {
        "a": "Jane Stone is seen with a mass",
        "b": "kidney stone on the left",
        "c": "Stone in the ureter",
        "d": "the scan of STONE is clear",
        "e": "read by Roe, Richard",
    }
    for name in texts:
        dicom(tmp_path / f"{name}.dcm", PatientName="STONE^JANE", ReferringPhysicianName="Roe^Richard", Modality="CT")
    source = read(tmp_path, "patient,path,caption\n" + "".join(f'{k},{k}.dcm,"{v}"\n' for k, v in texts.items()))
    assert [(row.file, row.key) for row in source.flagged] == [(f"{k}.dcm", "caption") for k in "ade"]
    assert not any(name in row.reason for row in source.flagged for name in ("Stone", "STONE", "Jane", "Roe"))


@pytest.mark.parametrize(
    ("name", "text", "repeated"),
    [
        ("MILLER^JANE", "Miller has a mass", True),  # where a text begins
        ("MILLER^JANE", "the scan of miller is clear", True),
        ("NG^AN", "seen by Ng today", True),
        ("LI^AN", "LI-RADS 4, seen on an MRI", False),
        ("VAN DER BERG^MARIA", "the scan of Berg", True),
        ("CHEST^PHANTOM", "PA CHEST of a phantom", False),
        ("STONE^JANE", "Stone in the ureter", False),
    ],
)
def test_a_name_is_repeated_in_any_case_and_a_word_is_none(
    tmp_path: Path, name: str, text: str, repeated: bool
) -> None:
    dicom(tmp_path / "a.dcm", PatientName=name, Modality="CT")
    source = read(tmp_path, f'patient,path,caption\n1,a.dcm,"{text}"\n')
    assert bool(source.flagged) is repeated
    assert source.headers == ["a.dcm"]


def test_of_pictures_and_of_damaged_files_no_header_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"pixels")
    (tmp_path / "b.dcm").write_bytes(b"pixels")
    assert read(tmp_path, "patient,path\n1,a.png\n2,b.dcm\n").headers == []


def test_a_burned_in_annotation_is_flagged(tmp_path: Path) -> None:
    for name, said in (("a", "YES"), ("b", "NO"), ("c", None)):
        dicom(tmp_path / f"{name}.dcm", Modality="US", **({"BurnedInAnnotation": said} if said else {}))
    source = read(tmp_path, "patient,path\n1,a.dcm\n2,b.dcm\n3,c.dcm\n")
    assert [(row.file, row.row, row.key) for row in source.flagged] == [("a.dcm", 2, "BurnedInAnnotation")]
