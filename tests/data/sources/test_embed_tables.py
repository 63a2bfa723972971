"""Reading EMBED: its paths, what of its tables is quarantined, refused or missing, and that no cell breaks it."""

import csv
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmim import terms
from medmim.data.sources import embed
from medmim.data.sources.source import Entry
from medmim.errors import UserError
from medmim.recipe.sources import Embed
from medmim.store import open_store
from tests.support.embed_tables import (
    ANN,
    BEA,
    CLINICAL,
    FIRST,
    METADATA,
    OTHER,
    SECOND,
    files,
    finding,
    image,
    labels,
    read,
    section,
    studies,
    table,
    views,
)


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("/data/mammo/anon_dicom/cohort_1/9/1/2/3.dcm", "images/cohort_1/9/1/2/3"),
        ("./images/cohort_2/9/1.2.20160732/3.dcm", "images/cohort_2/9/1.2.20160732/3"),
        ("images/cohort_1/9/3.dcm", "images/cohort_1/9/3"),
        ("cohort_1/9/3.dcm", "images/cohort_1/9/3"),
    ],
)
@pytest.mark.parametrize("form", ["dcm", "png"])
def test_a_path_counts_from_the_cohort_on(tmp_path: Path, written: str, path: str, form: str) -> None:
    metadata = [image("x", anon_dicom_path=written)]
    files(tmp_path, metadata, f".{form}")
    source = read(tmp_path, [finding()], metadata, images=form)
    assert [study.image for study in studies(source)] == [f"{path}.{form}"]


@pytest.mark.parametrize(
    "path", ["", "nan", "a/b.dcm", "cohort_1/../../x.dcm", "cohort_3/1/2.dcm", "my_cohort_1/2.dcm"]
)
def test_a_path_without_a_cohort_or_out_of_it_is_quarantined(tmp_path: Path, path: str) -> None:
    source = read(tmp_path, [finding()], [image("good"), {**image("x"), "anon_dicom_path": path}])
    assert [(row.file, row.row, row.key) for row in source.bad] == [(METADATA, 3, "anon_dicom_path")]


@pytest.mark.parametrize(
    ("which", "cells", "key", "words"),
    [
        ("clinical", {"acc_anon": ""}, "acc_anon", "empty"),
        ("clinical", {"empi_anon": "nan"}, "empi_anon", "missing value"),
        ("clinical", {"acc_anon": "4.37886E+15"}, "acc_anon", "spreadsheet"),
        ("clinical", {"acc_anon": "4378861234567891.0"}, "acc_anon", "float"),
        ("clinical", {"study_date_anon": "2015-02-30"}, "study_date_anon", "no date"),
        ("clinical", {"study_date_anon": "07/26/2015"}, "study_date_anon", "no date"),
        ("clinical", {"side": "Q"}, "side", "none of L, R, B"),
        ("clinical", {"asses": "Z"}, "asses", "none of K"),
        ("clinical", {"asses": "4"}, "asses", "none of K"),
        ("clinical", {"path_severity": "7"}, "path_severity", "more than"),
        ("clinical", {"path_severity": "0.5"}, "path_severity", "no pathology"),
        ("clinical", {"path_severity": "-1"}, "path_severity", "no pathology"),
        ("clinical", {"age_at_study": "-1"}, "age_at_study", "no age"),
        ("clinical", {"age_at_study": "52,03"}, "age_at_study", "no number"),
        ("metadata", {"acc_anon": "9.37886E+15"}, "acc_anon", "spreadsheet"),
        ("metadata", {"ImageLateralityFinal": "B"}, "ImageLateralityFinal", "neither L nor R"),
        ("metadata", {"ViewPosition": "12"}, "ViewPosition", "no view"),
        ("metadata", {"spot_mag": "yes"}, "spot_mag", "no number"),
    ],
)
def test_a_bad_cell_quarantines_its_row_and_leaves_no_label_that_it_might_change(
    tmp_path: Path, which: str, cells: dict[str, str], key: str, words: str
) -> None:
    others = [finding(OTHER, BEA), finding(SECOND, BEA)]
    rows = [finding(side="L", asses="B"), finding(side="R", asses="B"), *others]
    metadata = [*views(), *views(OTHER, BEA), *views(SECOND, BEA)]
    (rows if which == "clinical" else metadata)[0] |= cells
    source = read(tmp_path, rows, metadata)
    assert [(row.row, row.key) for row in source.bad] == [(2, key)]
    assert words in source.bad[0].reason
    if which == "clinical" and key != "acc_anon":  # the accession itself is gone: the exam's other rows stand
        assert {study.exam for study in studies(source)} == {OTHER, SECOND}


