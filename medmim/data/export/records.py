"""The record of every export: where it went, what is in it, who wrote it; and whose rows, without any name.

    STORE/exports/key                created once, at random
    STORE/exports/ID/rows.json       mark of a patient -> ids of the rows that show them; a mark is the HMAC-SHA256 of
                                     POPULATION/IDENTIFIER under the key
    STORE/exports/ID/record.json     the rest, written last
    STORE/exports/places/DIGEST      a machine and a place there, created before anything is written into or beside it

An export is recorded before its folder is in its place, so that none is there without its record; what one that was
killed before leaves is found by its place.
"""

import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from platform import node
from typing import Any
from uuid import uuid4

from medmim import __version__, terms
from medmim.data import erased, people
from medmim.data.export import folder as folders
from medmim.errors import UserError
from medmim.run.person import current_user
from medmim.sample import Sample, digest_of
from medmim.store import Store, open_store
from medmim.terms import Terms

FOLDER = "exports"
_KEY, _PLACES, _RECORD, _ROWS = f"{FOLDER}/key", f"{FOLDER}/places/", "record.json", "rows.json"


@dataclass(frozen=True)
class Record:
    """An export that was written.

    Attributes:
        id: Names the record.
        time: When, in UTC.
        who: The user who wrote it.
        host: The machine on which it was written.
        folder: Where, there.
        form: For what: a format of `medmim.data.export.run` or of `medmim.bench.export.run`.
        data: Digest of the data set.
        rows: How many.
        patients: How many are in them.
        populations: Of the patients.
        private: Whether the terms of use forbid passing it on.
        mark: SHA-256 of the folder's `export.json`.
        medmim: The version that wrote it.
        named: Whether its files name patients, as those of the published form do.
    """

    id: str
    time: str
    who: str
    host: str
    folder: str
    form: str
    data: str
    rows: int
    patients: int
    populations: tuple[str, ...]
    private: bool
    mark: str
    medmim: str
    named: bool = False


def refuse_forbidden(allowed: Terms, in_house: bool) -> None:
    """Refuse to export what must not be passed on.

    Args:
        allowed: Terms of the data set.
        in_house: The folder stays with those who may have the data.

    Raises:
        UserError: The terms forbid passing it on, and it does not stay in house.
    """
    why = terms.reasons(allowed, ["redistribute_data"])
    if why and not in_house:
        raise UserError(
            "the terms of this data set forbid passing it on",
            reason="; ".join(why),
            fix="if the folder stays with those who may have the data, say so with --in-house: it is recorded",
        )


def write(
    store_uri: str,
    folder: Path,
    form: str,
    data: str,
    samples: Iterable[Sample],
    private: bool,
    mark: str,
    named: bool = False,
) -> Record:
    """Record an export.

    Args:
        store_uri: The store of the data set.
        folder: Where the export will be.
        form: For what.
        data: Digest of the data set.
        samples: Its rows.
        private: Whether the terms of use forbid passing it on.
        mark: The text of its `export.json`.
        named: Whether its files name patients.
    """
    place = open_store(store_uri)
    place.create(_KEY, secrets.token_hex(32).encode())  # an existing key is kept
    key = place.read(_KEY)
    rows: dict[people.Identity, list[str]] = {}
    count = 0
    for sample in samples:
        count += 1
        for who in people.of_sample(sample):
            rows.setdefault(who, []).append(sample.id)
    record = Record(
        id=uuid4().hex[:12],
        time=datetime.now(UTC).isoformat(timespec="microseconds"),  # two of one second have an order, too
        who=current_user(),
        host=node(),
        folder=str(folder),
        form=form,
        data=data,
        rows=count,
        patients=len(rows),
        populations=tuple(sorted({population for population, _ in rows})),
        private=private,
        mark=hashlib.sha256(mark.encode()).hexdigest(),
        medmim=__version__,
        named=named,
    )
    marked = {erased.mark(key, "/".join(who)): ids for who, ids in rows.items()}
    place.write(f"{FOLDER}/{record.id}/{_ROWS}", json.dumps(marked, sort_keys=True).encode())
    place.write(f"{FOLDER}/{record.id}/{_RECORD}", json.dumps(asdict(record), indent=1).encode())
    return record


