"""Reading VQA-RAD: dirty answers, the workbook, places in the list, images that are missing."""

import json
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmim.data.sources import vqa_rad
from medmim.data.sources.source import Source
from medmim.data.sources.vqa_rad import Question, load, questions
from medmim.errors import UserError
from medmim.sample import Pair
from tests.support.raw_sources import entry, write_image

LIST, BOOK, FOLDER = "VQA_RAD Dataset Public.json", "VQA_RAD Dataset Public.xlsx", "VQA_RAD Image Folder"


def record(image: str, question: str, answer: Any, kind: str, **keys: Any) -> dict[str, Any]:
    return {
        "qid": "1", "phrase_type": "freeform", "qid_linked_id": "03f451ca-de62-4617-9679-e836026a7642",
        "image_case_url": "https://medpix.nlm.nih.gov/case?id=48e1dd0e-8552-46ad-a354-5eb55be86de6",
        "image_name": image, "image_organ": "HEAD", "evaluation": "not evaluated", "question": question,
        "question_rephrase": "NULL", "question_relation": "NULL", "question_frame": "NULL", "question_type": "PRES",
        "answer": answer, "answer_type": kind, **keys,
    }  # fmt: skip


RECORDS: list[Any] = [
    record("synpic54610.jpg", "Are regions of the brain infarcted?", "Yes", "CLOSED"),
    record("synpic29265.jpg", "How many lesions?", 3, "OPEN", qid=2, image_organ="CHEST", qid_linked_id="b"),
    record("synpic54610.jpg", "Is the brain infarcted?", "Yes\t", "CLOSED ", phrase_type="test_para"),
    record("synpic54610.jpg", "What lobe is\taffected?", "left\tparietal", "OPEN", question_type="POS, ABN"),
    record("synpic100.jpg", "Is it normal?", "no", "CLOSED", image_organ="ABD"),
]
PAIRS = [
    ("synpic54610.jpg", Pair("Are regions of the brain infarcted?", "Yes", "closed")),
    ("synpic29265.jpg", Pair("How many lesions?", "3", "open")),
    ("synpic54610.jpg", Pair("Is the brain infarcted?", "Yes", "closed")),
    ("synpic54610.jpg", Pair("What lobe is affected?", "left parietal", "open")),
    ("synpic100.jpg", Pair("Is it normal?", "no", "closed")),
]
IMAGES = ("synpic54610.jpg", "synpic29265.jpg", "synpic100.jpg")


def folder(root: Path, records: list[Any] = RECORDS) -> Path:
    root.mkdir(exist_ok=True)
    (root / LIST).write_text(json.dumps(records), encoding="utf-8")
    for name in IMAGES:
        write_image(root / FOLDER / name)
    return root


def read(root: Path, records: list[Any] = RECORDS) -> Source:
    return load(entry("vqa_rad", folder(root, records)))


def test_an_image_has_all_questions_on_it_and_is_its_own_case(tmp_path: Path) -> None:
    source = read(tmp_path)
    studies = source.studies or []
    assert [(study.patient, study.image) for study in studies] == [(name, f"{FOLDER}/{name}") for name in IMAGES]
    assert [list(study.pairs) for study in studies] == [
        [pair for image, pair in PAIRS if image == name] for name in IMAGES
    ]
    assert {(study.source, study.modality, study.held_out, study.caption) for study in studies} == {
        ("vqa-rad", "", True, None)
    }
    assert all(source.identity(study.image) for study in source.studies or [])
    assert (source.bad, source.missing) == ([], [])
    assert source.facts == {
        "rows": 5, "images": 3, "missing_images": 0, "questions_without_an_image": 0, "linked_over_images": 1,
        "by_kind": {"closed": 3, "open": 2}, "by_organ": {"ABD": 1, "CHEST": 1, "HEAD": 3},
        "by_phrase": {"freeform": 4, "test_para": 1},
    }  # fmt: skip


def test_places_in_the_list_are_kept_over_records_that_cannot_be_used(tmp_path: Path) -> None:
    broken = [RECORDS[0], {"question": "?"}, *RECORDS[1:3], None, *RECORDS[3:]]
    root = folder(tmp_path, broken)
    assert questions(entry("vqa_rad", root)) == [
        Question(place, f"{FOLDER}/{image}", pair) for place, (image, pair) in zip((0, 2, 3, 5, 6), PAIRS, strict=True)
    ]
    assert {(row.file, row.row) for row in load(entry("vqa_rad", root)).bad} == {(LIST, 2), (LIST, 5)}


