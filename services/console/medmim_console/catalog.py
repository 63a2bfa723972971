"""What a store holds of one kind, newest first, a page at a time; what never changes is read once."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Generic, TypeVar

from medmim import store
from medmim.errors import UserError
from medmim.run.provenance import recorded
from medmim.run.workspace import Workspace
from medmim_console.site import PER_PAGE

T = TypeVar("T")
_KEPT = 5.0  # s


@dataclass(frozen=True)
class Listing(Generic[T]):
    """A page of a list.

    Attributes:
        rows: Of this page.
        number: Of the page, from 1.
        more: Whether there are further ones.
        total: Rows of all pages; None where nobody counts them.
    """

    rows: tuple[T, ...]
    number: int
    more: bool
    total: int | None = None

    @property
    def pages(self) -> int:
        """How many there are."""
        return max(1, math.ceil((self.total or 0) / PER_PAGE))


@dataclass(frozen=True)
class Made:
    """An artifact in a list.

    Attributes:
        uri: Its address.
        digest: Of its content.
        time: When it was made, by its provenance; without, when it came into the store, by the store's clock.
        provenance: See `run.provenance`; empty where it has none.
        counts: Of its manifest.
        trouble: Why it cannot be read; empty where it can.
        doubt: Why its provenance, or a part of it, cannot be; likewise.
    """

    uri: str
    digest: str
    time: datetime
    provenance: Mapping[str, Any]
    counts: Mapping[str, Any]
    trouble: str = ""
    doubt: str = ""

    @property
    def recipe(self) -> str:
        """The name of the recipe it was made by; empty without."""
        return str((self.provenance.get("recipe") or {}).get("name", ""))


def artifacts(ws: Workspace, kind: str, number: int = 1) -> Listing[Made]:
    """The artifacts of a kind, the last that came into the store first; without a manifest, an artifact does not exist.

    A copy of a store keeps their times, and not this order: for that, a file of each would be read.

    Raises:
        Unavailable: The store does not answer.
    """
    return _page(ws, kind, _listed(ws.store, kind), number)


def recent(ws: Workspace, kind: str, number: int = 1) -> Listing[Made]:
    """As `artifacts`, up to some seconds ago: for what a page offers besides what it shows.

    In a bucket each listing is as many requests as there are thousands of objects of the kind.

    Raises:
        Unavailable: The store does not answer.
    """
    return _page(ws, kind, _listed_then(ws.store, kind, int(time.monotonic() / _KEPT)), number)


def cut(rows: list[T], number: int) -> Listing[T]:
    """A page of a list that is in memory."""
    begin = (number - 1) * PER_PAGE
    return Listing(tuple(rows[begin : begin + PER_PAGE]), number, begin + PER_PAGE < len(rows), len(rows))


def _listed(uri: str, kind: str) -> tuple[tuple[str, float], ...]:
    """Digest of each artifact and when it came into the store, the last one first."""
    whole = store.open_store(uri).times(f"{kind}/", store.MANIFEST)
    return tuple(sorted(whole.items(), key=lambda one: (-one[1], one[0])))


@lru_cache(maxsize=4)
def _listed_then(uri: str, kind: str, then: int) -> tuple[tuple[str, float], ...]:
    return _listed(uri, kind)


def _page(ws: Workspace, kind: str, newest: Sequence[tuple[str, float]], number: int) -> Listing[Made]:
    begin = (number - 1) * PER_PAGE
    rows = tuple(_made(ws, f"{kind}/{name}", age) for name, age in newest[begin : begin + PER_PAGE])
    return Listing(rows, number, begin + PER_PAGE < len(newest), len(newest))


def _made(ws: Workspace, key: str, age: float) -> Made:
    uri, published = f"{ws.store}/{key}", datetime.fromtimestamp(age, UTC)
    try:
        counts, record, doubt = _read(uri, age)
    except UserError as error:
        if error.exit_code != 2:
            raise
        return Made(uri, key.rpartition("/")[2], published, {}, {}, error.fact)
    return Made(uri, key.rpartition("/")[2], _time(record.get("time")) or published, record, counts, "", doubt)


def _time(text: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(text))
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


@lru_cache(maxsize=2048)
def _read(uri: str, age: float) -> tuple[Mapping[str, Any], Mapping[str, Any], str]:
    """What never changes of an artifact, unless it is removed and published again: then it has another age."""
    artifact = store.get(uri)
    return artifact.counts, *recorded(artifact)
