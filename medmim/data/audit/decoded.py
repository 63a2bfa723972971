"""A row for each picture of a data set: each is decoded once, by threads, wherever the data set lies.

The rows are written piece by piece into `resume/` of the artifact that is being made, so that a killed run goes on with
the pieces that it has done; a piece that a power cut has torn is made again.
"""

import io
import os
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmim import progress, shards, store
from medmim.errors import UserError
from medmim.store import Artifact

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL import Image


@dataclass(frozen=True)
class Pictures:
    """The pictures of a data set, as long as it is open."""

    where: str
    sizes: Mapping[str, int]
    read: Callable[[str, int, int], bytes]

    def ids(self) -> set[str]:
        """Their ids."""
        return shards.image_ids(self.where, self.sizes, self.read)


@contextmanager
def pictures(data: Artifact) -> Iterator[Pictures]:
    """Open the pictures of a data set."""
    with store.ranged(data) as read:
        yield Pictures(data.uri, {name: facts["bytes"] for name, facts in data.files.items()}, read)


def write(
    shown: Pictures,
    target: Path,
    schema: "pa.Schema",
    what: str,
    row: Callable[[str, "Image.Image"], Mapping[str, Any]],
    chosen: Collection[str] | None = None,
) -> int:
    """Write a row for each picture, in the order of the data set.

    Args:
        shown: From `pictures`.
        target: The file, in the folder of the artifact.
        schema: Of a row.
        what: Is done, for people who wait.
        row: Id and picture -> its row; several threads call it.
        chosen: Ids of the pictures that are wanted; None: all.

    Returns:
        How many pictures have one.

    Raises:
        UserError: A picture cannot be read, or what `row` raises.
    """
    import pyarrow.parquet as pq
    from joblib import cpu_count

    parts = target.parent / "resume"
    parts.mkdir(exist_ok=True)
    pieces = shards.image_groups(shown.where, shown.sizes, shown.read)
    total = sum(count for _, _, count in pieces) if chosen is None else len(chosen)
    files = [parts / f"{number}.parquet" for number in range(len(pieces))]
    pool = ThreadPoolExecutor(cpu_count(), "medmim-pictures")
    with warnings.catch_warnings():  # around all threads, which share one list of filters
        warnings.simplefilter("ignore")
        try:
            with progress.bar(what, total, "images") as bar:
                jobs = [
                    pool.submit(_piece, shown, name, groups, file, schema, row, chosen, bar.add)
                    for file, (name, groups, _) in zip(files, pieces, strict=True)
                ]
                for job in jobs:
                    job.result()
        finally:
            pool.shutdown(cancel_futures=True)
    with pq.ParquetWriter(target, schema, compression="none") as writer:
        for file in files:
            writer.write_table(pq.read_table(file))
    return total


def _piece(
    shown: Pictures,
    name: str,
    groups: range,
    target: Path,
    schema: "pa.Schema",
    row: Callable[[str, "Image.Image"], Mapping[str, Any]],
    chosen: Collection[str] | None,
    done: Callable[[int], None],
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    known = _rows_in(target)
    if known is not None:
        done(known)
        return
    rows = []
    for one, encoded in shards.images_in(shown.where, name, groups, shown.sizes[name], shown.read):
        if chosen is not None and one not in chosen:
            continue
        try:
            with Image.open(io.BytesIO(encoded)) as image:
                rows.append(row(one, image))
        except (OSError, ValueError, SyntaxError) as error:
            raise UserError(
                f"an image of {shown.where}/{name} cannot be decoded",
                reason=f"{one}: {error}",
                fix="the file is damaged: build the data set again",
            ) from None
        done(1)
    part = target.with_suffix(".part")
    with part.open("wb") as file:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), file, write_page_checksum=True)
        file.flush()
        os.fsync(file.fileno())  # else a power cut can leave the name without the bytes
    part.replace(target)


def _rows_in(path: Path) -> int | None:
    """How many rows a piece of an earlier run has; None where it is not there, or torn."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.read_table(path, page_checksum_verification=True).num_rows)
    except (OSError, pa.ArrowException):
        return None
