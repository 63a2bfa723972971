"""A store in a local folder; for every kind of store: which keys are valid, and how a file is written atomically."""

import errno
import os
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO

from medmim import hints
from medmim.errors import UserError, from_os_error

PART = ".part-"  # prefix of a partial file
_CHUNK = 1 << 20


def check_key(key: str) -> str:
    """The key itself, if every kind of store can hold it.

    Raises:
        UserError: It would leave the store, looks like a partial file, or is too long for a file system (255 bytes a
            part) or for S3 (1,024 bytes with the prefix).
    """
    parts = key.split("/")
    invalid = any(part in ("", ".", "..") or part.startswith(PART) for part in parts)
    if invalid or any(unicodedata.category(c) in ("Cc", "Cs") for c in key):
        raise UserError(f"{key!r} is not a key of a store", reason="keys are relative paths of printable names")
    if len(key.encode()) > 800 or any(len(part.encode()) > 255 for part in parts):
        raise UserError(f"{key!r} is too long for the key of a store", reason="at most 255 bytes a name, 800 in all")
    return key


def write_atomically(path: Path, chunks: Iterable[bytes], replace: bool = True) -> bool:
    """Write a temporary file beside `path`, then rename it: after a crash, `path` is whole or absent.

    Returns:
        False where `replace` is off and `path` exists.
    """
    handle, name = tempfile.mkstemp(prefix=PART, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as part:
            part.writelines(chunks)
            part.flush()
            os.fsync(part.fileno())
        os.chmod(name, 0o644)
        if replace:
            os.replace(name, path)
        else:
            os.link(name, path)  # fails when `path` exists, unlike rename
    except FileExistsError:
        return False
    finally:
        Path(name).unlink(missing_ok=True)
    return True


class FolderStore:
    """A store in a local folder."""

    def __init__(self, root: Path) -> None:
        self.root = hints.expanded(root).absolute()
        self.uri = str(self.root)

    def read(self, key: str) -> bytes:
        try:
            return self._path(key).read_bytes()
        except OSError as error:
            raise self._user_error(error, "reading") from None

    read_unchanged = read

    def write(self, key: str, data: bytes) -> None:
        self._write(key, BytesIO(data), replace=True)

    def create(self, key: str, data: bytes) -> bool:
        return self._write(key, BytesIO(data), replace=False)

    def upload(self, key: str, path: Path) -> None:
        with path.open("rb") as source:
            self._write(key, source, replace=True)

    def create_from(self, key: str, path: Path) -> bool:
        with path.open("rb") as source:
            return self._write(key, source, replace=False)

    def download(self, key: str, path: Path) -> None:
        try:
            with self._path(key).open("rb") as source:
                write_atomically(path, iter(lambda: source.read(_CHUNK), b""))
        except OSError as error:
            raise self._user_error(error, "reading") from None

    def version(self, key: str) -> tuple[int, str]:
        try:
            stat = self._path(key).stat()
            if not S_ISREG(stat.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(self._path(key)))
        except OSError as error:
            raise self._user_error(error, "reading") from None
        return stat.st_size, f"{stat.st_ino}-{stat.st_mtime_ns}"

    def read_range(self, key: str, version: str, start: int, length: int, write: Callable[[int, bytes], None]) -> None:
        size, current = self.version(key)
        if version not in ("", current) or start + length > size:
            raise FileNotFoundError(errno.ENOENT, "its content is another one by now", str(self._path(key)))
        with self._path(key).open("rb") as source:
            source.seek(start)
            write(0, b"")
            for at in range(0, length, _CHUNK):
                write(at, source.read(min(_CHUNK, length - at)))

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def list(self, prefix: str = "") -> Iterator[str]:
        yield from sorted(key for key, entry in self._files(prefix) if not entry.name.startswith(PART))

    def folders(self, prefix: str) -> tuple[str, ...]:
        try:
            with os.scandir(self.root / prefix) as found:
                return tuple(sorted(entry.name for entry in found if entry.is_dir()))
        except (FileNotFoundError, NotADirectoryError):
            return ()
        except OSError as error:
            raise self._user_error(error, "listing") from None

    def times(self, prefix: str, name: str) -> dict[str, float]:
        found = {}
        try:
            with os.scandir(self.root / prefix) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError, NotADirectoryError):
                        found[entry.name] = os.stat(f"{entry.path}/{name}").st_mtime
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise self._user_error(error, "listing") from None
        return found

    def ages(self, prefix: str = "") -> dict[str, tuple[float, int]]:
        found = {}
        for key, entry in self._files(prefix):
            with suppress(FileNotFoundError):  # renamed or deleted since
                stat = entry.stat()
                found[key] = (stat.st_mtime, stat.st_size)
        return found

    def _files(self, prefix: str) -> "Iterator[tuple[str, os.DirEntry[str]]]":
        """Key and entry of each file below a prefix. A store holds as many as would take pathlib seconds."""
        above = len(os.path.join(self.root, ""))
        waiting = [os.path.join(self.root, prefix.rpartition("/")[0])]
        while waiting:
            with suppress(OSError), os.scandir(waiting.pop()) as entries:  # removed meanwhile, or not ours to enter
                for entry in entries:
                    if entry.is_dir():
                        waiting += [] if entry.is_symlink() else [entry.path]
                    elif entry.path.startswith(prefix, above):
                        yield entry.path[above:], entry

    def delete(self, key: str) -> None:
        try:
            self._path(key).unlink(missing_ok=True)
        except OSError as error:
            raise self._user_error(error, "deleting from") from None

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _write(self, key: str, source: BinaryIO, replace: bool) -> bool:
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return write_atomically(path, iter(lambda: source.read(_CHUNK), b""), replace)
        except OSError as error:
            raise self._user_error(error, "writing to") from None

    def _user_error(self, error: OSError, doing: str) -> Exception:
        """The error to raise: FileNotFoundError for a missing object, which callers handle, else a UserError."""
        if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError) and doing == "reading":
            return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), error.filename)
        return from_os_error(error, f"{doing} the store {self.uri}")
