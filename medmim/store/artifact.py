"""Artifacts: a folder of files published to a store as a whole, addressed by the digest of its content.

A `manifest.json` is written last; without it the artifact does not exist. The digest covers paths and contents only, so
a folder and S3 give equal digests. The address contains the digest: publishing the same bytes twice is publishing once.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmim.errors import UserError, from_os_error
from medmim.store.folder import PART, FolderStore, check_key, write_atomically
from medmim.store.interface import Store, open_store
from medmim.store.removal import MANIFEST, claim

PROVENANCE = "provenance.json"


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
        counts: What a reader wants to know without opening a file. Facts of the content only; not in the digest.
        provenance: Recipe, code, parents, time; not in the digest.

    Raises:
        UserError: The store refuses or the disk is full.
    """
    files = scan(folder)
    digest = content_digest(files)
    store = open_store(store_uri)
    prefix = f"{kind}/{digest}"
    artifact = Artifact(f"{store.uri}/{prefix}", digest, kind, files, dict(counts))

    claim(store, prefix)
    existing = find(artifact.uri)
    if existing is not None:
        return existing

    for name in files:
        store.upload(f"{prefix}/{name}", folder / name)
    store.write(f"{prefix}/{PROVENANCE}", _json(provenance))
    store.create(f"{prefix}/{MANIFEST}", _json(_manifest(artifact)))
    return artifact


def find(uri: str) -> Artifact | None:
    """The artifact at a URI, or None where there is no manifest.

    Raises:
        UserError: The manifest is damaged.
    """
    store, name = _store_and_name(uri)
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
            uri=f"{store.uri}/{name}",
            digest=manifest["digest"],
            kind=manifest["kind"],
            files=manifest["files"],
            counts=manifest["counts"],
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
        UserError: There is no manifest: nothing was published there, or it is damaged.
    """
    artifact = find(uri)
    if artifact is None:
        raise UserError(
            f"there is no artifact at {uri}",
            reason=f"it has no {MANIFEST}: the address is wrong, or the step that writes it did not finish",
            fix="give the URI that a finished step printed",
        )
    return artifact


def fetch(artifact: Artifact, cache: Path) -> Path:
    """A local folder with the artifact's files, checked against the manifest.

    A folder store is read in place; a file that changed after the manifest was written is checked by its SHA-256. From
    S3, files are copied below `cache`, once for each digest, and checked as they are copied.

    Raises:
        UserError: A file is missing or its content is not what the manifest says; names them all.
    """
    store, name = _store_and_name(artifact.uri)
    if isinstance(store, FolderStore):
        folder = store.root / name
        _refuse_damaged(artifact, _changed_files(artifact, folder))
        return folder

    copy = cache / artifact.digest
    try:
        if copy.is_dir() and not _changed_files(artifact, copy):
            return copy
        shutil.rmtree(copy, ignore_errors=True)
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=PART, dir=cache, ignore_cleanup_errors=True) as parent:
            part = Path(parent) / artifact.digest
            _refuse_damaged(artifact, _download(artifact, store, name, part))
            write_atomically(part / MANIFEST, [_json(_manifest(artifact))])
            try:
                part.rename(copy)
            except OSError:  # another process was first; both copies are equal
                if not copy.is_dir():
                    raise
    except OSError as error:
        raise from_os_error(error, f"copying {artifact.uri} to {cache}") from None
    return copy


def verify(artifact: Artifact, cache: Path) -> list[str]:
    """Files whose content no longer has the SHA-256 of the manifest; every byte is read again."""
    folder = fetch(artifact, cache)
    return [name for name, facts in artifact.files.items() if file_digest(folder / name) != facts["sha256"]]


def _store_and_name(uri: str) -> tuple[Store, str]:
    root, slash, name = uri.rstrip("/").rpartition("/")
    return open_store(root or slash or "."), name


def _changed_files(artifact: Artifact, folder: Path) -> list[str]:
    """Files that are missing or differ from the manifest.

    The manifest is the last file written, so only files that are younger have to be hashed.
    """
    try:
        published = (folder / MANIFEST).stat().st_mtime_ns
    except FileNotFoundError:
        return list(artifact.files)
    changed = []
    for name, facts in artifact.files.items():
        try:
            stat = (folder / name).stat()
        except (FileNotFoundError, NotADirectoryError):
            changed.append(name)
            continue
        touched = stat.st_mtime_ns >= published
        if stat.st_size != facts["bytes"] or (touched and file_digest(folder / name) != facts["sha256"]):
            changed.append(name)
    return changed


def _download(artifact: Artifact, store: Store, name: str, folder: Path) -> list[str]:
    """Download every file; returns the names of those that are missing or differ from the manifest."""
    folder.mkdir()
    damaged = []
    for file, facts in artifact.files.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            store.download(f"{name}/{file}", path)
        except FileNotFoundError:
            damaged.append(file)
            continue
        if file_digest(path) != facts["sha256"]:
            damaged.append(file)
    return damaged


def _refuse_damaged(artifact: Artifact, damaged: list[str]) -> None:
    if damaged:
        raise UserError(
            f"{artifact.uri} is damaged",
            reason="these files are missing or differ from the manifest",
            fix="delete the artifact's folder and run the step again",
            problems=damaged,
        )


def _manifest(artifact: Artifact) -> dict[str, Any]:
    return {"digest": artifact.digest, "kind": artifact.kind, "files": artifact.files, "counts": artifact.counts}


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
