"""What every source delivers, and the one safe way to read an image file that somebody else laid down.

A source is a module of this folder with two functions:

    inputs(data: recipe.Data) -> dict[str, str]     name -> SHA-256 of what it reads; parents of the data step
    load(data: recipe.Data) -> Source               the records themselves
"""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from medmim.sample import BadRow, Sample, Study

MAX_PIXELS = 100_000_000  # a whole-slide thumbnail fits, a decompression bomb does not


class BadImage(Exception):
    """An image that cannot be used; the message is the reason under which it is quarantined."""


@dataclass(frozen=True)
class Source:
    """A data set as its module read it.

    Attributes:
        read: Path as in `Study.image` or `Sample.paths` -> the original bytes.
            Raises FileNotFoundError where the file is absent, BadImage where it must not be read.
        studies: Records to make questions from, or None.
        samples: Ready questions with their split, or None. `images` holds source paths; the build turns them into ids.
        families: The question families that the pictures of this source can answer (see `abilities`).
        bad: Rows that were quarantined while reading.
        missing: Image paths that the annotations name and the root lacks.
        facts: What else is worth telling of the raw files (duplicates, counts per file); plain JSON that the build
            puts into the artifact's counts and its own outcome as they are.
    """

    read: Callable[[str], bytes]
    studies: list[Study] | None = None
    samples: list[Sample] | None = None
    families: tuple[str, ...] = ()
    bad: list[BadRow] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def read_inside(root: Path, path: str) -> bytes:
    """The bytes of a file below `root`, symbolic links followed and checked.

    Raises:
        FileNotFoundError: There is no such file.
        BadImage: The path leads out of the root, or is no regular file.
    """
    place = (root / path).resolve()
    if not place.is_relative_to(root.resolve()):
        raise BadImage("image lies outside the image root")
    if not place.exists():
        raise FileNotFoundError(path)
    if not place.is_file():
        raise BadImage("image is not a regular file")
    return place.read_bytes()


def check_image(data: bytes) -> None:
    """Decode the whole image and throw the pixels away.

    Raises:
        BadImage: Empty, cut off, no image at all, or larger than `MAX_PIXELS`.
    """
    if not data:
        raise BadImage("image file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:  # reads the header only
                if image.width * image.height > MAX_PIXELS:
                    raise BadImage(f"image is larger than {MAX_PIXELS:,} pixels")
                image.load()
    except BadImage:
        raise
    except Image.DecompressionBombError:
        raise BadImage(f"image is larger than {MAX_PIXELS:,} pixels") from None
    except Exception as error:  # noqa: BLE001  pillow's decoders raise whatever they meet
        raise BadImage(f"image cannot be decoded: {type(error).__name__}") from None
