"""Reading MS-CXR-T with MIMIC-CXR-JPG: pairs, dates and views, what is quarantined, and the published ids."""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmim.data.sources import ms_cxr_t
from medmim.data.sources.ms_cxr_t import labels, load
from medmim.data.sources.source import Source
from medmim.errors import UserError
from medmim.sample import Change
from tests.support import shared_data
from tests.support.raw_sources import entry, write_csv, write_image

TABLE = "MS_CXR_T_temporal_image_classification_v1.0.0.csv"
METADATA = "mimic-cxr-2.0.0-metadata.csv"
HEADER = (
    "dicom_id", "subject_id", "study_id", "previous_dicom_id", "previous_study_id",
    "consolidation_progression", "consolidation_label_quality", "edema_progression", "edema_label_quality",
    "pleural_effusion_progression", "pleural_effusion_label_quality", "pneumonia_progression",
    "pneumonia_label_quality", "pneumothorax_progression", "pneumothorax_label_quality",
)  # fmt: skip
META = (
    "dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows", "Columns",
    "StudyDate", "StudyTime", "ProcedureCodeSequence_CodeMeaning", "ViewCodeSequence_CodeMeaning",
    "PatientOrientationCodeSequence_CodeMeaning",
)  # fmt: skip


def dicom(letter: str) -> str:
    return "-".join([letter * 8] * 5)


def path(subject: int, study: int, letter: str) -> str:
    """A path as the table has it."""
    return f"p{str(subject)[:2]}/p{subject}/s{study}/{dicom(letter)}"


A, B, C = path(10000032, 50000002, "a"), path(10000032, 50000001, "b"), path(10000032, 50000003, "c")
D, E = path(10000764, 50000005, "d"), path(10000764, 50000004, "e")
FIRST = {
    "dicom_id": A, "subject_id": 10000032, "study_id": 50000002, "previous_dicom_id": B, "previous_study_id": 50000001,
    "edema_progression": "improving", "edema_label_quality": "multiple_experts",
    "pneumonia_progression": "worsening", "pneumonia_label_quality": "disagreement",
}  # fmt: skip
SECOND = {
    "dicom_id": C, "subject_id": 10000032, "study_id": 50000003, "previous_dicom_id": A, "previous_study_id": 50000002,
    "edema_progression": "stable", "edema_label_quality": "one_expert",
}  # fmt: skip
THIRD = {
    "dicom_id": D, "subject_id": 10000764, "study_id": 50000005, "previous_dicom_id": E, "previous_study_id": 50000004,
    "pleural_effusion_progression": "Worsening ", "pneumothorax_progression": "nan",
}  # fmt: skip
ROWS = [FIRST, SECOND, THIRD]


def meta(image: str, view: str, day: object, time: object) -> dict[str, Any]:
    _, subject, study, name = image.split("/")
    return {"dicom_id": name, "subject_id": subject[1:], "study_id": study[1:], "ViewPosition": view,
            "StudyDate": day, "StudyTime": time}  # fmt: skip


# The second study of the first patient is on the day after the first; 05:40 has no leading zero.
DATES = [
    meta(B, "PA", 21800506, "213014.531"),
    meta(A, "AP", 21800507, "54014.0"),
    meta(C, "LATERAL", 21800526, "165500.0"),
    meta(D, "", 21990228, ""),
    meta(E, "LL", 21990227, "80000"),
]
IMAGES = [B, A, C, E, D]  # in the order in which the pairs name them, the previous one first


def folder(root: Path, rows: list[dict[str, Any]] = ROWS, dates: list[dict[str, Any]] | None = DATES) -> Path:
    write_csv(root / TABLE, HEADER, rows)
    if dates is not None:
        write_csv(root / METADATA, META, dates)
        (root / f"{METADATA}.gz").write_bytes(gzip.compress((root / METADATA).read_bytes()))
        (root / METADATA).unlink()
    for image in IMAGES:
        write_image(root / "files" / f"{image}.jpg")
    return root


def read(root: Path, rows: list[dict[str, Any]] = ROWS, dates: list[dict[str, Any]] | None = DATES) -> Source:
    return load(entry("ms_cxr_t", folder(root, rows, dates)))


def reasons(source: Source) -> list[tuple[str, int, str]]:
    return [(row.file, row.row, row.reason) for row in source.bad]


