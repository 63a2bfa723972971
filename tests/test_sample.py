"""The records survive JSON and pickle unchanged, and an item's id depends on images, question and options only."""

import dataclasses
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmim import sample
from medmim.sample import LETTERS, Answer, Sample, Score, digest_of, from_json, split_options, to_json, to_published

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
LINE = st.text("abc XYZ.:)1", min_size=1, max_size=12).map(str.strip).filter(bool)
STEM = st.text("abc xyz\n?", min_size=1, max_size=30).map(str.strip).filter(bool)


def an_item(**changes: object) -> Sample:
    plain = Sample(
        ability="comparison",
        family="larger",
        source="phantom-chest",
        split="test",
        held_out=False,
        patients=("p1", "p2"),
        images=("sha256:aa", "sha256:bb"),
        paths=("a.png", "b.png"),
        question="Which image shows the larger mass?",
        options=("image 1", "image 2"),
        answer="image 2",
        gold=(1,),
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


ITEMS = st.builds(
    Sample,
    *[TEXT] * 4,
    st.booleans(),
    *[st.lists(TEXT, max_size=3).map(tuple)] * 3,
    TEXT,
    st.lists(TEXT, max_size=4).map(tuple),
    TEXT,
    *[st.lists(st.integers(0, 3), max_size=2).map(tuple)] * 2,
)


@given(ITEMS)
def test_a_sample_survives_json_and_pickle(item: Sample) -> None:
    assert from_json(Sample, json.loads(json.dumps(to_json(item)))) == item
    assert pickle.loads(pickle.dumps(item)) == item


def test_answers_and_scores_survive_json() -> None:
    answer = Answer("id", "blind", "key", "B: image 2", 1, "parsed")
    score = Score("held_in", "accuracy", 0.5, None, None, 0.4, 0.5, 10, 3)
    for record in (answer, score):
        assert from_json(type(record), json.loads(json.dumps(to_json(record)))) == record


@pytest.mark.parametrize(
    "changes", [{"images": ("sha256:bb", "sha256:aa")}, {"question": "Which?"}, {"options": ("image 2", "image 1")}]
)
def test_images_question_and_options_make_another_item(changes: dict[str, object]) -> None:
    assert an_item(**changes).id != an_item().id


@pytest.mark.parametrize(
    "changes",
    [
        {"paths": ("x", "y")},
        {"split": "train"},
        {"patients": ("q",)},
        {"answer": "image 1", "gold": (0,)},
        {"swapped": (0,)},
        {"family": "x"},
    ],
)
def test_nothing_else_makes_another_item(changes: dict[str, object]) -> None:
    assert an_item(**changes).id == an_item().id


def test_a_closed_question_is_printed_with_its_lettered_options() -> None:
    assert an_item().prompt == "Which image shows the larger mass?\nA: image 1\nB: image 2"
    assert an_item().target == "B: image 2"
    assert an_item(options=(), gold=(), answer="a mass").target == "a mass"


@given(STEM, st.lists(LINE, min_size=2, max_size=8))
def test_what_is_printed_is_split_again(stem: str, options: list[str]) -> None:
    item = an_item(question=stem, options=tuple(options), gold=(0,), answer=options[0])
    assert split_options(item.prompt) == (stem, tuple(options))


@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_any_text_splits_into_a_stem_and_no_or_several_options(text: str) -> None:
    stem, options = split_options(text)
    assert len(options) != 1 and len(options) <= len(LETTERS) and (options or stem == text.strip())


@pytest.mark.parametrize(
    ("text", "stem", "options"),
    [
        ("What?\nA: yes\nB: no", "What?", ("yes", "no")),
        ("What?\nA. yes\nB) no\n", "What?", ("yes", "no")),
        ("What?\nA: one\ntwo\nB: no", "What?", ("one\ntwo", "no")),
        ("What?\nA: alone", "What?\nA: alone", ()),
        ("What?\nB: no A\nC: x", "What?\nB: no A\nC: x", ()),
        ("What does plan A: say?", "What does plan A: say?", ()),
        (
            "Culture grew\nA. baumannii\nHow sure?\nA: sure\nB: not",
            "Culture grew\nA. baumannii\nHow sure?",
            ("sure", "not"),
        ),
    ],
)
def test_options_are_the_lettered_lines_at_the_end(text: str, stem: str, options: tuple[str, ...]) -> None:
    assert split_options(text) == (stem, options)


def test_the_published_form_leads_with_one_placeholder_an_image() -> None:
    row = to_published(an_item())
    user, assistant = row["conversation"]
    assert user == {
        "role": "user",
        "content": "<image><image>Which image shows the larger mass?\nA: image 1\nB: image 2",
    }
    assert assistant == {"role": "assistant", "content": "B: image 2"} and row["images"] == ["a.png", "b.png"]


@given(st.lists(TEXT, max_size=4), st.lists(TEXT, max_size=4))
def test_no_two_lists_of_strings_share_a_digest(one: list[str], two: list[str]) -> None:
    assert (digest_of(one) == digest_of(two)) == (one == two)


@pytest.mark.parametrize(
    ("one", "two"), [(["a\0b"], ["a", "b"]), (["ab"], ["a", "b"]), ([], [""]), (["1:a"], ["", "a"])]
)
def test_a_separator_inside_a_string_is_no_separator(one: list[str], two: list[str]) -> None:
    assert digest_of(one) != digest_of(two)


def test_records_are_frozen() -> None:
    for kind in (sample.Study, Sample, Answer, Score, sample.BadRow, sample.Finding):
        assert dataclasses.fields(kind) and kind.__dataclass_params__.frozen  # type: ignore[attr-defined]


@given(st.text(st.characters()))
def test_what_is_escaped_can_be_written_and_the_rest_is_as_it_was(text: str) -> None:
    shown = sample.escaped(text)
    assert sample.is_utf8(shown) and (shown == text) == sample.is_utf8(text)


@pytest.mark.parametrize("half", ["\ud83d", "a\udc00", "\udfff\ud800"])
def test_half_a_surrogate_pair_anywhere_in_a_record_is_found(half: str) -> None:
    assert sample.is_writable(an_item()) and sample.is_writable(an_item(question="\U0001f600"))
    for change in ({"question": half}, {"options": ("a", half)}, {"paths": (half,)}, {"patients": (half,)}):
        assert not sample.is_writable(an_item(**change))
    study = sample.Study("s", "p", "a.png", "CT", findings=(sample.Finding("mass"),))
    assert sample.is_writable(study)
    assert not sample.is_writable(dataclasses.replace(study, findings=(sample.Finding(half),)))
    assert digest_of([half]) != digest_of([half + half])
