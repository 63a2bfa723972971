"""Questions on the real sources: what is right is worked out again, by rules typed from the sources."""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmim.data import abilities
from medmim.data.abilities.ask import Ask
from medmim.data.seeds import stream
from medmim.sample import Finding, Study
from tests.support import real_studies as drawn

seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=40, deadline=None)


def ask(family: str, studies: Sequence[Study]) -> list[Ask]:
    """All questions of a family on every cohort of some patients, whatever share of them would be asked."""
    patients: dict[str, list[Study]] = defaultdict(list)
    for study in studies:
        patients[study.patient].append(study)
    one = abilities.FAMILIES[family]
    return [
        question
        for size in one.patients
        for chosen in combinations(sorted(patients), size)
        for question in one.ask([patients[name] for name in chosen], stream(family, *chosen))
    ]


def on(draw: Callable[[random.Random, int], list[Study]], seed: int, count: int) -> list[Study]:
    return draw(random.Random(seed), count)  # noqa: S311  test records


def place(question: Ask) -> int:
    """Where the right image is, for options that name images."""
    assert question.options == tuple(f"image {i + 1}" for i in range(len(question.studies)))
    return question.options.index(question.answer)


@few
@given(seeds)
def test_one_exam_of_a_breast_is_diseased_and_the_others_are_proven_not_to_be(seed: int) -> None:
    for question in ask("which_diseased", on(drawn.embed, seed, 6)):
        images = question.studies
        assert len({(s.patient, s.laterality, s.view) for s in images}) == 1 and images[0].view in ("CC", "MLO")
        assert len({s.exam for s in images}) == len(images) in (2, 3)
        for i, study in enumerate(images):
            four_to_six = study.rating in ("suspicious", "highly suggestive of malignancy", "known malignancy")
            one_or_two = study.rating in ("negative", "benign")
            cancer = study.outcome == "malignant"
            if i == place(question):
                assert (cancer and not one_or_two) or (four_to_six and study.outcome is None)
            else:
                assert one_or_two and study.outcome in (None, "benign", "negative")
        after = (*images[-1:], *images[:-1])
        assert after[question.options.index(question.swapped or "")] is images[place(question)]


def test_a_patient_with_one_diseased_and_one_clear_exam_is_asked() -> None:
    def exam(number: int, rating: str, outcome: str | None = None, side: str = "left") -> Study:
        return Study("embed", "p", f"{number}", "mammography", 400.0 * number, "CC", side, rating=rating,
                     exam=f"{number}", outcome=outcome, age=50.0)  # fmt: skip

    clear = exam(0, "negative")
    assert len(ask("which_diseased", [clear, exam(1, "suspicious")])) == 1
    for unclear in (
        exam(1, "suspicious", "benign"), exam(1, "negative", "malignant"), exam(1, "probably benign"),
        exam(1, "additional evaluation needed"), exam(1, "benign", "high-risk"), exam(1, "suspicious", side="right"),
    ):  # fmt: skip
        assert ask("which_diseased", [clear, unclear]) == []


@few
@given(seeds)
def test_a_forecast_is_what_the_records_say_of_the_year_after_the_last_image(seed: int) -> None:
    studies = on(drawn.embed, seed, 8)
    for question in ask("forecast", studies):
        images = question.studies
        assert len({(s.patient, s.laterality, s.view) for s in images}) == 1 and len(images) in (2, 3)
        times = [s.time for s in images]
        assert None not in times and all(a < b for a, b in zip(times, times[1:], strict=False))
        last = images[-1]
        same = [s for s in studies if s.patient == last.patient and s.time is not None and s.time >= last.time]
        own = [s for s in same if s.laterality == last.laterality]
        ill = [s for s in own if s.outcome == "malignant" or s.rating == "known malignancy"]
        assert all(s.outcome != "malignant" and s.rating != "known malignancy" for s in images[:-1])
        if question.answer == "worse":
            assert any(s.time - last.time <= 365 for s in ill)
        else:
            assert question.answer == "stable"
            either = [s for s in same if s.outcome == "malignant" or s.rating == "known malignancy"]
            assert all(s.time - last.time > 365 for s in either)
            looked = [s for s in own if s.time - last.time >= 300]
            assert any(s.rating in ("negative", "benign") for s in looked)
            assert last.rating in ("negative", "benign")