def test_the_labels_of_a_pair_stand_on_its_current_image(tmp_path: Path) -> None:
    source = read(tmp_path)
    studies = source.studies or []
    assert [study.image for study in studies] == [f"files/{image}.jpg" for image in IMAGES]
    assert [(study.patient, study.exam) for study in studies] == [
        ("10000032", "50000001"), ("10000032", "50000002"), ("10000032", "50000003"),
        ("10000764", "50000004"), ("10000764", "50000005"),
    ]  # fmt: skip
    assert [study.changes for study in studies] == [
        (),
        (Change("edema", "improved", f"files/{B}.jpg"), Change("pneumonia", "worse", f"files/{B}.jpg")),
        (Change("edema", "stable", f"files/{A}.jpg"),),
        (),
        (Change("pleural effusion", "worse", f"files/{E}.jpg"),),
    ]
    assert {(study.source, study.modality, study.findings) for study in studies} == {("ms-cxr-t", "X-ray", ())}
    assert all(source.identity(study.image) for study in source.studies or [])
    assert source.bad == source.missing == []
    assert source.facts["label_quality"] == {"disagreement": 1, "multiple_experts": 1, "not given": 1, "one_expert": 1}
    assert source.facts["labels"] == {
        "consolidation": {}, "edema": {"improved": 1, "stable": 1}, "pleural effusion": {"worse": 1},
        "pneumonia": {"worse": 1}, "pneumothorax": {},
    }  # fmt: skip


def test_views_and_days_come_from_mimics_table(tmp_path: Path) -> None:
    studies = read(tmp_path).studies or []
    assert [study.view for study in studies] == ["PA", "AP", "L", "L", None]
    # 21:30:14.531 to 05:40:14 of the next day are 8 h 10 min, to 16:55:00 of the 20th day after 19 d 19 h 24 min 45 s
    assert [study.time for study in studies[:3]] == [
        0.0,
        pytest.approx(0.3403, abs=1e-4),
        pytest.approx(19.8089, abs=1e-4),
    ]
    assert [study.time for study in studies[3:]] == [0.0, 1.0]  # one has no time of day: whole days