def test_the_workbook_reads_as_the_list(tmp_path: Path) -> None:
    listed = read(tmp_path)
    places = questions(entry("vqa_rad", tmp_path))
    (tmp_path / LIST).unlink()
    book = openpyxl.Workbook()
    book.active.append([
        "QID_unique", "QID_para", "QID_linked", "IMAGEID_case", "IMAGE", "IMAGE_organ", "EVALUATION", "QUESTION",
        "Q_REPHASE", "Q_RELATION", "Q_FRAMED", "Q_TYPE", "ANSWER", "A_TYPE",
    ])  # fmt: skip
    for row in RECORDS:
        book.active.append([
            row["qid"], row["phrase_type"], row["qid_linked_id"], row["image_case_url"], row["image_name"],
            row["image_organ"], row["evaluation"], row["question"], "NULL", "NULL", "NULL", row["question_type"],
            row["answer"], row["answer_type"],
        ])  # fmt: skip
    book.save(tmp_path / BOOK)
    found = load(entry("vqa_rad", tmp_path))
    assert (found.studies, found.facts, found.bad) == (listed.studies, listed.facts, [])
    assert questions(entry("vqa_rad", tmp_path)) == places


def test_missing_images_are_named_with_their_questions_counted(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / FOLDER / "synpic54610.jpg").unlink()
    source = load(entry("vqa_rad", tmp_path))
    assert source.missing == [f"{FOLDER}/synpic54610.jpg"]
    assert (len(source.studies or ()), source.facts["questions_without_an_image"]) == (2, 3)


@pytest.mark.parametrize(
    ("change", "key", "words"),
    [
        ({"answer": "NULL"}, "answer", "is empty"),
        ({"answer": None}, "answer", "is empty"),
        ({"answer": ["Yes"]}, "answer", "is of type list"),
        ({"answer": True}, "answer", "is of type bool"),
        ({"answer": float("nan")}, "answer", "is of type float"),
        ({"answer_type": "MAYBE"}, "answer_type", "neither OPEN nor CLOSED"),
        ({"image_name": "../../etc/passwd"}, "image_name", "no name of a file"),
        ({"image_name": "a\0b.jpg"}, "image_name", "no name of a file"),
        ({"image_name": "/etc/passwd"}, "image_name", "no name of a file"),
        ({"question": " \t"}, "question", "is empty"),
        ({"question": "x" * 5000}, "question", "more than 4,096"),
    ],
)
def test_a_record_that_cannot_be_used_is_quarantined(
    tmp_path: Path, change: dict[str, Any], key: str, words: str
) -> None:
    source = read(tmp_path, [RECORDS[1], RECORDS[0] | change])
    assert [(row.file, row.row, row.key, words in row.reason) for row in source.bad] == [(LIST, 2, key, True)]
    assert [study.patient for study in source.studies or []] == ["synpic29265.jpg"]


@pytest.mark.parametrize("answer", ["None", "N/A", "-", "0", "unknown"])
def test_what_means_no_value_in_a_table_may_be_an_answer(tmp_path: Path, answer: str) -> None:
    studies = read(tmp_path, [RECORDS[0] | {"answer": answer}]).studies or []
    assert [pair.answer for study in studies for pair in study.pairs] == [answer]


def test_rephrasings_may_be_absent(tmp_path: Path) -> None:
    bare = [
        {key: value for key, value in row.items() if key in ("image_name", "question", "answer", "answer_type")}
        for row in RECORDS
    ]
    assert [study.pairs for study in read(tmp_path / "bare", bare).studies or []] == [
        study.pairs for study in read(tmp_path / "whole").studies or []
    ]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "a Git LFS pointer"),
        ("[]", "has no questions"),
        ("[{", "cut off"),
    ],
)
def test_a_file_that_is_no_list_of_questions_is_named(tmp_path: Path, data: str, words: str) -> None:
    folder(tmp_path)
    (tmp_path / LIST).write_text(data)
    with pytest.raises(UserError, match=words):
        load(entry("vqa_rad", tmp_path))


def test_inputs_change_with_an_image_and_terms_allow_all(tmp_path: Path) -> None:
    before = vqa_rad.inputs(entry("vqa_rad", folder(tmp_path)))
    assert set(before) == {LIST, "images"}
    write_image(tmp_path / FOLDER / "synpic100.jpg", "PNG")
    assert vqa_rad.inputs(entry("vqa_rad", tmp_path)) != before
    assert vqa_rad.TERMS.refused == ()


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["CLOSED ", "NULL"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=80)
@given(change=st.dictionaries(st.sampled_from(sorted(RECORDS[0])), JSON) | JSON)
def test_any_json_in_any_place_is_read_or_quarantined(change: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("fuzz")
    row = RECORDS[0] | change if isinstance(change, dict) else change
    (root / LIST).write_text(json.dumps([row, RECORDS[1]]), encoding="utf-8")
    source = load(entry("vqa_rad", root))
    assert len({bad.row for bad in source.bad}) + len(questions(entry("vqa_rad", root))) == 2
