"""Extraction finds the option in any wording, and nothing in ambiguous text."""

import json
import os
import random
import time
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from medmim.bench.reader.extract import extract, letters_in
from medmim.sample import LETTERS, split_options
from tests.support.wordings import COURSE, FIXED, READ, UNREAD, fill

IMAGES = ("Image 1", "Image 2", "Image 3")
RESECTION = ("partially resected", "completely resected", "not resected", "resected")

TEXT_WORDINGS = ("{t}", "{t}.", " {t} ", '"{t}"', "**{t}**", "Answer: {t}", "The answer is {t}.", "I see: {t}.")

word = st.text("bcdfghjklmnpqrstuvwxyz", min_size=3, max_size=9)
options = st.lists(st.lists(word, min_size=1, max_size=3).map(" ".join), min_size=2, max_size=8, unique=True).filter(
    lambda o: not any(a != b and f" {a} " in f" {b} " for a in o for b in o)
)


# A letter among marks and words, without any option's text: what is read must not depend on which letters these are.
PIECES = (
    "answer", "is", "the", "correct", "option", "choice", "letter", ":", "-", ".", ",", ";", "(", ")", "[", "]", '"',
    "'", "*", "**", "\n", "\n\n", "because", "not", "or", "and", "but", "I think", "choose", "so", "therefore", "final",
    "no", "best", "if", "what", "large mass", "image", "shows", "1", "it's", "<answer>", "</answer>", "<think>",
    "</think>", "\\boxed{", "}", "would be", "{l}", "{l}", "{l}", "{l}", "{o}", "{o}",
)  # fmt: skip


def filled(templates):
    """(text, options, index) of every template, about every letter."""
    for template in templates:
        for options in FIXED:
            for index in range(len(options)):
                yield fill(template, options, index), options, index


def test_every_letter_is_read_in_every_wording():
    wrong = [(text, options) for text, options, index in filled(READ) if extract(text, options, 2) != index]
    assert wrong == []


def test_no_letter_is_read_where_none_or_two_are_meant():
    wrong = [(text, options) for text, options, _ in filled(UNREAD) if extract(text, options, 2) is not None]
    assert wrong == []


@given(options, st.data(), st.sampled_from(READ))
def test_any_letter_wording_of_any_option_is_read(options, data, template):
    assume(len(options) > 2)
    index = data.draw(st.integers(0, len(options) - 1))
    assert extract(fill(template, options, index), options) == index


@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=9).map(" ".join))
@settings(max_examples=300)
def test_other_letters_change_nothing_but_the_letter_that_is_read(template):
    options = ("brond", "clest", "frimp", "gloft", "hurst", "jolth", "krint", "morps")
    read = set()
    for one, other in ((0, 1), (1, 0), (2, 5), (7, 0), (4, 3)):
        index = extract(template.replace("{l}", LETTERS[one]).replace("{o}", LETTERS[other]), options, 2)
        read.add({one: "one", other: "other"}.get(index, index))
    assert len(read) == 1


@given(options, st.data(), st.sampled_from(TEXT_WORDINGS))
def test_any_text_wording_of_any_option_is_read(options, data, wording):
    index = data.draw(st.integers(0, len(options) - 1))
    assert extract(wording.format(t=options[index]), options) == index


@given(st.lists(st.text(min_size=1, max_size=20), min_size=2, max_size=8), st.data())
def test_the_prompts_own_form_is_read_whatever_the_option_holds(options, data):
    index = data.draw(st.integers(0, len(options) - 1))
    assert extract(f"{LETTERS[index]}: {options[index]}", options) == index


@given(st.text(max_size=60), options, st.sampled_from(("upper", "lower", "title", "swapcase")))
@settings(max_examples=300)
def test_case_and_white_space_change_nothing(text, options, change):
    assume("'" not in text and "’" not in text)  # str.title() breaks words there
    read = extract(text, options)
    assert extract(f"\n {getattr(text, change)()}  \t", options) == read
    assert extract("  ".join(text.split(" ")), options) == read


@given(st.lists(options.flatmap(st.sampled_from), max_size=6).map(" ".join), options)
def test_words_of_no_option_are_not_read(text, options):
    assume(not any(f" {option} " in f" {text} " for option in options))
    assert extract(text, options) is None


