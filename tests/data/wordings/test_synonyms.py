"""What counts as the same: of two texts that do, one must not be the wrong option to the other."""

import pytest

from medmim.data.wordings import synonyms


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("moderate non proliferative retinopathy", "diabetic retinopathy"),
        ("mild nonproliferative retinopathy", "severe non-proliferative retinopathy"),
        ("drusen", "wet age-related macular degeneration"),
        ("glaucoma", "suspected glaucoma"),
        ("macular epiretinal membrane", "epiretinal membrane over the macula"),
        ("laser spot, drusen", "cataract, Drusen"),
        ("myelinated nerve fibers", "Myelinated nerve fibers"),
        ("optic nerve atrophy", "glaucoma"),
        ("normal fundus", "normal fundus"),
    ],
)
def test_stages_signs_and_spellings_of_one_disease_of_the_eye_are_alike(first: str, second: str) -> None:
    assert synonyms.alike_eyes(first, second) and synonyms.alike_eyes(second, first)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("moderate nonproliferative retinopathy", "hypertensive retinopathy"),
        ("normal fundus", "drusen"),
        ("normal fundus", "abnormal pigment"),
        ("cataract", "glaucoma"),
        ("retinal detachment", "retinitis pigmentosa"),
        ("myelinated nerve fibers", "branch retinal vein occlusion"),
    ],
)
def test_different_diseases_of_the_eye_are_not(first: str, second: str) -> None:
    assert not synonyms.alike_eyes(first, second) and not synonyms.alike_eyes(second, first)


@pytest.mark.parametrize(
    ("caption", "shown", "possible"),
    [
        ("CT with a large pleural effusion.", {"pleural effusion"}, {"pleural effusion", "pericardial effusion"}),
        ("No pleural effusion or pneumothorax.", set(), {"pleural effusion", "pneumothorax"}),
        ("Fracture of the tibia, without dislocation.", {"a fracture"}, {"a fracture", "a dislocation"}),
        ("Suspected pneumonia", set(), {"pneumonia", "consolidation"}),
        ("A mass in the liver", set(), {"carcinoma", "metastases", "a cyst"}),
        ("Haemorrhage after biopsy; no fracture", {"hemorrhage"}, {"hemorrhage", "a fracture"}),
        ("Normal chest radiograph", set(), set()),
    ],
)
def test_a_caption_shows_what_it_says_is_there_and_leaves_possible_what_is_of_its_kind(
    caption: str, shown: set[str], possible: set[str]
) -> None:
    assert synonyms.shown(caption) == shown
    assert possible <= synonyms.related(caption)
    assert possible or not synonyms.related(caption)


@pytest.mark.parametrize(
    ("claim", "known", "possible"),
    [
        ("Chest X-ray with right effusion", "Radiograph of the chest: a large pleural effusion on the right", True),
        ("Fracture of the distal radius", "MRI of the brain with hydrocephalus", False),
        ("A cyst", "MRI of the brain with hydrocephalus", True),  # says too little
        ("CT scan of the thorax", "Computed tomography of the chest with nodules", True),
        ("Histology of colon carcinoma cells", "Coronary angiogram with stenosis", False),
    ],
)
def test_a_text_may_be_true_of_a_figure_where_half_of_it_is_said_there(claim: str, known: str, possible: bool) -> None:
    assert synonyms.could_be_said_of(claim, known) == possible
    assert synonyms.apart([claim], known) == (not possible)


def test_the_ways_of_imaging_that_a_caption_names() -> None:
    assert synonyms.modalities("Chest X-ray and CT scan") == {"X-ray", "CT"}
    assert synonyms.modalities("H&E stain, with MRI") == {"histology", "MRI"}
    assert synonyms.modalities("Contact of the tumor") == set()
