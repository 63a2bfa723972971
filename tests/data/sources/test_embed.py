"""Reading EMBED: labels of breasts, choice of images, what is quarantined or counted. Rows are typed from its columns.

No real table was seen: these have its columns, its value sets and its dirt.
"""

import csv
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmim import terms
from medmim.data.sources import embed
from medmim.data.sources.source import Entry, Source
from medmim.errors import UserError
from medmim.recipe.sources import Embed
from medmim.sample import Study
from medmim.store import open_store

CLINICAL, METADATA = "tables/EMBED_OpenData_clinical.csv", "tables/EMBED_OpenData_metadata.csv"
ANN, BEA = "25548754", "14581551"  # patients
FIRST, SECOND, OTHER = "4378861234567891", "9378861234567893", "9378861234567895"  # exams; two above 2^53
SCREENING, DIAGNOSTIC = "MG Screening Bilateral w/CAD", "MG Diagnostic Left"

Rows = Sequence[Mapping[str, str]]


def finding(exam: str = FIRST, patient: str = ANN, **cells: str) -> dict[str, str]:
    return {
        "GENDER_DESC": "Female", "ETHNICITY_DESC": "African American  or Black", "empi_anon": patient, "acc_anon": exam,
        "study_date_anon": "2015-07-26", "desc": SCREENING, "age_at_study": "52.031185", "side": "", "asses": "N",
        "numfind": "1", "tissueden": "2.0", "path_severity": "", "bside": "", "massshape": "", "calcfind": "",
        "calcdistri": "", "calcnumber": "0", **cells,
    }  # fmt: skip


def image(name: str, exam: str = FIRST, patient: str = ANN, **cells: str) -> dict[str, str]:
    """A row whose file lies at `cohort_1/PATIENT/1.2/NAME.dcm`."""
    return {
        "": "0", "empi_anon": patient, "acc_anon": exam, "study_date_anon": "2015-07-24 00:00:00", "cohort_num": "1",
        "anon_dicom_path": f"/mnt/mammo/anon_dicom/cohort_1/{patient}/1.2/{name}.dcm", "ImageLateralityFinal": "L",
        "FinalImageType": "2D", "ViewPosition": "CC", "spot_mag": "", "ROI_coords": "()", "num_roi": "0", **cells,
    }  # fmt: skip


def views(exam: str = FIRST, patient: str = ANN) -> list[dict[str, str]]:
    """The four images of a screening exam: `EXAM-LCC`, `EXAM-LMLO`, ..."""
    return [
        image(f"{exam}-{side}{view}", exam, patient, ImageLateralityFinal=side, ViewPosition=view)
        for side in "LR"
        for view in ("CC", "MLO")
    ]


def table(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8-sig") as file:  # with BOM
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)


def files(root: Path, metadata: Rows, suffix: str = ".dcm") -> None:
    for row in metadata:
        tail = row["anon_dicom_path"].partition("cohort_")[2]
        path = (root / "images" / f"cohort_{tail}").with_suffix(suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"pixels")


def section(root: Path, **keys: Any) -> Entry[Embed]:
    return Entry(Embed(name="embed", root=str(root), **keys), "data.sources.0")


def read(root: Path, clinical: Rows, metadata: Rows, **keys: str) -> Source:
    table(root / CLINICAL, clinical)
    table(root / METADATA, metadata)
    files(root, metadata)
    return embed.load(section(root, **keys))


def studies(source: Source) -> list[Study]:
    return list(source.studies or ())


def labels(source: Source) -> dict[str, str | None]:
    """What stands behind the exam in the names of `views` -> rating."""
    return {Path(study.image).stem.rpartition("-")[2]: study.rating for study in studies(source)}


def test_a_finding_and_its_images_become_studies(tmp_path: Path) -> None:
    rows = [
        finding(side="L", asses="B", massshape="O", calcfind="FG", calcdistri="G"),
        finding(SECOND, study_date_anon="2016-08-01 00:00:00", age_at_study="53.047", desc="MG Diagnostic Left",
                side="L", asses="M", path_severity="1.0", bside="L"),
    ]  # fmt: skip
    source = read(tmp_path, rows, [*views(), image("late", SECOND, num_roi="1", ROI_coords="((1, 2, 3, 4),)")])
    assert not source.bad and not source.missing
    one, other = studies(source)[0], studies(source)[-1]
    assert (one.source, one.patient, one.exam, one.modality) == ("embed", ANN, FIRST, "mammography")
    assert (one.view, one.laterality, one.rating, one.outcome) == ("CC", "left", "benign", None)
    assert (one.time, one.age) == (0.0, 52.031185)
    assert [shown.name for shown in one.findings] == ["mass", "calcifications"]
    assert one.image == f"images/cohort_1/{ANN}/1.2/{FIRST}-LCC.dcm"
    assert (other.time, other.age, other.rating) == (372.0, 53.047, "highly suggestive of malignancy")
    assert (other.outcome, [shown.name for shown in other.findings]) == ("malignant", ["unspecified abnormality"])
    assert source.read(one.image) == b"pixels"
    assert source.facts["images_with_regions"] == 1
    assert source.facts["patients_by_race"] == {"African American or Black": 1}


