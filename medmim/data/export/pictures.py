"""The pictures of an export as files, in the bytes in which the data set stores them, without the texts in those."""

import hashlib
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from medmim import progress, shards
from medmim.data.export import sums
from medmim.data.export.bare import Readable, bare
from medmim.data.export.folder import PICTURES

_ENDS = ((b"\x89PNG", ".png"), (b"\xff\xd8\xff", ".jpg"))  # what a data set stores
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL


def write(folder: Path, images: shards.Images, wanted: Collection[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Write pictures below `pictures/`, each once.

    Args:
        folder: Of the export.
        images: Of the data set.
        wanted: Ids; those that the data set does not hold are left out.

    Returns:
        Id -> path in the folder, such as `pictures/3f/3f...e1.png`: by the digest of the original file; path -> sum.
    """
    stems = {name: _stem(name) for name in wanted}
    for start in sorted({stem[:2] for stem in stems.values()}):
        (folder / PICTURES / start).mkdir(parents=True)
    paths: dict[str, str] = {}

    def place(name: str, data: Readable) -> Sequence[str]:
        start, stem = bytes(data[:4]), stems[name]
        end = next((end for begins, end in _ENDS if start.startswith(begins)), ".img")
        paths[name] = f"{PICTURES}/{stem[:2]}/{stem}{end}"
        return (paths[name],)

    return paths, _write(folder, images, wanted, place)


def write_as(folder: Path, images: shards.Images, places: Mapping[str, str]) -> dict[str, str]:
    """Write pictures to given places; returns path -> sum.

    Args:
        folder: Of the export.
        images: Of the data set.
        places: Path in the folder -> id of the image that is to lie there.

    Raises:
        ValueError: A place is not below `pictures/`: the form was to leave its row out.
    """
    if outside := [place for place in places if not os.path.normpath(place).startswith(f"{PICTURES}{os.sep}")]:
        raise ValueError(f"a picture would lie outside of the export: {outside[0]}")
    paths: dict[str, list[str]] = {}
    for place, name in places.items():
        paths.setdefault(name, []).append(place)
    for around in {os.path.dirname(place) for place in places}:
        (folder / around).mkdir(parents=True, exist_ok=True)
    return _write(folder, images, paths, lambda name, _: paths[name])


def _write(
    folder: Path,
    images: shards.Images,
    wanted: Collection[str],
    places: Callable[[str, Readable], Sequence[str]],
) -> dict[str, str]:
    """Write pictures to where `places` says; path -> sum.

    Copies, not links: whoever edits a picture of the export must not reach what the store holds under a digest, and a
    store packs its pictures into files anyway. One thread a core: most of the time goes to the system, outside of the
    interpreter's lock.
    """
    from joblib import cpu_count

    def put_all(piece: Callable[[], list[tuple[str, Any]]]) -> tuple[int, list[tuple[str, str]]]:
        read = piece()
        made: list[tuple[str, str]] = []
        for name, stored in read:
            data = bare(memoryview(stored))
            known = sums.of_bytes(data)
            for path in places(name, data):
                put(f"{folder}/{path}", data)
                made.append((path, known))
        return len(read), made

    found: dict[str, str] = {}
    with (
        progress.bar("pictures", len(wanted), "pictures") as bar,
        ThreadPoolExecutor(cpu_count(), "medmim-pictures") as pool,
    ):
        for count, made in pool.map(put_all, images.pieces(wanted)):
            found.update(made)
            bar.add(count)
    return found


def put(path: str | Path, data: Readable) -> None:
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
