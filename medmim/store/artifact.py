"""Artifacts: a folder of files published to a store as a whole, addressed by the digest of its content.

A `manifest.json` is written last; without it the artifact does not exist. The digest covers paths and contents only, so
a folder and S3 give equal digests. The address contains the digest: publishing the same bytes twice is publishing once.
"""

import errno
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmim.errors import Missing, UserError
from medmim.store.folder import check_key
from medmim.store.interface import Store, open_store
from medmim.store.removal import MANIFEST, claim

PROVENANCE = "provenance.json"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PIECE = 4 << 20  # bytes that `lines` reads at once


@dataclass(frozen=True)
class Artifact:
    """A published folder: its address, its digest, and what its manifest counts."""

    uri: str
    digest: str
    kind: str
    files: Mapping[str, Mapping[str, Any]]
    counts: Mapping[str, Any]


def file_digest(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def file_facts(path: Path) -> dict[str, Any]:
    """What a manifest says of a file: size and SHA-256."""
    return {"sha256": file_digest(path), "bytes": path.stat().st_size}


def content_digest(files: Mapping[str, Mapping[str, Any]]) -> str:
    """Digest of an artifact: its paths and the SHA-256 of each file, nothing else."""
    lines = "".join(f"{files[name]['sha256']}  {name}\n" for name in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


def scan(folder: Path) -> dict[str, dict[str, Any]]:
    """Path -> size and SHA-256 of every file in a folder that belongs to the artifact.

    Left out: manifest and provenance, and what only serves to resume, that is files and folders whose name starts with
    a dot, and the folder `resume`.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        working_file = name.startswith((".", "resume/")) or "/." in name
        if path.is_file() and not working_file and name not in (MANIFEST, PROVENANCE):
            found[name] = file_facts(path)
    return found


def publish(
    folder: Path, store_uri: str, kind: str, counts: Mapping[str, Any], provenance: Mapping[str, Any]
) -> Artifact:
    """Publish a folder as `STORE/kind/DIGEST`, manifest last.

    Args:
        folder: The finished files.
        store_uri: The store.
        kind: First part of the address: `data`, `audit`, `model`, `answers`, ...
        counts: What a reader wants to know without opening a file. Facts of the content only; not in the digest.
        provenance: Recipe, code, parents, time; not in the digest.

    Raises:
        UserError: The store refuses or the disk is full.
    """
    files = scan(folder)
    digest = content_digest(files)
    store = open_store(store_uri)
    prefix = f"{kind}/{digest}"

    claim(store, prefix)
    existing = find(f"{store.uri}/{prefix}")
    if existing is not None:
        return existing

    for name, facts in files.items():
        if not store.create_from(f"{prefix}/{name}", folder / name):  # left by a publisher that was killed
            _refuse_another_content(store, f"{prefix}/{name}", facts)
    return seal(store, prefix, kind, files, counts, provenance)


def seal(
    store: Store,
    prefix: str,
    kind: str,
    files: Mapping[str, Mapping[str, Any]],
    counts: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> Artifact:
    """Make an artifact of files that are in the store already, from one process or several.

    Args:
        store: The store.
        prefix: Its folder there.
        kind: As for `publish`; with counts and provenance.
        files: Name -> what `file_facts` said of each where it was uploaded from.
        counts: See `kind`.
        provenance: See `kind`.

    Raises:
        UserError: The store refuses or the disk is full.
    """
    artifact = Artifact(f"{store.uri}/{prefix}", content_digest(files), kind, files, dict(counts))
    store.create(f"{prefix}/{PROVENANCE}", as_json(provenance))
    store.create(f"{prefix}/{MANIFEST}", as_json(manifest(artifact)))
    return artifact


def _refuse_another_content(store: Store, key: str, facts: Mapping[str, Any]) -> None:
    """Refuse a file of an artifact that lies there already and differs: whoever may only create cannot replace it."""
    if _hashed(store, key) != facts["sha256"]:
        raise UserError(
            f"{store.uri}/{key} has another content than its address says",
            reason="no step of medmim wrote it: files are written whole, and their address is their content",
            fix="find out who wrote it, delete the folder, and run the step again",
        )


def find(uri: str) -> Artifact | None:
    """The artifact at a URI, or None where there is no manifest.

    Raises:
        UserError: The manifest is damaged, or of another content than the address says: somebody wrote over it.
    """
    store, name = locate(uri)
    try:
        text = store.read_unchanged(f"{name}/{MANIFEST}")
    except FileNotFoundError:
        return None
    try:
        known = json.loads(text)
        for file in known["files"]:
            check_key(file)
        if content_digest(known["files"]) != known["digest"]:
            raise ValueError("digest")
        found = Artifact(
            uri=f"{store.uri}/{name}",
            digest=known["digest"],
            kind=known["kind"],
            files=known["files"],
            counts=known["counts"],
        )
    except (ValueError, KeyError, TypeError, AttributeError, UserError):
        raise UserError(
            f"{uri}/{MANIFEST} is not a manifest",
            reason="it is cut off or was edited by hand",
            fix="delete this artifact and run the step again",
        ) from None
    if _DIGEST.fullmatch(name) and found.digest != name:
        raise UserError(
            f"{uri} holds another artifact than its address says",
            reason=f"the digest of its {MANIFEST} is {found.digest}; it was replaced by somebody who may write here",
            fix="find out who wrote it, then delete this artifact and run the step again",
        )
    return found


def get(uri: str) -> Artifact:
    """The artifact at a URI.

    Raises:
        Missing: There is no manifest: nothing was published there.
        UserError: As `find`.
    """
    artifact = find(uri)
    if artifact is None:
        raise Missing(
            f"there is no artifact at {uri}",
            reason=f"it has no {MANIFEST}: the address is wrong, or the step that writes it did not finish",
            fix="give the URI that a finished step printed",
        )
    return artifact


def read_file(artifact: Artifact, name: str) -> bytes:
    """One file of an artifact, without the others; for small ones.

    Raises:
        FileNotFoundError: The artifact has no such file.
        UserError: Its content is not what the manifest says, or the store does not answer.
    """
    if name not in artifact.files:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{artifact.uri}/{name}")
    store, folder = locate(artifact.uri)
    try:
        data = store.read(f"{folder}/{name}")
    except FileNotFoundError:
        data = b""
    if hashlib.sha256(data).hexdigest() != artifact.files[name]["sha256"]:
        refuse_damaged(artifact, [name])
    return data


def lines(artifact: Artifact, name: str) -> Iterator[bytes]:
    """The lines of a file of an artifact, which may be larger than the memory; without their ends.

    Raises:
        UserError: It is missing, or the store does not answer; after the last line, its content is not what the
            manifest says.
    """
    if name not in artifact.files:
        refuse_damaged(artifact, [name])
    size, hashed, rest = artifact.files[name]["bytes"], hashlib.sha256(), b""
    with ranged(artifact) as read:
        for at in range(0, size, _PIECE):
            piece = read(name, at, min(_PIECE, size - at))
            hashed.update(piece)
            *whole, rest = (rest + piece).split(b"\n")
            yield from whole
    if rest:
        yield rest
    if hashed.hexdigest() != artifact.files[name]["sha256"]:
        refuse_damaged(artifact, [name])


def verify(artifact: Artifact) -> list[str]:
    """Files that are missing, or whose content is not what the manifest says; every byte is read from the store.

    Raises:
        Unavailable: The store does not answer.
    """
    store, folder = locate(artifact.uri)
    return [name for name, facts in artifact.files.items() if _hashed(store, f"{folder}/{name}") != facts["sha256"]]


def _hashed(store: Store, key: str) -> str:
    """SHA-256 of an object; empty where there is none, or another one by the end of the reading."""
    hashed = [hashlib.sha256()]

    def write(at: int, piece: bytes) -> None:
        if at == 0:  # each try begins so
            hashed[0] = hashlib.sha256()
        hashed[0].update(piece)

    try:
        size, version = store.version(key)
        store.read_range(key, version, 0, size, write)
    except FileNotFoundError:
        return ""
    return hashed[0].hexdigest()


def read_range(artifact: Artifact, name: str, start: int, length: int) -> bytes:
    """Part of a file of an artifact, such as a header of weights; only `fetch` checks it against the manifest.

    Args:
        artifact: Has the file.
        name: The file.
        start: First byte.
        length: Number of bytes.

    Raises:
        UserError: The file is missing or shorter, or the store does not answer.
    """
    with ranged(artifact) as read:
        return read(name, start, length)


@contextmanager
def ranged(artifact: Artifact) -> Iterator[Callable[[str, int, int], bytes]]:
    """`read_range` of one artifact, for several threads: the end of the block ends what they still read.

    Threads must be started and left inside of it: an error or an interrupt would else wait for their retries.
    """
    store, folder = locate(artifact.uri)
    ended = threading.Event()

    def read(name: str, start: int, length: int) -> bytes:
        data = bytearray(length)

        def write(at: int, piece: bytes) -> None:
            if ended.is_set():
                raise CancelledError
            data[at : at + len(piece)] = piece

        try:
            store.read_range(f"{folder}/{name}", "", start, length, write)
        except FileNotFoundError:
            refuse_damaged(artifact, [name])
        return bytes(data)

    try:
        yield read
    finally:
        ended.set()


def locate(uri: str) -> tuple[Store, str]:
    """The store of an artifact, and its name there.

    Raises:
        UserError: As `open_store`, or the URI is empty.
    """
    if not uri.strip("/"):  # most often a variable of the shell that is not set
        raise UserError(
            "the address of an artifact is empty",
            reason=f"given was '{uri}'",
            fix="give the URI that a finished step printed",
        )
    root, slash, name = uri.rstrip("/").rpartition("/")
    return open_store(root or slash or "."), name


def refuse_damaged(artifact: Artifact, damaged: list[str]) -> None:
    """Raise a UserError where any files are."""
    if damaged:
        raise UserError(
            f"{artifact.uri} is damaged",
            reason="these files are missing or differ from the manifest",
            fix="delete the artifact's folder and run the step again",
            problems=damaged,
        )


def manifest(artifact: Artifact) -> dict[str, Any]:
    """The content of its `manifest.json`."""
    return {"digest": artifact.digest, "kind": artifact.kind, "files": artifact.files, "counts": artifact.counts}


def as_json(value: Mapping[str, Any]) -> bytes:
    """As the files of an artifact hold it."""
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