def test_the_table_of_dates_may_be_unpacked_or_absent(tmp_path: Path) -> None:
    packed = read(tmp_path)
    file = tmp_path / f"{METADATA}.gz"
    (tmp_path / METADATA).write_bytes(gzip.decompress(file.read_bytes()))
    file.unlink()
    unpacked = load(entry("ms_cxr_t", tmp_path))
    assert unpacked.studies == packed.studies
    assert METADATA in ms_cxr_t.inputs(entry("ms_cxr_t", tmp_path))
    (tmp_path / METADATA).unlink()
    bare = load(entry("ms_cxr_t", tmp_path))
    assert [study.changes for study in bare.studies or []] == [study.changes for study in packed.studies or []]
    assert {(study.time, study.view) for study in bare.studies or []} == {(None, None)}
    assert bare.facts["without_date"] == 5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"previous_dicom_id": E}, "another patient than subject_id"),
        ({"dicom_id": D}, "another patient than subject_id"),
        ({"subject_id": 10000764}, "another patient than subject_id"),
        ({"dicom_id": f"p11/{A.split('/', 1)[1]}"}, "another patient than subject_id"),
        ({"previous_study_id": 50000009}, "another study than the row names"),
        ({"previous_study_id": ""}, "is empty"),
        ({"previous_study_id": 50000002, "previous_dicom_id": A}, "the previous study is the current one"),
        ({"subject_id": "1.0000032E+07"}, "exponent"),
        ({"study_id": "NaN"}, "missing value"),
        ({"study_id": "500000020"}, "no number of eight digits"),
        ({"dicom_id": "../../../etc/passwd"}, "is no path"),
        ({"dicom_id": ""}, "is no path"),
        ({"edema_progression": "resolved", "pneumonia_progression": ""}, "is none of improving, stable, worsening"),
    ],
)
def test_a_pair_that_does_not_fit_together_is_quarantined(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    source = read(tmp_path, [FIRST | changes, THIRD])
    assert source.bad and {(row.file, row.row) for row in source.bad} == {(TABLE, 2)}
    assert any(words in row.reason for row in source.bad)
    assert {study.patient for study in source.studies or []} == {"10000764"}
    assert sum(len(study.changes) for study in source.studies or []) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"subject_id": "10000032.0"},
        {"dicom_id": f"files/{A}.jpg"},
        {"dicom_id": dicom("a")},
        {"edema_progression": " Improving "},
    ],
)
def test_other_ways_to_write_the_same_pair_read_the_same(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert read(tmp_path / "other", [FIRST | changes]).studies == read(tmp_path / "plain", [FIRST]).studies


@pytest.mark.parametrize(
    ("day", "time", "words"),
    [
        (21800510, "0", "3 days after the current one"),
        (21800507, "54014.5", "later on the day of the current one"),
        (21800507, "", ""),
        (21800507, "54013", ""),
    ],
)
def test_a_previous_study_that_is_later_is_quarantined(tmp_path: Path, day: int, time: str, words: str) -> None:
    source = read(tmp_path, [FIRST, THIRD], [meta(B, "PA", day, time), *DATES[1:]])
    if not words:
        assert source.bad == []
        return
    assert [(row.file, row.row, words in row.reason) for row in source.bad] == [(TABLE, 2, True)] * 2
    assert {study.patient for study in source.studies or []} == {"10000764"}


def test_a_wrong_row_of_mimics_table_is_quarantined_and_its_image_has_no_date(tmp_path: Path) -> None:
    dates = [DATES[0] | {"subject_id": "10000764"}, DATES[1] | {"StudyDate": "21801399"}, *DATES[2:]]
    source = read(tmp_path, ROWS, dates)
    assert reasons(source) == [
        (f"{METADATA}.gz", 2, "another patient or study than the table of pairs says"),
        (f"{METADATA}.gz", 3, "'21801399' is no date such as 21800506"),
    ]
    assert [study.time for study in source.studies or []] == [None, None, 0.0, 0.0, 1.0]


def test_rows_that_contradict_each_other_are_both_quarantined(tmp_path: Path) -> None:
    source = read(tmp_path, [SECOND, SECOND | {"edema_progression": "worsening"}, THIRD, THIRD])
    assert [(row.row, "another state" in row.reason) for row in source.bad] == [(2, True), (3, True)]
    assert [len(study.changes) for study in source.studies or []] == [0, 1]


def test_labels_on_which_experts_disagree_are_left_out_where_the_recipe_says_so(tmp_path: Path) -> None:
    source = load(entry("ms_cxr_t", folder(tmp_path), disagreement="leave_out"))
    assert [change.finding for study in source.studies or [] for change in study.changes] == [
        "edema", "edema", "pleural effusion",
    ]  # fmt: skip
    assert source.facts["skipped"] == {"the experts disagree": 1}


def test_a_missing_image_takes_its_labels_with_it_and_is_counted(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / f"files/{A}.jpg").unlink()
    source = load(entry("ms_cxr_t", tmp_path))
    assert source.missing == [f"files/{A}.jpg"]
    assert [study.image for study in source.studies or []] == [f"files/{image}.jpg" for image in (B, C, E, D)]
    assert [len(study.changes) for study in source.studies or []] == [0, 0, 0, 1]
    assert (source.facts["labels_without_an_image"], source.facts["missing_images"]) == (3, 1)


def test_both_images_of_a_pair_are_of_one_patient_by_whom_the_splits_are_made(tmp_path: Path) -> None:
    studies = {study.image: study for study in read(tmp_path).studies or []}
    pairs = [(study, studies[change.since]) for study in studies.values() for change in study.changes]
    assert len(pairs) == 4 and all(current.patient == previous.patient for current, previous in pairs)


def test_ids_count_the_labels_of_rows_that_are_left_out(tmp_path: Path) -> None:
    broken = FIRST | {"previous_dicom_id": E}
    odd = FIRST | {"edema_progression": "unclear", "pneumonia_progression": ""}
    found = labels(entry("ms_cxr_t", folder(tmp_path, [broken, odd, SECOND, FIRST, THIRD]), disagreement="leave_out"))
    assert [(label.id, label.row) for label in found] == [
        ("ms-cxr-t-edema-2", 4), ("ms-cxr-t-edema-3", 5), ("ms-cxr-t-pleural_effusion-0", 6),
    ]  # fmt: skip


def test_terms_share_nothing() -> None:
    assert not ms_cxr_t.TERMS.redistribute_data and not ms_cxr_t.TERMS.outside_api
    assert not ms_cxr_t.TERMS.release_weights and not ms_cxr_t.TERMS.serve


def test_a_folder_in_s3_reads_the_same(tmp_path: Path, bucket: str) -> None:
    from medmim import store

    local = read(tmp_path)
    place = store.open_store(f"{bucket}/raw")
    for file in sorted(tmp_path.rglob("*")):
        if file.is_file():
            place.write(str(file.relative_to(tmp_path)), file.read_bytes())
    remote = load(entry("ms_cxr_t", f"{bucket}/raw"))
    assert (remote.studies, remote.bad, remote.missing) == (local.studies, local.bad, local.missing)
    assert remote.read(f"files/{A}.jpg") == (tmp_path / f"files/{A}.jpg").read_bytes()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "a Git LFS pointer"),
        (b"dicom_id,subject_id,study_id\n", "lacks columns: previousstudyid, previousdicomid"),
        (
            b"dicom_id,subject_id,study_id,previous_dicom_id,previous_study_id,edema_prog\na,1,2,b,3,stable\n",
            "needs one",
        ),
        (b"dicom_id;subject_id;study_id;previous_dicom_id;previous_study_id\n", "semicolons"),
        (",".join(HEADER).encode() + b"\n", "has no rows"),
    ],
)
def test_a_file_that_is_no_table_of_pairs_is_named(tmp_path: Path, data: bytes, words: str) -> None:
    folder(tmp_path)
    (tmp_path / TABLE).write_bytes(data)
    with pytest.raises(UserError, match=words):
        load(entry("ms_cxr_t", tmp_path))


