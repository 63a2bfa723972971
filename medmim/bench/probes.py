"""Probes: the questions without their images, with mean images, or with the images in another order.

`blind` removes the images and their markers. `grey` keeps markers and sizes and shows the mean image of the benchmark,
so that only the differences between images are removed.

`swap` shows the real images, each moved one position on: a model that reads them gives the other answer
(`Sample.swapped`); one that prefers a letter, a position or a word does not.

`canary` asks a random part of the questions as they are, another part each night, and never from the cache.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from medmim.sample import Sample, digest_of

if TYPE_CHECKING:
    from PIL.Image import Image

PROBES = ("none", "blind", "grey", "swap")
_CANARY = "canary"
_MEAN_SIZE = 384
_MEAN_OF = 256


def canary(night: str, size: int) -> str:
    """The canary probe of a night, with `size` questions."""
    return f"{_CANARY} {night} {size}"


def select(samples: Sequence[Sample], probe: str) -> list[Sample]:
    """The questions that a probe asks: `swap` only those whose right answer moves with the images.

    A canary asks those with the smallest digests of night and question, so every model gets the same ones.
    """
    if probe.startswith(_CANARY):
        _, night, size = probe.split(" ")
        drawn = sorted((digest_of([night, sample.id]), sample.id) for sample in samples)[: int(size)]
        names = {name for _, name in drawn}
        return [sample for sample in samples if sample.id in names]
    return [sample for sample in samples if probe != "swap" or sample.swapped]


def shown(sample: Sample, probe: str) -> tuple[str, ...]:
    """Ids of the images that go with a question under a probe, in their order; of `grey`, whose sizes are shown."""
    if probe == "blind":
        return ()
    return (*sample.images[-1:], *sample.images[:-1]) if probe == "swap" else sample.images


def images_for(sample: Sample, probe: str, images: Mapping[str, "Image"], mean: "Image | None" = None) -> "list[Image]":
    """The images that go with a question under a probe.

    Args:
        sample: The question.
        probe: One of `PROBES`, or a `canary`.
        images: Image id -> RGB image.
        mean: For `grey`, what `mean_image` returned.

    Raises:
        KeyError: The data set lacks an image.
    """
    real = [images[name] for name in shown(sample, probe)]
    if probe != "grey":
        return real
    assert mean is not None  # noqa: S101  the caller's contract
    return [mean.resize(image.size) for image in real]


def mean_image(samples: Sequence[Sample], images: Mapping[str, "Image"]) -> "Image":
    """The pixel-wise mean of the benchmark's first images in order of their ids; the same for every model."""
    import numpy as np
    from PIL import Image

    names = sorted({name for sample in samples for name in sample.images if name in images})[:_MEAN_OF]
    total = np.zeros((_MEAN_SIZE, _MEAN_SIZE, 3), dtype=np.int64)  # whole numbers: the sum has no order
    for name in names:
        total += np.asarray(images[name].convert("RGB").resize((_MEAN_SIZE, _MEAN_SIZE)), dtype=np.int64)
    return Image.fromarray((total // max(1, len(names))).astype(np.uint8))