@given(options, st.data())
def test_two_options_are_not_read(options, data):
    first, second = data.draw(st.permutations(range(len(options))).map(lambda p: p[:2]))
    a, b = LETTERS[first], LETTERS[second]
    for text in (f"({a}) or ({b})", f"Answer: {a} or {b}", f"{a}/{b}", f"{a}: {options[first]}\n{b}: {options[second]}",
                 f"{options[first]} or {options[second]}", f"{a}: {options[second]}",
                 f"The answer is {a}. The answer is {b}.", f"The answer is {a}: {options[second]}."):  # fmt: skip
        assert extract(text, options) is None, text


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("The second image", 1), ("Image two", 1), ("2nd", 1), ("2", 1), ("second", 1), ("The second one.", 1),
        ("image 2 is larger", 1), ("the last image", 2), ("the third in sequence", 2),
        ("Image 1 shows less. Answer: image 2", 1),
        ("image 1 and image 2", None), ("The image", None), ("images", None), ("Image 4", None),
        ("not the second image", None),
    ],
)  # fmt: skip
def test_all_wordings_of_an_image_reference_are_equal(text, index):
    assert extract(text, IMAGES, images=3) == index
    assert extract(text, ("the first image", "the second in sequence", "the last image"), images=3) == index


def test_the_first_letter_of_a_word_is_not_an_answer():
    assert extract("The second image", COURSE) is None
    assert extract("A large mass", COURSE) is None
    assert extract("Both look alike", COURSE) is None
    assert extract("hepatitis B", COURSE) is None
    assert extract("e.g. worse", COURSE) == 1
    assert extract("The answer is a mass", COURSE) is None


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("not B", None), ("It is not worse", None), ("I don't think it is worse", None),
        ("neither stable nor worse", None),
        ("Not stable, it is worse", 1), ("worse rather than stable", 1), ("Option A is wrong. The answer is B", 1),
        ("B is not correct", None), ("Not A. B is correct", 1), ("B is wrong", None),
    ],
)  # fmt: skip
def test_a_negated_option_is_not_chosen(text, index):
    assert extract(text, COURSE) == index


def test_a_negation_within_an_option_is_its_own():
    assert extract("The tumour was not resected", RESECTION) == 2
    assert extract("The tumour was resected", RESECTION) == 3
    assert extract("It was completely resected", RESECTION) == 1
    assert extract("No, there is no mass", ("yes", "no")) == 1
    assert extract("Yes, there is no doubt", ("yes", "no")) == 0


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("Partially resected", 1), ("The tumor has been resected partially.", 1), ("partial", 1), ("Resected.", 0),
        ("incompletely resected", None), ("nearly completely resected", None), ("subtotally resected", None),
    ],
)  # fmt: skip
def test_a_qualified_option_is_another_one(text, index):
    assert extract(text, ("resected", "partial", "unchanged")) == index


@pytest.mark.parametrize(
    ("text", "index"),
    [("left", 0), ("The right.", 1), ("Answer: both", 2), ("side", None), ("no", None), ("Left\n\nIt is left.", 0)],
)
def test_the_beginning_of_one_option_is_read(text, index):
    assert extract(text, ("left side", "right side", "both sides", "no side")) == index


@pytest.mark.parametrize("text", ["image1", "Image #1", "image no. 1", "IMG 1", "image_1", "(image 1)", "scan one"])
def test_an_image_reference_may_be_glued_or_numbered(text):
    assert extract(text, IMAGES, 3) == 0


def test_an_option_that_holds_a_letter_is_read_as_text():
    options = ("type B", "type A", "E. coli", "hepatitis C", "vitamin D")
    for text, index in (
        ("Type A", 1),
        ("It is type B.", 0),
        ("E. coli", 2),
        ("hepatitis C", 3),
        ("The answer is vitamin D", 4),
    ):
        assert extract(text, options) == index, text


LONG = ("<", "[", "(", ")", "{", "answer is ", "- ", "<think>", "</think>", "not ", "\\boxed{", "option A ", "A\n",
        "<a>", "</a>", "<b> =", "<del>", "**or ", "</b>", "<answer>", "~~", "e.g. ", "1. ", "答案", "the ", "so ",
        "no ", "A, ", "image 1 ", "A: no, ", "_", "<|", "\n#", "thinking: ", "if ", "but ", '"')  # fmt: skip