def announce(store_uri: str, folder: Path) -> None:
    """Note where an export is going to be, before any picture is written.

    Args:
        store_uri: The store of the data set.
        folder: Where the export will be.
    """
    where = {"host": node(), "folder": str(folder.absolute())}
    open_store(store_uri).create(f"{_PLACES}{digest_of(where.values())}", json.dumps(where).encode())


def places(place: Store, records: Iterable[Record]) -> list[Path]:
    """Where exports of this machine are, were or were going to be.

    Args:
        place: The store.
        records: All of it; earlier versions announced nothing.
    """
    said = [json.loads(place.read(key)) for key in place.list(_PLACES)]
    found = {one["folder"] for one in said if one["host"] == node()}
    return sorted(map(Path, found | {one.folder for one in records if one.host == node()}))


def load(place: Store) -> list[Record]:
    """The records of a store, the newest first; a record that a newer medmim wrote is read as far as it is known."""
    found = []
    for key in place.list(f"{FOLDER}/"):
        if key.endswith(f"/{_RECORD}"):
            said = json.loads(place.read(key))
            values = {field.name: said.get(field.name, "") for field in fields(Record)}
            known = {"populations": tuple(said.get("populations", ())), "named": said.get("named", False)}
            found.append(Record(**{**values, **known}))
    return sorted(found, key=lambda one: (one.time, one.id), reverse=True)


def states(records: Sequence[Record]) -> dict[str, str]:
    """What became of exports, as far as this machine can see; id -> one of four words.

    `here`: the folder is on this machine with what was written. `replaced`: a later export is recorded in its place.
    `gone`: it was written on this machine, and its folder is no longer there, or holds something else. `elsewhere`:
    it was written on another machine.

    Args:
        records: All of a store, the newest first.
    """
    found: dict[str, str] = {}
    taken: set[tuple[str, str]] = set()
    for one in records:
        try:
            mark = hashlib.sha256((Path(one.folder) / folders.MARK).read_bytes()).hexdigest()
        except OSError:
            mark = ""
        if (one.host, one.folder) in taken:
            found[one.id] = "replaced"
        elif mark == one.mark:
            found[one.id] = "here"
        else:
            found[one.id] = "gone" if one.host == node() else "elsewhere"
        if found[one.id] != "gone":  # a record whose folder never came to its place replaces nothing
            taken.add((one.host, one.folder))
    return found


def holding(
    place: Store, records: Iterable[Record], patients: Iterable[str]
) -> tuple[dict[str, tuple[str, ...]], set[people.Identity]]:
    """Which exports hold patients.

    Args:
        place: The store of the records.
        records: Those to look through.
        patients: Identifiers as they are given to an erasure: those of all populations, or POPULATION/IDENTIFIER.

    Returns:
        Id of a record -> ids of the rows that show any of them; the patients that were found.
    """
    given = list(patients)
    rows: dict[str, tuple[str, ...]] = {}
    known: set[people.Identity] = set()
    key = b""
    for one in records:
        key = key or place.read(_KEY)
        try:
            marks: Mapping[str, Any] = json.loads(place.read(f"{FOLDER}/{one.id}/{_ROWS}"))
        except FileNotFoundError:
            continue
        who = {who for patient in given for who in _meant(patient, one.populations)}
        inside = {one: marks[mark] for one in who if (mark := erased.mark(key, "/".join(one))) in marks}
        known |= inside.keys()
        if inside:
            rows[one.id] = tuple(sorted({row for ids in inside.values() for row in ids}))
    return rows, known


def _meant(patient: str, populations: Iterable[str]) -> set[people.Identity]:
    """The patients of some populations that an identifier may mean; the inverse of `erased.spellings`."""
    found: set[people.Identity] = set()
    for population in populations:
        name = patient.removeprefix(f"{population}/")
        spelled = {name, f"{name}.0"} if re.fullmatch(r"p?\d+", name) else {name}
        every = {people.identity(population, form) for form in spelled}
        found |= {who for who in every if patient in erased.spellings(who)}
    return found