@pytest.mark.parametrize(
    ("desc", "rows", "left", "right"),
    [
        # the worst of a breast's findings, in each order of severity
        (SCREENING, "LB LA RN RB", "additional evaluation needed", "benign"),
        ("MG Diagnostic Mammo Bilateral", "LN LP RB RS", "probably benign", "suspicious"),
        ("MG Diagnostic Mammo Bilateral", "LM LK RS RM", "known malignancy", "highly suggestive of malignancy"),
        # both, and blank, are both breasts
        (SCREENING, "BB", "benign", "benign"),
        (SCREENING, " N", "negative", "negative"),
        (SCREENING, " B RA", "benign", "additional evaluation needed"),
        # the breast without a row beside one with rows is negative, in bilateral exams only
        (SCREENING, "LA", "additional evaluation needed", "negative"),
        ("MG Screen Bilat w/Tomo/CAD Stnd Protocol", "RB", "negative", "benign"),
        ("MG Diagnostic Left", "LS", "suspicious", None),
        ("MG Diagnostic Right", " S", None, "suspicious"),
        ("MG Diagnostic", " S", "suspicious", "suspicious"),
        # X and blank are no assessment, yet the breast had a finding, so it is not negative
        (SCREENING, "LX RB", None, "benign"),
        (SCREENING, "LX", None, "negative"),
        (SCREENING, "LX LB", "benign", "negative"),
        (SCREENING, "L  RN", None, "negative"),
        # letters that do not fit the kind of exam
        (SCREENING, "LM RN", None, "negative"),
        (SCREENING, "LK LA RN", None, "negative"),
        ("MG Diagnostic Mammo Bilateral", "LA RB", None, "benign"),
        ("", "LB RN", None, None),
    ],
)
def test_a_breast_has_the_worst_assessment_of_its_findings(
    tmp_path: Path, desc: str, rows: str, left: str | None, right: str | None
) -> None:
    pairs = [rows[i : i + 2] for i in range(0, len(rows), 3)]
    source = read(tmp_path, [finding(desc=desc, side=side, asses=letter) for side, letter in pairs], views())
    assert source.bad == []
    found = labels(source)
    assert (found.get("LCC"), found.get("LMLO")) == (left, left)
    assert (found.get("RCC"), found.get("RMLO")) == (right, right)


def test_what_has_no_label_is_counted(tmp_path: Path) -> None:
    rows = [
        finding(side="L", asses="X"),
        finding(side="R", asses=""),
        finding(SECOND, side="L", asses="K"),
        finding(OTHER, desc=""),
        finding("7000000000000001"),
    ]
    metadata = [*views(), *views(SECOND), image("no finding", "7000000000000003"), image("3", OTHER)]
    source = read(tmp_path, rows, metadata)
    assert source.facts["skipped"] == {
        "findings without an assessment (X or blank)": 2,
        "findings whose assessment does not fit a screening or a diagnostic exam": 1,
        "exams without a description": 1,
        "exams without images": 1,
        "images of a breast without a label": 4 + 2 + 1,
        "images of an exam without findings": 1,
    }
    assert (source.bad, labels(source)) == ([], {"RCC": "negative", "RMLO": "negative"})


@pytest.mark.parametrize(
    ("severities", "outcome"),
    [
        ("0", "malignant"), ("1.0", "malignant"), ("2", "high-risk"), ("3", "high-risk"), ("4", "benign"),
        ("4 0", "malignant"), ("4 2", "high-risk"), ("", None),
        ("6", "unclear"), ("6 4", "unclear"), ("6 2", "unclear"), ("6 0", "malignant"),
    ],
)  # fmt: skip
def test_the_outcome_is_the_worst_pathology_of_the_breast(tmp_path: Path, severities: str, outcome: str | None) -> None:
    rows = [
        finding(desc="MG Diagnostic Mammo Bilateral", side="L", asses="S", path_severity=severity, bside="L")
        for severity in severities.split() or [""]
    ]
    source = read(tmp_path, rows, views())
    assert {(study.laterality, study.outcome) for study in studies(source)} == {("left", outcome), ("right", None)}


