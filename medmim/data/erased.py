"""The list of erased patients, which every build leaves out; it holds no identifiers, only HMACs of them.

    STORE/erased/key                created once, at random
    STORE/erased/patients/MARK      one empty object a patient; MARK is the HMAC-SHA256 of POPULATION/IDENTIFIER under
                                    the key, and another of the identifier as it was requested
    STORE/erased/records/N.json     what each erasure removed and marked; see `medmim.housekeeping.erase`

Without access to the store a mark reveals nothing. With access, a guessed identifier can be tested, as a build must do.
A patient is erased from every data set of a population (`people`). Earlier versions marked the identifier alone: such a
mark counts for every source.
"""

import hashlib
import hmac
import io
import json
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace

from medmim.data import people
from medmim.data.sources.source import Source
from medmim.progress import say
from medmim.sample import digest_of
from medmim.store import Store, open_store

FOLDER = "erased"
_KEY, _PATIENTS = f"{FOLDER}/key", f"{FOLDER}/patients/"


@dataclass(frozen=True)
class Erased:
    """The list; `patient in erased` says whether an identifier was erased as it is given."""

    key: bytes = b""
    marks: frozenset[str] = frozenset()

    def __contains__(self, patient: str) -> bool:
        return self._marked(*_spellings(patient), *map(requested, _spellings(patient)))

    def holds(self, source: str, patient: str) -> bool:
        """Whether a patient of a data set is erased."""
        population, name = people.identity(source, patient)
        return self._marked(*_spellings(patient), *(f"{population}/{form}" for form in _spellings(name)))

    def _marked(self, *names: str) -> bool:
        return bool(self.marks) and any(mark(self.key, name) in self.marks for name in names)

    @property
    def parents(self) -> dict[str, str]:
        """The parent that erasures add to a build; none while the list is empty."""
        return {"erased": digest_of(sorted(self.marks))} if self.marks else {}


def load(store_uri: str) -> Erased:
    """The list of a store."""
    place = open_store(store_uri)
    marks = frozenset(key.removeprefix(_PATIENTS) for key in place.list(_PATIENTS))
    return Erased(place.read(_KEY), marks) if marks else Erased()


def add(store_uri: str, patients: Iterable[str]) -> Erased:
    """Add patients to the list; returns the new list."""
    place = open_store(store_uri)
    place.create(_KEY, secrets.token_hex(32).encode())  # an existing key is kept
    key = place.read(_KEY)
    for patient in patients:
        place.write(_PATIENTS + mark(key, patient), b"")
    return load(store_uri)


def mark(key: bytes, patient: str) -> str:
    """The mark of a patient on the list."""
    return hmac.new(key, patient.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def requested(patient: str) -> str:
    """What is marked of an identifier as it was given, so that a killed erasure is known when it is repeated."""
    return f"requested: {patient}"


def _spellings(patient: str) -> tuple[str, ...]:
    """The id, and its forms as a float: earlier versions did not read `1.0` as `1`, and erased it under that name."""
    return (patient, f"{patient}.0", f"{patient}.") if patient.isdecimal() else (patient,)


def leave_out(source: Source, erased: Erased) -> Source:
    """The source without the erased patients; `facts["erased"]` counts the patients, studies and samples left out."""
    if not erased.marks:
        return source
    studies, samples = source.studies or [], source.samples or []
    named = {(study.source, study.patient) for study in studies}
    named |= {(sample.source, name) for sample in samples for name in sample.patients}
    left_out = {people.identity(*names) for names in named if erased.holds(*names)}
    left = [study for study in studies if people.of(study) not in left_out]
    asked = [sample for sample in samples if left_out.isdisjoint(people.of_sample(sample))]
    counts = {"patients": len(left_out), "studies": len(studies) - len(left), "samples": len(samples) - len(asked)}
    if left_out:
        say(f"left out {counts['patients']:,} erased patients: {counts['studies'] or counts['samples']:,} rows")
    return replace(
        source,
        studies=None if source.studies is None else left,
        samples=None if source.samples is None else asked,
        facts={**source.facts, "erased": counts},
    )


def patients_of(place: Store, name: str) -> set[str]:
    """Identifiers of the patients of a published data set, those of quarantined rows included.

    A data set of an earlier version may hold `1.0` for the patient `1`: then both are named.

    Args:
        place: The store.
        name: `data/DIGEST`.
    """
    found = {name for _, name in identities_of(place, name)}
    return found | {name.partition(".")[0] for name in found if re.fullmatch(r"\d+\.0*", name)}


def spellings(who: people.Identity) -> set[str]:
    """How a patient of a data set may be given: the identifier, also as a float, or POPULATION/IDENTIFIER."""
    population, name = who
    names = {name, name.partition(".")[0]} if re.fullmatch(r"\d+\.0*", name) else {name}
    names |= {f"p{name}" for name in names if population == "mimic"}
    return names | {f"{population}/{name}" for name in names if population}


def identities_of(place: Store, name: str) -> set[people.Identity]:
    """Patients of a published data set; its images are not read. Those of quarantined rows have no population.

    Args:
        place: The store.
        name: `data/DIGEST`.
    """
    import pyarrow.parquet as pq

    found: set[people.Identity] = set()
    for key in place.list(f"{name}/samples/"):
        table = pq.read_table(io.BytesIO(place.read(key)), columns=["source", "patients"])
        named = {(row["source"], patient) for row in table.to_pylist() for patient in row["patients"]}
        found.update(people.identity(*names) for names in named)
    try:
        lines = place.read(f"{name}/quarantine.jsonl").split(b"\n")
    except FileNotFoundError:
        lines = []
    return found | {("", json.loads(line)["key"]) for line in lines if line}
