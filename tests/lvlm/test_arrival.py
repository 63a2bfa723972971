"""Whether images reach a model, by the tokens of its prompts: kinds of models and of servers that drop images."""

from functools import cache
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medmim.lvlm import arrival
from medmim.lvlm.ask import Question

# What an image adds by its size, and by how many there are, as the processors of transformers count it.


def fixed(tokens):
    return lambda size, images: tokens


def qwen(size, images):
    return max(1, size[0] // 28) * max(1, size[1] // 28) + 2


def internvl(size, images):
    """Tiles in the grid that is nearest to the image's proportions, and a thumbnail where there are several."""
    grids = [(a, b) for a in range(1, 13) for b in range(1, 13) if a * b <= 12 and a * b * 448 * 448 < 4 * prod(size)]
    wide, high = min(grids or [(1, 1)], key=lambda g: (abs(g[0] / g[1] - size[0] / size[1]), -g[0] * g[1]))
    return 256 * (wide * high + (wide * high > 1)) + 2


def onevision(size, images):
    """One image is cut into tiles, several are not."""
    return 729 * (1 + min(9, ceil(size[0] / 384) * ceil(size[1] / 384))) + 2 if images == 1 else 730


def smolvlm(size, images):
    """Small images are enlarged: the proportions alone decide."""
    long, short = max(size), min(size)
    return 81 * (1 + 4 * max(1, ceil(4 * short / long)))


def prod(size):
    return size[0] * size[1]


MODELS = {
    "llava-med": fixed(576), "mantis": fixed(735), "gemma": fixed(258), "tiny": fixed(16), "qwen": qwen,
    "internvl": internvl, "onevision": onevision, "smolvlm": smolvlm,
}  # fmt: skip
# Which images of a question reach the model.
DROPPING = {
    "all": lambda images: [],
    "all but the first": lambda images: images[:1],
    "all but the last": lambda images: images[-1:],
    "all but two": lambda images: images[:2],
    "all but the last three": lambda images: images[-3:],
}
SIDES = (120, 224, 336, 512, 700, 1000, 1500)
SIZES = st.tuples(st.sampled_from(SIDES), st.sampled_from(SIDES))


@cache
def picture(size):
    return Image.new("L", size)


def question(sizes):
    return Question("What changed between these images?", [picture(size) for size in sizes])


def counting(model, kept=lambda images: images, marker=0):
    """A server that writes `marker` tokens for each image, and shows those that it keeps to a model."""

    def tokens(images):
        shown = kept(list(images))
        return 40 + marker * len(images) + sum(model(image.size, len(shown)) for image in shown)

    return tokens


def measured(sizes, count):
    """As a benchmark does it: the questions with fewer images came first."""
    costs = None
    for images in range(1, len(sizes) + 1):
        costs = arrival.measure(question(sizes[:images]), count, costs)
    return costs


@settings(max_examples=400)
@given(
    model=st.sampled_from(sorted(MODELS)),
    sizes=st.lists(SIZES, min_size=1, max_size=4),
    others=st.lists(SIZES, min_size=4, max_size=4),
    marker=st.integers(0, 9),
    at_once=st.booleans(),
)
def test_images_that_arrive_are_seen_to_and_no_question_is_called_short(model, sizes, others, marker, at_once):
    count = counting(MODELS[model], marker=marker)
    costs = arrival.measure(question(sizes), count) if at_once else measured(sizes, count)
    assert costs.images == len(sizes)
    for images in range(1, len(sizes) + 1):
        for asked in (sizes[-images:], others[:images]):
            assert costs.of(question(asked)) < count(question(asked).images)


@pytest.mark.parametrize("kept", DROPPING.values(), ids=DROPPING)
@given(
    model=st.sampled_from(sorted(MODELS)),
    sizes=st.lists(SIZES, min_size=4, max_size=4),
    marker=st.integers(0, 7),
    at_once=st.booleans(),
)
def test_a_server_that_drops_images_is_found_out(kept, model, sizes, marker, at_once):
    count = counting(MODELS[model], kept, marker)
    with pytest.raises(arrival.Dropped, match="40 with"):
        arrival.measure(question(sizes), count) if at_once else measured(sizes, count)


@given(sizes=st.lists(SIZES, min_size=2, max_size=4), words=st.integers(1, 200))
def test_a_single_reply_without_one_of_its_images_is_short_where_every_image_costs_the_same(sizes, words):
    costs = measured(sizes, counting(MODELS["llava-med"]))
    assert costs.fixed and words + 576 * (len(sizes) - 1) <= costs.of(question(sizes)) < 1 + 576 * len(sizes)


def test_an_image_of_a_known_size_costs_what_it_did():
    costs = measured([(448, 448)], counting(qwen))
    assert not costs.fixed
    assert costs.of(question([(448, 448)])) == qwen((448, 448), 1) - 2 > costs.of(question([(1000, 1000)])) > 0


def test_a_small_image_is_no_marker_where_a_large_one_costs_more():
    assert measured([(60, 60)], counting(qwen)).images == 1
    with pytest.raises(arrival.Dropped, match="46 tokens with an image and 40 without"):
        measured([(60, 60)], counting(fixed(6)))


def test_the_prompt_without_images_is_counted_first_and_few_others_are():
    """A server that keeps prompts may not count what it knows of one; and a benchmark is not to wait."""
    asked = []
    count = counting(fixed(576))

    def logged(images):
        asked.append(len(images))
        return count(images)

    costs = arrival.measure(question([(90, 90)]), logged)
    assert asked == [0, 1, 1]
    asked.clear()
    arrival.measure(question([(90, 90)] * 3), logged, costs)
    assert asked == [0, 1, 2, 3]
