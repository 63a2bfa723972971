"""What tells the images of a data set apart: a digest of the decoded pixels, and a perceptual hash. Made once.

An artifact of its own, `fingerprints`, so that neither a changed limit nor a new check decodes a picture again.

The pixels are hashed in one form whatever the file's: size, then the bytes of the grey picture where red, green and
blue are equal everywhere, else of all three. So a PNG saved again, optimised or as RGB, is the same picture; a JPEG of
it is another one, which the perceptual hash finds: a DCT of 64 x 64 grey pixels, of which 16 x 16 low frequencies are
compared with their median (ImageHash's `phash`, 256 bits). docs/data.md has its errors on real radiographs.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmim import store
from medmim.data.audit import decoded
from medmim.errors import require
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
    require("imagehash", _EXTRA)  # before anything is read

    def row(name: str, image: "Image.Image") -> dict[str, Any]:
        pixels, look = fingerprint(image)
        return {"id": name, "pixels": pixels, "look": look}

    with decoded.pictures(data) as pictures:
        return decoded.write(pictures, folder / FILE, _schema(), "fingerprints", row)


def _schema() -> Any:
    import pyarrow as pa

    return pa.schema([("id", pa.string()), ("pixels", pa.binary(32)), ("look", pa.binary(BITS // 8))])
