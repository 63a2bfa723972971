"""Parquet with the pictures of each row in it, as Hugging Face `datasets` reads them: a column of lists of images."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmim import progress, shards
from medmim.data.export.bare import bare
from medmim.sample import Sample

if TYPE_CHECKING:
    import pyarrow as pa

FOLDER = "data"
_GROUP = 16 << 20  # bytes of images in a group of rows
_FILE = 512 << 20


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
    import pyarrow.parquet as pq

    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    listed = {"images": [{"_type": "Image"}], **features}  # which every version of `datasets` reads
    schema = pa.schema(
        [("images", pa.list_(image)), *columns.items()],
        metadata={"huggingface": json.dumps({"info": {"features": listed}})},
    )
    (folder / FOLDER).mkdir(exist_ok=True)
    parts: list[Path] = []
    writer: pq.ParquetWriter | None = None
    written = 0
    with progress.bar(split, len(samples), "rows") as bar:
        for group, shown in _groups(samples, images):
            if writer is None or written >= _FILE:
                if writer is not None:
                    writer.close()
                parts.append(folder / FOLDER / f"{split}-{len(parts)}.part")
                # pictures are compressed already; statistics of their bytes would copy them into the footer
                writer = pq.ParquetWriter(
                    parts[-1], schema, compression="none", use_dictionary=False, write_statistics=False
                )
                written = 0
            values = [row(sample) for sample in group]
            arrays = [
                _pictures(group, shown, image),
                *(pa.array([value[name] for value in values], kind) for name, kind in columns.items()),
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=len(group))
            written += sum(len(data) for sample in shown for data in sample)
            bar.add(len(group))
    if writer is not None:
        writer.close()
    for number, part in enumerate(parts):
        part.rename(folder / FOLDER / f"{split}-{number:05d}-of-{len(parts):05d}.parquet")
    return f"{FOLDER}/{split}-*.parquet"


def _groups(samples: Sequence[Sample], images: shards.Images) -> Iterator[tuple[list[Sample], list[list[bytes]]]]:
    """Rows with their pictures, some megabytes at once."""
    group: list[Sample] = []
    shown: list[list[bytes]] = []
    size = 0
    for sample in samples:
        group.append(sample)
        shown.append([bare(images.stored(name)) for name in sample.images])
        size += sum(map(len, shown[-1]))
        if size >= _GROUP:
            yield group, shown
            group, shown, size = [], [], 0
    if group:
        yield group, shown


def _pictures(group: Sequence[Sample], shown: Sequence[Sequence[bytes]], image: "pa.DataType") -> "pa.Array":
    import pyarrow as pa

    ends = [0]
    for data in shown:
        ends.append(ends[-1] + len(data))
    flat = [data for one in shown for data in one]
    names = [
        f"{stem}-{number}{_end(data)}"
        for stem, own in zip([sample.id for sample in group], shown, strict=True)
        for number, data in enumerate(own, 1)
    ]
    structs = pa.StructArray.from_arrays(
        [pa.array(flat, pa.binary()), pa.array(names, pa.string())], fields=list(image)
    )
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), structs)


def _end(data: bytes) -> str:
    return ".png" if data.startswith(b"\x89PNG") else ".jpg"
