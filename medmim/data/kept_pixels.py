"""Keeps what a build stored of each file, so that the next one reads only files that are new or changed.

    HOME/pixels/ERASED/XX/KEY    one line of JSON (id, size), then the bytes as stored

KEY is the SHA-256 of the file's identity (place, size, time of change), the picture in it and `data.max_side`. ERASED
names the list of erased patients: a build that finds another list removes what was kept before. What was not used for
longest is removed above `MEDMIM_PIXELS_GIB` (16 by default; 0 keeps nothing), and by `gc` after its grace period.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medmim.errors import UserError

LIMIT = "MEDMIM_PIXELS_GIB"
UNFINISHED = "resume/data-"  # in a store, then a build's key: what nodes of a Ray cluster have read (`fanout`)
_GIB = 16.0
_SPARE = 1 << 30  # bytes of the disk that are left to the build itself, which cannot do without
_REVISION = 1  # of decoding: pictures that an earlier version made are not found
_FOLDER = "pixels"


@dataclass(frozen=True)
class KeptPixels:
    """The pictures that a home keeps.

    Attributes:
        folder: Where they lie.
        limit: Bytes of them that stay.
    """

    folder: Path
    limit: int

    def find(self, identity: str, side: int) -> tuple[str, bytes] | None:
        """Id and bytes of a picture; None where it is not kept.

        Args:
            identity: Of the file, and which picture in it.
            side: `data.max_side`.
        """
        path = self._path(identity, side)
        try:
            head, _, data = path.read_bytes().partition(b"\n")
            about = json.loads(head)
            if len(data) != about["size"]:
                return None
            os.utime(path)
        except (OSError, ValueError, KeyError):  # absent, or torn by a power cut
            return None
        return str(about["id"]), data

    def keep(self, identity: str, side: int, name: str, data: bytes) -> None:
        """Keep a picture. Where the disk does not take it, or is nearly full, the next build reads the file again."""
        path = self._path(identity, side)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(path.parent).free < _SPARE:
                return
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as part:
                part.write(json.dumps({"id": name, "size": len(data)}).encode() + b"\n" + data)
            os.replace(part.name, path)

    def trim(self) -> None:
        """Remove what was not used for longest, down to the limit."""
        found = sorted(_files(self.folder))
        total = sum(size for _, size, _ in found)
        for _, size, path in found:
            if total <= self.limit:
                break
            path.unlink(missing_ok=True)
            total -= size

    def _path(self, identity: str, side: int) -> Path:
        key = hashlib.sha256(f"{_REVISION} {side} {identity}".encode("utf-8", "surrogatepass")).hexdigest()
        return self.folder / key[:2] / key


def of(home: Path, erased: str = "") -> KeptPixels | None:
    """The pictures that a home keeps; None where it is to keep none.

    Args:
        home: The home.
        erased: Digest of the list of erased patients; what was kept under another one is removed.

    Raises:
        UserError: The environment's limit is no number.
    """
    given = os.environ.get(LIMIT, "")
    try:
        gib = float(given) if given else _GIB
    except ValueError:
        raise UserError(f"{LIMIT} is '{given}', which is no number", fix=f"give GiB, such as {LIMIT}=16") from None
    name = erased[:16] or "none"
    for other in (home / _FOLDER).glob("*"):
        if other.name != name or gib <= 0:
            shutil.rmtree(other, ignore_errors=True)
    return KeptPixels(home / _FOLDER / name, int(gib * 2**30)) if gib > 0 else None


def clear(home: Path) -> None:
    """Remove all, as after an erasure: whose picture a file shows is not known here."""
    shutil.rmtree(home / _FOLDER, ignore_errors=True)


def unused(home: Path, before: float) -> list[tuple[float, int, Path]]:
    """Last use (s since 1970), bytes and file of what was not used since a time."""
    return [found for found in _files(home / _FOLDER) if found[0] < before]


def _files(folder: Path) -> Iterator[tuple[float, int, Path]]:
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place) / name
            with contextlib.suppress(FileNotFoundError):
                facts = path.stat()
                yield facts.st_mtime, facts.st_size, path
