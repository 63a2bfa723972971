"""The images of a benchmark: decoded and hashed once for all models, probes and protocols of a process.

Decoded images are kept as `kept.budget` allows; one that had to go is decoded again. Digests and sizes stay.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, overload

from medmim import shards
from medmim.bench import probes
from medmim.lvlm.kept import Kept, budget
from medmim.sample import Sample

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")

_GREY_SIZES = 64  # whose mean images are kept


class Pixels(Mapping[str, "Image"]):
    """RGB images by id, which several threads may ask for.

    Args:
        images: Image id -> RGB image, decoded on access.
        room: Bytes of decoded pixels that are kept.
    """

    def __init__(self, images: Mapping[str, "Image"], room: int | None = None) -> None:
        self._images = images
        self._kept: Kept[Image] = Kept(budget() if room is None else room, _bytes)
        self._digests: dict[str, str] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        self.grey = lru_cache(1)(self._grey)

    def __getitem__(self, name: str) -> "Image":
        return self._kept.get(name, lambda: self._images[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._images)

    def __len__(self) -> int:
        return len(self._images)

    def __contains__(self, name: object) -> bool:
        return name in self._images

    def digest(self, name: str) -> str:
        """`ask.pixel_digest` of an image. Raises KeyError."""
        from medmim.lvlm.ask import pixel_digest

        if name not in self._digests:
            self._digests[name] = pixel_digest(self[name])
        return self._digests[name]

    def size(self, name: str) -> tuple[int, int]:
        """Width and height of an image, which need not be decoded for them. Raises KeyError."""
        if name not in self._sizes:
            self._sizes[name] = self._images.size(name) if isinstance(self._images, shards.Images) else self[name].size
        return self._sizes[name]

    def _grey(self, samples: tuple[Sample, ...]) -> "Grey":
        """What the probe `grey` shows in place of the images of all questions of a benchmark; the last one is kept."""
        return Grey(probes.mean_image(samples, self))


class Grey:
    """The mean image in all sizes; each is made and hashed once, as long as not too many are in use.

    Args:
        mean: Of `probes.mean_image`.
    """

    def __init__(self, mean: "Image") -> None:
        self.of_size: Callable[[tuple[int, int]], Image] = lru_cache(_GREY_SIZES)(mean.resize)
        self._digests: dict[tuple[int, int], str] = {}

    def digest(self, size: tuple[int, int]) -> str:
        """`ask.pixel_digest` of the image of a size."""
        from medmim.lvlm.ask import pixel_digest

        if size not in self._digests:
            self._digests[size] = pixel_digest(self.of_size(size))
        return self._digests[size]


class Shown(Sequence[T]):
    """What is shown with a question, or its digests: made when it is looked at, where the thread that needs it waits.

    Args:
        names: Of the images.
        made: Name -> it.
    """

    def __init__(self, names: Sequence[str], made: Callable[[str], T]) -> None:
        self._names, self._made = names, made

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...

    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if isinstance(index, slice):
            return Shown(self._names[index], self._made)
        return self._made(self._names[index])


@lru_cache(1)
def of(folder: Path) -> Pixels:
    """The images of a published data set, the same object for all who ask in this process."""
    return Pixels(shards.Images(folder))


def _bytes(image: "Image") -> int:
    return image.width * image.height * len(image.getbands())