@few
@given(seeds)
def test_one_image_is_craniocaudal_and_the_others_are_oblique(seed: int) -> None:
    studies = on(drawn.embed, seed, 6)
    for question in ask("which_craniocaudal", studies):
        views = [s.view for s in question.studies]
        assert views.count("CC") == 1 and views.index("CC") == place(question)
        assert set(views) == {"CC", "MLO"} and len({s.patient for s in question.studies}) == 1
        oblique = {s.exam for s in studies if s.patient == question.studies[0].patient and s.view == "MLO"}
        exams = [s.exam for s in question.studies]
        if oblique - {question.studies[place(question)].exam}:
            assert len(set(exams)) == len(exams)


@few
@given(seeds)
def test_every_breast_with_both_views_of_one_exam_is_assessed_once(seed: int) -> None:
    studies = on(drawn.embed, seed, 6)
    breasts: dict[object, dict[str | None, Study]] = defaultdict(dict)
    for study in studies:
        breasts[study.patient, study.exam, study.laterality][study.view] = study
    whole = [(v["CC"], v["MLO"], v["CC"].rating) for v in breasts.values() if {"CC", "MLO"} <= v.keys()]
    questions = ask("birads", studies)
    assert Counter((*q.studies, q.answer) for q in questions) == Counter(whole)
    assert all(q.options == drawn.RATINGS for q in questions)


def test_two_views_with_different_ratings_are_no_breast_to_assess() -> None:
    top = Study("embed", "p", "a", "mammography", 0.0, "CC", "left", rating="benign", exam="1")
    assert ask("birads", [top, replace(top, image="b", view="MLO", rating="suspicious")]) == []
    assert len(ask("birads", [top, replace(top, image="b", view="MLO")])) == 1


def test_two_breasts_of_one_exam_are_never_read_together() -> None:
    """An L-CC benign and an R-MLO suspicious view once became one exam with gold *benign*."""
    views = [("left", "CC", "benign"), ("right", "MLO", "suspicious")]
    studies = [
        Study("embed", "p", f"{side}{view}", "mammography", 0.0, view, side, rating=rating, exam="1", age=50.0)
        for side, view, rating in views
    ]
    assert ask("birads", studies) == []


@few
@given(seeds)
def test_sequences_are_of_one_slice_and_one_is_asked_for(seed: int) -> None:
    studies = on(drawn.lumiere, seed, 4)
    places = Counter((s.patient, s.exam, s.slice) for s in studies)
    questions = ask("which_sequence", studies)
    assert len(questions) == sum(count >= 2 for count in places.values())
    for question in questions:
        assert len({(s.patient, s.exam, s.slice) for s in question.studies}) == 1
        wanted = [i for i, s in enumerate(question.studies) if s.sequence == question.about["value"]]
        assert wanted == [place(question)] and len({s.sequence for s in question.studies}) == len(question.studies)


@few
@given(seeds)
def test_the_course_is_the_rano_class_of_the_later_image_and_resection_that_of_the_surgery(seed: int) -> None:
    studies = on(drawn.lumiere, seed, 6)
    by_path = {s.image: s for s in studies}
    for family, finding in (("tumor_course", "tumor"), ("extent_of_resection", "resection")):
        questions = ask(family, studies)
        labelled = [s for s in studies if s.sequence == "CT1" and any(c.finding == finding for c in s.changes)]
        assert len(questions) == len(labelled)
        for question in questions:
            before, after = question.studies
            (change,) = after.changes
            assert by_path[change.since] is before and before.slice == after.slice and before.sequence == "CT1"
            assert (before.time or 0) < (after.time or 0)
            assert question.answer == (after.rating if family == "tumor_course" else change.state)
            assert question.answer in question.options and question.swapped is None
    assert set(abilities.FAMILIES["tumor_course"].options) == set(drawn.RANO)


