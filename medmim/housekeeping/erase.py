"""Erasing a patient: what holds or descends from them, taking it away, and how to make the rest anew."""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from medmim import store
from medmim.data import erased
from medmim.errors import UserError
from medmim.housekeeping import inventory
from medmim.housekeeping.inventory import Held
from medmim.progress import bar
from medmim.run.provenance import current_user
from medmim.run.workspace import Workspace
from medmim.store.removal import finish, remove

Does = Literal["removed", "marked"]


@dataclass(frozen=True)
class Affected:
    """An artifact that an erasure concerns.

    Attributes:
        name: `KIND/DIGEST`.
        recipe: Name of its recipe; empty where none is known.
        why: `holds` rows of the patient, `may show` pictures (a report), or `descends` from what holds them.
        does: What becomes of it.
        note: Why it stays though descendants were to be removed; else empty.
    """

    name: str
    recipe: str
    why: Literal["holds", "may show", "descends"]
    does: Does
    note: str = ""


@dataclass(frozen=True)
class Erasure:
    """What is to be done.

    Attributes:
        artifacts: All that hold or descend.
        rebuild: The recipes that made them, as they were dumped, with the artifacts that each made.
        runs: Runs whose records name one of them.
        resume: Folders of trainings that did not end; they may hold rows, and nobody can tell whose.
    """

    artifacts: tuple[Affected, ...]
    rebuild: tuple[Mapping[str, Any], ...]
    runs: tuple[str, ...]
    resume: tuple[str, ...]


def plan(ws: Workspace, patients: Sequence[str], descendants: Does = "marked") -> Erasure:
    """What holds or descends from patients.

    Args:
        ws: The workspace.
        patients: Identifiers, as the data sets have them.
        descendants: What becomes of the descendants. What a decision or a registered version names is never removed,
            data sets that hold the patient and reports always are.

    Raises:
        UserError: A patient is in no data set and was not erased before. No identifier is told.
    """
    place = store.open_store(ws.store)
    ages = place.ages()
    held = inventory.look(place, ages)
    holders, known = _holders(place, held.values(), set(patients))
    before = erased.load(ws.store)
    unknown = [i for i, patient in enumerate(patients, 1) if patient not in known and patient not in before]
    if unknown:
        raise UserError(
            f"{len(unknown)} of {len(patients)} patients are in no data set of {ws.store}",
            reason="an identifier must be written as the data sets have it; none is shown here, not even a near one",
            fix="look at the source that the data was built from; nothing was changed",
            problems=[f"the patient given as number {i}" for i in unknown],
        )
    tainted = inventory.with_descendants(held.values(), {own.digest for own in holders})
    runs = inventory.below("runs", ages)
    records = {run: inventory.named_in(place, run, ages) for run in runs}
    touched = [run for run, names in records.items() if names & tainted]
    shown = set().union(*(records[run] for run in touched))
    roots = inventory.roots(ws, runs)
    found = []
    for own in held.values():
        if own in holders:
            found.append(Affected(own.name, own.recipe_name, "holds", "removed"))
        elif own.kind == "report" and own.digest in shown | tainted:
            found.append(Affected(own.name, own.recipe_name, "may show", "removed"))
        elif own.digest in tainted:
            by = next((kind for kind, names in roots.items() if own.digest in names), "")
            stays = f"a {by} names it" if by and descendants == "removed" else ""
            found.append(Affected(own.name, own.recipe_name, "descends", "marked" if stays else descendants, stays))
    concerned = [held[one.name] for one in found]
    resume = tuple(inventory.below("resume", ages))
    return Erasure(tuple(found), tuple(_recipes(concerned)), tuple(touched), resume)


def erase(ws: Workspace, patients: Sequence[str], what: Erasure, why: str) -> dict[str, Any]:
    """Do it: the list first, then the record, then the removals. Killed on the way, the same command ends it.

    Args:
        ws: The workspace; copies in its cache and its reports go too.
        patients: Identifiers.
        what: Their `plan`.
        why: A sentence for the record. No identifier belongs into it.

    Returns:
        The record: n, time, who, why, patients (their number), marks, removed, marked, rebuild.
    """
    place = store.open_store(ws.store)
    known = erased.add(ws.store, patients)
    record: dict[str, Any] = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "who": current_user(),
        "why": why,
        "patients": len(set(patients)),
        "marks": sorted({erased.mark(known.key, patient) for patient in patients}),
        "removed": [asdict(one) for one in what.artifacts if one.does == "removed"],
        "marked": [asdict(one) for one in what.artifacts if one.does == "marked"],
        "rebuild": list(what.rebuild),
    }
    record["n"] = len(list(place.list(_RECORDS))) + 1
    while not place.create(f"{_RECORDS}{record['n']}.json", json.dumps(record, indent=1).encode()):
        record["n"] += 1
    for run in what.runs:
        (ws.home / "reports" / f"{run.partition('/')[2]}.html").unlink(missing_ok=True)
    with bar("erase", len(record["removed"]), "artifacts") as shown:
        for one in sorted(record["removed"], key=lambda one: str(one["why"]) == "holds"):  # by them the rest is found
            remove(place, one["name"])
            shutil.rmtree(ws.cache / one["name"].partition("/")[2], ignore_errors=True)
            shown.add()
    finish(place)
    return record


def marked(ws: Workspace) -> set[str]:
    """Digests of what descends from an erased patient and stayed."""
    place = store.open_store(ws.store)
    names = (one["name"] for key in place.list(_RECORDS) for one in json.loads(place.read(key))["marked"])
    return {name.partition("/")[2] for name in names}


_RECORDS = f"{erased.FOLDER}/records/"


def _holders(place: store.Store, held: Iterable[Held], patients: set[str]) -> tuple[list[Held], set[str]]:
    """Data sets that hold any of the patients, and which of them were seen; half-published ones count."""
    sets = [own for own in held if own.kind == "data"]
    found, known = [], set()
    with bar("looking", len(sets), "data sets") as shown:
        for own in sets:
            inside = erased.patients_of(place, own.name) & patients
            known |= inside
            found += [own] if inside else []
            shown.add()
    return found, known


def _recipes(held: Iterable[Held]) -> list[dict[str, Any]]:
    """Each recipe once, with what it made."""
    found: dict[str, dict[str, Any]] = {}
    for own in held:
        if own.recipe:
            text = json.dumps(own.recipe, sort_keys=True)
            found.setdefault(text, {"recipe": own.recipe, "made": []})["made"].append(own.name)
    return list(found.values())
