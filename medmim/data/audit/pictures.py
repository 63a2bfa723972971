"""Pictures that stand in several splits under different ids: equal by their pixels, or look alike.

An image id tells files apart by their bytes, so a picture that was saved again is another image; see `fingerprints`.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from medmim.data.audit.check import Check, Row
from medmim.data.audit.fingerprints import BITS, Fingerprints
from medmim.data.audit.nearest import nearest
from medmim.data.sources.published_rows import file_of
from medmim.recipe.schema import Audit
from medmim.sample import SPLITS, Sample

_UNMEASURED = "not measured: the data set was built without pixels"


@dataclass(frozen=True)
class Twin:
    """What an image of a split is the same as, or looks like, in another split.

    Attributes:
        image: Its id.
        split: The other split.
        other: Id of the other image.
        bits: How many bits of the perceptual hashes differ; None where the pixels are equal.
    """

    image: str
    split: str
    other: str
    bits: int | None = None


@dataclass(frozen=True)
class Twins:
    """All of a data set, an image once in each; one with the pixels of `dev` can look like one of training."""

    by_pixels: Sequence[Twin] = ()
    by_look: Sequence[Twin] = ()
    unread: frozenset[str] = field(default_factory=frozenset)  # images without a fingerprint

    def leaked(self, allowed: Audit) -> frozenset[str]:
        """Images that count as trained on; look-alikes do where the recipe limits them."""
        found = [*self.by_pixels, *(self.by_look if allowed.max_look_alikes is not None else ())]
        return frozenset(twin.image for twin in found if twin.split == "train")


def twins(samples: Iterable[Sample], prints: Fingerprints, distance: int) -> Twins:
    """Find the pictures that are in several splits under different ids.

    An image of a later split is looked for in the earlier ones, train first: of `dev` in `train`, of `test` in both, up
    to the first that has it, its pixels or its look. So whether training has it does not depend on what `dev` has.

    Args:
        samples: Of all splits.
        prints: Of their images.
        distance: Bits of the perceptual hashes that may differ.
    """
    splits: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        for image in sample.images:
            splits[image].add(sample.split)
    images = [image for image in splits if image in prints.places]
    groups: dict[bytes, list[str]] = defaultdict(list)
    for image in images:
        groups[bytes(prints.pixels[prints.places[image]])].append(image)
    by_pixels = [twin for group in groups.values() if len(group) > 1 for twin in _elsewhere(group, splits)]
    known = {twin.image: twin.split for twin in by_pixels}
    by_look: list[Twin] = []
    left = images
    for earlier in SPLITS[:-1]:
        left = [image for image in left if earlier not in splits[image] and known.get(image) != earlier]
        found = _alike(left, [image for image in images if earlier in splits[image]], earlier, prints, distance)
        by_look += found
        told = {twin.image for twin in found}
        left = [image for image in left if image not in told]
    return Twins(by_pixels, by_look, frozenset(splits) - frozenset(images))


def _elsewhere(group: Sequence[str], splits: Mapping[str, set[str]]) -> Iterator[Twin]:
    """The twins of images with equal pixels, each in the first split that does not have the image itself."""
    first: dict[str, str] = {}
    for image in group:
        for split in splits[image]:
            first.setdefault(split, image)
    for image in group:
        other = next((split for split in SPLITS if split in first and split not in splits[image]), None)
        if other is not None:
            yield Twin(image, other, first[other])


def _alike(images: Sequence[str], others: Sequence[str], split: str, prints: Fingerprints, distance: int) -> list[Twin]:
    if not images or not others:
        return []
    asked, among = (prints.looks[[prints.places[image] for image in group]] for group in (images, others))
    bits, places = nearest(asked, among, distance)
    return [
        Twin(image, split, others[place], int(apart))
        for image, apart, place in zip(images, bits, places, strict=True)
        if place >= 0
    ]


def checks(samples: Sequence[Sample], found: Twins | None, distance: int) -> list[Check]:
    """The checks `pixels` and `look-alikes`.

    Args:
        samples: Of all splits.
        found: Of these samples; None where the data set has no pixels.
        distance: As for `twins`.
    """
    about = {
        "pixels": "images that have the pixels of one in another split",
        "look-alikes": f"images that look like one of an earlier split ({distance} of {BITS} bits may differ)",
    }
    keys = {"pixels": "max_same_pixels", "look-alikes": "max_look_alikes"}
    if found is None:
        return [Check(name, about[name], None, key=keys[name], note=_UNMEASURED) for name in about]
    note = f"{len(found.unread):,} images have no pixels here" if found.unread else ""
    total = len({image for sample in samples for image in sample.images})
    shown = _first_rows(samples, {twin.other for twin in (*found.by_pixels, *found.by_look)})
    return [
        Check(
            name,
            about[name],
            len(group),
            of=total,
            key=keys[name],
            rows=_rows(samples, group, shown),
            note=note,
        )
        for name, group in (("pixels", found.by_pixels), ("look-alikes", found.by_look))
    ]


def _first_rows(samples: Sequence[Sample], images: set[str]) -> dict[tuple[str, str], str]:
    """(split, image id) -> the first row with that image."""
    found: dict[tuple[str, str], str] = {}
    for sample in samples:
        for place, image in enumerate(sample.images, 1):
            if image in images:
                found.setdefault((sample.split, image), f"image {place} of row {sample.id}")
    return found


def _rows(samples: Sequence[Sample], group: Sequence[Twin], shown: Mapping[tuple[str, str], str]) -> list[Row]:
    by_image = {twin.image: twin for twin in group}
    found = []
    for sample in samples:
        for place, image in enumerate(sample.images, 1):
            twin = by_image.get(image)
            if twin is not None and twin.split != sample.split:
                other = f"{shown[twin.split, twin.other]} in {twin.split}"
                how = "has the pixels of" if twin.bits is None else f"looks like ({twin.bits} bits differ)"
                found.append(Row(sample.id, file_of(sample), f"image {place} {how} {other}"))
    return found
