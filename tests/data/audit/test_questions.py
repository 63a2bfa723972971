"""Questions that are asked again are told from the templates that make nearly all of them alike."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmim.data.audit import questions
from medmim.data.audit.check import Check
from medmim.sample import Sample

TEXT = "Which image shows the larger opacity in the left lower lobe of this patient?"


def sample(split: str = "train", images: tuple[str, ...] = ("a", "b"), **own: object) -> Sample:
    first = Sample(
        "comparison",
        "larger",
        "own",
        split,
        False,
        ("p",),
        images,
        images,
        TEXT,
        ("image 1", "image 2"),
        "image 1",
        (0,),
    )
    return replace(first, **own)  # type: ignore[arg-type]


def found(samples: list[Sample], same: dict[str, bytes] | None = None) -> dict[str, Check]:
    return {check.name: check for check in questions.checks(samples, same or {})}


def counts(samples: list[Sample], same: dict[str, bytes] | None = None) -> tuple[float | None, ...]:
    checks = found(samples, same)
    return tuple(checks[name].value for name in ("same-questions", "repeated", "same-texts"))


def test_the_same_pictures_and_words_in_another_order_case_spacing_and_synonym_are_one_question() -> None:
    other = sample(
        "test",
        ("b", "a"),
        question="in the LEFT lower lobe,  which Scan displays a larger opacity (of this patient) ?",
        options=("Image 2", "image  1"),
    )
    rows = [sample(), other]
    assert counts(rows) == (1, 0, 0)
    (row,) = found(rows)["same-questions"].rows
    assert (row.id, row.file) == (other.id, "test/comparison") and rows[0].id in row.found
    assert counts([rows[0], replace(other, split="train")]) == (0, 1, 0), "and within a split, a repeated one"


def test_another_answer_to_a_repeated_question_is_told_and_the_same_image_by_its_other_place_is_none() -> None:
    other = sample(images=("b", "a"))
    assert "another answer" in found([sample(), other])["repeated"].rows[0].found
    same = replace(other, answer="image 2", gold=(1,))
    (row,) = found([sample(), same])["repeated"].rows
    assert "another answer" not in row.found


@pytest.mark.parametrize(
    ("first", "pictures", "second"),
    [
        ("Is the mass larger in image 1 than in image 2?", "ab", "Is the mass larger in image 2 than in image 1?"),
        ("Is the mass larger in image 1 than in image 2?", "ba", "Is the mass larger in image 1 than in image 2?"),
        ("What does image 1 show?", "ba", "What does image 1 show?"),
        ("What does the first film show?", "ab", "What does image 2 show?"),
        ("Did it grow between image 1 and image 2?", "ba", "Did it grow between images 1 and 2?"),
        ("Is this a lateral view?", "ab", "Is this a lateral image?"),
    ],
)
def test_a_question_of_another_picture_or_the_other_way_round_is_another(
    first: str, pictures: str, second: str
) -> None:
    rows = [sample(question=first, options=(), gold=()), sample("test", tuple(pictures), question=second, options=())]
    assert counts(rows)[0] == 0
    assert counts([rows[0], replace(rows[0], split="test")])[0] == 1


@pytest.mark.parametrize(
    ("first", "pictures", "second"),
    [
        ("Is the mass larger in image 1 than in image 2?", "ba", "Is the mass bigger in scan 2 than in scan 1?"),
        ("What does image 2 show?", "ba", "What does the first X-ray depict?"),
        ("What does the second x-ray image show?", "ab", "What does picture 2 show?"),
        ("Which shows it, image 1 or image 2?", "ab", "Which shows it, image 2 or image 1?"),
        ("Which of images 1, 2 and 3 shows it?", "ab", "Which of images 3, 1 and 2 shows it?"),
        ("Did it grow between image 1 and image 2?", "ba", "Did it grow between images 2 and 1?"),
        ("What is in image 7?", "ba", "What is in image 7?"),
        ("Is a tumour seen?", "ba", "Is a tumor visible?"),
    ],
)
def test_a_question_of_the_same_pictures_by_their_other_places_is_the_same(
    first: str, pictures: str, second: str
) -> None:
    rows = [sample(question=first, options=(), gold=()), sample("test", tuple(pictures), question=second, options=())]
    assert counts(rows)[0] == 1


def test_options_that_name_places_are_the_pictures_there() -> None:
    rows = [sample(options=("image 1", "both")), sample("test", ("b", "a"), options=("both", "image 1"))]
    assert counts(rows)[0] == 0
    assert counts([rows[0], replace(rows[1], options=("both", "image 2"))])[0] == 1


def test_other_words_options_or_pictures_make_another_question() -> None:
    for other in (
        sample("test", question=TEXT.replace("left", "right")),
        sample("test", options=("image 1", "image 2", "neither")),
        sample("test", ("a", "c")),
    ):
        assert counts([sample(), other])[0] == 0


def test_pictures_that_were_saved_again_are_the_same() -> None:
    rows = [sample(), sample("test", ("c", "b"))]
    assert counts(rows, {"a": b"1", "c": b"1", "b": b"2"})[0] == 1
    assert counts(rows, {"a": b"1", "c": b"3", "b": b"2"})[0] == 0


def test_a_copied_text_is_found_where_no_template_has_written_it() -> None:
    copied = [sample(), sample("test", ("x", "y"))]
    assert counts(copied) == (0, 0, 1)
    assert "another answer" not in found(copied)["same-texts"].rows[0].found
    template = [sample(images=(f"{n}", f"{n}b")) for n in range(3)]
    assert counts([*template, copied[1]]) == (0, 0, 0), "asked of three pairs: a template"
    short = [replace(one, question="Is there an effusion?") for one in copied]
    assert counts(short) == (0, 0, 0), "too short to be anybody's own words"


def test_numbers_that_a_template_fills_in_hide_no_template() -> None:
    text = "At the age of {} the patient had a mammogram: which forecast fits the next year?"
    template = [sample(images=(f"{n}",), question=text.format(50 + n)) for n in range(3)]
    assert counts([*template, sample("test", ("x",), question=text.format(51))])[2] == 0


def test_a_question_without_pictures_is_the_same_by_its_words() -> None:
    assert counts([sample(images=()), sample("test", (), options=("image 2", "image 1"))]) == (1, 0, 0)


@settings(max_examples=40)
@given(st.text(max_size=60), st.randoms(use_true_random=False))
def test_words_do_not_depend_on_order_case_or_spacing(text: str, random: object) -> None:
    parts = text.split()
    random.shuffle(parts)  # type: ignore[attr-defined]
    assert questions.words("  ".join(parts)) == questions.words(text)
    assert questions.words(text.casefold()) == questions.words(text)