def seconds(text):
    begin = time.process_time()
    extract(text, ("image 1", "image 2"), 2)
    return time.process_time() - begin


def test_a_long_reply_is_read_in_linear_time():
    draw = random.Random(1)
    pairs = ["(<b> =", "<a>**or ", "<del>", "<a>", "<b>x", *("".join(draw.sample(LONG, 2)) for _ in range(25))]
    for piece in pairs:
        short, long = (piece * (size // len(piece)) for size in (1_000, 16_000))
        # 16 where it is linear, 256 where it is quadratic
        assert any(seconds(long) < 60 * seconds(short) + 0.05 for _ in range(3)), piece


def test_of_a_very_long_reply_the_beginning_and_the_end_are_read():
    filler = "The scan was looked at again. " * 10_000
    assert extract(f"<think>The answer is A. {filler}</think>B", COURSE) == 1
    assert extract(f"B\n\n{filler}", COURSE) == 1
    assert extract(f"{filler}\nThe answer is B.", COURSE) == 1
    assert extract(f"<think>{filler}", COURSE) is None
    piece = "<a>or (b) = "
    assert seconds(piece * 100_000) < 4 * seconds(piece * 10_000) + 1  # not 10 times


tag = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=2, max_size=9).map(lambda name: f"x{name}x")


NAMES = ("antThinking", "longcat_think", "internal", "commentary", "draft", "steps", "o1", "explanation", "critique",
         "SUMMARY", "caption", "note to self")  # fmt: skip


@given(st.one_of(tag, st.sampled_from(NAMES)))
def test_a_tag_that_is_no_answer_and_no_format_holds_no_answer(name):
    assert extract(f"<{name}>The answer is A.</{name}>B", COURSE) == 1
    assert extract(f"<{name}>The answer is A.</{name}>\n<answer>B</answer>", COURSE) == 1
    assert extract(f"<{name}>The answer is A.</{name}>", COURSE) is None
    if name.startswith("x"):
        assert extract(f"B<{name}>", COURSE) == 1
    if name != "o1":
        assert extract(f"<{name}>The answer is A.", COURSE) is None


REFUSALS = ("No images were provided.", "I have no access to images.", "I have no idea.", "No answer.", "No idea",
            "As an AI, I have no ability to view images.", "There is no doubt that an effusion is present.",
            "No image was attached, please upload it.", "No, I cannot help with that.", "There are no images.",
            "It is not possible to say yes or no.", "Sorry, no images are visible, so I can't say.",
            "No problem, here is the analysis.")  # fmt: skip
NO_FINDINGS = ("ability", "access", "answer", "comment", "data", "doubt", "idea", "image", "images", "information",
               "longer", "need", "one", "opinion", "problem", "question", "reason", "scan", "scans", "way")  # fmt: skip


@pytest.mark.parametrize("word", NO_FINDINGS)
def test_no_before_what_is_no_finding_is_no_answer(word):
    assert extract(f"There is no {word} yet.", ("yes", "no")) is None


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refusal_is_no_no(text):
    assert extract(text, ("yes", "no")) is None
    assert extract(text, ("no", "yes")) is None


@pytest.mark.parametrize(
    ("text", "index"),
    [("No.", 1), ("No, it is clear.", 1), ("no evidence of pneumonia", 1), ("There is no nodule.", 1),
     ("No effusion. Yes.", 0), ("Without doubt: yes", 0), ("No. Yes.", None)],
)  # fmt: skip
def test_no_denies_a_finding(text, index):
    assert extract(text, ("yes", "no")) == index


@pytest.mark.parametrize(
    "text",
    ["It is unlikely to be worse.", "Worse is unlikely.", "far from stable", "anything but stable", "hardly improved",
     "failed to improve", "Lack of improvement", "absence of improvement", "It improved, but not completely.",
     "previously stable", "It was stable before."],
)  # fmt: skip
def test_what_is_denied_or_was_so_only_earlier_names_no_option(text):
    assert extract(text, ("improved", "stable", "worse"), 2) is None


def test_what_was_so_earlier_does_not_hide_what_is_so_now():
    assert extract("The lesion improved initially but is now worse", ("improved", "stable", "worse"), 2) == 2
    assert extract("Image 1 before surgery", ("image 1", "image 2"), 2) == 0


def test_resected_but_not_completely_is_not_resected():
    options = ("resected", "partial", "not resected")
    assert extract("The tumor has been resected, but not completely.", options, 1) is None
    assert extract("The tumor was resected but only in part.", options, 1) is None
    assert extract("The tumor was resected, but the edema remains.", options, 1) == 0


def test_yes_or_no_is_of_the_image_asked_about_and_not_against_itself():
    question, options = "Is there a pneumothorax in image 2?", ("yes", "no")
    assert extract("No pneumothorax in image 1, but there is one in image 2.", options, 2, question) is None
    assert extract("There is no pneumothorax in image 2.", options, 2, question) == 1
    assert extract("Yes, there is no pneumothorax.", options, 2, question) is None
    assert extract("Yes, there is a pneumothorax.", options, 2, question) == 0


def test_a_side_is_not_named_by_its_opposite():
    options = ("left side", "right side")
    assert extract("On the lung opposite to the left side", options, 1) is None
    assert extract("contralateral to the left side", options, 1) is None
    assert extract("You are right.", options, 1) is None


def test_less_large_is_smaller():
    question, options = "Which image shows the larger mass?", ("image 1", "image 2")
    assert extract("The mass in image 2 is less large than in image 1.", options, 2, question) == 0
    assert extract("The mass in image 2 is less small than in image 1.", options, 2, question) == 1


def test_an_option_may_be_a_refusal():
    options = (*COURSE, "cannot be determined")
    assert extract("It cannot be determined.", options) == 3
    assert extract("It cannot be determined, maybe worse.", COURSE) is None
    assert extract("I cannot give medical advice, but the answer is B.", options) == 1


def test_an_option_of_one_letter_is_not_named_by_another_word():
    assert extract("Vitamin D: low", ("a", "b", "c", "d")) is None
    assert extract("The answer is d", ("a", "b", "c", "d")) == 3


def test_a_first_guess_is_no_answer():
    assert extract("My first guess was A.", COURSE) is None
    assert extract("My first guess was A. The answer is B.", COURSE) == 1


def test_the_letters_in_an_unread_reply_are_those_that_stand_by_themselves():
    assert letters_in("perhaps it were A?") == {"A"}
    assert letters_in("A large mass near B, (C) and D-dimer, CT. A second one") == {"B", "C"}
    assert letters_in("It were A then") == {"A"} and letters_in("It were B then") == {"B"}
    assert letters_in("Absent") == set()


def test_numbers_are_read_whole():
    assert extract("It measures 2.5 cm", ("5 cm", "1 cm")) is None
    assert extract("It measures 2.5 cm", ("5 cm", "2.5 cm")) == 1


def test_equal_texts_count_as_the_first():
    assert extract("Cataract.", ("cataract", "normal", "cataract")) == 0
    assert extract("C: cataract", ("cataract", "normal", "Cataract")) in (0, 2)


def test_a_letter_without_an_option_is_not_read():
    assert extract("E", COURSE) is None
    assert extract("The answer is D.", COURSE) is None


def _published() -> list[Path]:
    root = os.environ.get("MEDMIM_SHARED_DATA") or Path(__file__).parents[3].parent / "shared" / "data"
    return sorted(Path(root, "med-mim").glob("Med_MIM_benchmark_*.json"))


@pytest.mark.skipif(not _published(), reason="needs med-mim in MEDMIM_SHARED_DATA")
def test_every_published_gold_is_read_as_itself():
    asked = 0
    seen = set()
    for file in _published():
        for row in json.loads(file.read_text()):
            _, options = split_options(row["conversation"][0]["content"])
            gold = row["conversation"][1]["content"]
            if not options or gold[1:2] != ":" or LETTERS.index(gold[0]) >= len(options):
                continue
            asked += 1
            index = LETTERS.index(gold[0])
            if (index, *options) in seen:
                continue
            seen.add((index, *options))
            same = {i for i, option in enumerate(options) if option.casefold() == options[index].casefold()}
            for text in (gold, gold[0], f"The answer is {gold[0]}.", options[index], f"**{gold.upper()}**"):
                assert extract(text, options, len(row["images"])) in same, (text, options)
    assert asked > 1000
