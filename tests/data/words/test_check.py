"""The check of a model's words: lies and true paraphrases of every kind of question, and each rule by itself."""

import importlib.util
import sys
from pathlib import Path

import pytest

from medmim.data import wording
from medmim.data.wordings import strict
from medmim.data.words import check, facts, kinds
from medmim.data.words.lie import Lie

SPEC = importlib.util.spec_from_file_location("words_check", Path(__file__).parents[3] / "benchmarks/words_check.py")
assert SPEC and SPEC.loader
words_check = importlib.util.module_from_spec(SPEC)
sys.modules["words_check"] = words_check  # its dataclass looks itself up
SPEC.loader.exec_module(words_check)


@pytest.fixture(scope="module")
def judged() -> list[tuple]:
    return [(case, case.rejected()) for case in [*words_check.cases(), *words_check.late(), *words_check.stems()]]


def test_99_of_100_lies_are_found_of_every_source_of_them(judged) -> None:
    lies = [(case, why) for case, why in judged if not case.kind.startswith("true") and case.kind != "unseen"]
    by_hand = [(case, why) for case, why in lies if ":" not in case.kind]
    late = [(case, why) for case, why in lies if case.kind.startswith("late")]
    for group in (lies, by_hand, late):
        missed = [case.text for case, why in group if not why]
        assert len(group) > 300 and len(missed) <= 0.01 * len(group), missed


def test_95_of_100_true_texts_are_kept_also_of_those_not_looked_at(judged) -> None:
    true = [(case, why) for case, why in judged if case.kind.startswith("true") and case.kind != "true: unseen"]
    held_out = [(case, why) for case, why in true if case.held_out]
    for group in (true, held_out):
        lost = [(case.text, why) for case, why in group if why]
        assert len(group) > 200 and len(lost) <= 0.05 * len(group), lost


def test_every_family_is_known_and_every_template_of_ours_passes_its_own_check() -> None:
    templates = {**wording.TEMPLATES, **strict.TEMPLATES}
    assert templates.keys() == kinds.KINDS.keys()
    about = {
        "finding": "nodule", "value": "nodule", "image": "image 2", "ages": "51.2 and 52.3",
        "questions": "Image 1: Is it a cyst? Image 2: Is it a mass?",
    }  # fmt: skip
    for family, lines in templates.items():
        value = {"order": "first", "which_caption": "CT: a mass.", "match_figure": "CT: a mass."}.get(family, "nodule")
        for line in lines:
            text = line.format(**{**about, "value": value, "image": "image 1" if family == "describe" else "image 2"})
            told = facts.parsed(family, text)
            assert told is not None, text
            images = {"describe": 1, "same_patient": 3}.get(family, 2)
            check.question(text, facts.Facts(family, images, text, ("a", "b"), "a", told))


def of(family: str, question: str, answer: str = "image 1") -> facts.Facts:
    about = facts.parsed(family, question)
    assert about is not None
    return facts.Facts(family, 2, question, (), answer, about)


RESECTION = "Image 1 was taken before surgery, image 2 after. Was the enhancing tumor removed completely or partially?"
CHANGE = "How did the mass change from image 1 to image 2?"


