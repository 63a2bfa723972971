"""The slots of wordings are filled with what the template had."""

from dataclasses import replace

from medmim.data.words import slots
from medmim.sample import Sample

SAMPLE = Sample(
    "coreference", "which_finding", "s", "train", False, ("p",), ("a", "b"), ("a", "b"), "Which image shows pneumonia?",
    (), "image 2", (),
)  # fmt: skip


def test_a_sample_gives_back_what_its_template_was_filled_with() -> None:
    assert slots.values(SAMPLE) == {"value": "pneumonia"}
    assert slots.values(replace(SAMPLE, question="Is it a cyst?")) is None
    course = replace(SAMPLE, family="change", question="How did the mass change from image 1 to image 2?")
    assert slots.values(course) == {"finding": "mass"}


def test_a_slot_that_begins_a_sentence_gets_a_capital_letter_and_a_quotation_stays() -> None:
    about = {"value": "a cyst", "answer": "image 2"}
    assert (
        slots.fill("{value} is in one of the images. Which one?", about) == "A cyst is in one of the images. Which one?"
    )
    assert slots.fill("It is so. {answer} shows {value}.", about) == "It is so. Image 2 shows a cyst."
    caption = {"value": "ultrasound: small mass."}
    assert slots.fill("Which image does it fit? {value}", caption) == "Which image does it fit? ultrasound: small mass."


def test_a_value_is_put_in_as_it_is_also_where_it_looks_like_a_slot_or_a_pattern() -> None:
    about = {"value": r"{finding} \1 {value}", "finding": "x"}
    assert slots.fill("Which image shows {value}?", about) == r"Which image shows {finding} \1 {value}?"


def test_only_the_label_of_an_open_training_question_is_put_into_a_sentence() -> None:
    assert slots.takes_answer(SAMPLE)
    assert not slots.takes_answer(replace(SAMPLE, split="test"))
    assert not slots.takes_answer(replace(SAMPLE, options=("image 1", "image 2"), gold=(1,)))
    for answer in ("CT: a mass.", "image 1: yes; image 2: no", "a cyst.", "x" * 61, "normal", "normal fundus"):
        assert not slots.takes_answer(replace(SAMPLE, answer=answer))