@pytest.mark.parametrize("which", ["clinical", "metadata"])
@pytest.mark.parametrize("form", ["{:.5E}", "{}000000.0", "{:.0f}"])
def test_a_table_that_a_spreadsheet_saved_is_refused(tmp_path: Path, which: str, form: str) -> None:
    """`{:.0f}` of an id cut to 15 digits ends in a zero, like all the others."""
    exams = [4_378_861_234_567_891 + i for i in range(6)]

    def lost(exam: int) -> str:
        return form.format(exam // 10**6 if "000000" in form else exam // 100_000 * 100_000)

    rows = [finding(str(exam), str(10_000_000 + i)) for i, exam in enumerate(exams)]
    metadata = [image(str(i), str(exam), str(10_000_000 + i)) for i, exam in enumerate(exams)]
    for i, row in enumerate(rows if which == "clinical" else metadata):
        row["acc_anon"] = lost(exams[i] + i * 1_000_000)
    with pytest.raises(UserError, match="acc_anon") as caught:
        read(tmp_path, rows, metadata)
    assert "spreadsheet" in caught.value.reason


def test_an_accession_of_two_patients_is_quarantined_in_either_table(tmp_path: Path) -> None:
    rows = [finding(), finding(patient=BEA), finding(SECOND, BEA), finding(OTHER)]
    metadata = [*views(), *views(SECOND, BEA), image("x", SECOND, ANN), *views(OTHER)]
    source = read(tmp_path, rows, metadata)
    assert {study.exam for study in studies(source)} == {OTHER}
    assert [(row.file, row.row, row.reason) for row in source.bad] == [
        (CLINICAL, 2, "an accession of two patients"),
        (CLINICAL, 3, "an accession of two patients"),
        (METADATA, 10, "an accession of two patients"),
    ]
    assert source.facts["skipped"]["images of an exam that is quarantined"] == 4


def test_a_patient_with_two_ages_is_two_people(tmp_path: Path) -> None:
    rows = [finding(age_at_study="40"), finding(SECOND, study_date_anon="2016-07-26", age_at_study="70")]
    source = read(tmp_path, rows, [*views(), *views(SECOND)])
    assert studies(source) == [] and [row.key for row in source.bad] == ["empi_anon", "empi_anon"]


def test_an_exam_of_two_dates_is_quarantined(tmp_path: Path) -> None:
    rows = [finding(side="L"), finding(side="R", study_date_anon="2015-07-27"), finding(SECOND)]
    source = read(tmp_path, rows, [*views(), *views(SECOND)])
    assert {study.exam for study in studies(source)} == {SECOND}
    assert [row.key for row in source.bad] == ["study_date_anon", "study_date_anon"]


def test_a_file_that_two_rows_describe_differently_is_in_no_study(tmp_path: Path) -> None:
    metadata = [image("a"), {**image("a"), "ViewPosition": "MLO"}, image("b", ImageLateralityFinal="R"), image("a")]
    source = read(tmp_path, [finding()], metadata)
    assert [Path(study.image).stem for study in studies(source)] == ["b"]
    assert [(row.row, row.key) for row in source.bad] == [(3, "anon_dicom_path")]


def test_time_is_of_the_clinical_table_alone_and_unknown_without_a_date(tmp_path: Path) -> None:
    """The acquisition dates of the metadata run the other way."""
    rows = [finding(), finding(SECOND, study_date_anon="2015-07-30"), finding(OTHER, study_date_anon="")]
    metadata = [
        image("a", study_date_anon="2015-07-29"),
        image("b", SECOND, study_date_anon="2015-07-28"),
        image("c", OTHER),
    ]
    source = read(tmp_path, rows, metadata)
    assert {Path(study.image).stem: study.time for study in studies(source)} == {"a": 0.0, "b": 4.0, "c": None}


def test_images_that_are_not_there_are_missing_and_the_choice_stays(tmp_path: Path) -> None:
    metadata = [image("a"), image("b"), image("c", ImageLateralityFinal="R")]
    table(tmp_path / CLINICAL, [finding()])
    table(tmp_path / METADATA, metadata)
    files(tmp_path, metadata[1:])
    source = embed.load(section(tmp_path))
    assert [Path(study.image).stem for study in studies(source)] == ["c"]
    assert [Path(path).stem for path in source.missing] == ["a"]


def test_the_reduced_tables_will_do(tmp_path: Path) -> None:
    """They lack masses and calcifications, and name the race RACE_DESC; the metadata have num_ROI elsewhere."""
    gone = ("massshape", "calcfind", "calcdistri", "calcnumber", "ETHNICITY_DESC")
    rows = [{k: v for k, v in finding(side="L", asses="B").items() if k not in gone} | {"RACE_DESC": "Asian"}]
    metadata = [{("num_ROI" if k == "num_roi" else k): v for k, v in row.items() if k != "spot_mag"} for row in views()]
    metadata[0]["num_ROI"] = "2"
    source = read(tmp_path, rows, metadata)
    assert labels(source) == {"LCC": "benign", "LMLO": "benign", "RCC": "negative", "RMLO": "negative"}
    assert source.facts["patients_by_race"] == {"Asian": 1}
    assert source.facts["images_with_regions"] == 1
    shown = {(study.rating, *(found.name for found in study.findings)) for study in studies(source)}
    assert shown == {("benign", "unspecified abnormality"), ("negative",)}


def test_a_missing_column_is_named_with_the_closest(tmp_path: Path) -> None:
    rows = [{("asess" if k == "asses" else k): v for k, v in finding().items()}]
    with pytest.raises(UserError, match="lacks columns: asses") as caught:
        read(tmp_path, rows, views())
    assert "closest: asess for asses" in caught.value.reason and "GENDER_DESC" in caught.value.reason


@pytest.mark.parametrize("kind", ["beside", "parquet", "columns"])
def test_the_second_release_is_refused_in_words(tmp_path: Path, kind: str) -> None:
    table(tmp_path / METADATA, views())
    if kind == "columns":
        table(tmp_path / CLINICAL, [finding() | {"studydate_anon": "2015-01-01", "age_at_study_anon": "52"}])
    else:
        name = CLINICAL if kind == "parquet" else "tables/exam_level_anon.parquet"
        (tmp_path / name).write_bytes(b"PAR1....PAR1")
    with pytest.raises(UserError, match="EMBED V2"):
        embed.load(section(tmp_path))


def test_adding_rows_of_another_patient_changes_no_study(tmp_path: Path) -> None:
    rows, metadata = [finding(), finding(SECOND, side="L", asses="A")], [*views(), *views(SECOND)]
    before = studies(read(tmp_path / "a", rows, metadata))
    more = read(tmp_path / "b", [finding(OTHER, BEA), *rows], [*views(OTHER, BEA), *metadata[::-1]])
    assert [study for study in studies(more) if study.patient == ANN] == before
    assert len(studies(more)) == len(before) + 4


def test_the_parents_change_with_tables_and_images_that_are_used(tmp_path: Path) -> None:
    read(tmp_path, [finding()], [image("a"), image("b"), image("c", ImageLateralityFinal="R")])
    before = embed.inputs(section(tmp_path))
    assert list(before) == [CLINICAL, METADATA, "images"]
    place = tmp_path / "images/cohort_1" / ANN / "1.2"
    (place / "b.dcm").write_bytes(b"not used")
    assert embed.inputs(section(tmp_path)) == before
    (place / "c.dcm").write_bytes(b"other pixels")
    assert embed.inputs(section(tmp_path))["images"] != before["images"]


def test_a_folder_in_s3_reads_the_same(tmp_path: Path, bucket: str) -> None:
    here = read(tmp_path, [finding(side="L", asses="B")], views())
    place = open_store(f"{bucket}/raw")
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        place.upload(path.relative_to(tmp_path).as_posix(), path)
    entry = Entry(Embed(name="embed", root=f"{bucket}/raw"), "data.sources.0")
    there = embed.load(entry)
    assert studies(there) == studies(here) and (there.facts, there.missing) == (here.facts, [])
    assert there.read(studies(there)[0].image) == b"pixels"
    assert list(embed.inputs(entry)) == [CLINICAL, METADATA, "images"]


def test_nothing_may_be_released() -> None:
    assert set(embed.TERMS.refused) == set(terms.FLAGS)


CELL = st.text(max_size=12) | st.sampled_from(
    ["", "L", "R", "B", "A", "N", "K", "X", "nan", "2D", "CC", "1", "5.0", FIRST]
)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_cell_crashes_the_reader(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever is in the cells: records, quarantine, or an error for people."""
    root = tmp_path_factory.mktemp("embed")
    rows, metadata = [finding(), finding(SECOND), finding(OTHER, BEA)], [*views(), *views(SECOND), *views(OTHER, BEA)]
    for some in (rows, metadata):
        row = data.draw(st.sampled_from(some))
        columns = data.draw(st.lists(st.sampled_from(sorted(row)), min_size=1, max_size=4))
        row |= {column: data.draw(CELL.filter(lambda cell: "\0" not in cell)) for column in columns}
    for path, some in ((CLINICAL, rows), (METADATA, metadata)):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        with (root / path).open("w", newline="", encoding="utf-8", errors="surrogatepass") as file:
            writer = csv.DictWriter(file, list(some[0]))
            writer.writeheader()
            writer.writerows(some)
    try:
        source = embed.load(section(root))
    except UserError:
        return
    assert all(row.reason and row.row for row in source.bad)
    assert all(study.rating in embed.RATINGS.values() for study in studies(source))
