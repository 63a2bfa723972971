"""Questions that are asked again are told from the templates that make nearly all of them alike."""

from dataclasses import replace

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


def test_another_answer_to_a_repeated_question_is_told() -> None:
    twice = [sample(), sample(images=("b", "a"), answer="image 2", gold=(1,))]
    assert "another answer" in found(twice)["repeated"].rows[0].found


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
