"""The forms of wordings: lies and true texts of every kind of question, and what the forms themselves may hold."""

import importlib.util
import re
import sys
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from medmim.data import wording
from medmim.data.wordings import strict
from medmim.data.words import check, forms, slots
from medmim.data.words.lie import Lie

SPEC = importlib.util.spec_from_file_location("words_check", Path(__file__).parents[3] / "benchmarks/words_check.py")
assert SPEC and SPEC.loader
words_check = importlib.util.module_from_spec(SPEC)
sys.modules["words_check"] = words_check  # its dataclass looks itself up
SPEC.loader.exec_module(words_check)

FAMILIES = sorted({**wording.TEMPLATES, **strict.TEMPLATES})
PARTS = [(family, part) for family in FAMILIES for part in ("question", "answer") if forms.has(family, part)]


@pytest.fixture(scope="module")
def judged() -> list[tuple]:
    written = [*words_check.by_hand(), *words_check.stems()]
    true = [case for case in written if case.kind.startswith("true")]
    return [(case, case.rejected()) for case in [*written, *islice(words_check.made(true), 0, None, 97)]]


def test_99_of_100_lies_are_rejected_by_hand_and_made_of_true_texts(judged) -> None:
    lies = [(case, why) for case, why in judged if not case.kind.startswith("true")]
    by_hand = [(case, why) for case, why in lies if ":" not in case.kind and case.kind not in words_check.MADE]
    for group, least in ((by_hand, 600), (lies, 1100)):
        missed = [case for case, why in group if not why]
        assert len(group) > least and len(missed) <= 0.01 * len(group), missed


def test_95_of_100_true_texts_are_kept(judged) -> None:
    true = [(case, why) for case, why in judged if case.kind.startswith("true")]
    lost = [(case, why) for case, why in true if why]
    assert len(true) > 400 and len(lost) <= 0.05 * len(true), lost


def test_of_another_writer_99_of_100_lies_are_rejected_and_9_of_10_true_texts_kept() -> None:
    judged = [(case, case.rejected()) for case in words_check.unseen()]
    lies = [(case, why) for case, why in judged if case.kind.endswith("lies")]
    true = [(case, why) for case, why in judged if "true" in case.kind]
    assert {case.family for case, _ in lies} == {case.family for case, _ in true} == set(FAMILIES)
    missed, lost = [case for case, why in lies if not why], [(case, why) for case, why in true if why]
    assert len(lies) > 390 and len(missed) <= 0.01 * len(lies), missed
    assert len(true) > 370 and len(lost) <= 0.1 * len(true), lost


@pytest.mark.parametrize(
    ("family", "part", "text"),
    [
        ("same_finding", "answer", "They are {answer}."),  # same
        ("what_view", "answer", "{image} is a {answer} view."),  # AP
        ("which_view", "question", "Which image is the {value} projection?"),  # a plane of CT is none
        ("same_modality", "question", "Were both images made by the same technique?"),  # two sequences are two
        ("which_eye", "question", "Which eye shows {value}?"),  # image 2
        ("both_eyes", "question", "What is the diagnosis of both eyes?"),  # they may have two
        ("which_craniocaudal", "question", "Which image is the CC view of this breast?"),  # both breasts may be there
        ("forecast", "question", "Given images at ages {ages}, what does the next year bring?"),  # of whom
        ("which_finding", "question", "{value} can be apparent in one of the images. Which one?"),
        ("resection", "answer", "The tumor is {answer}."),  # partial
    ],
)
def test_what_is_not_true_or_no_english_for_some_value_is_of_no_form(family: str, part: forms.Part, text: str) -> None:
    with pytest.raises(Lie):
        check.wording(text, family, part)


def test_every_family_has_forms_and_every_template_of_ours_is_of_one_and_stays_as_it_is() -> None:
    assert sorted(forms.families()) == FAMILIES
    for family in FAMILIES:
        for line in slots.templates(family):
            assert check.wording(line, family, "question") == line


@pytest.mark.parametrize(("family", "part"), PARTS)
def test_whatever_the_forms_allow_has_its_slots_and_is_a_wording(family: str, part: forms.Part) -> None:
    rng = Random(1)
    for _ in range(25):
        text = forms.written(forms.draw(forms.of(family, part), rng))
        assert check.wording(text, family, part) == text
        assert text[-1] in ".?" or text.endswith(("{value}", "{questions}")), text


