"""The source `questions`: a line is asked as it is written, and every bad one is told with line and key."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from medmim.data.sources import questions
from medmim.data.sources.source import Entry
from medmim.errors import UserError
from medmim.recipe.sources import Questions
from medmim.sample import Sample
from medmim.terms import Terms
from tests.support.bench import picture

ROW = {"question": "Which is larger?", "images": ["a/1.png", "2.png"], "options": ["image 1", "image 2"]}


def load(folder: Path, *lines: str | bytes | Mapping[str, Any]) -> tuple[list[Sample], list[tuple[int, str, str]]]:
    (folder / "a").mkdir(exist_ok=True)
    for number, name in enumerate(("a/1.png", "2.png")):
        (folder / name).write_bytes(picture(number))
    encoded = [
        one if isinstance(one, bytes) else (one if isinstance(one, str) else json.dumps(one)).encode() for one in lines
    ]
    (folder / "mine.jsonl").write_bytes(b"\n".join(encoded))
    source = questions.load(Entry(Questions(name="questions", root=str(folder), file="mine.jsonl")))
    return list(source.samples or ()), [(row.row, row.key, row.reason) for row in source.bad]


def test_a_line_is_a_test_question(tmp_path: Path) -> None:
    row = {**ROW, "answer": "image 2", "patients": ["P1", "P2", "P1"], "ability": "comparison", "source": "ward-7"}
    more = {"family": "size", "held_out": False, "id": 17, "note": "not read", "more": [{"id": {}}, {"id": 1}]}
    (sample,), bad = load(tmp_path, json.dumps({**row, **more})[:-1] + f', "large": {"9" * 4000}}}')
    paths = ("a/1.png", "2.png")
    assert not bad
    assert sample == Sample(
        "comparison", "size", "ward-7", "test", False, ("P1", "P2"), paths, paths, "Which is larger?",
        ("image 1", "image 2"), "image 2", (1,),
    )  # fmt: skip


def test_what_is_not_given_is_said_of_no_one(tmp_path: Path) -> None:
    (one, several), bad = load(
        tmp_path,
        {"question": " What is it? ", "images": ["2.png"], "answer": " a\u2028mass "},
        "",
        {**ROW, "answer": "image 1", "patients": None},
    )
    assert not bad
    assert (one.ability, one.options, one.gold, one.question) == ("single", (), (), "What is it?")
    assert one.answer == "a\u2028mass"
    assert (several.ability, several.patients, several.held_out) == ("reasoning", (), True)
    assert {one.source, several.source} == {"questions"}


@pytest.mark.parametrize(
    ("answer", "options", "gold"),
    [
        ("image 2", ["image 1", "image 2"], (1,)),
        ("B", ["image 1", "image 2"], (1,)),
        ("B: image 2", ["image 1", "image 2"], (1,)),
        ("A", ["B", "A"], (1,)),  # a text before a letter
        ("same", ["same", "other", "same"], (0, 2)),
        ("C", ["same", "other", "same"], (2, 0)),
    ],
)
def test_the_answer_is_the_text_of_an_option_or_its_letter(answer, options, gold, tmp_path) -> None:
    (sample,), bad = load(tmp_path, {**ROW, "options": options, "answer": answer})
    assert not bad and sample.gold == gold and sample.answer == options[gold[0]]


RIGHT = {**ROW, "answer": "A"}


@pytest.mark.parametrize(
    ("row", "key", "reason"),
    [
        ("{", "", "Invalid JSON"),
        ("[1]", "", "should be an object"),
        ('"text"', "", "object"),
        ('{"question": "\\ud800", "images": ["2.png"], "answer": "x"}', "", "Invalid JSON"),
        ({key: value for key, value in RIGHT.items() if key != "answer"}, "answer", "missing"),
        ({**RIGHT, "answer": "image 3"}, "answer", "none of the options"),
        ({**RIGHT, "answer": "C"}, "answer", "none of the options"),
        ({**RIGHT, "answer": "B: image 1"}, "answer", "none of the options"),
        ({**RIGHT, "answer": 1}, "answer", "valid string"),
        ({**RIGHT, "question": "  "}, "question", "at least 1 character"),
        ({**RIGHT, "question": "<image> What?"}, "question", "<image>"),
        ({**RIGHT, "options": ["one"]}, "options", "at least 2"),
        ({**RIGHT, "options": list("abcdefghi")}, "options", "at most 8"),
        ({**RIGHT, "options": ["image 1", " "]}, "options.1", "at least 1 character"),
        ({**RIGHT, "images": []}, "images", "at least 1"),
        ({**RIGHT, "images": ["2.png"] * 9}, "images", "at most 8"),
        ({**RIGHT, "images": ["2.png", "absent.png"]}, "images.1", "there is no file 'absent.png'"),
        ({**RIGHT, "images": ["../2.png"]}, "images.0", "leaves the folder"),
        ({**RIGHT, "images": ["/etc/passwd"]}, "images.0", "leaves the folder"),
        ({**RIGHT, "patients": ["P1", "1.2E+15"]}, "patients.1", "exponent"),
        ({**RIGHT, "ability": "temporel"}, "ability", "did you mean 'temporal'"),
        ({**RIGHT, "held_out": "yes"}, "held_out", "valid boolean"),
        ({**RIGHT, "patient": ["P1"]}, "patient", "did you mean 'patients'"),
        (json.dumps(RIGHT)[:-1] + ', "answer": "B"}', "answer", "more than once"),
        (json.dumps(RIGHT)[:-1] + ', "note": 1, "note": 2}', "note", "more than once"),
    ],
)
def test_what_cannot_be_asked_is_told_with_line_and_key(row, key, reason, tmp_path) -> None:
    samples, bad = load(tmp_path, {**RIGHT, "question": "Sound?"}, row, {**RIGHT, "question": "Sound too?"})
    assert len(samples) == 2
    assert [one[:2] for one in bad] == [(2, key)] and reason in bad[0][2]


def test_an_image_that_may_not_be_read_is_told_before_any_is(tmp_path: Path) -> None:
    (tmp_path / "outside.png").write_bytes(picture(0))
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    (folder / "empty.png").touch()
    samples, bad = load(folder, {**RIGHT, "images": ["link.png", "empty.png", "a", "2.png"]})
    assert not samples and [one[:2] for one in bad] == [(1, f"images.{number}") for number in range(3)]


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    samples, bad = load(tmp_path, {**RIGHT, "answer": "x", "images": ["no.png", "nor.png"]}, "{", RIGHT, RIGHT)
    assert [one[:2] for one in bad] == [(1, "images.0"), (1, "images.1"), (1, "answer"), (2, ""), (4, "question")]
    assert "the question of line 3 again" in bad[-1][2] and len(samples) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\n \n", "holds no question"),
        ('{"question": "Größe der Läsion?"}'.encode("latin-1"), "WINDOWS-1252"),
        (json.dumps([RIGHT]).encode(), "a list in JSON"),
        (picture(1), "PNG"),
    ],
)
def test_a_file_of_something_else_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        load(tmp_path, content)


def test_terms_are_those_that_are_written(tmp_path: Path) -> None:
    load(tmp_path, RIGHT)
    own = Questions(name="questions", root=str(tmp_path), file="mine.jsonl")
    assert not any(getattr(questions.terms(Entry(own)), flag) for flag in ("serve", "outside_api"))
    (tmp_path / "t.json").write_text(Terms(serve=True, text=("ward 7: own use",)).dump(), encoding="utf-8")
    assert questions.terms(Entry(own.model_copy(update={"terms": "t.json"}))).serve
    (tmp_path / "t.json").write_text(Terms(serve=True).dump(), encoding="utf-8")
    with pytest.raises(UserError, match="does not say who allows it"):
        questions.terms(Entry(own.model_copy(update={"terms": "t.json"})))
