"""Stores are URIs: a folder, `file://` or `s3://bucket/prefix`. Artifacts are published whole or not at all.

An artifact is a directory of files with a `manifest.json` written last; without it the directory does not exist.
Its digest covers paths and contents only, so a folder and S3 give equal digests, and its address holds the digest:
publishing the same bytes twice is publishing once.
"""

import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlparse

from medmim.errors import Unavailable, UserError, from_os_error

MANIFEST = "manifest.json"
PROVENANCE = "provenance.json"
_CHUNK = 1 << 20


class Store(Protocol):
    """What both kinds of store can do. Keys are relative, with forward slashes."""

    uri: str

    def read(self, key: str) -> bytes:
        """The whole object. Raises FileNotFoundError."""

    def write(self, key: str, data: bytes) -> None:
        """Create or replace, atomically."""

    def create(self, key: str, data: bytes) -> bool:
        """Write only if absent (O_EXCL, If-None-Match); False when somebody was first."""

    def upload(self, key: str, path: Path) -> None:
        """Write from a file, atomically."""

    def download(self, key: str, path: Path) -> None:
        """Read into a file. Raises FileNotFoundError."""

    def exists(self, key: str) -> bool:
        """Whether the object is there."""

    def list(self, prefix: str = "") -> Iterator[str]:
        """Keys under a prefix, in order."""

    def delete(self, key: str) -> None:
        """Remove the object if it is there."""


@dataclass(frozen=True)
class Artifact:
    """A published directory: where it lies, its digest, and what its manifest counts."""

    uri: str
    digest: str
    kind: str
    files: Mapping[str, Mapping[str, Any]]
    counts: Mapping[str, Any]


@lru_cache(maxsize=16)
def open_store(uri: str) -> Store:
    """The store behind a URI.

    Raises:
        UserError: A scheme that is neither a folder, `file://` nor `s3://`, or S3 that cannot be reached.
    """
    parsed = urlparse(uri)
    if parsed.scheme == "s3":
        from medmim.store_s3 import S3Store

        return S3Store(uri)
    if parsed.scheme == "file":
        return FolderStore(Path(unquote(parsed.path)))
    if parsed.scheme and "://" in uri:
        raise UserError(
            f"{uri}: '{parsed.scheme}' is not a kind of store",
            fix="use a folder, file:///folder or s3://bucket/prefix",
        )
    return FolderStore(Path(uri))


