"""The pictures of an export as files, in the bytes in which the data set stores them, without the texts in those."""

import hashlib
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from medmim import progress, shards
from medmim.data.export.bare import bare
from medmim.data.export.folder import PICTURES

_ENDS = ((b"\x89PNG", ".png"), (b"\xff\xd8\xff", ".jpg"))  # what a data set stores
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL


def write(folder: Path, images: shards.Images, wanted: Collection[str]) -> dict[str, str]:
    """Write pictures below `pictures/`, each once.

    Args:
        folder: Of the export.
        images: Of the data set.
        wanted: Ids; those that the data set does not hold are left out.

    Returns:
        Id -> path in the folder, such as `pictures/3f/3f...e1.png`: by the digest of the original file.
    """
    paths: dict[str, str] = {}
    made: set[str] = set()
    with progress.bar("pictures", len(wanted), "pictures") as bar:
        for name, stored in images.each(wanted):
            data = bare(bytes(stored))
            stem = _stem(name)
            end = next((end for start, end in _ENDS if data.startswith(start)), ".img")
            if stem[:2] not in made:
                (folder / PICTURES / stem[:2]).mkdir(parents=True)
                made.add(stem[:2])
            paths[name] = f"{PICTURES}/{stem[:2]}/{stem}{end}"
            put(f"{folder}/{paths[name]}", data)
            bar.add()
    return paths


def write_as(folder: Path, images: shards.Images, places: Mapping[str, str]) -> None:
    """Write pictures to given places.

    Args:
        folder: Of the export.
        images: Of the data set.
        places: Path in the folder -> id of the image that is to lie there.

    Raises:
        ValueError: A place is not below `pictures/`: the form was to leave its row out.
    """
    if outside := [place for place in places if not os.path.normpath(place).startswith(f"{PICTURES}{os.sep}")]:
        raise ValueError(f"a picture would lie outside of the export: {outside[0]}")
    paths: dict[str, list[Path]] = {}
    for place, name in places.items():
        paths.setdefault(name, []).append(folder / place)
    made: set[Path] = set()
    with progress.bar("pictures", len(paths), "pictures") as bar:
        for name, stored in images.each(paths):
            data = bare(bytes(stored))
            for path in paths[name]:
                if path.parent not in made:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    made.add(path.parent)
                put(path, data)
            bar.add()


def put(path: str | Path, data: bytes | memoryview) -> None:
    """Write a new file in one go; `Path.write_bytes` takes three times as long for small ones."""
    file = os.open(path, _FLAGS, 0o666)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(file, left) :]
    finally:
        os.close(file)


def _stem(name: str) -> str:
    digest = name.removeprefix(shards.BY_CONTENT)
    return digest if _DIGEST.fullmatch(digest) else hashlib.sha256(name.encode()).hexdigest()
