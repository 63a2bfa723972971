"""Where the raw files of a source lie: a folder, or an address in S3. Every path is relative to it.

A table is read as a local file, which S3 gives by a download into a temporary folder; an image is read as bytes. The
patients of a hospital are thus in no container image and on no disk of ours but for what the data set itself holds.
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

from medmim import store, terms
from medmim.data.sources import files, fragments
from medmim.data.sources.source import BadImage, Entry
from medmim.errors import UserError, from_os_error
from medmim.recipe.sources import Files
from medmim.sample import digest_of
from medmim.store import Store
from medmim.terms import Terms

_LARGEST_TABLE = 1 << 40  # bytes; tables are read row by row


class Root(Protocol):
    """What every kind of root can do. A path may have a fragment (see `fragments`), which is left off."""

    def __str__(self) -> str:
        """The address, for messages."""

    def table(self, path: str) -> Path:
        """A local file with the content of a table.

        Raises:
            UserError: There is none; the message names what is there.
        """

    def has(self, path: str) -> bool:
        """Whether the file exists (a link that leads out of the root exists, too: reading it is what fails)."""

    def read(self, path: str) -> bytes:
        """The bytes of an image. Raises FileNotFoundError, BadImage."""

    def head(self, path: str, size: int) -> bytes:
        """The first bytes of an image. Raises FileNotFoundError, BadImage."""

    def mark(self, path: str) -> str:
        """What changes when the file does: size and time of change; `-` where it is absent."""

    def identity(self, path: str) -> str:
        """Place and mark of a file; empty where it is absent."""

    def names(self, folder: str = "") -> Iterator[str]:
        """Paths of all files below a folder, sorted as texts, without following links of folders."""

    def fix_for(self, paths: Iterable[str]) -> str:
        """What would help where these are missing or cannot be used; empty where nothing is known."""


def opened(entry: Entry[Files]) -> Root:
    """The root of a source.

    Raises:
        UserError: The recipe names none, or there is no such folder.
    """
    given = entry.own.root
    if given is None:
        raise UserError(f"{entry.key} names no folder to read", fix=files.setting(entry.key))
    if given.startswith("s3://"):
        return _bucket(given)
    return _Folder(files.folder(given, f"{entry.key}.root"), files.link_roots(entry.own.link_roots))


def _bucket(uri: str) -> "_Bucket":
    return _Bucket(store.open_store(uri))


def digest(root: Root, tables: Iterable[str], images: Iterable[str]) -> dict[str, str]:
    """The parents of the data step: the digest of each table, and one over the marks of the images.

    Hashing a hundred thousand images at each start would take longer than the build that the cache saves.
    """
    found = {name: store.file_digest(root.table(name)) for name in tables}
    marks = [f"{path} {root.mark(path)}" for path in sorted({fragments.parse(path)[0] for path in images})]
    return {**found, "images": digest_of(marks)}


def written_terms(entry: Entry[Files], name: str, path: str | None) -> Terms:
    """The terms that the owner of a data set has written; without them, nothing is allowed.

    Args:
        entry: The source.
        name: Of the data set.
        path: The file, below the root.

    Raises:
        UserError: The file is no record of terms, or allows something in nobody's name.
    """
    if path is None:
        return Terms(text=(f"{name}: no terms are written yet, so nothing is allowed (docs/terms.md)",))
    file = opened(entry).table(path)
    found = terms.parse(file.read_bytes(), str(file))
    allowed = [flag for flag in terms.FLAGS if getattr(found, flag)]
    if allowed and not any(line.strip() for line in found.text):
        raise UserError(
            f"{file} allows {', '.join(allowed)}, and does not say who allows it",
            fix='add it as `"text": ["NAME: who allows what, and where that is written"]` (docs/terms.md)',
        )
    return found


@dataclass(frozen=True)
class _Folder:
    root: Path
    allowed: Sequence[Path] = ()

    def __str__(self) -> str:
        return str(self.root)

    def table(self, path: str) -> Path:
        try:
            return files.locate(self.root, path, self.allowed, _LARGEST_TABLE)
        except FileNotFoundError:
            pass
        except BadImage as error:
            fact = f"{path} in {self.root} cannot be read"
            raise UserError(fact, reason=str(error), fix="put the file there") from None
        place, name = (self.root / path).parent, os.path.basename(path)
        there = files.similar_names(place, name[:6]) if place.is_dir() else ""
        raise UserError(
            f"there is no {path} in {self.root}",
            reason=f"the source reads this table{there}",
            fix=(files.renaming(place, name) if place.is_dir() else "")
            or files.fetching(self.root, [path])
            or "give the folder that holds it as root, or name the table in the recipe",
        )

    def has(self, path: str) -> bool:
        return not files.is_missing(self.root, fragments.parse(path)[0], self.allowed)

    def read(self, path: str) -> bytes:
        return files.read_bytes(self.root, fragments.parse(path)[0], self.allowed)

    def head(self, path: str, size: int) -> bytes:
        return files.read_image(files.locate(self.root, fragments.parse(path)[0], self.allowed), size)

    def mark(self, path: str) -> str:
        try:
            facts = files.locate(self.root, fragments.parse(path)[0], self.allowed).stat()
        except (OSError, BadImage):
            return "-"
        return f"{facts.st_size} {facts.st_mtime_ns}"

    def identity(self, path: str) -> str:
        return files.identity(self.root, fragments.parse(path)[0], self.allowed)

    def names(self, folder: str = "") -> Iterator[str]:
        place = self.root / folder
        try:
            with os.scandir(place) as inside:
                found = sorted(f"{one.name}/" if one.is_dir(follow_symlinks=False) else one.name for one in inside)
        except (FileNotFoundError, NotADirectoryError, PermissionError):  # `lost+found` of a mounted disk is not ours
            return
        for name in found:  # as S3 lists them, which has no folders: `a-1/b` is before `a/b`
            path = f"{folder.strip('/')}/{name}".lstrip("/")
            if name.endswith("/"):
                yield from self.names(path)
            elif not (place / name).is_dir():
                yield path

    def fix_for(self, paths: Iterable[str]) -> str:
        return files.fix_for(self.root, (fragments.parse(path)[0] for path in paths))


@dataclass(frozen=True)
class _Bucket:
    place: Store
    _copies: dict[str, Path] = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        return self.place.uri

    def __reduce__(self) -> tuple[Any, ...]:
        return _bucket, (self.place.uri,)  # without the listing: a node reads some of a million keys

    @cached_property
    def _keys(self) -> dict[str, tuple[float, int]]:
        return dict(self.place.ages())

    def table(self, path: str) -> Path:
        if path not in self._copies:
            folder = Path(tempfile.mkdtemp(prefix="medmim-"))
            atexit.register(partial(shutil.rmtree, folder, ignore_errors=True))
            copy = folder / os.path.basename(path)
            try:
                self.place.download(path, copy)
            except FileNotFoundError:
                raise UserError(
                    f"there is no {path} in {self.place.uri}",
                    reason="the source reads this table",
                    fix="give the address that holds it as root, or name the table in the recipe",
                ) from None
            except OSError as error:
                raise from_os_error(error, f"reading {path}") from error
            self._copies[path] = copy
        return self._copies[path]

    def has(self, path: str) -> bool:
        return fragments.parse(path)[0] in self._keys

    def read(self, path: str) -> bytes:
        key = fragments.parse(path)[0]
        size = self._keys.get(key, (0.0, 0))[1] if "_keys" in self.__dict__ else self.place.version(key)[0]
        if size > files.MAX_BYTES:
            raise BadImage(f"the file has {size:,} bytes, more than {files.MAX_BYTES:,}")
        return self.place.read(key)

    def head(self, path: str, size: int) -> bytes:
        key = fragments.parse(path)[0]
        if self._keys.get(key, (0.0, 0))[1] <= size:
            return self.read(path)
        pieces: list[bytes] = []
        _, version = self.place.version(key)
        self.place.read_range(key, version, 0, size, lambda _, piece: pieces.append(piece))
        return b"".join(pieces)

    def mark(self, path: str) -> str:
        known = self._keys.get(fragments.parse(path)[0])  # one listing; a request for each image would take an hour
        return "-" if known is None else f"{known[1]} {known[0]}"

    def identity(self, path: str) -> str:
        mark = self.mark(path)
        return "" if mark == "-" else f"{self.place.uri}/{fragments.parse(path)[0]} {mark}"

    def names(self, folder: str = "") -> Iterator[str]:
        start = f"{folder.rstrip('/')}/" if folder else ""
        yield from sorted(key for key in self._keys if key.startswith(start) and not key.endswith("/"))

    def fix_for(self, paths: Iterable[str]) -> str:
        return ""
