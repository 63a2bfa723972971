"""Answers in the manner of untuned models, with the option that each names, are read as their labels say."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from medmim.bench.reader.extract import extract
from medmim.bench.reader.reply import read
from medmim.sample import LETTERS, Sample

FOLDER = Path(__file__).parent / "answers"
QUESTIONS = json.loads((FOLDER / "questions.json").read_text("utf-8"))


def rows(name):
    """A set; the answers of `fresh.jsonl` are in one of two halves by a hash of their text."""
    if name in ("fresh", "kept_aside"):
        return [row for row in rows("fresh.jsonl") if half(row["answer"]) == name]
    name = name.removesuffix(".jsonl")
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text("utf-8").splitlines()]


def half(text):
    return "kept_aside" if hashlib.sha256(text.encode()).digest()[0] % 2 else "fresh"


def sample(name):
    asked = QUESTIONS[name]
    images = tuple(f"sha256:{i}" for i in range(asked["images"]))
    options = tuple(asked["options"])
    return Sample(
        "single", name, "t", "test", False, ("p",), images, images, asked["question"], options, options[0], (0,)
    )


def judged(row):
    """`read`, `unread`, `misread`, or `left` where it names no option and none is read; options of one text are one."""
    asked = sample(row["question"])
    found = read(asked, "none", "k", row["answer"], None, row.get("cut", False)).choice
    if row["label"] == "unreadable":
        return "left" if found is None else "misread"
    if found is None:
        return "unread"
    meant = asked.options[LETTERS.index(row["label"])]
    return "read" if asked.options[found].casefold() == meant.casefold() else "misread"


@pytest.mark.parametrize(
    ("name", "least"), [("open", 0.96), ("held_out", 0.94), ("fresh", 0.93), ("kept_aside", 0.89), ("misleading", 0.5)]
)
def test_the_labelled_answers_are_read_and_none_is_misread(name, least):
    found = [(judged(row), row) for row in rows(name)]
    count = Counter(verdict for verdict, _ in found)
    for verdict, row in found:
        if verdict in ("unread", "misread"):
            print(verdict, row["question"], row["label"], repr(row["answer"]))
    print(dict(count))
    assert count["misread"] == 0
    assert count["read"] >= least * (count["read"] + count["unread"])


def test_the_labelled_answers_are_many_and_of_a_model_too():
    every = [*rows("open"), *rows("held_out")]
    by = Counter(row["by"] for row in every)
    assert len(every) >= 400 and by["SmolLM2-135M-Instruct"] >= 100
    assert len(rows("held_out")) >= len(every) / 5
    assert len(rows("fresh")) >= 70 and len(rows("kept_aside")) >= 70


# Words in which real answers speak of our options, whatever they say of them.
WORDS = (
    "partial", "partially", "resected", "resection", "completely", "complete", "unchanged", "improved", "improvement",
    "worse", "worsened", "stable", "unstable", "larger", "smaller", "same", "size", "image 1", "image 2", "both",
    "left", "right", "lung", "effusion", "pleural", "benign", "malignant", "probably", "suspicious", "the", "is",
)  # fmt: skip
DENIALS = ("not {t}", "The tumor is not {t}.", "It is neither {t} nor {u}.", "It may be {t}.", "Is it {t}?",
           "It could be {t} or {u}.", "If it were {t}, I would say so.", "There is no sign that it is {t}.",
           "{t} or {u}", "It is unclear whether it is {t}.",
           "It is unlikely that it is {t}.", "I doubt that it is {t}.",
           "It is hardly {t}.", "It is far from {t}.", "It is anything but {t}.", "It is hard to call it {t}.",
           "It is too early to call it {t}.", "One would expect it to be {t}.", "It fails to be {t}.",
           "Nothing suggests that it is {t}.", "It is less {t} than before.", "There is no gap that would suggest {t}.",
           "It seems {t}, but that is misleading.", "To rule out that it is {t}, ask again.",
           "Were it {t}, it would show.",
           "It is not red, {u}, blue, or {t}.", "Without red, blue, green or {t}.", "The goal is to have it {t}.",
           "It seems {t} at first glance.", "It should be {t}.", "{t} usually looks like this.")  # fmt: skip
SAID = ("{t}", "It is {t}.", "The finding is {t}.", "The answer is {t}.", "It is {t}, not {u}.", "{t}, because it is.",
        "It is not {u} but {t}.", "It looks {t}. It may be {u}.", "It is {t} rather than {u}.")  # fmt: skip
OPTIONS = (("improved", "stable", "worse"), ("partial", "unchanged", "resected"), ("benign", "malignant", "suspicious"),
           ("small", "medium", "large"), ("spiculated", "smooth"))  # fmt: skip


CONCLUDED = ("In general:\n- {u}: seen often\n- {v}: seen rarely\n- {t}: seen too\n\nTherefore it is {t}.",
             "Neither {u} nor {v} fits. Hence, it is {t}.", "It seems {u} at first glance. So it is {t}.",
             "There is no fat and it is {t}.", "There is no fat, air or bone, but it is {t}.")  # fmt: skip
OPEN_STILL = ("It is {u}. In conclusion, it is {t}.", "It may be {u}. Therefore, it may be {t}.",
              "- {u}: red\n- {v}: green\n- {t}: blue\n\nTherefore, a biopsy is needed to exclude {t}.",
              "- {u}: red\n- {v}: green\n- {t}: blue\n\nTherefore, a biopsy was taken of the {t} region.",
              "- {u}: red\n- {v}: green\n- {t}: blue\n\nTherefore, it is {t} or {u}.",
              "- {u}: red\n- {v}: green\n- {t}: blue\n\nTherefore, is it {t}?")  # fmt: skip


def filled(template, options, index):
    return template.format(
        t=options[index], u=options[(index + 1) % len(options)], v=options[(index + 2) % len(options)]
    )


@given(st.sampled_from(OPTIONS), st.data(), st.sampled_from(SAID))
def test_an_option_that_is_said_is_read_in_real_words(options, data, template):
    index = data.draw(st.integers(0, len(options) - 1))
    assert extract(filled(template, options, index), options) == index


@given(st.sampled_from(OPTIONS), st.data(), st.sampled_from(DENIALS))
def test_an_option_that_is_denied_or_supposed_is_not_read(options, data, template):
    index = data.draw(st.integers(0, len(options) - 1))
    assert extract(filled(template, options, index), options) is None


@given(st.sampled_from([own for own in OPTIONS if own[2:]]), st.data(), st.sampled_from(CONCLUDED))
def test_what_a_reply_concludes_is_read(options, data, template):
    index = data.draw(st.integers(0, len(options) - 1))
    assert extract(filled(template, options, index), options) == index


@given(st.sampled_from([own for own in OPTIONS if own[2:]]), st.data(), st.sampled_from(OPEN_STILL))
def test_a_conclusion_that_contradicts_advises_or_asks_is_not_read(options, data, template):
    index = data.draw(st.integers(0, len(options) - 1))
    assert extract(filled(template, options, index), options) is None


@given(st.sampled_from(sorted(QUESTIONS)), st.lists(st.sampled_from(WORDS), min_size=1, max_size=8), st.data())
def test_the_order_of_the_options_changes_no_reading_of_words(name, said, data):
    asked = QUESTIONS[name]
    options = asked["options"]
    assume(len({text.casefold() for text in options}) == len(options))
    text = " ".join(said)
    moved = data.draw(st.permutations(options))
    one = extract(text, options, asked["images"], asked["question"])
    other = extract(text, moved, asked["images"], asked["question"])
    assert (None if one is None else options[one]) == (None if other is None else moved[other])


def test_a_finding_that_is_an_option_may_be_said_beside_another_finding():
    asked = "What is seen beside the effusion in image 1?"
    assert extract("There is edema with a fracture.", ("edema", "nodule"), 1, asked) == 0


STEMS = (("partial", "partially"), ("complete", "completely"), ("improved", "improvement"), ("worse", "worsened"),
         ("worse", "worsening"), ("progressive", "progression"), ("nodule", "nodules"))  # fmt: skip


@given(st.sampled_from(STEMS), st.sampled_from(["It is {}.", "There is {}.", "{}", "The finding: {}"]))
def test_a_word_is_known_by_its_stem_unless_another_option_is_that_word(pair, template):
    plain, inflected = pair
    assert extract(template.format(inflected), (plain, "normal")) == 0
    assert extract(template.format(inflected), (plain, inflected)) == 1
    assert extract(template.format("un" + plain), (plain, "normal")) is None


IMAGES = ("image 1", "image 2")


@given(
    st.sampled_from(["larger", "smaller"]), st.sampled_from(["larger", "smaller"]), st.booleans(), st.booleans(),
    st.sampled_from(["{a} shows a {word} mass than {b}.", "The mass in {a} is {word} than that in {b}.",
                     "The mass is {word} in {a} compared to {b}.", "Compared with {b}, {a} shows a {word} mass.",
                     "{a} has the {word} mass.", "The {word} mass is in {a}."]),
)  # fmt: skip
def test_a_comparison_names_the_image_that_the_question_asks_for(asked, word, second, moved, template):
    a, b = (IMAGES[1], IMAGES[0]) if second else IMAGES
    options = [*IMAGES[:: -1 if moved else 1], "same size"]
    text = template.format(a=a, b=b, word=word)
    right = a if asked == word else b
    assert options[extract(text, options, 2, f"Which image shows the {asked} mass?")] == right
    other = extract(text.replace("mass", "effusion"), options, 2, f"Which image shows the {asked} mass?")
    assert other is None or options[other] == right


@pytest.mark.parametrize(
    "text",
    ["Image 1 does not show a larger mass than image 2.", "Is image 1 larger than image 2?",
     "If image 1 shows a larger mass than image 2, it grew.", "Image 1 or image 2 is larger."],
)  # fmt: skip
def test_a_comparison_that_is_not_stated_names_no_image(text):
    assert extract(text, (*IMAGES, "same size"), 2, "Which image shows the larger mass?") is None


@pytest.mark.parametrize(
    ("name", "text", "label"),
    [
        ("both", "There is no fracture in either image.", "D"),
        ("both", "Both images show a cast. The fracture is in image 2.", "B"),
        ("both", "Both images show a fracture.", "C"),
        ("effusions", "There is no evidence of an effusion.", "C"),
        ("modality", "Computed tomography, which uses X-rays.", "B"),
        ("modality", "A technique that uses X-rays.", None),
        ("rano", "PD", "D"),
        ("outlook", "An improvement of the condition is likely.", "C"),
        ("outlook", "An improvement of the condition is not likely.", None),
        ("outlook", "Is an improvement of the condition likely?", None),
        ("outlook", "An improvement or a deterioration of the condition is likely.", None),
        ("change", "The pneumothorax is worse.", None),
        ("change", "Effusion: stable. Pneumothorax: worse.", "B"),
        ("change", "The pneumothorax and the effusion are worse.", "C"),
        ("change", "Image 1 is worse.", None),
        ("change", "Since image 1 it is worse.", "C"),
        ("which", "Image 2 shows an effusion.", None),
        ("which", "Image 2 shows a consolidation.", "A"),
        ("which", "Look at image 1.", None),
        ("which", "Pneumonia is in all images but image 2.", None),
        ("which_ordinal", "Signs of possible breast cancer are in the second image.", "B"),
        ("eight", "A fracture of the sixth rib.", "H"),
        ("finding", "Resolved pneumonia.", None),
        ("finding", "Pneumonia is an infection of the lung.", None),
        ("finding", "Normal except for a scar.", None),
        ("finding", "Pneumonia has been ruled out.", None),
        ("finding", "To have pneumonia, it must be dense.", None),
        ("side", "The heart is shifted to the left.", None),
        ("count", "2 to 3 nodules", None),
        ("count", "2-3 nodules", None),
        ("count", "up to 3 nodules", None),
        ("count_words", "None of the three images shows a mass.", "A"),
        ("both", "A fracture is in image 1 and in image 2.", "C"),
        ("finding", "Image 1 shows pneumonia, image 2 is normal and image 3 shows a nodule.", "D"),
        ("finding", "In image 2 pneumonia is seen and in image 3 a nodule.", "D"),
        ("finding", "Normal in image 2 and a nodule in image 3.", None),
        ("finding", "Image 3 compared with image 2 shows a nodule.", "D"),
        ("side", "The left lung shows an opacity. The right lung is clear.", "A"),
        ("outlook", "As an AI I cannot know. However, a probable health deterioration is to be feared.", "B"),
        ("outlook", "As an AI I cannot know. However, I can explain probable health deterioration.", None),
        ("outlook", "I cannot say. However, no images were provided: probable health deterioration.", None),
        ("outlook", "Further diagnostic assessment is needed.", "D"),
        ("count", "I see four distinct nodules in it.", "D"),
        ("count", "I see a 4 mm nodule in it.", None),
        ("yesno", "A pleural line, indicating a pneumothorax.", "A"),
        ("count", "Two of the nodules are calcified.", None),
        ("view", "The CC view is missing.", None),
        ("yesno", "A pneumothorax would be seen.", None),
    ],
)
def test_what_a_sentence_says_of_an_option_decides(name, text, label):
    asked = QUESTIONS[name]
    found = extract(text, asked["options"], asked["images"], asked["question"])
    assert (None if found is None else LETTERS[found]) == label


@pytest.mark.parametrize("options", [("effusion", "", "normal"), ("", "effusion"), ("", "")])
def test_an_empty_option_is_known_by_its_letter_alone(options):
    assert extract("B", options) == 1
    assert extract("", options) is extract("...", options) is None


def test_an_answer_that_was_cut_within_the_options_names_none():
    options = ("image 1", "image 2", "same size")
    echo = "A: image 1\nB: image 2\nC: same size"
    assert extract(f"Which is larger?\n{echo}\nA: image 1", options, cut=True) is None
    assert extract(f"Which is larger?\n{echo}\nB: image 2", options, cut=True) == 1
    assert extract("Which is larger?\nA: image 1\nB: ima", options, cut=True) is None
    assert extract(f"{echo}\nThe answer is A: image 1", options, cut=True) == 0
