"""Artifacts by URI: `store.publish`, `store.find`, `store.fetch`; a store is a folder, `file://` or `s3://`."""

from medmim.store.artifact import (
    PROVENANCE,
    Artifact,
    content_digest,
    file_digest,
    file_facts,
    find,
    get,
    lines,
    publish,
    ranged,
    read_file,
    read_range,
    scan,
    seal,
    verify,
)
from medmim.store.copies import discard, fetch, sweep
from medmim.store.interface import Store, open_store
from medmim.store.removal import MANIFEST

__all__ = [
    "MANIFEST",
    "PROVENANCE",
    "Artifact",
    "Store",
    "content_digest",
    "discard",
    "fetch",
    "file_digest",
    "file_facts",
    "find",
    "get",
    "lines",
    "open_store",
    "publish",
    "ranged",
    "read_file",
    "read_range",
    "scan",
    "seal",
    "sweep",
    "verify",
]