@pytest.mark.parametrize(
    ("family", "question", "text", "kind"),
    [
        ("change", CHANGE, "How did the mass change from image 2 to image 1?", "turns the order round"),
        ("change", CHANGE, "How did the mass change?", "drops an image"),
        ("change", CHANGE, "How did it change from image 1 to image 2?", "drops a value"),
        ("change", CHANGE, "How did the mass in the liver change from image 1 to image 2?", "says something new"),
        ("change", CHANGE, "By how much did the mass grow from image 1 to image 2?", "asks something else"),
        ("change", CHANGE, "Has the mass improved from image 1 to image 2?", "gives the answer away"),
        ("change", CHANGE, "How did the mass not change from image 1 to image 2?", "denies something"),
        ("change", CHANGE, "How did the 12 mm mass change from image 1 to image 2?", "says a number"),
        ("change", CHANGE, "How did the mass change over four images, from image 1 to image 2?", "changes a count"),
        ("change", CHANGE, "How did the mass change from image 1 to image 3?", "names an image that is not there"),
        ("change", CHANGE, f"{CHANGE}\nA: improved\nB: worse", "has another form"),
        ("change", CHANGE, f"<image><image>{CHANGE}", "has another form"),
        ("change", CHANGE, "", "has another form"),
        ("change", CHANGE, CHANGE + " Look again." * 60, "has another form"),
        ("change", CHANGE, "Did the mass change from image 1 to image 2?", "has another form of question"),
        ("change", CHANGE, "What changed the mass from image 1 to image 2?", "has another form of question"),
        ("change", CHANGE, f"{CHANGE[:-1]}, given that it is there?", "has another form of question"),
        ("change", CHANGE, f"{CHANGE[:-1]}, given that it remained there?", "has another form of question"),
        ("what_finding", "What does image 2 show?", "Can a finding be identified in image 2?",
         "has another form of question"),
        ("what_finding", "What does image 2 show?", "Where in image 2 is the finding?", "has another form of question"),
        ("which_finding", "Which image shows mass?", "In which image is the mass gone?", "says something new"),
        ("same_finding", "Do image 1 and image 2 show the same finding?",
         "Which findings are the same in image 1 and image 2?", "has another form of question"),
        ("extent_of_resection", RESECTION,
         "What is the extent of the enhancing tumor in image 1 and image 2?", "asks something else"),
        ("which_finding", "Which image shows mass?", "Does image 1 show a mass?", "asks something else"),
        ("which_finding", "Which image shows mass?", "Which image, say image 1, shows mass?", "gives the answer away"),
        ("which_finding", "Which image shows mass?", "Which one is it other than mass?", "denies something"),
        ("which_finding", "Which image shows mass?", "Which images show mass?", "changes a count"),
        ("change", CHANGE, "Which image shows how the mass changed, image 1 or image 2?", "asks something else"),
        ("same_finding", "Do image 1 and image 2 show the same finding?", "How do the findings in both images differ?",
         "asks something else"),
        ("what_finding", "What does image 2 show?", "What does each image show, as image 2?", "names other images"),
        ("what_finding", "What does image 2 show?", "What does image 1 show?", "names other images"),
        ("eye_diagnosis", "Which diagnosis fits the fundus in image 1?",
         "Image 1 is the right eye, image 2 the left eye. Which diagnosis fits image 1?", "changes a side"),
        ("forecast", "A breast was imaged at ages 51.2 and 52.3. What is found within one year after the last image?",
         "A breast was imaged at ages 52.3 and 51.2. What is found within one year after the last image?",
         "changes a number"),
    ],
)  # fmt: skip
def test_a_lie_is_named_by_its_kind(family: str, question: str, text: str, kind: str) -> None:
    with pytest.raises(Lie) as caught:
        check.question(text, of(family, question))
    assert caught.value.kind == kind


def test_a_value_of_the_facts_may_be_any_words_and_digits() -> None:
    told = of("which_finding", "Which image shows COVID-19 pneumonia, no effusion?")
    check.question("Identify the image with COVID-19 pneumonia, no effusion.", told)
    with pytest.raises(Lie):
        check.question("Identify the image with COVID-19 pneumonia, effusion.", told)
    with pytest.raises(Lie):
        check.question("Identify the image with COVID-20 pneumonia, no effusion.", told)


def test_a_caption_is_kept_to_the_letter() -> None:
    told = of("match_figure", "Which image fits this caption: Axial CT with a 3 cm cyst.")
    check.question("This caption belongs to one of the images: Axial CT with a 3 cm cyst. Which one?", told)
    for text in ("Axial CT with a 4 cm cyst.", "axial ct with a 3 cm cyst.", "Axial CT without a 3 cm cyst."):
        with pytest.raises(Lie):
            check.question(f"This caption belongs to one of the images: {text} Which one?", told)


def test_marks_of_the_facts_are_no_markup_and_those_of_a_model_are() -> None:
    told = of("match_figure", "Which image fits this caption: CT [arrow] * 40% stenosis, A. baumannii.")
    check.question("To which image does this caption belong: CT [arrow] * 40% stenosis, A. baumannii.", told)
    with pytest.raises(Lie, match="has another form"):
        check.question("To which *image* does this caption belong: CT [arrow] * 40% stenosis, A. baumannii.", told)


def test_only_the_label_of_an_open_question_is_reworded() -> None:
    def label(answer: str, options: tuple[str, ...] = (), family: str = "what_finding") -> bool:
        return facts.Facts(family, 1, "What does image 1 show?", options, answer, {}).writes_answer

    assert label("mass") and label("T1-weighted with contrast")
    assert not label("mass", ("mass", "cyst"))
    assert not label("CT: mass.") and not label("image 1: yes; image 2: no") and not label("a", family="describe")


def test_an_answer_that_says_the_finding_is_gone_is_a_lie() -> None:
    told = of("what_finding", "What does image 2 show?", "mass")
    check.answer("Image 2 shows a mass.", told)
    for text in ("The mass is gone.", "Mass is out of the question.", "Mass was taken out."):
        with pytest.raises(Lie, match="says something new"):
            check.answer(text, told)


def test_of_an_answer_that_is_an_image_no_other_is_named() -> None:
    told = of("order", "Which image was taken first?", "image 2")
    check.answer("Image 2 was taken first.", told)
    for text in ("Image 1 was taken first.", "Image 2 or image 1.", "Neither.", "Image 2 was taken last."):
        with pytest.raises(Lie):
            check.answer(text, told)