class FolderStore:
    """A store in a local folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self.uri = str(self.root)

    def read(self, key: str) -> bytes:
        return self._path(key).read_bytes()

    def write(self, key: str, data: bytes) -> None:
        self._place(key, io.BytesIO(data), replace=True)

    def create(self, key: str, data: bytes) -> bool:
        return self._place(key, io.BytesIO(data), replace=False)

    def upload(self, key: str, path: Path) -> None:
        with path.open("rb") as source:
            self._place(key, source, replace=True)

    def download(self, key: str, path: Path) -> None:
        shutil.copyfile(self._path(key), path)

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def list(self, prefix: str = "") -> Iterator[str]:
        found = []
        for folder, _, names in os.walk(self.root):
            for name in names:
                key = (Path(folder) / name).relative_to(self.root).as_posix()
                if key.startswith(prefix) and not name.startswith(".part-"):
                    found.append(key)
        yield from sorted(found)

    def delete(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        parts = Path(key).parts
        if not parts or Path(key).is_absolute() or ".." in parts:
            raise UserError(f"'{key}' is not a key of the store {self.uri}")
        return self.root / key

    def _place(self, key: str, source: Any, replace: bool) -> bool:
        """Write beside the goal, then link it there: the goal is whole or absent, after a crash too."""
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=".part-", dir=path.parent)
            try:
                with os.fdopen(handle, "wb") as part:
                    shutil.copyfileobj(source, part, _CHUNK)
                    part.flush()
                    os.fsync(part.fileno())
                os.chmod(name, 0o644)
                if replace:
                    os.replace(name, path)
                    return True
                try:
                    os.link(name, path)  # fails when the goal exists, unlike rename
                except FileExistsError:
                    return False
                return True
            finally:
                Path(name).unlink(missing_ok=True)
        except OSError as error:
            raise from_os_error(error, f"writing to the store {self.uri}") from error


def file_digest(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def content_digest(files: Mapping[str, Mapping[str, Any]]) -> str:
    """Digest of an artifact: its paths and the SHA-256 of each file, nothing else."""
    lines = "".join(f"{files[name]['sha256']}  {name}\n" for name in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


def scan(folder: Path) -> dict[str, dict[str, Any]]:
    """Path -> size and SHA-256 of every file in a folder, manifest and provenance left out."""
    return {
        path.relative_to(folder).as_posix(): {"sha256": file_digest(path), "bytes": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (MANIFEST, PROVENANCE)
    }


def publish(
    folder: Path, store_uri: str, kind: str, counts: Mapping[str, Any], provenance: Mapping[str, Any]
) -> Artifact:
    """Publish a folder as `STORE/kind/DIGEST`, manifest last.

    Args:
        folder: The finished files.
        store_uri: The store.
        kind: First part of the address: `data`, `audit`, `model`, `answers`, ...
        counts: What a reader wants to know without opening a file; content only, it is not in the digest.
        provenance: Recipe, code, parents, time; never in the digest.

    Raises:
        UserError: The store refuses or the disk is full.
    """
    files = scan(folder)
    digest = content_digest(files)
    store = open_store(store_uri)
    prefix = f"{kind}/{digest}"
    artifact = Artifact(f"{store.uri}/{prefix}", digest, kind, files, dict(counts))
    if store.exists(f"{prefix}/{MANIFEST}"):
        return artifact
    for name in files:
        store.upload(f"{prefix}/{name}", folder / name)
    store.write(f"{prefix}/{PROVENANCE}", _json(provenance))
    manifest = {"digest": digest, "kind": kind, "files": files, "counts": dict(counts)}
    store.create(f"{prefix}/{MANIFEST}", _json(manifest))
    return artifact


def find(uri: str) -> Artifact | None:
    """The artifact at a URI, or None where there is no manifest."""
    root, _, name = uri.rstrip("/").rpartition("/")
    try:
        manifest = json.loads(open_store(root or ".").read(f"{name}/{MANIFEST}"))
        return Artifact(uri.rstrip("/"), manifest["digest"], manifest["kind"], manifest["files"], manifest["counts"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{uri}/{MANIFEST} is not a manifest",
            reason="it is cut off or was edited by hand",
            fix="delete this artifact and run the step again",
        ) from None


def get(uri: str) -> Artifact:
    """The artifact at a URI.

    Raises:
        UserError: There is no manifest, so nothing was ever finished there.
    """
    artifact = find(uri)
    if artifact is None:
        raise UserError(
            f"there is no artifact at {uri}",
            reason=f"it has no {MANIFEST}: the address is wrong, or the step that writes it never ended",
            fix="give the URI that a finished step printed",
        )
    return artifact


def fetch(artifact: Artifact, cache: Path) -> Path:
    """A local folder with the artifact's files, each checked against its SHA-256 when it is copied.

    A folder store is read in place. S3 is copied below `cache`, once for each digest.

    Raises:
        UserError: A file is missing or its content is not what the manifest says.
    """
    root, _, name = artifact.uri.rpartition("/")
    store = open_store(root or ".")
    if isinstance(store, FolderStore):
        folder = store.root / name
        wrong = [f for f, facts in artifact.files.items() if _size(folder / f) != facts["bytes"]]
        _whole(artifact, wrong)
        return folder
    goal = cache / artifact.digest
    if goal.is_dir():
        return goal
    cache.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=cache))
    try:
        wrong = []
        for file, facts in artifact.files.items():
            path = part / file
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                store.download(f"{name}/{file}", path)
            except FileNotFoundError:
                wrong.append(file)
                continue
            if file_digest(path) != facts["sha256"]:
                wrong.append(file)
        _whole(artifact, wrong)
        try:
            part.rename(goal)
        except OSError:  # another process was first; both copies are equal
            if not goal.is_dir():
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return goal


def verify(artifact: Artifact, cache: Path) -> list[str]:
    """Files whose content no longer has the SHA-256 of the manifest."""
    folder = fetch(artifact, cache)
    return [f for f, facts in artifact.files.items() if file_digest(folder / f) != facts["sha256"]]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


def _whole(artifact: Artifact, wrong: list[str]) -> None:
    if wrong:
        raise UserError(
            f"{artifact.uri} is damaged",
            reason="files are missing or differ from the manifest",
            fix="delete the artifact's folder and run the step again",
            problems=wrong,
        )


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def unavailable(uri: str, reason: str) -> Unavailable:
    """The one message for a store that does not answer."""
    return Unavailable(
        f"the store {uri} does not answer",
        reason=reason,
        fix="check the address, the network and the credentials (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, "
        "AWS_SECRET_ACCESS_KEY), then run the same command: finished steps are kept",
    )
