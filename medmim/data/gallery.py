"""The gallery of a data set: pages that a browser reads from the disk, with images beside question and answer.

    HOME/galleries/DIGEST/index.html     the page, with filters by split, ability, type and source
    HOME/galleries/DIGEST/rows/N.js      the rows, `ROWS` a file, loaded as they are shown (`file://` has no other way)
    HOME/galleries/DIGEST/images/ID.jpg  images made small; of the first rows of each type, or of all
    HOME/galleries/DIGEST/damaged.js     images that do not decode

Texts and the images of the first page are there after seconds, also of a data set of a hundred thousand rows; further
images are drawn after that, and those that an earlier call drew are found again.
"""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby, islice, zip_longest
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from medmim import hints, progress, shards, store
from medmim.data.sources import pixels
from medmim.data.sources.source import BadImage
from medmim.errors import from_os_error
from medmim.page.page import label, templates
from medmim.run.provenance import provenance_of, shows_patients, terms_of
from medmim.run.workspace import Workspace
from medmim.sample import LETTERS, SPLITS, Sample
from medmim.shards import BY_CONTENT
from medmim.store import Artifact
from medmim.store.folder import write_atomically
from medmim.terms import reasons

ROWS = 96  # of a file: what one page of rows of one type reads, at most twice
PER_PAGE = 24
PICTURES = 48  # rows of a type whose images are drawn where nobody says otherwise: two pages
KEPT = 5  # galleries of a home
SIDE = 384  # pixels
_FOLDER = "galleries"
_THREADS = 8  # Pillow decodes and scales outside of Python's lock
_KEYS = ("split", "ability", "family", "source")


@dataclass(frozen=True)
class Kind:
    """The rows of one split, ability, type and source, which stand together.

    Attributes:
        key: Split, ability, family, source.
        first: Number of the first row, from 0.
        rows: How many.
    """

    key: tuple[str, str, str, str]
    first: int
    rows: int


def write(ws: Workspace, data: Artifact, per_kind: int = PICTURES) -> Iterator[Path]:
    """Write the gallery of a data set; yields its page as soon as it can be opened, and goes on with further images.

    Args:
        ws: The workspace.
        data: The data set.
        per_kind: Of how many rows of each type images are drawn; 0: of all.

    Raises:
        UserError: The data set is damaged, or the home cannot be written.
    """
    target = ws.home / _FOLDER / data.digest
    try:
        for name in ("rows", "images"):
            (target / name).mkdir(parents=True, exist_ok=True)
        _drop_others(target)
        folder = store.fetch(data, ws.cache, [shards.SAMPLES])
        samples = sorted(_read(folder), key=_key)
        kinds = _kinds(samples)
        with _images(data, folder) as (held, read):
            _write_rows(target, data, samples, kinds, held, per_kind)
            asked = _in_turn(samples, kinds, per_kind)
            first = list(dict.fromkeys(name for one in asked[:PER_PAGE] for name in one.images if name in held))
            names = dict.fromkeys(name for one in asked for name in one.images if name in held)
            damaged = _draw(target, first, read)
            _write_damaged(target, damaged)
            yield target / "index.html"
            rest = [name for name in names if name not in set(first)]
            if more := _draw(target, rest, read):
                _write_damaged(target, damaged | more)
    except OSError as error:
        raise from_os_error(error, f"writing {target}") from error


def clear(home: Path) -> None:
    """Remove all galleries of a home: they show patients."""
    shutil.rmtree(home / _FOLDER, ignore_errors=True)


def _drop_others(target: Path) -> None:
    """Keep the galleries that were last written."""
    os.utime(target)
    found = sorted((path for path in target.parent.iterdir()), key=lambda path: path.stat().st_mtime)
    for path in found[:-KEPT]:
        shutil.rmtree(path, ignore_errors=True)


def _read(folder: Path) -> Iterator[Sample]:
    found = shards.Samples(folder)
    with progress.bar("gallery", len(found), "rows") as bar:
        for sample in found:
            yield sample
            bar.add()


def _key(sample: Sample) -> tuple[int, str, str, str]:
    return SPLITS.index(sample.split), sample.ability, sample.family, sample.source


def _kinds(samples: Sequence[Sample]) -> list[Kind]:
    kinds, first = [], 0
    for (split, *rest), group in groupby(samples, _key):
        count = sum(1 for _ in group)
        ability, family, source = rest
        kinds.append(Kind((SPLITS[split], ability, family, source), first, count))
        first += count
    return kinds


def _in_turn(samples: Sequence[Sample], kinds: Sequence[Kind], per_kind: int) -> list[Sample]:
    """The first rows of each type, one of each after the other: the order in which the page shows them."""
    ranges = (range(kind.first, kind.first + min(kind.rows, per_kind or kind.rows)) for kind in kinds)
    return [samples[number] for turn in zip_longest(*ranges) for number in turn if number is not None]


