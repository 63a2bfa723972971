"""Writes and reads samples and images as Parquet, in a layout that Hugging Face `datasets` loads as it is.

    samples/SPLIT-00000-of-00001.parquet      one row per Sample
    images/images-0000N-of-0000M.parquet      each image once: id, image {bytes, path}
    README.md                                 the data set card, whose header names both configurations

Equal samples and images give equal bytes under one pyarrow version.
"""

import io
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from functools import cache, lru_cache, partial
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from medmim import progress
from medmim.errors import UserError
from medmim.sample import SPLITS, Sample, from_json, to_json

ROW_GROUP_BYTES = 1 << 20  # what one random access reads
SHARD_BYTES = 256 << 20
BY_CONTENT = "sha256:"  # begins the id of an image whose file was there
SAMPLES = "samples/*.parquet"  # the files that hold them, for `store.fetch`
_CACHED_GROUPS = 64
_IMAGES = "images/*.parquet"
_CONNECTIONS = 32  # of `image_ids`; a read is of some hundred bytes, so all of its time is the latency
_GROUPS_AT_ONCE = 4  # row groups that one of them reads
_GROUPS_IN_A_PIECE = 16
_TEXTS = pa.list_(pa.string())
_SAMPLE = pa.schema(
    [
        ("id", pa.string()), ("ability", pa.string()), ("family", pa.string()), ("source", pa.string()),
        ("split", pa.string()), ("held_out", pa.bool_()), ("patients", _TEXTS), ("images", _TEXTS), ("paths", _TEXTS),
        ("question", pa.string()), ("options", _TEXTS), ("answer", pa.string()), ("gold", pa.list_(pa.int32())),
        ("swapped", pa.list_(pa.int32())),
    ]
)  # fmt: skip
_FEATURES = {"id": {"dtype": "string", "_type": "Value"}, "image": {"_type": "Image"}}
_IMAGE = pa.schema(
    [("id", pa.string()), ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))],
    metadata={"huggingface": json.dumps({"info": {"features": _FEATURES}})},
)


