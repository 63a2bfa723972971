"""A book of wordings: read with all its problems, approved under one digest, found by it alone."""

from pathlib import Path

import pytest

from medmim import store
from medmim.data.words import book
from medmim.errors import UserError
from medmim.run.workspace import workspace

GOOD = """\
families:
  which_finding:
    questions: ["Which image shows {value}?", "which image shows {value} ?", "Find the image with {value}."]
    answers: ["{answer} shows {value}."]
    questions_by_hand: ["Wherever may {value} be?"]
"""


def written(folder: Path, text: str) -> Path:
    (folder / "book.yaml").write_text(text)
    return folder / "book.yaml"


def test_every_line_that_is_no_wording_is_told_at_once(tmp_path: Path) -> None:
    text = """\
families:
  which_finding:
    questions: ["Which image shows pneumonia?", "Which image used to show {value}?"]
    questions_by_hand: ["Where is it?"]
  which_findin: {questions: ["Which image shows {value}?"]}
"""
    with pytest.raises(UserError, match="has 4 problems") as caught:
        book.read(written(tmp_path, text))
    said = "\n".join(caught.value.problems)
    assert "leaves a slot out" in said and "of its own" in said and "no such kind" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("families: {change: {}}", "no wording"), ("families: [", "not valid YAML"),
        ("", "is empty"), ("# none", "not a mapping"),
        ("families: {change: {question: [a]}}", "unknown key"), ("family: {}", "families"),
        ("families: {describe: {answers: ['{answer}.']}}", "describe: answers"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_book_is_told(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        book.read(written(tmp_path, text))
    assert said in "\n".join([caught.value.fact, caught.value.reason or "", *caught.value.problems])


def test_a_book_has_one_digest_in_every_store_and_is_found_by_it(tmp_path: Path) -> None:
    found = book.read(written(tmp_path, GOOD))
    assert found.of("which_finding", "question") == (
        "Which image shows {value}?", "Find the image with {value}.", "Wherever may {value} be?",
    )  # fmt: skip
    ws, other = workspace(tmp_path / "a"), workspace(tmp_path / "b")
    made = book.approve(ws, found, shown=True)
    assert book.approve(other, book.read(written(tmp_path, book.dump(found))), shown=False).digest == made.digest
    assert book.of_store(ws, made.digest) == found
    assert made.counts == {"wordings": {"which_finding": 4}}
    assert b'"shown": true' in store.open_store(ws.store).read(f"words/{made.digest}/{store.PROVENANCE}")
    with pytest.raises(UserError, match="no approved wordings ffffffffffff in") as caught:
        book.of_store(ws, "f" * 64)
    assert "data words approve FILE" in caught.value.fix


def test_each_wording_is_shown_as_it_will_read(tmp_path: Path) -> None:
    shown = list(book.examples(book.read(written(tmp_path, GOOD))))
    assert ("which_finding", "answer", "{answer} shows {value}.", "Image 2 shows pleural effusion.") in shown
    assert len(shown) == 4


def test_a_proposal_is_a_book_whose_rejected_texts_are_comments_whatever_they_hold(tmp_path: Path) -> None:
    found = book.read(written(tmp_path, GOOD))
    text = book.dump(found, {"which_finding": ["a: \x00 \u2028 - [oops] (refused)"]}, " by m", "approve it")
    assert "# rejected: " in text and "# next: approve it" in text
    assert book.read(written(tmp_path, text)) == found


def test_a_file_that_is_none_is_told_as_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file(?s:.*)words propose"):
        book.read(tmp_path / "absent.yaml")
    with pytest.raises(UserError, match="is a folder, not wordings"):
        book.read(tmp_path)
    (tmp_path / "empty.yaml").touch()
    with pytest.raises(UserError, match="is empty"):
        book.read(tmp_path / "empty.yaml")