@few
@given(seeds)
def test_progression_is_asked_once_for_each_label_of_a_pair(seed: int) -> None:
    studies = on(drawn.ms_cxr_t, seed, 4)
    labels = Counter((c.since, s.image, c.finding, c.state) for s in studies for c in s.changes)
    questions = ask("progression", studies)
    asked = Counter((q.studies[0].image, q.studies[1].image, q.about["finding"], q.answer) for q in questions)
    assert asked == labels
    opposite = {"improved": "worse", "worse": "improved", "stable": None}
    assert all(q.swapped == opposite[q.answer] for q in questions)


DISEASES = (  # typed by hand: keywords of one line are stages, signs or spellings of one disease
    {"moderate nonproliferative retinopathy", "mild non-proliferative retinopathy",
     "proliferative diabetic retinopathy", "laser spot"},
    {"drusen", "dry age-related macular degeneration"},
    {"cataract", "lens opacity"},
    {"glaucoma", "suspected glaucoma"},
    {"epiretinal membrane", "epiretinal membrane over the macula"},
)  # fmt: skip


def diseases(keywords: Sequence[str]) -> set[int | str]:
    return {next((i for i, group in enumerate(DISEASES) if word in group), word) for word in keywords or ["normal"]}


def test_eyes_of_two_exams_are_not_compared() -> None:
    """Years may lie between them."""
    left = Study("odir", "p", "a", "fundus", laterality="left", findings=(Finding("glaucoma"),), exam="1")
    right = replace(left, image="b", laterality="right", findings=())
    assert len(ask("which_eye", [left, right])) == 1
    assert ask("which_eye", [left, replace(right, exam="2")]) == []
    assert ask("which_eye", [replace(left, exam=None, time=0.0), replace(right, exam=None, time=400.0)]) == []


def keywords(study: Study) -> list[str]:
    return [finding.name for finding in study.findings]


@few
@given(seeds)
def test_wrong_options_on_eyes_share_no_disease_with_the_right_one(seed: int) -> None:
    studies = on(drawn.odir, seed, 12)
    for family in ("eye_diagnosis", "both_eyes", "shared_diagnosis", "which_eye", "same_diagnosis"):
        for question in ask(family, studies):
            left, right = question.studies
            assert (left.patient, left.laterality, right.laterality) == (right.patient, "left", "right")
            names = [", ".join(keywords(eye)) or "normal fundus" for eye in (left, right)]
            apart = not diseases(keywords(left)) & diseases(keywords(right))
            if family == "eye_diagnosis":
                assert question.answer == names[int(question.about["image"][-1]) - 1]
                assert question.options == (tuple(names) if apart else (question.answer,))
            elif family == "both_eyes":
                assert question.answer == f"First: {names[0]}, Second: {names[1]}"
                exchanged = f"First: {names[1]}, Second: {names[0]}"
                assert set(question.options) == ({question.answer, exchanged} if apart else {question.answer})
            elif family == "which_eye":
                eyes = [keywords(eye) or ["normal fundus"] for eye in (left, right)]
                value = question.about["value"]
                wanted = {"normal"} if value == "normal fundus" else diseases([value])
                assert value in eyes[place(question)]
                assert not wanted & diseases(keywords(question.studies[1 - place(question)]))
            elif family == "same_diagnosis":
                assert question.answer == ("same" if names[0] == names[1] else "different")
                assert names[0] == names[1] or apart
            else:
                assert names[0] == names[1] == question.answer and len(set(question.options)) == 2
                groups = [diseases([] if o == "normal fundus" else o.split(", ")) for o in question.options]
                assert not groups[0] & groups[1]


