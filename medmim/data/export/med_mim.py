"""The published JSON of Med-MIM: a file for each split and ability, byte for byte in the form of the published ones.

Images are named as in their source, and lie below `pictures/`; a name that is no picture's there (`.dcm`, a slice of a
volume) gets `.png` behind it. The source `published` reads it.
"""

import json
import posixpath
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medmim import shards
from medmim.data.export import form, pictures
from medmim.data.export.folder import PICTURES
from medmim.data.export.form import Form, Splits, Written
from medmim.data.sources.files import escapes
from medmim.data.sources.published_rows import MAX_IMAGES, published_file, published_source
from medmim.sample import IMAGE, Sample, split_options, to_published

_PICTURE = re.compile(r"\.(png|jpe?g)$", re.IGNORECASE)
_LONG, _LONGEST = 255, 2048  # bytes of a name, and of a path with room for the folder that it lies in
_IN_FILE = "one of its images would lie in a folder that has the name of another image"
_USAGE = """\
The layout of the files at [Med-MIM](https://github.com/Xikai97/Med-MIM). `id` is the digest of a row, and `source` its
data set and type: a built data set does not keep the names of the published rows. Images are named by their paths in
the source, **which name patients**; they lie below `pictures/` where the data set has pixels.

medmim reads it by the source `published`, with `data.annotations=FOLDER data.root=FOLDER/pictures`. Train on the files
`Med_MIM_train_*` only.
"""


def problem(sample: Sample) -> str:
    """Why the published form cannot hold a row; empty where it can."""
    if sample.split == "dev":
        return "the published form has no split dev"
    if not sample.images:
        return "the published form has no questions without images"
    if len(sample.images) > MAX_IMAGES:
        return f"{len(sample.images)} images are more than {MAX_IMAGES}"
    if IMAGE in sample.prompt:
        return f"its text has {IMAGE}, which stands for a picture there"
    if any(escapes(_name(path)) for path in sample.paths):
        return "the path of an image leaves the root of its source"
    read = split_options(sample.prompt)
    if read != (sample.question, sample.options):
        return f"it would be read with {len(read[1])} options instead of {len(sample.options)}, or another question"
    return (
        "it would be read without the white space around its answer" if sample.target != sample.target.strip() else ""
    )


def write(folder: Path, splits: Splits, images: shards.Images | None) -> Written:
    """Write `Med_MIM_*.json`, and the pictures where there are any."""
    files: dict[str, list[Sample]] = defaultdict(list)
    for sample in form.rows(splits):
        files[published_file(sample)].append(sample)
    for file, samples in files.items():
        rows = list(map(_row, samples))
        (folder / file).write_text(json.dumps(rows, indent=4), encoding="utf-8")  # without an end of line, as published
    known: dict[str, str] = {}
    if images is not None:
        places = {
            _place(path): name for one in form.rows(splits) for path, name in zip(one.paths, one.images, strict=True)
        }
        known = pictures.write_as(folder, images, places)
    return Written(
        _USAGE, {split: f"Med_MIM_{'train' if split == 'train' else 'benchmark'}_*.json" for split in splits}, known
    )


def _row(sample: Sample) -> dict[str, Any]:
    row = to_published(sample)
    if sample.options:  # their last line ends, too, in every published file
        row["conversation"][0]["content"] += "\n"
    return {**row, "images": [_name(path) for path in sample.paths], "source": published_source(sample)}


def clashes() -> Callable[[Sample], str]:
    """Makes the check whether the pictures of a row can lie beside those of the rows before; empty where they can."""
    files: dict[str, str] = {}
    folders: set[str] = set()

    def clash(sample: Sample) -> str:
        new: dict[str, str] = {}
        around: set[str] = set()
        for path, name in zip(sample.paths, sample.images, strict=True):
            place = _place(path)
            if (
                "\0" in place
                or len(place.encode()) > _LONGEST
                or any(len(x.encode()) > _LONG for x in place.split("/"))
            ):
                return "no file can have the name of one of its images"
            above = _folders_of(place)
            if files.get(place, name) != name or new.setdefault(place, name) != name:
                return "one of its images would have the name of another one: the published form keeps less of names"
            around.update(above)
            if place in folders or not files.keys().isdisjoint(above):
                return _IN_FILE
        if not around.isdisjoint(new):
            return _IN_FILE
        files.update(new)
        folders.update(around)
        return ""

    return clash


def _folders_of(place: str) -> list[str]:
    parts = place.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts))]


def _place(path: str) -> str:
    return posixpath.normpath(f"{PICTURES}/{_name(path)}")


def _name(path: str) -> str:
    return path if _PICTURE.search(path) else path.replace("#", ".") + ".png"


FORM = Form(problem, write, without_pixels=True, names_patients=True, clashes=clashes)
