"""The gallery of a data set: pages that a browser reads from the disk, with images beside question and answer.

    HOME/galleries/DIGEST/index.html     the page, with filters by split, ability, type and source
    HOME/galleries/DIGEST/rows/N.js      the rows, `ROWS` a file, loaded as they are shown (`file://` has no other way)
    HOME/galleries/DIGEST/images/ID.jpg  images made small; of the first rows of each type, or of all
    HOME/galleries/DIGEST/damaged.js     images that do not decode
    HOME/galleries/DIGEST/made.json      the store, the digest of its list of erased patients (of another list, all
                                         galleries of that store are removed when the next one is written), and whether
                                         patients are named (where that changes, this one is written anew)

The first page is there after seconds, also of a data set of a hundred thousand rows; other rows and further images are
written after that, and images that an earlier call drew are found again. `medmim gc` removes the galleries of data sets
that are gone.
"""

import hashlib
import io
import json
import math
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import groupby, islice, zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image, UnidentifiedImageError

from medmim import hints, progress, shards, store
from medmim.data import erased
from medmim.data.sources import pixels
from medmim.data.sources.source import BadImage
from medmim.errors import from_os_error
from medmim.page.page import label, templates
from medmim.run.provenance import provenance_of, shows_patients, terms_of
from medmim.run.workspace import Workspace
from medmim.sample import LETTERS, SPLITS
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
_MADE = "made.json"
_FEW = 100  # files of rows, written within a second
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
    origin = data.uri.rpartition("/data/")[0]
    listed = {"store": origin, "erased": erased.load(origin).parents.get("erased", "")}
    record = provenance_of(data)
    made = {**listed, "named": shows_patients(record)}
    try:
        _drop_outdated(target.parent, listed)
        if target.is_dir() and _made_of(target) != made:
            shutil.rmtree(target)  # before a page says otherwise: a kill must leave no file that names somebody
        for name in ("rows", "images"):
            (target / name).mkdir(parents=True, exist_ok=True)
        _replace(target / _MADE, json.dumps(made).encode())
        _drop_others(target)
        folder = store.fetch(data, ws.cache, [shards.SAMPLES])
        table, kinds = _in_kinds(shards.table(folder))
        with _images(data, folder) as (held, read):
            files = _Files(target, table, held, bool(made["named"]))
            shown = _in_turn(kinds, per_kind)
            names = [name for name in files.images(shown) if name in held]
            first = [name for name in files.images(shown[:PER_PAGE]) if name in held]
            files.write({number // ROWS for number in shown[:PER_PAGE]})
            _write_page(target, data, record, kinds, bool(held), per_kind)
            damaged = _draw(target, first, read)
            _write_damaged(target, damaged)
            yield target / "index.html"
            files.write(range(len(files)))
            if more := _draw(target, names, read):
                _write_damaged(target, damaged | more)
    except OSError as error:
        raise from_os_error(error, f"writing {target}") from error


def clear(home: Path) -> None:
    """Remove all galleries of a home: they show patients."""
    shutil.rmtree(home / _FOLDER, ignore_errors=True)


def of_others(ws: Workspace, digests: Collection[str]) -> list[tuple[Path, float, int]]:
    """Galleries of a store's data sets that are none of these, with the last time of writing (s since 1970) and bytes.

    Args:
        ws: The workspace: the home, and the store.
        digests: Of data sets.
    """
    found, own = [], (ws.store, store.open_store(ws.store).uri)
    for path in _in(ws.home / _FOLDER):
        if path.name not in digests and _made_of(path).get("store") in own:
            with suppress(FileNotFoundError):  # somebody is writing it
                size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
                found.append((path, path.stat().st_mtime, size))
    return found


def _in(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _made_of(gallery: Path) -> dict[str, Any]:
    """What a gallery says it was made of; empty where an earlier version made it, or it is damaged."""
    try:
        said = json.loads((gallery / _MADE).read_bytes())
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _drop_outdated(folder: Path, listed: Mapping[str, str]) -> None:
    """Remove what was drawn of a store before patients were erased from it, here or by another home.

    Args:
        folder: Of the galleries.
        listed: The store, and the digest of its list of erased patients.
    """
    for path in _in(folder):
        said = {key: value for key, value in _made_of(path).items() if key in listed}
        if said != listed and said.get("store", listed["store"]) == listed["store"]:
            shutil.rmtree(path, ignore_errors=True)


def _drop_others(target: Path) -> None:
    """Keep the galleries that were last written."""
    os.utime(target)
    found = sorted((path for path in target.parent.iterdir()), key=lambda path: path.stat().st_mtime)
    for path in found[:-KEPT]:
        shutil.rmtree(path, ignore_errors=True)


def _in_kinds(table: pa.Table) -> tuple[pa.Table, list[Kind]]:
    """The rows by split, ability, type and source, otherwise as they were; and where those of each stand."""
    keys = list(zip(*(table.column(key).to_pylist() for key in _KEYS), strict=True))
    order = sorted(range(len(keys)), key=lambda number: (SPLITS.index(keys[number][0]), *keys[number][1:]))
    kinds, first = [], 0
    for key, group in groupby(keys[number] for number in order):
        count = sum(1 for _ in group)
        kinds.append(Kind(key, first, count))
        first += count
    return table.take(order), kinds


def _in_turn(kinds: Sequence[Kind], per_kind: int) -> list[int]:
    """Numbers of the first rows of each type, one of each after the other: the order in which the page shows them."""
    ranges = (range(kind.first, kind.first + min(kind.rows, per_kind or kind.rows)) for kind in kinds)
    return [number for turn in zip_longest(*ranges) for number in turn if number is not None]


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


class _Files:
    """The files of rows of a gallery; each is written once."""

    def __init__(self, target: Path, table: pa.Table, held: Any, named: bool) -> None:
        self._target, self._table, self._held, self._named = target / "rows", table, held, named
        self._written: set[int] = set()

    def __len__(self) -> int:
        return math.ceil(int(self._table.num_rows) / ROWS)

    def images(self, numbers: Sequence[int]) -> list[str]:
        """Ids of the images of some rows, each once."""
        lists = self._table.column("images").take(numbers).to_pylist() if numbers else []
        return list(dict.fromkeys(name for names in lists for name in names))

    def write(self, numbers: Collection[int]) -> None:
        """Write those of some files that are not there yet."""
        left = [number for number in numbers if number not in self._written]
        with progress.bar("gallery", len(left), "files of rows") if len(left) > _FEW else nullcontext() as bar:
            for number in left:
                rows = self._table.slice(number * ROWS, ROWS).to_pylist()
                text = json.dumps([self._row(row) for row in rows], separators=(",", ":"))
                _replace(self._target / f"{number}.js", f"medmim.rows({number},{text});\n".encode())
                self._written.add(number)
                if bar:
                    bar.add()

    def _row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row as the page reads it; `p` is an image's file, or null where the data set does not hold it."""
        shown: dict[str, Any] = {
            "id": row["id"],
            "q": row["question"],
            "o": row["options"],
            "g": row["gold"],
            "a": row["answer"],
            "p": [_file(name) if name in self._held else None for name in row["images"]],
        }
        if row["held_out"]:
            shown["h"] = 1
        if self._named:
            shown |= {"who": row["patients"], "from": row["paths"]}
        return shown


def _write_page(
    target: Path, data: Artifact, record: Mapping[str, Any], kinds: Sequence[Kind], pictures: bool, per_kind: int
) -> None:
    about = {
        "kinds": [[*kind.key, kind.first, kind.rows] for kind in kinds],
        "words": {kind.key[1]: label(f"ability:{kind.key[1]}") for kind in kinds},
        "rows": ROWS,
        "page": PER_PAGE,
        "drawn": per_kind,
        "pictures": pictures,
        "letters": LETTERS,
    }
    page = templates("medmim.data").get_template("gallery.html.j2")
    html = page.render(
        about=about, digest=data.digest, rows=sum(kind.rows for kind in kinds), pictures=pictures, per_kind=per_kind,
        terms=reasons(terms_of(data), ["redistribute_data"]), recipe=(record.get("recipe") or {}).get("name", ""),
        named=shows_patients(record), time=str(record.get("time", ""))[:10], images=data.counts.get("images", 0),
        keys=_KEYS, command=hints.command("data", "show", data.uri, "--pictures", "0"),
    )  # fmt: skip
    write_atomically(target / "index.html", [html.encode()])


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
    small.info.clear()  # Pillow writes a comment that it has read
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