def test_the_forms_hold_no_word_of_denial_doubt_number_or_finding_but_where_the_question_has_it() -> None:
    allowed = {
        "not": {"forecast", "same_finding", "same_diagnosis", "same_modality"},  # `or not`
        "no": {"forecast"}, "none": {"forecast"},
        "different": {name for name in FAMILIES if name.startswith(("same_", "joined", "which_diseased"))},
        "left": {"what_side", "which_eye", "eye_diagnosis"}, "right": {"what_side", "which_eye", "eye_diagnosis"},
        "cancer": {"forecast", "which_diseased"}, "mass": {"what_margin"}, "glioblastoma": {"tumor_course"},
        "tumor": {"resection", "extent_of_resection", "tumor_course"}, "worse": {"change", "progression"},
        "larger": {"larger"}, "suspicious": {"which_diseased"}, "improved": {"change", "progression"},
    }  # fmt: skip
    never = {
        "without", "never", "neither", "nor", "cannot", "hardly", "barely", "less", "most", "maybe", "perhaps",
        "possibly", "probably", "likely", "severe", "mild", "nodule", "pneumonia", "effusion", "lung", "heart", "three",
        "four", "4", "mm", "cm", "normal", "abnormal", "malignant", "benign", "why", "unless", "except", "if",
        "because",
    }  # fmt: skip
    for family, part in PARTS:
        held = forms.vocabulary(family, part)
        assert not never & held and ("3" not in held or family == "same_patient"), family
        for word, families in allowed.items():
            assert word not in held or family in families, (family, part, word)
    for family, part in PARTS:  # `the more recent image`, `in {image} only`
        for text in (forms.written(forms.draw(forms.of(family, part), Random(n))) for n in range(40)):
            assert "more" not in text or "more recent" in text, text
            assert "only" not in text or "in {image} only" in text or re.search(r"\} only|\d only", text), text


@pytest.mark.parametrize(
    ("family", "text", "kind"),
    [
        ("change", "How did the {finding} change from image 2 to image 1?", "has another form"),
        ("change", "How did the {finding} change?", "has another form"),
        ("change", "How did it change from image 1 to image 2?", "leaves a slot out"),
        ("change", "How did the {findings} change from image 1 to image 2?", "has a slot that is not there"),
        ("change", "How did the {finding} in the liver change from image 1 to image 2?", "says something of its own"),
        ("change", "How did the {finding} change from image 1 to image 3?", "says something of its own"),
        ("change", "How did the {finding} change from image 1 to image 2?\nA: improved", "has another form"),
        ("change", "How did the {finding} change from image 1\u200b to image 2?", "has another form"),
        ("change", "How did the { finding } {finding} change from image 1 to image 2?", "has another form"),
        ("change", "", "has another form"),
        ("change", "Please look at image 1. " * 20, "leaves a slot out"),
        ("which_finding", "Does image 1 show {value}?", "says something of its own"),
        ("which_finding", "Which images show {value}?", "has another form"),
        ("which_finding", "Which image used to show {value}?", "says something of its own"),
        ("which_finding", "Which image shows that {value} is seen?", "has another form"),
        ("which_side", "Find the image of a finding {value} of a {value} finding.", "has another form"),
    ],
)  # fmt: skip
def test_a_text_that_is_no_wording_is_told_by_its_kind(family: str, text: str, kind: str) -> None:
    with pytest.raises(Lie) as caught:
        check.wording(text, family, "question")
    assert caught.value.kind == kind


def test_a_wording_keeps_none_of_the_typing_of_whoever_wrote_it() -> None:
    odd = "  please IDENTIFY the Image with {Value} ."
    assert check.wording(odd, "which_finding", "question") == "Please identify the image with {value}."
    birads = "image 1 is the cc view and image 2 the mlo view of one breast. what is the bi-rads assessment?"
    assert "CC view and image 2 the MLO view of one breast. What is the BI-RADS" in check.wording(
        birads, "birads", "question"
    )


def test_a_sentence_after_a_quotation_begins_with_a_capital() -> None:
    text = "here is a caption: {value} which image does it belong to?"
    assert check.wording(text, "which_caption", "question").endswith(": {value} Which image does it belong to?")


def test_a_text_of_the_longest_form_is_matched_soon_and_a_longer_one_not_at_all() -> None:
    long = "which image shows " + "{value} " * 80
    with pytest.raises(Lie, match="words and signs"):
        check.wording(long, "which_finding", "question")


def test_of_a_text_that_is_no_wording_the_place_is_told() -> None:
    with pytest.raises(Lie, match=re.escape("after 'Which image shows {value}' may stand: ?")) as caught:
        check.wording("Which image shows {value} in the pictures?", "which_finding", "question")
    assert str(caught.value).endswith("?")


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_rejection_says_may_stand_goes_on_in_some_form(family: str) -> None:
    form = forms.of(family, "question")
    said = forms.draw(form, Random(3))
    for at in range(1, len(said)):
        until, following = forms.unmatched([*said[:at], "unless"], form)  # type: ignore[misc]
        assert until == at and said[at] in following
        for word in sorted(following)[:5]:
            assert forms.unmatched([*said[:at], word, "unless"], form)[0] == at + 1  # type: ignore[index]
