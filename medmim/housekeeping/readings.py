"""Which digests the small objects of a store name: each is read once, and what it said is kept in the store.

    STORE/removing/inventory.json.gz    what was read, below the folder that no step may write

A store holds ten thousand records, of which none changes. What was written within the last minutes is read each time: a
store that tells seconds only may show two contents of one second as one.
"""

import gzip
import json
import re
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from medmim import progress, store
from medmim.data.words import book
from medmim.errors import UserError
from medmim.sample import digest_of
from medmim.store.removal import INVENTORY

_DIGEST = re.compile(r"[0-9a-f]{64}")
_SETTLED = 600.0  # s
_AT_ONCE = 16  # requests
_MANY = 500  # reading so many takes seconds in S3
_FORM = 1  # of the file

Ages = Mapping[str, tuple[float, int]]  # key -> (s since 1970, bytes), as `Store.ages` gives it


@dataclass(frozen=True)
class Reading:
    """What an object says.

    Attributes:
        digests: That it names.
        recipe: Of a provenance, as it was dumped; empty where there is none.
        imported: A provenance that no step wrote.
    """

    digests: frozenset[str] = frozenset()
    recipe: Mapping[str, Any] = field(default_factory=dict)
    imported: bool = False


@dataclass
class Readings:
    """The objects of a store, as they were listed.

    Attributes:
        place: The store.
        ages: What it lists.
        found: Key -> when it was written, its size, what it says.
        new: Something was read that the store does not keep yet.
    """

    place: store.Store
    ages: Ages
    found: dict[str, tuple[float, int, Reading]] = field(default_factory=dict)
    new: bool = False

    def read(self, keys: Iterable[str]) -> list[Reading]:
        """What objects say; empty for one that does not exist."""
        wanted = list(keys)
        unread = [key for key in dict.fromkeys(wanted) if key in self.ages and not self._is_known(key)]
        if len(unread) > _MANY:
            progress.say(f"reading {len(unread):,} records")
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for key, text in zip(unread, pool.map(self._text, unread), strict=True):
                self.found[key] = (*self.ages[key], _reading(text, key.endswith(f"/{store.PROVENANCE}")))
        self.new |= bool(unread)
        return [self.found[key][2] if key in self.ages else Reading() for key in wanted]

    def digests(self, keys: Iterable[str]) -> set[str]:
        """Every digest that objects name."""
        return set().union(*(one.digests for one in self.read(keys)))

    def keep(self) -> None:
        """Leave in the store what was read; who may not write there reads it again."""
        settled = time.time() - _SETTLED
        kept = {key: row for key, row in self.found.items() if row[0] < settled and self._is_known(key)}
        if self.new and len(kept) >= _MANY:
            with suppress(UserError):
                self.place.write(INVENTORY, _packed(kept))

    def _is_known(self, key: str) -> bool:
        known = self.found.get(key)
        return known is not None and known[:2] == self.ages.get(key)

    def _text(self, key: str) -> str:
        return read_text(self.place, key)


def of(place: store.Store, ages: Ages) -> Readings:
    """The readings of a store, with what an earlier command has read of it."""
    found: dict[str, tuple[float, int, Reading]] = {}
    if INVENTORY in ages:
        with suppress(OSError, EOFError, ValueError, LookupError, TypeError, AttributeError):  # of another form
            found = _unpacked(place.read(INVENTORY))
    return Readings(place, ages, found)


def digests(text: str) -> set[str]:
    """Every digest that a text names."""
    return set(_DIGEST.findall(text))


def read_text(place: store.Store, key: str) -> str:
    """An object as text; empty where it does not exist."""
    try:
        return place.read(key).decode(errors="replace")
    except FileNotFoundError:
        return ""


def _reading(text: str, is_provenance: bool) -> Reading:
    recipe: Mapping[str, Any] = {}
    imported = False
    if is_provenance:
        with suppress(ValueError, AttributeError):  # edited by hand
            record = json.loads(text)
            recipe, imported = record.get("recipe") or {}, record.get("step") in ("import", book.KIND)
    return Reading(frozenset(digests(text)), recipe, imported)


def _packed(found: Mapping[str, tuple[float, int, Reading]]) -> bytes:
    """As a file: digests and recipes once each."""
    numbers: dict[str, int] = {}
    recipes: dict[str, Mapping[str, Any]] = {}
    rows = {}
    for key, (when, size, reading) in found.items():
        named = [numbers.setdefault(digest, len(numbers)) for digest in sorted(reading.digests)]
        recipe = digest_of([json.dumps(reading.recipe, sort_keys=True)]) if reading.recipe else ""
        recipes.setdefault(recipe, reading.recipe)
        rows[key] = [when, size, named, recipe, reading.imported]
    document = {"form": _FORM, "digests": list(numbers), "recipes": recipes, "read": rows}
    return gzip.compress(json.dumps(document).encode(), 1)


def _unpacked(data: bytes) -> dict[str, tuple[float, int, Reading]]:
    document = json.loads(gzip.decompress(data))
    if document["form"] != _FORM:
        raise ValueError(document["form"])
    named, recipes = document["digests"], document["recipes"]
    return {
        key: (when, size, Reading(frozenset(named[n] for n in numbers), recipes[recipe], imported))
        for key, (when, size, numbers, recipe, imported) in document["read"].items()
    }
