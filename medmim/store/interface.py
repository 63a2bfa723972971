"""The interface that every kind of store implements (`Store`), and `open_store`, which opens one by its URI."""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote

from medmim.errors import UserError
from medmim.redact import shown
from medmim.store.folder import FolderStore


class Store(Protocol):
    """What every kind of store can do. Keys are relative, with forward slashes."""

    @property
    def uri(self) -> str:
        """The address without a trailing slash; `uri + "/" + key` is the address of an object."""

    def read(self, key: str) -> bytes:
        """The whole object. Raises FileNotFoundError."""

    def read_unchanged(self, key: str) -> bytes:
        """The whole object, for what never changes. Raises FileNotFoundError.

        Raises:
            UserError: The bucket keeps versions, and somebody wrote over it since it was created.
        """

    def write(self, key: str, data: bytes) -> None:
        """Create or replace, atomically."""

    def create(self, key: str, data: bytes) -> bool:
        """Write only if absent (O_EXCL, If-None-Match); False where the object exists already."""

    def upload(self, key: str, path: Path) -> None:
        """Write from a file, atomically."""

    def create_from(self, key: str, path: Path) -> bool:
        """Write from a file only if absent; False where the object exists: after a lost answer it may be this one."""

    def download(self, key: str, path: Path) -> None:
        """Read into a file, which is whole or absent. Raises FileNotFoundError."""

    def version(self, key: str) -> tuple[int, str]:
        """Size in bytes, and a mark that changes with the content (S3's ETag). Raises FileNotFoundError."""

    def read_range(self, key: str, version: str, start: int, length: int, write: Callable[[int, bytes], None]) -> None:
        """Read `length` bytes from `start` on, in pieces.

        Args:
            key: The object.
            version: As `version` gave it; empty: any.
            start: First byte.
            length: Number of bytes.
            write: Gets each piece and its place, counted from `start`; an empty one at 0 begins each try. An exception
                that it raises ends the reading.

        Raises:
            FileNotFoundError: It is gone, shorter, or of another version by now.
        """

    def exists(self, key: str) -> bool:
        """Whether the object exists."""

    def list(self, prefix: str = "") -> Iterator[str]:
        """Keys under a prefix, sorted."""

    def folders(self, prefix: str) -> tuple[str, ...]:
        """Names of the folders directly below a prefix that ends with a slash, sorted; what is in them is not read."""

    def times(self, prefix: str, name: str) -> Mapping[str, float]:
        """Folder directly below a prefix that ends with a slash -> when its file NAME was written; see `ages`.

        Those that have no such file are not in it. A folder is not read for it, however many files it has.
        """

    def ages(self, prefix: str = "") -> Mapping[str, tuple[float, int]]:
        """Key -> (time of the last write, in seconds since 1970 by the store's clock; size in bytes).

        A folder also lists the partial files (`.part-...`) that a killed process has left.
        """

    def delete(self, key: str) -> None:
        """Remove the object if it exists."""


def open_store(uri: str) -> Store:
    """The store behind a URI. Nothing is read or written yet.

    Raises:
        UserError: A scheme other than a folder, `file://` or `s3://`, or S3 without an endpoint or credentials.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator and re.match(r"(s3|file|gs|https?):", uri):
        raise UserError(
            f"{shown(uri)} is not the address of a store",
            fix=f"did you mean {re.sub(':/*', '://', shown(uri), count=1)}?",
        )
    if not separator:
        return FolderStore(Path(uri))
    if scheme == "s3":
        from medmim.store.s3 import connect

        return connect(uri)
    if scheme == "file" and rest.startswith("/"):
        return FolderStore(Path(unquote(rest)))
    raise UserError(
        f"{shown(uri)} is not the address of a store",
        fix="use a folder, file:///folder or s3://bucket/prefix",
    )
