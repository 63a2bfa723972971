"""The list of erased patients, which every build leaves out; it holds no identifiers, only HMACs of them.

    STORE/erased/key                created once, at random
    STORE/erased/patients/MARK      one empty object a patient; MARK is the HMAC-SHA256 of the identifier under the key
    STORE/erased/records/N.json     what each erasure removed and marked; see `medmim.housekeeping.erase`

Without access to the store a mark reveals nothing. With access, a guessed identifier can be tested, as a build must do.
Only the identifier counts, not the source: patients of two sources with equal identifiers are erased together.
"""

import hashlib
import hmac
import io
import json
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace

from medmim.data.sources.source import Source
from medmim.progress import say
from medmim.sample import digest_of
from medmim.store import Store, open_store

FOLDER = "erased"
_KEY, _PATIENTS = f"{FOLDER}/key", f"{FOLDER}/patients/"


@dataclass(frozen=True)
class Erased:
    """The list; `patient in erased` says whether a patient is on it."""

    key: bytes = b""
    marks: frozenset[str] = frozenset()

    def __contains__(self, patient: str) -> bool:
        return bool(self.marks) and any(mark(self.key, name) in self.marks for name in _spellings(patient))

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


def _spellings(patient: str) -> tuple[str, ...]:
    """The id, and its forms as a float: earlier versions did not read `1.0` as `1`, and erased it under that name."""
    return (patient, f"{patient}.0", f"{patient}.") if patient.isdecimal() else (patient,)


def leave_out(source: Source, erased: Erased) -> Source:
    """The source without the erased patients; `facts["erased"]` counts the patients, studies and samples left out."""
    if not erased.marks:
        return source
    studies, samples = source.studies or [], source.samples or []
    named = {study.patient for study in studies} | {name for sample in samples for name in sample.patients}
    left_out = {patient for patient in named if patient in erased}
    left = [study for study in studies if study.patient not in left_out]
    asked = [sample for sample in samples if not left_out.intersection(sample.patients)]
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
    """Patients of a published data set, those of quarantined rows included; its images are not read.

    A data set of an earlier version may hold `1.0` for the patient `1`: then both are named.

    Args:
        place: The store.
        name: `data/DIGEST`.
    """
    import pyarrow.parquet as pq

    found: set[str] = set()
    for key in place.list(f"{name}/samples/"):
        column = pq.read_table(io.BytesIO(place.read(key)), columns=["patients"]).column("patients")
        found.update(column.combine_chunks().flatten().unique().to_pylist())
    try:
        lines = place.read(f"{name}/quarantine.jsonl").split(b"\n")
    except FileNotFoundError:
        lines = []
    found |= {json.loads(line)["key"] for line in lines if line}
    return found | {name.partition(".")[0] for name in found if re.fullmatch(r"\d+\.0*", name)}
