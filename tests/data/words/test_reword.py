"""Questions of a data set get approved wordings: all else stays, and a recipe names the wordings by their digest."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medmim import shards, store
from medmim.cli import app as command
from medmim.data import build, plan
from medmim.data.words import book, forms, reword, slots
from medmim.data.words.book import Book, Wordings
from medmim.errors import UserError
from medmim.recipe import loading
from medmim.recipe.schema import Recipe
from medmim.run.workspace import workspace
from medmim.sample import Sample
from tests.support.openai_server import Server

QUESTIONS = ("Please find the image with {value}.", "In which image do you see {value}?")
BOOK = Book(families={"which_finding": Wordings(questions=QUESTIONS, answers=("{answer} shows {value}.",))})
OPEN = Sample(
    "coreference", "which_finding", "s", "train", False, ("p",), ("a", "b"), ("a", "b"), "Which image shows pneumonia?",
    (), "image 2", (),
)  # fmt: skip
CLOSED = replace(OPEN, options=("image 1", "image 2"), gold=(1,))


def recipe(digest: str = "a" * 64, **more: object) -> Recipe:
    data = {"source": "phantom", "patients": 30, "rows_only": True, "words": {"approved": digest}, **more}
    return loading.validate({"name": "test", "data": data}, "test")


def test_question_and_label_get_approved_words_and_all_else_stays() -> None:
    made = reword.reword([OPEN, CLOSED], recipe().data, BOOK)
    for before, after in zip((OPEN, CLOSED), made.samples, strict=True):
        assert after.question in {text.format(value="pneumonia") for text in QUESTIONS}
        assert replace(after, question=before.question, answer=before.answer) == before
    assert [one.answer for one in made.samples] == ["Image 2 shows pneumonia.", "image 2"]
    assert (made.counts["questions"], made.counts["written"], made.counts["kept"]) == (2, 2, {})


def test_what_no_wording_fits_keeps_its_words_and_is_counted() -> None:
    other = replace(OPEN, question="Is it a cyst?", images=("c",), paths=("c",))
    kind = replace(OPEN, family="change", question="How did the cyst change from image 1 to image 2?")
    test = replace(OPEN, split="test", images=("d",), paths=("d",))
    made = reword.reword([other, kind, test], recipe().data, BOOK)
    assert made.samples == [other, kind, test] and made.counts["questions"] == 2
    assert made.counts["kept"] == {
        "not worded by our templates": 1, "of a kind without an approved wording": 1,
    }  # fmt: skip


def test_two_questions_that_would_be_the_same_stay_two() -> None:
    one = Book(families={"which_finding": Wordings(questions=QUESTIONS[:1])})
    second = replace(OPEN, question="In which image is pneumonia seen?")
    made = reword.reword([OPEN, second], recipe().data, one)
    assert [sample.question for sample in made.samples] == ["Please find the image with pneumonia.", second.question]
    assert made.counts["kept"] == {"the same as another question": 1}


def test_another_row_does_not_change_what_a_row_gets_and_all_wordings_are_used() -> None:
    rows = [replace(CLOSED, images=(str(n), "x"), paths=(str(n), "x")) for n in range(60)]
    made = reword.reword(rows, recipe().data, BOOK).samples
    assert reword.reword(rows[7:], recipe().data, BOOK).samples == made[7:]
    counts = [sum(one.question.startswith(text[:8]) for one in made) for text in QUESTIONS]
    assert min(counts) > 15 and sum(counts) == 60


def test_without_the_section_the_key_of_a_data_set_is_what_it_was() -> None:
    assert reword.section(recipe(words=None).data) == {}
    assert reword.section(recipe().data)["words"]["approved"] == "a" * 64


@pytest.fixture(scope="module")
def everything() -> Book:
    """A wording of each kind, none of them a template."""
    own = {family: (f"Tell: {slots.templates(family)[0]}",) for family in forms.families()}
    return Book(families={family: Wordings(questions_by_hand=texts) for family, texts in own.items()})


def test_a_build_is_worded_as_planned_and_found_by_the_digest(everything: Book, tmp_path: Path) -> None:
    ws = workspace(tmp_path)
    made = book.approve(ws, everything, shown=True)
    planned = plan.of(recipe(made.digest), ws)["words"]
    built = build.run(recipe(made.digest), ws)
    told = built.facts["words"]
    assert told == planned and told["written"] > 0.9 * told["questions"] > 50
    rows = list(shards.read_samples(ws.fetch(built.uri)))
    assert sum(one.question.startswith("Tell: ") for one in rows) == told["written"]
    assert all(one.split == "train" for one in rows if one.question.startswith("Tell: "))
    assert build.run(recipe(made.digest), ws).cached
    record = json.loads(store.open_store(ws.store).read(f"data/{built.digest}/{store.PROVENANCE}"))
    assert record["parents"]["words"] == made.digest
    with pytest.raises(UserError, match="no approved wordings aaaaaaaaaaaa"):
        build.run(recipe(), ws)


def run(*words: str, answer: str | None = None):
    return CliRunner().invoke(command.app, ["data", "words", *words], input=answer)


def test_wordings_go_from_a_server_over_a_file_that_is_read_into_a_recipe(server: Server, tmp_path: Path) -> None:
    server.say = lambda _: json.dumps({"text": "please FIND the image with {value} ."})
    file, home = str(tmp_path / "mine.yaml"), ["--home", str(tmp_path / "home")]
    asked = ["--endpoint", server.url, "--model", "m", "--family", "which_finding", "--wordings", "1", *home]
    proposed = run("propose", file, *asked)
    assert proposed.exit_code == 0, proposed.output
    assert "1 of 2 wordings" in proposed.output and "replies rejected: leaves a slot out" in proposed.output
    assert "# rejected:" in Path(file).read_text()
    with pytest.raises(UserError, match="is there already"):
        CliRunner().invoke(command.app, ["data", "words", "propose", file, *asked], catch_exceptions=False)
    refused = run("approve", file, *home, answer="n\n")
    assert refused.exit_code == 1 and "Please find the image with pleural effusion." in refused.output
    approved = run("approve", file, *home, answer="y\n")
    digest = approved.output.split("approved: ")[1].split()[0]
    assert approved.exit_code == 0 and len(digest) == 64
    scripted = run("approve", file, *home, "--yes", "--json")
    assert json.loads(scripted.stdout)["digest"] == digest
    assert recipe(digest).data.words is not None


def test_where_no_reply_came_the_reason_is_told_and_nothing_is_said_to_be_approved(
    server: Server, tmp_path: Path
) -> None:
    server.raw = lambda _: json.dumps({"error": {"message": "the model is overloaded"}})
    file = str(tmp_path / "w.yaml")
    asked = ["--endpoint", server.url, "--model", "m", "--family", "describe", "--wordings", "1"]
    said = run("propose", file, *asked, "--home", str(tmp_path / "home"))
    assert "overloaded" in said.stderr and "no wording to approve" in said.stderr and "words approve" not in said.stderr


def test_an_address_that_is_none_is_mended_as_the_option_takes_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no scheme(?s:.*)write http://127.0.0.1:8000/v1$"):
        CliRunner().invoke(
            command.app,
            ["data", "words", "propose", str(tmp_path / "w.yaml"), "--endpoint", "127.0.0.1:1", "--model", "m"],
            catch_exceptions=False,
        )


def test_a_file_that_came_while_the_server_was_asked_is_not_written_over(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "w.yaml"

    def say(_: str) -> str:
        file.write_text("read by somebody", encoding="utf-8")
        return json.dumps({"text": "Describe the image."})

    server.say = say
    asked = ["--endpoint", server.url, "--model", "m", "--family", "describe", "--wordings", "1", "--tries", "1"]
    with pytest.raises(UserError, match="is there already"):
        CliRunner().invoke(
            command.app,
            ["data", "words", "propose", str(file), *asked, "--home", str(tmp_path / "home")],
            catch_exceptions=False,
        )
    assert [path.name for path in tmp_path.glob("*.yaml")] == ["w.yaml"] and file.read_text() == "read by somebody"
