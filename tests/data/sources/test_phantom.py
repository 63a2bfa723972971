"""Phantoms: the same for a seed in any process, and every class visibly different."""

import io
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from PIL import Image

from medmim.data.sources import phantom
from medmim.data.sources.phantom_draw import CLASSES, PIXELS, SIZES, Scene, draw
from medmim.data.sources.source import Entry
from medmim.recipe.sources import Phantom
from medmim.sample import Study

DATA = Entry(Phantom(name="phantom", patients=60), seed=5)


@pytest.fixture(scope="module")
def studies() -> list[Study]:
    return phantom.load(DATA).studies or []


def test_patient_n_is_the_same_for_any_number_of_patients(studies: list[Study]) -> None:
    assert phantom.patients(90, 5)[: len(studies)] == studies
    assert phantom.patients(60, 6) != studies


def test_an_image_has_the_same_bytes_in_whatever_order_images_are_drawn(studies: list[Study]) -> None:
    forward = [phantom.load(DATA).read(s.image) for s in studies[:20]]
    source = phantom.load(replace(DATA, own=Phantom(name="phantom", patients=90)))
    assert [source.read(s.image) for s in reversed(studies[:20])] == forward[::-1]
    assert len(set(forward)) == 20


def test_an_image_is_a_grey_png_of_96_pixels(studies: list[Study]) -> None:
    with Image.open(io.BytesIO(phantom.load(DATA).read(studies[0].image))) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "L", (PIXELS, PIXELS))


def test_an_unknown_path_is_a_missing_file() -> None:
    with pytest.raises(FileNotFoundError):
        phantom.load(DATA).read("chest/unknown/1.png")


def test_every_study_shows_one_of_the_classes(studies: list[Study]) -> None:
    assert {phantom.scene_of(s) for s in studies} <= set(CLASSES)
    assert {phantom.scene_of(s) for s in phantom.patients(2_000, 0)} == set(CLASSES)


def test_patients_have_several_images_and_one_source(studies: list[Study]) -> None:
    by_patient: dict[str, list[Study]] = {}
    for study in studies:
        by_patient.setdefault(study.patient, []).append(study)
    assert len(by_patient) == 60
    assert all(3 <= len(own) <= 6 and len({s.source for s in own}) == 1 for own in by_patient.values())


def test_held_out_domains_are_fundus_and_mixed_radiology(studies: list[Study]) -> None:
    assert {s.modality for s in studies if s.held_out} == {"fundus", "ultrasound", "CT"}
    assert not {s.modality for s in studies if not s.held_out} & {"fundus", "ultrasound", "CT"}


def test_the_larger_a_finding_the_more_it_changes_the_image() -> None:
    for scene in CLASSES:
        if scene.size and scene.finding != "stone":  # a stone's shadow takes back the light that its body adds
            light = [_light(replace(scene, size=size)).sum() for size in SIZES]
            assert light == sorted(light) or light == sorted(light, reverse=True), scene
            assert abs(light[2] - light[0]) > 5 * PIXELS, scene


def test_a_finding_changes_the_side_that_it_names() -> None:
    for scene in CLASSES:
        if scene.side:
            change = np.abs(_light(scene) - _light(Scene(scene.modality, view=scene.view)))
            left, right = change[:, : PIXELS // 2].sum(), change[:, PIXELS // 2 :].sum()
            assert (left > right) == (scene.side == "left"), scene


def test_no_two_classes_look_alike() -> None:
    images = np.array([_light(scene).ravel() for scene in CLASSES])
    for i, image in enumerate(images):
        others = np.abs(np.delete(images, i, axis=0) - image).mean(axis=1)
        assert others.min() > 1.0, CLASSES[i]  # grey levels a pixel, averaged over poses


@cache
def _light(scene: Scene) -> np.ndarray:
    """Grey levels of a scene, averaged over 24 poses."""
    return np.mean([draw(scene, np.random.default_rng(n)) for n in range(24)], axis=0)