@contextmanager
def _images(data: Artifact, folder: Path) -> Iterator[tuple[Any, Callable[[str], bytes]]]:
    """Ids of the images that a data set holds, and what reads one as it is stored. Of S3 no more than these is read."""
    sizes = {name: facts["bytes"] for name, facts in data.files.items()}
    if not any(name.startswith("images/") for name in sizes):
        yield frozenset(), lambda name: b""
    elif (folder / "images").is_dir():
        images = shards.Images(folder)
        yield images, images.stored
    else:
        with store.ranged(data) as ranged:
            places = dict(shards.image_places(data.uri, sizes, ranged))
            yield places, lambda name: shards.stored_at(data.uri, places[name], sizes[places[name].file], ranged)


def _write_rows(
    target: Path, data: Artifact, samples: Sequence[Sample], kinds: Sequence[Kind], held: Any, per_kind: int
) -> None:
    record = provenance_of(data)
    named = shows_patients(record)
    for number, at in enumerate(range(0, len(samples), ROWS)):
        rows = [_row(sample, held, named) for sample in samples[at : at + ROWS]]
        text = json.dumps(rows, separators=(",", ":"))
        _replace(target / "rows" / f"{number}.js", f"medmim.rows({number},{text});\n".encode())
    about = {
        "kinds": [[*kind.key, kind.first, kind.rows] for kind in kinds],
        "words": {kind.key[1]: label(f"ability:{kind.key[1]}") for kind in kinds},
        "rows": ROWS,
        "page": PER_PAGE,
        "drawn": per_kind,
        "pictures": bool(held),
        "letters": LETTERS,
    }
    page = templates("medmim.data").get_template("gallery.html.j2")
    allowed = reasons(terms_of(data), ["redistribute_data"])
    html = page.render(
        about=about, digest=data.digest, rows=len(samples), pictures=bool(held), per_kind=per_kind, terms=allowed,
        recipe=(record.get("recipe") or {}).get("name", ""), named=named, time=str(record.get("time", ""))[:10],
        images=data.counts.get("images", 0), keys=_KEYS,
        command=hints.command("data", "show", data.uri, "--pictures", "0"),
    )  # fmt: skip
    write_atomically(target / "index.html", [html.encode()])


def _row(sample: Sample, held: Any, named: bool) -> dict[str, Any]:
    """A row as the page reads it; `p` is an image's file, or null where the data set does not hold it."""
    row: dict[str, Any] = {
        "id": sample.id,
        "q": sample.question,
        "o": sample.options,
        "g": sample.gold,
        "a": sample.answer,
        "p": [_file(name) if name in held else None for name in sample.images],
    }
    if sample.held_out:
        row["h"] = 1
    if named:
        row |= {"who": sample.patients, "from": sample.paths}
    return row


def _file(name: str) -> str:
    """The file of an image, without its ending: the digest that the id is, or one of an id that is a path."""
    given = name.removeprefix(BY_CONTENT)
    plain = len(given) == 64 and not set(given) - set("0123456789abcdef")
    return given if plain else hashlib.sha256(name.encode()).hexdigest()


def _draw(target: Path, names: Sequence[str], read: Callable[[str], bytes]) -> dict[str, str]:
    """Draw images that are not there yet; returns those that do not decode, and why."""
    missing = [name for name in names if not (target / "images" / f"{_file(name)}.jpg").exists()]
    damaged: dict[str, str] = {}

    def draw(name: str) -> tuple[str, str]:
        try:
            small = _small(read(name))
        except BadImage as error:
            return name, str(error)
        _replace(target / "images" / f"{_file(name)}.jpg", small)
        return name, ""

    if not missing:
        return damaged
    left = iter(missing)
    with (
        progress.bar("pictures", len(missing), "images") as bar,
        ThreadPoolExecutor(_THREADS, "medmim-gallery") as pool,
    ):
        while batch := list(islice(left, 8 * _THREADS)):  # an interrupt waits for no more than these
            for name, why in pool.map(draw, batch):
                if why:
                    damaged[_file(name)] = why
                bar.add()
    return damaged


def _small(data: bytes) -> bytes:
    """An image as a JPEG of at most `SIDE` pixels; of 16 bits, over the range of its own values.

    Raises:
        BadImage: It does not decode.
    """
    try:
        with pixels.opened(data) as image:
            deep = pixels.has_deep_colour(image)
            if image.format == "JPEG":
                image.draft(None, (2 * SIDE, 2 * SIDE))  # decoded at a half, a quarter or an eighth
            image.load()
            small = pixels.plain(image, data, deep)
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise BadImage(str(error)) from None
    small.thumbnail((SIDE, SIDE))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=85)
    return out.getvalue()


def _write_damaged(target: Path, damaged: Mapping[str, str]) -> None:
    _replace(target / "damaged.js", f"medmim.damaged({json.dumps(damaged)});\n".encode())


def _replace(path: Path, data: bytes) -> None:
    """Write a file whole, for whoever reads the page meanwhile; not `write_atomically`, which waits for the disk."""
    part = path.with_name(f".part-{os.getpid()}-{path.name}")
    part.write_bytes(data)
    part.replace(path)