@pytest.mark.parametrize(("others", "outcome"), [("6", "negative"), ("4", "unclear")])
def test_pathology_5_is_negative_only_in_a_table_that_tells_other_cancers_by_6(
    tmp_path: Path, others: str, outcome: str | None
) -> None:
    """Newer cuts have 5 for them."""
    rows = [
        finding(desc=DIAGNOSTIC, side="L", asses="S", path_severity="5.0"),
        finding(SECOND, BEA, desc=DIAGNOSTIC, side="L", asses="S", path_severity=others),
    ]
    source = read(tmp_path, rows, [image("a"), image("b", SECOND, BEA)])
    assert {study.outcome for study in studies(source) if study.patient == ANN} == {outcome}


def test_a_pathology_belongs_to_the_breast_of_bside(tmp_path: Path) -> None:
    rows = [
        finding(desc="MG Diagnostic Mammo Bilateral", side="L", asses="S"),
        finding(desc="MG Diagnostic Mammo Bilateral", side="R", asses="B", path_severity="0", bside="L"),
    ]
    source = read(tmp_path, rows, views())
    assert {(study.laterality, study.outcome) for study in studies(source)} == {("left", "malignant"), ("right", None)}


@pytest.mark.parametrize("side", ["", "B"])
def test_a_pathology_of_a_breast_that_is_not_named_is_of_neither(tmp_path: Path, side: str) -> None:
    """Both breasts would have the cancer of one."""
    rows = [finding(desc="MG Diagnostic Mammo Bilateral", side=side, asses="S", path_severity="0")]
    source = read(tmp_path, rows, views())
    assert {(s.laterality, s.outcome) for s in studies(source)} == {("left", "unclear"), ("right", "unclear")}
    assert source.facts["skipped"]["pathologies of a breast that is not named"] == 1
    rows = [finding(desc=DIAGNOSTIC, side="", asses="S", path_severity="0")]  # of an exam of one breast
    assert {s.outcome for s in studies(read(tmp_path / "one", rows, views()))} == {"malignant"}


CLEAR_LATER = {"study_date_anon": "2016-08-10", "side": "", "asses": "N"}


@pytest.mark.parametrize(
    ("later", "after"),
    [
        (CLEAR_LATER, "stable"),
        ({"desc": DIAGNOSTIC, "side": "L", "asses": "S", "path_severity": "0"}, "worse"),
        ({"desc": DIAGNOSTIC, "side": "L", "asses": "K"}, "worse"),
        ({"desc": "MG Diagnostic Right", "side": "R", "asses": "S", "path_severity": "1"}, None),  # the other breast
        ({"desc": "MG Diagnostic Mammo Bilateral", "side": "", "asses": "S", "path_severity": "0"}, None),  # which?
        ({"side": "L", "asses": "N", "path_severity": "0", "bside": "L"}, "worse"),  # amended later
        ({"desc": "", "side": "L", "asses": "N"}, None),
        ({"side": "L", "asses": "M"}, None),  # fits no screening exam
        ({"side": "L", "asses": "X"}, "stable"),
        ({"side": "L", "asses": "Z"}, None),  # quarantined
        ({"side": "L", "asses": "B", "study_date_anon": "2015-13-01"}, None),
        ({"desc": DIAGNOSTIC, "side": "L", "asses": "K", "study_date_anon": ""}, None),
        ({"desc": DIAGNOSTIC, "side": "L", "asses": "K", "study_date_anon": "2018-01-20"}, "stable"),
    ],
)
def test_the_year_after_an_exam_is_judged_by_exams_without_images_too(
    tmp_path: Path, later: dict[str, str], after: str | None
) -> None:
    """An exam of which no file is there would be no exam, and a breast with cancer would be `stable`."""
    last = finding(OTHER, **CLEAR_LATER, age_at_study="53.1")
    other = finding(SECOND, **{"study_date_anon": "2015-12-20", "age_at_study": "52.4", **later})
    source = read(tmp_path, [finding(), other, last], [*views(), *views(OTHER)])
    assert {s.year_after for s in studies(source) if s.exam == FIRST and s.laterality == "left"} == {after}


def test_an_exam_of_two_dates_leaves_the_year_before_it_open(tmp_path: Path) -> None:
    """It has no label, and may be the one that found the cancer."""
    other = [finding(SECOND, side="L", study_date_anon=f"2015-12-{day}", age_at_study="52.4") for day in ("20", "27")]
    last = finding(OTHER, **CLEAR_LATER, age_at_study="53.1")
    for more, after in (([], "stable"), (other, None)):
        source = read(tmp_path / str(after), [finding(), *more, last], [*views(), *views(OTHER)])
        assert {s.year_after for s in studies(source) if s.exam == FIRST} == {after}


