"""What tells the images of a data set apart: a digest of the decoded pixels, and a perceptual hash. Made once.

An artifact of its own, `fingerprints`, so that neither a changed limit nor a new check decodes a picture again. It is
read piece by piece wherever the data set lies; a killed run goes on with the pieces that it has done (`resume/`).

The pixels are hashed in one form whatever the file's: size, then the bytes of the grey picture where red, green and
blue are equal everywhere, else of all three. So a PNG saved again, optimised or as RGB, is the same picture; a JPEG of
it is another one, which the perceptual hash finds: a DCT of 64 x 64 grey pixels, of which 16 x 16 low frequencies are
compared with their median (ImageHash's `phash`, 256 bits). docs/data.md has its errors on real radiographs.
"""

import hashlib
import io
import os
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmim import progress, shards, store
from medmim.errors import UserError, require
from medmim.run.cache import cached_step
from medmim.run.provenance import terms_of
from medmim.run.workspace import Workspace
from medmim.store import Artifact

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

REVISION = 1
FILE = "fingerprints.parquet"
BITS = 256  # of the perceptual hash
_SIDE = 16  # frequencies in each direction
_EXTRA = "data"


@dataclass(frozen=True)
class Fingerprints:
    """Of all images of a data set.

    Attributes:
        places: Image id -> its row below.
        pixels: (n,) SHA-256 of the pixels, `V32`.
        looks: (n, 32) uint8, the perceptual hashes.
    """

    places: Mapping[str, int]
    pixels: "np.ndarray"
    looks: "np.ndarray"

    def pixels_of(self) -> dict[str, bytes]:
        """Image id -> SHA-256 of its pixels."""
        return {name: bytes(self.pixels[place]) for name, place in self.places.items()}


def of(ws: Workspace, data: Artifact) -> Fingerprints | None:
    """The fingerprints of a data set, made now where they are not yet; None where it was built without pixels.

    Args:
        ws: The workspace.
        data: The data set.

    Raises:
        UserError: An image cannot be read, or ImageHash is not installed.
    """
    if not any(name.startswith("images/") for name in data.files):
        return None

    def make(folder: Path) -> dict[str, Any]:
        return {"images": _write(data, folder)}

    parents = {"data": data.digest}
    made, _ = cached_step(ws, "fingerprints", REVISION, None, parents, make, terms=terms_of(data))
    return read(store.fetch(made, ws.cache) / FILE)


def read(path: Path) -> Fingerprints:
    """Fingerprints from their file."""
    import numpy as np
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    ids = table.column("id").to_pylist()
    looks = np.frombuffer(b"".join(table.column("look").to_pylist()), np.uint8).reshape(-1, BITS // 8)
    pixels = np.array(table.column("pixels").to_pylist(), dtype="V32")
    return Fingerprints({name: place for place, name in enumerate(ids)}, pixels, looks)


def fingerprint(image: "Image.Image") -> tuple[bytes, bytes]:
    """SHA-256 of the pixels of an image in their one form, and its perceptual hash: 32 bytes each.

    Args:
        image: Of any size; mode `L` or `RGB`, others are converted to RGB.

    Raises:
        UserError: ImageHash is not installed.
    """
    import numpy as np

    imagehash = require("imagehash", _EXTRA)
    shown = image if image.mode in ("L", "RGB") else image.convert("RGB")
    found = np.asarray(shown)
    if found.ndim == 3 and (found == found[:, :, :1]).all():
        found = found[:, :, 0]
    digest = hashlib.sha256(f"{shown.width}x{shown.height}x{found.ndim}\n".encode())
    digest.update(np.ascontiguousarray(found).data)
    look: bytes = np.packbits(imagehash.phash(shown, _SIDE).hash).tobytes()
    return digest.digest(), look


def _write(data: Artifact, folder: Path) -> int:
    import pyarrow.parquet as pq
    from joblib import cpu_count

    require("imagehash", _EXTRA)  # before anything is read
    parts = folder / "resume"
    parts.mkdir(exist_ok=True)
    sizes = {name: facts["bytes"] for name, facts in data.files.items()}
    with store.ranged(data) as ranged, warnings.catch_warnings():  # around all threads, which share one list of filters
        warnings.simplefilter("ignore")
        pieces = shards.image_groups(data.uri, sizes, ranged)
        total = sum(count for _, _, count in pieces)
        pool = ThreadPoolExecutor(cpu_count(), "medmim-fingerprints")
        try:
            jobs = [
                pool.submit(_piece, data.uri, name, groups, sizes[name], ranged, parts / f"{number}.parquet")
                for number, (name, groups, _) in enumerate(pieces)
            ]
            with progress.bar("fingerprints", total, "images") as bar:
                for job, (_, _, count) in zip(jobs, pieces, strict=True):
                    job.result()
                    bar.add(count)
        finally:
            pool.shutdown(cancel_futures=True)
    with pq.ParquetWriter(folder / FILE, _schema(), compression="none") as writer:
        for number in range(len(pieces)):
            writer.write_table(pq.read_table(parts / f"{number}.parquet"))
    return total


def _piece(
    where: str, name: str, groups: range, size: int, ranged: Callable[[str, int, int], bytes], target: Path
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    if _is_whole(target):
        return
    rows = []
    for one, encoded in shards.images_in(where, name, groups, size, ranged):
        try:
            with Image.open(io.BytesIO(encoded)) as image:
                pixels, look = fingerprint(image)
        except (OSError, ValueError, SyntaxError) as error:
            raise UserError(
                f"an image of {where}/{name} cannot be decoded",
                reason=f"{one}: {error}",
                fix="the file is damaged: build the data set again",
            ) from None
        rows.append({"id": one, "pixels": pixels, "look": look})
    part = target.with_suffix(".part")
    with part.open("wb") as file:
        pq.write_table(pa.Table.from_pylist(rows, schema=_schema()), file, write_page_checksum=True)
        file.flush()
        os.fsync(file.fileno())  # else a power cut can leave the name without the bytes
    part.replace(target)


def _is_whole(path: Path) -> bool:
    """Whether a piece of an earlier run is there and can be read; a torn one is made again."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        pq.read_table(path, page_checksum_verification=True)
    except (OSError, pa.ArrowException):
        return False
    return True


def _schema() -> Any:
    import pyarrow as pa

    return pa.schema([("id", pa.string()), ("pixels", pa.binary(32)), ("look", pa.binary(BITS // 8))])