def parts(text: str) -> list[str]:
    return [part.split(": ", 1)[1] for part in text.split("; ")]


@few
@given(seeds)
def test_joined_answers_are_those_of_each_image(seed: int) -> None:
    studies = on(drawn.vqa_rad, seed, 7)
    for question in ask("joined", studies):
        assert len({s.patient for s in question.studies}) == len(question.studies) in (2, 3)
        asked = question.about["questions"]
        told = parts(question.answer)
        for number, (study, answer) in enumerate(zip(question.studies, told, strict=True), 1):
            own = asked.split(f"Image {number}: ")[1].split(f" Image {number + 1}: ")[0]
            fitting = [p for p in study.pairs if p.question == own]
            if question.options:
                assert answer.lower() in {p.answer.lower() for p in fitting if p.kind == "closed"}
            else:
                assert answer in {p.answer for p in fitting if p.kind == "open"}
        assert question.options.count(question.answer) == bool(question.options)


# What a caption of `drawn.CAPTIONS` says is there, and what it leaves possible; typed by reading them.
SHOWN = {
    "Axial": {"a cyst"}, "Chest radiograph": {"pleural effusion"}, "Chest X-ray": {"cardiomegaly"},
    "Sagittal": {"a fracture"}, "CT scan": {"hemorrhage"}, "Photomicrograph": {"carcinoma"}, "Gross": set(),
    "Coronary": {"stenosis"}, "Abdominal": {"hydronephrosis"}, "CT of the thorax": {"consolidation"},
    "Lateral": {"a dislocation"}, "MRI": {"hydrocephalus"}, "Computed": {"an abscess"}, "Immuno": {"lymphoma"},
}  # fmt: skip
KINDS = (
    {"Axial", "Photomicrograph", "Gross", "Immuno", "Computed"},  # tumors, cysts and collections
    {"Chest radiograph", "Chest X-ray"},  # effusion, denied in one
    {"MRI", "Sagittal"},
)


def head(study: Study) -> str:
    return next(start for start in SHOWN if (study.caption or "").startswith(start))


@few
@given(seeds)
def test_a_figure_that_shows_something_is_the_only_one_whose_caption_speaks_of_it(seed: int) -> None:
    for question in ask("which_figure", on(drawn.pmc, seed, 6)):
        heads = [head(s) for s in question.studies]
        value = question.about["value"]
        assert value in SHOWN[heads[place(question)]]
        others = heads[: place(question)] + heads[place(question) + 1 :]
        assert all(value not in SHOWN[other] for other in others)
        if value in ("a cyst", "carcinoma", "lymphoma"):
            assert not set(others) & (KINDS[0] - {"Computed"})
        if value in ("pleural effusion",):
            assert not set(others) & KINDS[1]
        assert len({s.patient for s in question.studies}) == len(question.studies)


@few
@given(seeds)
def test_captions_that_could_be_exchanged_are_never_matched(seed: int) -> None:
    captions = (*drawn.CAPTIONS, "Radiograph of the chest: right pleural effusion", "A cyst")
    for family in ("match_figure", "match_caption"):
        for question in ask(family, on(lambda r, n: drawn.pmc(r, n, captions), seed, 6)):
            shown = [s.caption or "" for s in question.studies]
            assert len(set(shown)) == len(shown)
            assert "A cyst." not in shown  # it says too little
            twins = {"Radiograph of the chest: right pleural effusion.",
                     "Chest radiograph with a large right pleural effusion."}  # fmt: skip
            assert len(twins & set(shown)) <= 1
            if family == "match_figure":
                assert shown[place(question)] == question.about["value"]
            else:
                asked = int(question.about["image"][-1]) - 1
                assert shown[asked] == question.answer and set(question.options) == set(shown)
                assert question.swapped == shown[asked - 1]


