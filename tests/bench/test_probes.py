"""The images of a question under each probe: as they are, none, mean images, or in another order."""

import io

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medmim.bench import probes
from medmim.sample import Sample
from tests.support.bench import picture, samples


def item(images: tuple[str, ...], swapped: tuple[int, ...] = ()) -> Sample:
    return Sample("temporal", "change", "s", "test", False, ("p",), images, images, "?", ("a", "b"), "a", (0,), swapped)


@given(st.integers(1, 8))
def test_moving_n_images_on_n_times_restores_their_order(count: int) -> None:
    images = {str(i): Image.new("RGB", (1, 1), (i, 0, 0)) for i in range(count)}
    names = order = tuple(images)
    for turn in range(1, count + 1):
        shown = probes.images_for(item(order), "swap", images)
        order = tuple(str(image.getpixel((0, 0))[0]) for image in shown)
        assert order.index(names[0]) == turn % count  # image 1 becomes image 2, the last becomes image 1
    assert order == names


def test_swap_asks_only_questions_whose_answer_moves_and_every_other_probe_asks_all() -> None:
    asked = samples()
    assert probes.select(asked, "swap") == [sample for sample in asked if sample.swapped] != []
    assert all(probes.select(asked, probe) == asked for probe in probes.PROBES if probe != "swap")


def test_blind_shows_no_image_and_grey_shows_equal_ones() -> None:
    images = {name: Image.open(io.BytesIO(picture(i))).convert("RGB") for i, name in enumerate("ab")}
    asked = item(("a", "b"))
    assert probes.images_for(asked, "blind", images) == []
    mean = probes.mean_image([asked], images)
    first, second = probes.images_for(asked, "grey", images, mean)
    assert first.tobytes() == second.tobytes() and first.size == images["a"].size