@pytest.mark.parametrize(
    "damage", [lambda d: d[:40], lambda d: d[:30] + b"\0" * 8 + d[38:], lambda d: d[:-4] + b"\0" * 4]
)
def test_a_broken_packed_table_is_named(tmp_path: Path, damage: Any) -> None:
    folder(tmp_path)
    file = tmp_path / f"{METADATA}.gz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match="metadata.csv.gz cannot be unpacked"):
        load(entry("ms_cxr_t", tmp_path))


def test_a_packed_table_that_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path)
    monkeypatch.setattr(ms_cxr_t, "_UNPACKED", 1 << 20)
    (tmp_path / f"{METADATA}.gz").write_bytes(gzip.compress(b" " * (8 << 20)))
    with pytest.raises(UserError, match="too large"):
        load(entry("ms_cxr_t", tmp_path))


CELL = st.one_of(
    st.text(max_size=20), st.sampled_from([A, B, "10000032", "nan", "50000001", "improving", "\ud800"[:0]])
)


@settings(max_examples=80)
@given(cells=st.dictionaries(st.sampled_from(HEADER), CELL), dates=st.dictionaries(st.sampled_from(META), CELL))
def test_any_text_in_any_cell_is_read_or_quarantined(
    cells: dict[str, str], dates: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("fuzz")
    write_csv(root / TABLE, HEADER, [FIRST | cells, THIRD])
    write_csv(root / METADATA, META, [DATES[0] | dates, *DATES[1:]])
    try:
        source = load(entry("ms_cxr_t", root))
    except UserError as error:
        assert TABLE in str(error) or METADATA in str(error)
    else:
        assert {row.file for row in source.bad} <= {TABLE, METADATA}


@shared_data.needs("med-mim")
def test_the_published_ids_are_reproduced(tmp_path: Path) -> None:
    """The table is rebuilt from the published questions: a row a pair, ascending by patient, and its findings."""
    published: dict[tuple[str, int], tuple[str, str]] = {}
    for name in ("benchmark_Held_in_Comparison", "train_inherent_Comparison"):
        for row in json.loads((shared_data.FOLDER / "med-mim" / f"Med_MIM_{name}.json").read_text(encoding="utf-8")):
            if row["source"].startswith("MS_CXR_T_conv"):
                finding, number = re.fullmatch(r"ms-cxr-t-(\w+)-(\d+)", row["id"]).groups()  # type: ignore[union-attr]
                published[finding, int(number)] = tuple(image.removesuffix(".png") for image in row["images"])  # type: ignore[assignment]
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for (finding, _), (previous, current) in sorted(published.items(), key=lambda item: item[1][0].split("/")[1]):
        old, new = previous.split("/"), current.split("/")
        row = rows.setdefault((previous, current), {
            "dicom_id": current, "subject_id": new[1][1:], "study_id": new[2][1:],
            "previous_dicom_id": previous, "previous_study_id": old[2][1:],
        })  # fmt: skip
        row[f"{finding}_progression"] = "stable"
    ordered = in_published_order(published, rows)
    write_csv(tmp_path / TABLE, HEADER, ordered)
    found = {label.id: label for label in labels(entry("ms_cxr_t", tmp_path))}
    assert (len(ordered), len(found)) == (1045, 1326)
    counts = {"consolidation": 201, "edema": 266, "pleural_effusion": 411, "pneumonia": 237, "pneumothorax": 211}
    assert {f: sum(label.startswith(f"ms-cxr-t-{f}-") for label in found) for f in counts} == counts
    assert {
        f"ms-cxr-t-{finding}-{number}": (f"files/{previous}.jpg", f"files/{current}.jpg")
        for (finding, number), (previous, current) in published.items()
    } == {name: (label.change.since, label.image) for name, label in found.items()}
    source = load(entry("ms_cxr_t", tmp_path))
    assert (source.bad, source.facts["rows"], len(source.missing)) == (
        [],
        1045,
        len({p for pair in rows for p in pair}),
    )


def in_published_order(
    published: dict[tuple[str, int], tuple[str, str]], rows: dict[tuple[str, str], dict[str, Any]]
) -> list[dict[str, Any]]:
    """The rows in an order that agrees with the numbers of all findings: each after those numbered before."""
    from graphlib import TopologicalSorter

    before: TopologicalSorter[tuple[str, str]] = TopologicalSorter({pair: () for pair in rows})
    for (finding, number), pair in published.items():
        if number:
            before.add(pair, published[finding, number - 1])
    return [rows[pair] for pair in before.static_order()]
