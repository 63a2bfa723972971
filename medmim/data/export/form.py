"""What a format of an export is: which rows it cannot hold, and how it is written."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medmim import shards
from medmim.sample import IMAGE, Sample

as_json = json.JSONEncoder(ensure_ascii=False).encode  # one for all rows: `json.dumps` makes one for each
Splits = Mapping[str, Sequence[Sample]]  # split -> its rows, in the order of the data set


@dataclass(frozen=True)
class Written:
    """What a format has written.

    Attributes:
        usage: How to use it, in Markdown.
        files: Split -> its file or files in the folder, as a pattern.
        sums: Of files whose content was summed when it was written: path in the folder -> `sums.of_bytes`.
    """

    usage: str
    files: Mapping[str, str]
    sums: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Form:
    """A format.

    Attributes:
        problem: Why it cannot hold a row as it is; empty where it can.
        write: Writes rows into an empty folder. The images are those of the data set; None where it was built without.
        without_pixels: Whether it can be written of a data set that was built without pixels.
        names_patients: Whether it names files as their source does, and patients with them.
        clashes: Makes a check for one export with pictures: why a row cannot stand beside those before that it passed.
    """

    problem: Callable[[Sample], str]
    write: Callable[[Path, Splits, shards.Images | None], Written]
    without_pixels: bool = False
    names_patients: bool = False
    clashes: Callable[[], Callable[[Sample], str]] | None = None


def uses(splits: Splits) -> tuple[list[str], list[str]]:
    """Splits to train on, and those that only measure, in their order."""
    return [split for split in splits if split == "train"], [split for split in splits if split != "train"]


def tag_in(sample: Sample, *tags: str) -> str:
    """Why a row cannot be held where a text stands for a picture: its own text has one of them."""
    text = f"{sample.prompt}\n{sample.target}"
    found = next((tag for tag in (IMAGE, *tags) if tag in text), "")
    return f"its text has {found}, which stands for a picture or a sound there" if found else ""


def all_images(splits: Splits) -> set[str]:
    """Ids of all images of some rows."""
    return {name for sample in rows(splits) for name in sample.images}


def rows(splits: Splits) -> Iterator[Sample]:
    """All rows, split by split."""
    return (sample for samples in splits.values() for sample in samples)


def with_pixels(images: shards.Images | None) -> shards.Images:
    """The images of a data set that has some: without, the form was not to be written."""
    if images is None:
        raise ValueError("this form needs pixels")
    return images
