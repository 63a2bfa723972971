"""Parquet with the pictures of each row in it, as Hugging Face `datasets` reads them: a column of lists of images."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmim import progress, shards
from medmim.data.export.bare import bare
from medmim.sample import Sample

if TYPE_CHECKING:
    import pyarrow as pa

FOLDER = "data"
_GROUP = 4 << 20  # bytes of images in a group of rows: some of them are in memory for each thread
_FILE = 256 << 20  # the least, so that several are written at once


def write(
    folder: Path,
    split: str,
    samples: Sequence[Sample],
    images: shards.Images,
    columns: Mapping[str, "pa.DataType"],
    features: Mapping[str, Any],
    row: Callable[[Sample], Mapping[str, Any]],
) -> str:
    """Write the rows of a split.

    Args:
        folder: Of the export.
        split: Its name.
        samples: Its rows.
        images: Of the data set.
        columns: Name -> Arrow type of each column but `images`, which comes first.
        features: The same, as `datasets` names its types.
        row: Their values.

    Returns:
        The files, as a pattern.
    """
    import pyarrow as pa
    from joblib import cpu_count

    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    listed = {"images": [{"_type": "Image"}], **features}  # which every version of `datasets` reads
    schema = pa.schema(
        [("images", pa.list_(image)), *columns.items()],
        metadata={"huggingface": json.dumps({"info": {"features": listed}})},
    )
    (folder / FOLDER).mkdir(exist_ok=True)
    parts = list(_parts(samples, images))
    pool = ThreadPoolExecutor(cpu_count(), "medmim-rows")  # reading, copying and writing need no interpreter
    try:
        with progress.bar(split, len(samples), "rows") as bar:
            jobs = []
            for number, part in enumerate(parts):
                values = [row(sample) for sample in part]  # here, in the order of the rows: a form may count on it
                texts = [pa.array([value[name] for value in values], kind) for name, kind in columns.items()]
                path = folder / FOLDER / f"{split}-{number:05d}-of-{len(parts):05d}.parquet"
                jobs.append(pool.submit(_write_part, path, part, texts, images, schema, bar.add))
            for job in jobs:
                job.result()
    finally:
        pool.shutdown(cancel_futures=True)
    return f"{FOLDER}/{split}-*.parquet"


def _parts(samples: Sequence[Sample], images: shards.Images) -> Iterator[Sequence[Sample]]:
    """The rows of each file, by what its pictures weigh about."""
    start = size = 0
    for at, sample in enumerate(samples):
        if size >= _FILE:
            yield samples[start:at]
            start, size = at, 0
        size += sum(map(images.weight, sample.images))
    if samples:
        yield samples[start:]


def _write_part(
    path: Path,
    samples: Sequence[Sample],
    texts: Sequence["pa.Array"],
    images: shards.Images,
    schema: "pa.Schema",
    written: Callable[[int], None],
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # pictures are compressed already; statistics of their bytes would copy them into the footer
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False, write_statistics=False) as writer:
        at = 0
        for group, shown in _groups(samples, images):
            pictures = _pictures(group, shown, schema.field("images").type)
            arrays = [pictures, *(text.slice(at, len(group)) for text in texts)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=len(group))
            at += len(group)
            written(len(group))


def _groups(samples: Sequence[Sample], images: shards.Images) -> Iterator[tuple[list[Sample], list["pa.Array"]]]:
    """Rows with their pictures one after another, an array each, some megabytes at once."""
    group: list[Sample] = []
    shown: list[pa.Array] = []
    size = 0
    for sample in samples:
        group.append(sample)
        for name in sample.images:
            shown.append(picture := _picture(images, name))
            size += picture.nbytes
        if size >= _GROUP:
            yield group, shown
            group, shown, size = [], [], 0
    if group:
        yield group, shown


def _picture(images: shards.Images, name: str) -> "pa.Array":
    """A picture alone in an array: a part of that of the data set where nothing is to be cut out."""
    import pyarrow as pa

    piece, at = images.held(name)
    stored = memoryview(piece[at].as_buffer())
    data = bare(stored)
    return piece.slice(at, 1) if data is stored else pa.array([data], pa.binary())


def _pictures(group: Sequence[Sample], shown: Sequence["pa.Array"], kind: "pa.ListType") -> "pa.Array":
    import pyarrow as pa

    ids = [(sample.id, len(sample.images)) for sample in group]
    ends = list(accumulate((many for _, many in ids), initial=0))
    flat = pa.concat_arrays(shown) if shown else pa.array([], pa.binary())
    stems = (f"{name}-{at}" for name, many in ids for at in range(1, many + 1))
    names = [
        f"{stem}.png" if bytes(memoryview(one[0].as_buffer())[:4]) == b"\x89PNG" else f"{stem}.jpg"
        for stem, one in zip(stems, shown, strict=True)
    ]
    structs = pa.StructArray.from_arrays([flat, pa.array(names, pa.string())], fields=list(kind.value_type))
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), structs)
