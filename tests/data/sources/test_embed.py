"""Reading EMBED: labels of breasts, what comes after an exam, the choice of images."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from medmim.data.sources import embed, headers
from tests.support.dicom_files import dicom
from tests.support.embed_tables import (
    ANN,
    BEA,
    DIAGNOSTIC,
    FIRST,
    OTHER,
    SCREENING,
    SECOND,
    finding,
    image,
    labels,
    read,
    section,
    studies,
    views,
)


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


def test_a_header_that_says_that_pixels_identify_is_flagged_and_headers_are_counted(tmp_path: Path) -> None:
    rows = views()
    read(tmp_path, [finding()], rows)
    first, second, *_ = sorted((tmp_path / "images").rglob("*.dcm"))
    for path, said in ((first, "YES"), (second, "NO")):  # the others are no DICOM files
        path.write_bytes(dicom(np.zeros((8, 8), dtype=np.uint16), BurnedInAnnotation=said))
    source = headers.looked_at(embed.load(section(tmp_path)))
    names = [path.relative_to(tmp_path).as_posix() for path in (first, second)]
    assert sorted(source.headers) == names
    assert [(row.file, row.key) for row in source.flagged] == [(names[0], "BurnedInAnnotation")]


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