@few
@given(seeds)
def test_modalities_are_compared_where_source_and_caption_agree(seed: int) -> None:
    named = {
        "Axial": "CT", "Chest radiograph": "X-ray", "Chest X-ray": "X-ray", "Sagittal": "MRI", "CT scan": "CT",
        "Photomicrograph": "histology", "CT of the thorax": "CT", "MRI": "MRI", "Computed": "CT", "Immuno": "histology",
    }  # fmt: skip
    for question in ask("same_modality", on(drawn.pmc, seed, 6)):
        modalities = [s.modality for s in question.studies]
        assert all(modalities) and question.answer == ("same" if len(set(modalities)) == 1 else "different")
        for study in question.studies:
            assert named.get(head(study), study.modality) == study.modality


@few
@given(seeds)
def test_figures_that_are_asked_the_same_have_answers_that_cannot_be_exchanged(seed: int) -> None:
    for question in ask("joined_figures", on(drawn.pmc, seed, 7)):
        answers = parts(question.answer)
        assert len(set(answers)) == len(answers) == len(question.studies)
        imaging = [answer.startswith("It is a") for answer in answers]
        assert all(imaging) or not any(imaging)  # one question for all
        for study, answer in zip(question.studies, answers, strict=True):
            assert answer in {p.answer for p in study.pairs}
            if all(imaging):
                assert answer.split()[-1] in (study.modality, "scan") and study.modality in ("CT", "MRI")
        turned = [answers[i:] + answers[:i] for i in range(len(answers))]
        assert [parts(option) for option in question.options] == turned and question.options[0] == question.answer
        assert parts(question.swapped or "") == [answers[-1], *answers[:-1]]  # the last image comes first then


DRAWN = {
    drawn.embed: ("which_diseased", "forecast", "which_craniocaudal", "birads"),
    drawn.lumiere: ("which_sequence", "extent_of_resection", "tumor_course"),
    drawn.ms_cxr_t: ("progression",),
    drawn.odir: ("eye_diagnosis", "which_eye", "both_eyes", "shared_diagnosis", "same_diagnosis"),
    drawn.vqa_rad: ("joined",),
    drawn.pmc: ("which_figure", "match_figure", "match_caption", "same_modality", "joined_figures"),
}


def test_every_family_is_asked_with_every_answer() -> None:
    """Or the properties above say nothing."""
    for draw, families in DRAWN.items():
        for family in families:
            questions = ask(family, on(draw, 0, 20))
            assert len(questions) >= 5, family
            fixed = abilities.FAMILIES[family].options
            assert {q.answer for q in questions} >= set(fixed)
            assert {len(q.studies) for q in questions} <= {2, 3, 4}
            assert all(q.ability == abilities.FAMILIES[family].ability and q.family == family for q in questions)
    assert {name for families in DRAWN.values() for name in families} == set(abilities.FAMILIES)
    joined = ask("joined", on(drawn.vqa_rad, 0, 20))
    assert {bool(q.options) for q in joined} == {True, False}


def positions() -> Iterator[tuple[str, Callable[[random.Random, int], list[Study]], int]]:
    for family in ("which_diseased", "which_craniocaudal"):
        yield family, drawn.embed, 600
    yield "which_sequence", drawn.lumiere, 150
    yield "which_eye", drawn.odir, 900
    yield "which_figure", drawn.pmc, 16
    yield "match_figure", drawn.pmc, 16


@pytest.mark.parametrize(("family", "draw", "count"), positions())
def test_the_right_image_is_at_every_place_equally_often(
    family: str, draw: Callable[[random.Random, int], list[Study]], count: int
) -> None:
    for size in (2, 3):
        places = Counter(place(q) for q in ask(family, on(draw, 1, count)) if len(q.studies) == size)
        number = places.total()
        if size == 2 or family != "which_eye":  # there are two eyes
            assert number > 70 and set(places) == set(range(size))
            spread = 4 * (number * (1 / size) * (1 - 1 / size)) ** 0.5
            assert all(abs(count - number / size) < spread for count in places.values())
