"""Stores are URIs: a folder, `file://` or `s3://bucket/prefix`. Artifacts are published whole or not at all.

An artifact is a directory of files with a `manifest.json` written last; without it the directory does not exist.
Its digest covers paths and contents only, so a folder and S3 give equal digests, and its address holds the digest:
publishing the same bytes twice is publishing once.
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote

from medmim.errors import UserError, from_os_error
from medmim.store.folder import PART, FolderStore, check_key, write_atomically
from medmim.store.removal import MANIFEST, claim

PROVENANCE = "provenance.json"


class Store(Protocol):
    """What both kinds of store can do. Keys are relative, with forward slashes."""

    @property
    def uri(self) -> str:
        """The address without a slash at its end; `uri + "/" + key` is the address of an object."""

    def read(self, key: str) -> bytes:
        """The whole object. Raises FileNotFoundError."""

    def write(self, key: str, data: bytes) -> None:
        """Create or replace, atomically."""

    def create(self, key: str, data: bytes) -> bool:
        """Write only if absent (O_EXCL, If-None-Match); False when somebody was first."""

    def upload(self, key: str, path: Path) -> None:
        """Write from a file, atomically."""

    def download(self, key: str, path: Path) -> None:
        """Read into a file, which is whole or absent. Raises FileNotFoundError."""

    def exists(self, key: str) -> bool:
        """Whether the object is there."""

    def list(self, prefix: str = "") -> Iterator[str]:
        """Keys under a prefix, in order."""

    def ages(self, prefix: str = "") -> Mapping[str, tuple[float, int]]:
        """Key -> (when it was last written, in seconds since 1970 by the store's clock; bytes).

        A folder also shows the files in the making (`.part-...`) that a kill has left.
        """

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


def open_store(uri: str) -> Store:
    """The store behind a URI. Nothing is read or written yet.

    Raises:
        UserError: A scheme that is neither a folder, `file://` nor `s3://`, or S3 without an address or credentials.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator and re.match(r"(s3|file|gs|https?):", uri):
        raise UserError(
            f"{uri} is not the address of a store", fix=f"did you mean {re.sub(':/*', '://', uri, count=1)}?"
        )
    if not separator:
        return FolderStore(Path(uri))
    if scheme == "s3":
        from medmim.store.s3 import connect

        return connect(uri)
    if scheme == "file" and rest.startswith("/"):
        return FolderStore(Path(unquote(rest)))
    raise UserError(
        f"{uri} is not the address of a store",
        fix="use a folder, file:///folder or s3://bucket/prefix",
    )


def file_digest(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def content_digest(files: Mapping[str, Mapping[str, Any]]) -> str:
    """Digest of an artifact: its paths and the SHA-256 of each file, nothing else."""
    lines = "".join(f"{files[name]['sha256']}  {name}\n" for name in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


def scan(folder: Path) -> dict[str, dict[str, Any]]:
    """Path -> size and SHA-256 of every file in a folder.

    Manifest and provenance are left out, and so is what only helps to resume: files and folders whose name starts
    with a dot, and the folder `resume`.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        working = name.startswith((".", "resume/")) or "/." in name
        if path.is_file() and not working and name not in (MANIFEST, PROVENANCE):
            found[name] = {"sha256": file_digest(path), "bytes": path.stat().st_size}
    return found


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
    claim(store, prefix)
    known = find(artifact.uri)
    if known is not None:
        return known
    for name in files:
        store.upload(f"{prefix}/{name}", folder / name)
    store.write(f"{prefix}/{PROVENANCE}", _json(provenance))
    store.create(f"{prefix}/{MANIFEST}", _json(_manifest(artifact)))
    return artifact


def find(uri: str) -> Artifact | None:
    """The artifact at a URI, or None where there is no manifest."""
    store, name = _parent(uri)
    try:
        text = store.read(f"{name}/{MANIFEST}")
    except FileNotFoundError:
        return None
    try:
        manifest = json.loads(text)
        for file in manifest["files"]:
            check_key(file)
        if content_digest(manifest["files"]) != manifest["digest"]:
            raise ValueError("digest")
        return Artifact(
            f"{store.uri}/{name}", manifest["digest"], manifest["kind"], manifest["files"], manifest["counts"]
        )
    except (ValueError, KeyError, TypeError, AttributeError, UserError):
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
    """A local folder with the artifact's files, each as the manifest says.

    A folder store is read in place; what changed there after the manifest was written is checked against its SHA-256.
    S3 is copied below `cache`, once for each digest, and checked as it is copied.

    Raises:
        UserError: A file is missing or its content is not what the manifest says; names them all.
    """
    store, name = _parent(artifact.uri)
    if isinstance(store, FolderStore):
        folder = store.root / name
        _whole(artifact, _changed(artifact, folder))
        return folder
    goal = cache / artifact.digest
    try:
        if goal.is_dir() and not _changed(artifact, goal):
            return goal
        shutil.rmtree(goal, ignore_errors=True)
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=PART, dir=cache, ignore_cleanup_errors=True) as part:
            copy = Path(part) / artifact.digest
            _whole(artifact, _copy(artifact, store, name, copy))
            write_atomically(copy / MANIFEST, [_json(_manifest(artifact))])
            try:
                copy.rename(goal)
            except OSError:  # another process was first; both copies are equal
                if not goal.is_dir():
                    raise
    except OSError as error:
        raise from_os_error(error, f"copying {artifact.uri} to {cache}") from None
    return goal


def verify(artifact: Artifact, cache: Path) -> list[str]:
    """Files whose content no longer has the SHA-256 of the manifest, read anew byte by byte."""
    folder = fetch(artifact, cache)
    return [f for f, facts in artifact.files.items() if file_digest(folder / f) != facts["sha256"]]


def _parent(uri: str) -> tuple[Store, str]:
    root, slash, name = uri.rstrip("/").rpartition("/")
    return open_store(root or slash or "."), name


def _changed(artifact: Artifact, folder: Path) -> list[str]:
    """Files that are missing or differ; only those younger than the manifest, the last file written, need a look."""
    try:
        published = (folder / MANIFEST).stat().st_mtime_ns
    except FileNotFoundError:
        return list(artifact.files)
    wrong = []
    for name, facts in artifact.files.items():
        try:
            stat = (folder / name).stat()
        except (FileNotFoundError, NotADirectoryError):
            wrong.append(name)
            continue
        touched = stat.st_mtime_ns >= published
        if stat.st_size != facts["bytes"] or (touched and file_digest(folder / name) != facts["sha256"]):
            wrong.append(name)
    return wrong


def _copy(artifact: Artifact, store: Store, name: str, goal: Path) -> list[str]:
    """Download every file; the names of those that are missing or differ."""
    goal.mkdir()
    wrong = []
    for file, facts in artifact.files.items():
        path = goal / file
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            store.download(f"{name}/{file}", path)
        except FileNotFoundError:
            wrong.append(file)
            continue
        if file_digest(path) != facts["sha256"]:
            wrong.append(file)
    return wrong


def _whole(artifact: Artifact, wrong: list[str]) -> None:
    if wrong:
        raise UserError(
            f"{artifact.uri} is damaged",
            reason="these files are missing or differ from the manifest",
            fix="delete the artifact's folder and run the step again",
            problems=wrong,
        )


def _manifest(artifact: Artifact) -> dict[str, Any]:
    return {"digest": artifact.digest, "kind": artifact.kind, "files": artifact.files, "counts": artifact.counts}


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