def write(folder: Path, samples: Iterable[Sample], images: Iterable[tuple[str, str, bytes]]) -> None:
    """Write a data set; existing files of the same names are replaced.

    Args:
        folder: Destination; created if absent.
        samples: In the order in which they are to be read back, split by split.
        images: (id, source path, encoded bytes); each id once. Empty where a data set was built without pixels.
    """
    by_split: dict[str, list[Sample]] = {split: [] for split in SPLITS}
    for sample in samples:
        by_split[sample.split].append(sample)
    for name in ("samples", "images"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for old in (folder / name).glob("*.parquet*"):
            old.unlink()
    for split, rows in by_split.items():
        if rows:
            table = pa.Table.from_pylist([{"id": s.id, **to_json(s)} for s in rows], schema=_SAMPLE)
            path = folder / "samples" / f"{split}-00000-of-00001.parquet"
            pq.write_table(table, path, compression="zstd", row_group_size=10_000)
    count = _write_images(folder / "images", images)
    if not count:
        (folder / "images").rmdir()
    (folder / "README.md").write_text(_card(by_split, count), encoding="utf-8")


def _write_images(folder: Path, images: Iterable[tuple[str, str, bytes]]) -> int:
    shards: list[Path] = []
    writer: pq.ParquetWriter | None = None
    size = count = 0
    for group in _groups(images):
        if writer is None or size >= SHARD_BYTES:
            if writer is not None:
                writer.close()
            shards.append(folder / f"{len(shards)}.parquet.part")
            # images are compressed already; statistics of their bytes would copy them into the footer
            writer = pq.ParquetWriter(
                shards[-1], _IMAGE, compression="none", use_dictionary=False, write_statistics=False
            )
            size = 0
        rows = [{"id": name, "image": {"bytes": data, "path": path}} for name, path, data in group]
        writer.write_table(pa.Table.from_pylist(rows, schema=_IMAGE), row_group_size=len(rows))
        size += sum(len(data) for _, _, data in group)
        count += len(group)
    if writer is not None:
        writer.close()
    for i, part in enumerate(shards):
        part.rename(folder / f"images-{i:05d}-of-{len(shards):05d}.parquet")
    return count


def _groups(images: Iterable[tuple[str, str, bytes]]) -> Iterator[list[tuple[str, str, bytes]]]:
    group: list[tuple[str, str, bytes]] = []
    size = 0
    for item in images:
        group.append(item)
        size += len(item[2])
        if size >= ROW_GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


class Samples(Collection[Sample]):
    """The samples of one split, or of all, in the order in which they were written; read as they are iterated.

    Raises:
        UserError: The folder holds no samples, or a file cannot be read.
    """

    def __init__(self, folder: Path, split: str | None = None) -> None:
        found = [folder / "samples" / f"{name}-00000-of-00001.parquet" for name in SPLITS if split in (None, name)]
        if not any(folder.glob(SAMPLES)):
            fix = "give the folder of a data set that `medmim data build` made"
            raise UserError(f"{folder} holds no samples", fix=fix)
        self._paths = [path for path in found if path.exists()]

    def __len__(self) -> int:
        return sum(file.metadata.num_rows for _, file in self._files())

    def __iter__(self) -> Iterator[Sample]:
        for path, file in self._files():
            try:
                for batch in file.iter_batches(_READ_ROWS):
                    # data sets built before `swapped` lack its column
                    for row in batch.to_pylist():
                        yield from_json(Sample, {key: row[key] for key in _SAMPLE_FIELDS if key in row})
            except (pa.ArrowException, OSError) as error:
                raise _damaged_error(path, error) from None

    def __contains__(self, sample: object) -> bool:
        return any(sample == one for one in self)

    def show_images(self) -> bool:
        """Whether any of them has an image."""
        return any(
            len(names) for _, file in self._files() for names in file.read(["images"]).column("images").to_pylist()
        )

    def _files(self) -> Iterator[tuple[Path, pq.ParquetFile]]:
        for path in self._paths:
            try:
                with pq.ParquetFile(path) as file:
                    yield path, file
            except (pa.ArrowException, OSError) as error:
                raise _damaged_error(path, error) from None


def read_samples(folder: Path, split: str | None = None) -> list[Sample]:
    """The samples of one split, or of all, in the order in which they were written.

    Raises:
        UserError: As `Samples`.
    """
    return list(Samples(folder, split))


def table(folder: Path) -> pa.Table:
    """All samples as one table, a column a field and `id`: for what shows many rows and computes with none.

    Raises:
        UserError: As `Samples`.
    """
    found = []
    for path, file in Samples(folder)._files():
        try:
            found.append(file.read())
        except (pa.ArrowException, OSError) as error:
            raise _damaged_error(path, error) from None
    return pa.concat_tables(found, promote_options="default")


def tally(folder: Path) -> dict[tuple[str, str, str, bool, str], int]:
    """How many questions a data set has, by (split, ability, source, held out, form: `closed` or `open`).

    Only these columns are read, a piece at a time.

    Raises:
        UserError: As `Samples`.
    """
    counted: Counter[tuple[str, str, str, bool, str]] = Counter()
    columns = ["split", "ability", "source", "held_out", "options"]
    for path, file in Samples(folder)._files():
        try:
            for batch in file.iter_batches(_TALLIED_ROWS, columns=columns):
                closed = pc.greater(pc.list_value_length(batch.column("options")), 0)
                table = pa.Table.from_batches([batch.drop_columns(["options"]).append_column("closed", closed)])
                for row in table.group_by([*columns[:-1], "closed"]).aggregate([([], "count_all")]).to_pylist():
                    form = "closed" if row["closed"] else "open"
                    key = (row["split"], row["ability"], row["source"], bool(row["held_out"]), form)
                    counted[key] += row["count_all"]
        except (pa.ArrowException, OSError, KeyError) as error:
            raise _damaged_error(path, error) from None
    return dict(counted)


_TALLIED_ROWS = 50_000  # of a few columns
_READ_ROWS = 1000  # of samples at once
_SAMPLE_FIELDS = tuple(field.name for field in fields(Sample))


def _damaged_error(path: Path | str, error: Exception) -> UserError:
    return UserError(
        f"{path} cannot be read",
        reason=str(error).split("\n")[0],
        fix="the file is damaged: build the data set again",
    )


def _no_images(where: str) -> UserError:
    return UserError(
        f"{where} holds no images",
        reason="it was built with `rows_only`, or it is not a data set",
        fix="build it without --rows-only",
    )


class Images(Mapping[str, Image.Image]):
    """The images of a data set by id, decoded to RGB on access.

    Opening reads ids only, and pickling keeps only the folder, so each worker opens the files for itself.

    Raises:
        UserError: A file cannot be read, or the data set was built without pixels.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._files: list[pq.ParquetFile] = []
        self._places: dict[str, tuple[int, int, int]] = {}  # id -> file, row group, row
        paths = sorted(self.folder.glob(_IMAGES))
        if not paths:
            raise _no_images(str(folder))
        for number, path in enumerate(paths):
            try:
                file = pq.ParquetFile(path, memory_map=True)
                ids = iter(file.read(columns=["id"]).column("id").to_pylist())
                for group in range(file.num_row_groups):
                    rows = range(file.metadata.row_group(group).num_rows)
                    self._places.update((next(ids), (number, group, row)) for row in rows)
            except (pa.ArrowException, OSError) as error:
                raise _damaged_error(path, error) from None
            self._files.append(file)
        self._group = lru_cache(_CACHED_GROUPS)(self._read_group)
        self._weigh = cache(self._mean)
        self._lock = Lock()  # a ParquetFile is for one thread; images are decoded outside of it

    def _read_group(self, number: int, group: int) -> pa.BinaryArray:
        column = self._files[number].read_row_group(group, columns=["image.bytes"], use_threads=False).column("image")
        whole = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()  # which copies
        return whole.field("bytes")

    def stored(self, name: str) -> bytes:
        """The encoded image as stored in the data set (PNG or JPEG). Raises KeyError."""
        return bytes(self.buffer(name))

    def buffer(self, name: str) -> pa.Buffer:
        """The same without a copy; it keeps its piece of the file in memory. Raises KeyError."""
        group, row = self.held(name)
        return group[row].as_buffer()

    def held(self, name: str) -> tuple[pa.BinaryArray, int]:
        """The piece of the file that holds an encoded image, and its row there. Raises KeyError."""
        number, group, row = self._places[name]
        with self._lock:
            return self._group(number, group), row

    def weight(self, name: str) -> int:
        """About how many bytes an encoded image has, without reading any: the mean of its piece. Raises KeyError."""
        number, group, _ = self._places[name]
        return self._weigh(number, group)

    def _mean(self, number: int, group: int) -> int:
        piece = self._files[number].metadata.row_group(group)
        mean: int = piece.total_byte_size // piece.num_rows
        return mean

    def pieces(self, names: Collection[str]) -> list[Callable[[], list[tuple[str, pa.Buffer]]]]:
        """Encoded images as they are stored, in pieces of the files and in their order, so that each is read once.

        A piece is read when it is called; several threads may call theirs at once.

        Args:
            names: Ids; those that the data set does not hold are left out.
        """
        wanted = sorted((self._places[name], name) for name in set(names) if name in self._places)
        return [
            partial(self._piece, number, group, [(place[2], name) for place, name in rows])
            for (number, group), rows in groupby(wanted, key=lambda one: one[0][:2])
        ]

    def _piece(self, number: int, group: int, rows: Sequence[tuple[int, str]]) -> list[tuple[str, pa.Buffer]]:
        with self._lock:
            column = self._read_group(number, group)
        return [(name, column[row].as_buffer()) for row, name in rows]

    def png(self, name: str) -> bytes:
        """The image as a PNG file. Raises KeyError."""
        data = self.stored(name)
        if data.startswith(b"\x89PNG"):
            return data
        out = io.BytesIO()
        self[name].save(out, "PNG")
        return out.getvalue()

    def __getitem__(self, name: str) -> Image.Image:
        with Image.open(io.BytesIO(self.stored(name))) as image:
            return image.convert("RGB")

    def size(self, name: str) -> tuple[int, int]:
        """Width and height of an image, which is not decoded. Raises KeyError."""
        with Image.open(io.BytesIO(self.stored(name))) as image:
            return image.size

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __reduce__(self) -> tuple[Any, ...]:
        return (Images, (self.folder,))


@dataclass(frozen=True)
class Place:
    """Where an image of a data set is stored: file, row group, and row in it."""

    file: str
    group: int
    row: int


def image_ids(where: str, sizes: Mapping[str, int], read: Callable[[str, int, int], bytes]) -> set[str]:
    """Ids of the images of a data set that is not on this disk. Arguments and errors are those of `image_places`."""
    return {name for name, _ in image_places(where, sizes, read)}


def image_places(
    where: str, sizes: Mapping[str, int], read: Callable[[str, int, int], bytes]
) -> Iterator[tuple[str, Place]]:
    """Ids of the images of a data set that is not on this disk, and where each is stored, for `stored_at`.

    Of its images, only footers and the column of the ids are read.

    Args:
        where: Its address, for errors.
        sizes: Name -> bytes of each of its files.
        read: (name, first byte, number of bytes) -> these bytes; several threads call it.

    Raises:
        UserError: A file cannot be read, or the data set was built without pixels.
    """
    names = sorted(name for name in sizes if fnmatchcase(name, _IMAGES))
    if not names:
        raise _no_images(where)

    def footer(name: str) -> pq.FileMetaData:
        with _distant(where, name, sizes[name], read) as file:
            return file.metadata

    def ids(name: str, metadata: pq.FileMetaData, groups: range) -> list[tuple[str, Place]]:
        with _distant(where, name, sizes[name], read, metadata) as file:
            found = file.read_row_groups(list(groups), ["id"], use_threads=False).column("id").to_pylist()
        rows = ((group, row) for group in groups for row in range(metadata.row_group(group).num_rows))
        return [(one, Place(name, *place)) for one, place in zip(found, rows, strict=True)]

    pool = ThreadPoolExecutor(_CONNECTIONS, "medmim-ids")
    try:
        jobs = [
            pool.submit(ids, name, metadata, range(at, min(at + _GROUPS_AT_ONCE, metadata.num_row_groups)))
            for name, metadata in zip(names, pool.map(footer, names), strict=True)
            for at in range(0, metadata.num_row_groups, _GROUPS_AT_ONCE)
        ]
        jobs.reverse()  # what has been handed on is let go
        with progress.bar("index of the images", len(jobs), "reads") as bar:
            while jobs:
                yield from jobs.pop().result()
                bar.add()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # whoever gave `read` ends what is still waiting


def stored_at(where: str, place: Place, size: int, read: Callable[[str, int, int], bytes]) -> bytes:
    """The encoded image at a place of a data set that is not on this disk; its row group is read, and the footer.

    Args:
        where: Address of the data set, for errors.
        place: From `image_places`.
        size: Bytes of the file.
        read: As for `image_places`.

    Raises:
        UserError: The file cannot be read.
    """
    with _distant(where, place.file, size, read) as file:
        column = file.read_row_group(place.group, columns=["image.bytes"], use_threads=False).column("image")
        data: bytes = column[place.row]["bytes"].as_py()
        return data


def image_groups(
    where: str, sizes: Mapping[str, int], read: Callable[[str, int, int], bytes]
) -> list[tuple[str, range, int]]:
    """The images of a data set, wherever it lies, in pieces of some MiB for `images_in`: file, row groups, images.

    Arguments and errors are those of `image_places`; of each file, its footer is read.
    """
    names = sorted(name for name in sizes if fnmatchcase(name, _IMAGES))
    if not names:
        raise _no_images(where)
    found = []
    for name in names:
        with _distant(where, name, sizes[name], read) as file:
            rows = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        for at in range(0, len(rows), _GROUPS_IN_A_PIECE):
            groups = range(at, min(at + _GROUPS_IN_A_PIECE, len(rows)))
            found.append((name, groups, sum(rows[at : groups.stop])))
    return found


def images_in(
    where: str, name: str, groups: Iterable[int], size: int, read: Callable[[str, int, int], bytes]
) -> Iterator[tuple[str, bytes]]:
    """Id and encoded bytes of the images in some row groups of a file, one row group in memory at a time.

    Args:
        where: Address of the data set, for errors.
        name: The file, and `groups` its row groups, of `image_groups`.
        groups: Numbers of row groups.
        size: Bytes of the file.
        read: As for `image_places`.

    Raises:
        UserError: The file cannot be read.
    """
    with _distant(where, name, size, read) as file:
        for group in groups:
            table = file.read_row_group(group, columns=["id", "image.bytes"], use_threads=False)
            for one, image in zip(table.column("id"), table.column("image"), strict=True):
                yield one.as_py(), image["bytes"].as_py()


@contextmanager
def _distant(
    where: str, name: str, size: int, read: Callable[[str, int, int], bytes], metadata: pq.FileMetaData | None = None
) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(_Ranges(name, size, read), metadata=metadata) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise _damaged_error(f"{where}/{name}", error) from None


class _Ranges(io.RawIOBase):
    """A file of which each read is a call of `read`."""

    def __init__(self, name: str, size: int, read: Callable[[str, int, int], bytes]) -> None:
        self._name, self._size, self._read, self._at = name, size, read, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, count: int = -1) -> bytes:
        left = max(0, self._size - self._at)
        data = self._read(self._name, self._at, min(count, left) if count >= 0 else left)
        self._at += len(data)
        return data


def _card(by_split: Mapping[str, Sequence[Sample]], images: int) -> str:
    """The data set card: derived from the content only, so that equal content gives an equal card."""
    lines = ["---", "configs:", "- config_name: samples", "  default: true", "  data_files:"]
    for split, rows in by_split.items():
        if rows:
            lines += [f"  - split: {split}", f"    path: samples/{split}-*.parquet"]
    if images:
        lines += ["- config_name: images", "  data_files:", "  - split: images", "    path: images/*.parquet"]
    lines += [
        "---", "", "# Multi-image medical questions", "",
        "Made by `medmim data build`. `samples.images` holds ids of the configuration `images`: the SHA-256 of the "
        "original file, or its path in the source where it was absent.", "",
        "| ability | " + " | ".join(by_split) + " | held out |", "|---" * (len(by_split) + 2) + "|",
    ]  # fmt: skip
    counts = {split: Counter(s.ability for s in rows) for split, rows in by_split.items()}
    held_out = Counter(s.ability for rows in by_split.values() for s in rows if s.held_out)
    for ability in sorted(set().union(*counts.values())):
        cells = [str(counts[split][ability]) for split in by_split] + [str(held_out[ability])]
        lines.append(f"| {ability} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"{images:,} images.", ""])