@pytest.mark.parametrize(
    ("cells", "shown"),
    [
        *(({"massshape": letter}, "mass") for letter in "GROX"),
        *(({"massshape": letter}, "architectural distortion") for letter in "QA"),
        *(({"massshape": letter}, "asymmetry") for letter in "TBSFV"),
        *(({"massshape": letter}, "lymph node") for letter in "NY"),
        ({"calcfind": "FG"}, "calcifications"),
        ({"calcdistri": "L"}, "calcifications"),
        ({"calcnumber": "12"}, "calcifications"),
        ({"calcnumber": "0"}, "unspecified abnormality"),
        ({"massshape": "J"}, "unspecified abnormality"),
    ],
)
def test_a_finding_is_what_its_letters_mean(tmp_path: Path, cells: dict[str, str], shown: str) -> None:
    source = read(tmp_path, [finding(side="L", asses="B", **cells)], [image("a")])
    assert [[found.name for found in study.findings] for study in studies(source)] == [[shown]]


@pytest.mark.parametrize(("desc", "order"), [(SCREENING, "ABN"), ("MG Diagnostic Mammo Bilateral", "KMSPBN")])
def test_of_any_two_assessments_the_more_severe_counts(tmp_path: Path, desc: str, order: str) -> None:
    words = {
        "A": "additional evaluation needed", "B": "benign", "K": "known malignancy", "N": "negative",
        "M": "highly suggestive of malignancy", "P": "probably benign", "S": "suspicious",
    }  # fmt: skip
    rows, metadata, expected = [], [], {}
    for i, (worse, other) in enumerate(combinations(order, 2)):
        exam, patient = str(10**15 + i), str(10**7 + i)
        rows += [finding(exam, patient, desc=desc, asses=letter) for letter in (other, worse)]
        metadata.append(image("x", exam, patient))
        expected[exam] = words[worse]
    assert {study.exam: study.rating for study in studies(read(tmp_path, rows, metadata))} == expected


def test_a_breast_with_a_pathology_alone_is_not_negative(tmp_path: Path) -> None:
    rows = [finding(desc="MG Diagnostic Mammo Bilateral", side="L", asses="S", path_severity="4", bside="R")]
    assert labels(read(tmp_path, rows, views())) == dict.fromkeys(("LCC", "LMLO"), "suspicious")


@pytest.mark.parametrize("letter", "NB")
def test_a_diagnostic_breast_with_a_pathology_stays(tmp_path: Path, letter: str) -> None:
    rows = [finding(desc=DIAGNOSTIC, side="L", asses=letter, path_severity="4")]
    assert [study.outcome for study in studies(read(tmp_path, rows, [image("a")]))] == ["benign"]


@pytest.mark.parametrize("letter", "NB")
def test_a_screening_breast_that_was_amended_is_left_out(tmp_path: Path, letter: str) -> None:
    rows = [finding(side="L", asses=letter, path_severity="4", bside="L"), finding(side="R", asses="B")]
    source = read(tmp_path, rows, views())
    assert labels(source) == {"RCC": "benign", "RMLO": "benign"}
    (reason,) = (reason for reason in source.facts["skipped"] if "amended" in reason)
    assert source.facts["skipped"][reason] == 1


def test_an_additional_evaluation_with_a_pathology_stays(tmp_path: Path) -> None:
    source = read(tmp_path, [finding(side="L", asses="A", path_severity="0", bside="L")], views())
    assert {s.outcome for s in studies(source) if s.rating == "additional evaluation needed"} == {"malignant"}


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        ({"b": {}, "a": {}}, "a"),
        ({"b": {}, "a": {"FinalImageType": "cview"}}, "b"),
        ({"b": {}, "a": {"spot_mag": "1"}}, "b"),
        ({"b": {"FinalImageType": "cview"}, "a": {"spot_mag": "1.0"}}, "b"),
        ({"b": {"spot_mag": "0"}, "a": {"spot_mag": "1"}}, "b"),
        ({"b": {"FinalImageType": "cview"}, "a": {"FinalImageType": "3D"}}, "b"),
        ({"a": {"FinalImageType": "ROI_SSC"}}, None),
        ({"a": {"ImageLateralityFinal": ""}}, None),
        ({"b": {}, "a": {"ViewPosition": "ML"}}, "b"),
    ],
)
def test_one_image_of_a_breast_and_view_is_taken(
    tmp_path: Path, names: dict[str, dict[str, str]], chosen: str | None
) -> None:
    source = read(tmp_path, [finding()], [image(name, **cells) for name, cells in names.items()])
    assert source.bad == []
    assert [Path(s.image).stem for s in studies(source) if s.view == "CC"] == ([chosen] if chosen else [])
    assert sum(source.facts["skipped"].values()) + len(studies(source)) == len(names)


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
