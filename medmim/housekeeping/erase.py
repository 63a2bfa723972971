"""Erase a patient: find what holds or descends from them, remove or mark it, list the recipes to rebuild the rest."""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from medmim import store
from medmim.data import erased, kept_pixels, people
from medmim.data.export import folder as folders
from medmim.data.export import records
from medmim.errors import UserError
from medmim.housekeeping import inventory, readings
from medmim.housekeeping.inventory import Entry
from medmim.progress import bar
from medmim.run import index
from medmim.run.lock import locked
from medmim.run.person import current_user
from medmim.run.step_lock import step_lock
from medmim.run.workspace import Workspace
from medmim.store.removal import INVENTORY, LOCK, clear, finish, remove

Does = Literal["removed", "marked"]


@dataclass(frozen=True)
class Affected:
    """An artifact that an erasure concerns.

    Attributes:
        name: `KIND/DIGEST`.
        recipe: Name of its recipe; empty where none is known.
        why: `holds` rows of the patient, `may show` pictures (a report), or `descends` from what holds them.
        does: What is done with it.
        note: The reason why it stays though descendants were to be removed; else empty.
    """

    name: str
    recipe: str
    why: Literal["holds", "may show", "descends"]
    does: Does
    note: str = ""


@dataclass(frozen=True)
class Exported:
    """An export that holds the patient.

    Attributes:
        id: Of its record.
        folder: Where it was written.
        host: The machine.
        form: For what.
        rows: Ids of the rows that show the patient.
        state: As in `records.states`; of those that are not `here`, copies may be where medmim cannot see them.
        does: `removed`, or `named` where it stays.
        note: Why it stays; else empty.
    """

    id: str
    folder: str
    host: str
    form: str
    rows: tuple[str, ...]
    state: str
    does: Literal["removed", "named"]
    note: str = ""


@dataclass(frozen=True)
class Erasure:
    """What is to be done.

    Attributes:
        artifacts: All that hold or descend.
        exports: Every export that ever held the patient, but those that an earlier erasure removed.
        unfinished: Hidden folders beside exports of this machine, which killed exports left; of whom is not known.
        rebuild: The recipes that made them, as they were dumped, with the artifacts that each made.
        runs: Runs whose records name one of them.
        resume: Folders of unfinished steps; they may hold rows or pictures, of which patients is not known.
        who: The patients as POPULATION/IDENTIFIER, where a data set holds them; never to be shown.
    """

    artifacts: tuple[Affected, ...]
    rebuild: tuple[Mapping[str, Any], ...]
    runs: tuple[str, ...]
    resume: tuple[str, ...]
    exports: tuple[Exported, ...] = ()
    unfinished: tuple[str, ...] = ()
    who: tuple[str, ...] = ()


def plan(ws: Workspace, patients: Sequence[str], descendants: Does = "marked") -> Erasure:
    """Find what holds or descends from patients; changes nothing.

    Args:
        ws: The workspace.
        patients: Identifiers, as the data sets have them: those of all populations, or POPULATION/IDENTIFIER.
        descendants: What is done with the descendants. What a decision or a registered version names is never removed,
            data sets that hold the patient and reports always are.

    Raises:
        UserError: A patient is in no data set and was not erased before. It shows no identifier.
    """
    place = store.open_store(ws.store)
    ages = place.ages()
    known_objects = readings.of(place, ages)
    entries = inventory.scan(known_objects)
    holders, known = _holders(place, entries.values(), set(patients))
    exports, exported = _exports(place, patients)
    known |= exported
    before = erased.load(ws.store)
    found = {name for who in known for name in erased.spellings(who)}
    unknown = [i for i, patient in enumerate(patients, 1) if patient not in found and patient not in before]
    if unknown:
        raise UserError(
            f"{len(unknown)} of {len(patients)} patients are in no data set and no export of {ws.store}",
            reason="an identifier must be written as the data sets have it; none is shown here, not even a near one",
            fix="look it up in the source that the data was built from; nothing was changed",
            problems=[f"the patient given as number {i}" for i in unknown],
        )
    tainted = inventory.with_descendants(entries.values(), {entry.digest for entry in holders})
    runs = inventory.totals("runs", ages)
    of_runs = inventory.records_of(ages)
    known_objects.read(key for keys in of_runs.values() for key in keys)  # together, which takes a fraction of the time
    references = {run: known_objects.digests(of_runs.get(run, ())) for run in runs}
    concerned = [run for run, digests in references.items() if digests & tainted]
    reported = tainted.union(*(references[run] for run in concerned))
    roots = inventory.roots(ws, known_objects, of_runs)
    affected = []
    for entry in entries.values():
        if entry in holders:
            affected.append(Affected(entry.name, entry.recipe_name, "holds", "removed"))
        elif entry.kind == "report" and entry.digest in reported:
            affected.append(Affected(entry.name, entry.recipe_name, "may show", "removed"))
        elif entry.digest in tainted:
            root = "decision" if entry.digest in roots.decision else "version" if entry.digest in roots.version else ""
            note = f"a {root} names it" if root and descendants == "removed" else ""
            does = "marked" if note else descendants
            affected.append(Affected(entry.name, entry.recipe_name, "descends", does, note))
    rebuild = _recipes(entries[one.name] for one in affected)
    return Erasure(
        tuple(affected),
        tuple(rebuild),
        tuple(concerned),
        tuple(inventory.totals("resume", ages)),
        tuple(exports),
        tuple(_unfinished(place)),
        _keys(known, patients),
    )


def erase(ws: Workspace, patients: Sequence[str], what: Erasure, why: str) -> dict[str, Any]:
    """Erase: first the list of the erased, then the record, then the removals. Killed, the same command finishes it.

    Args:
        ws: The workspace; copies in its cache, its reports, galleries and indexes, the pictures that it keeps for
            builds, and those that unfinished builds have left in it and in the store are removed, too.
        patients: Identifiers.
        what: Their `plan`.
        why: The reason for the record; without any identifier.

    Returns:
        The record: n, time, who, why, patients (their number), marks, removed, marked, exports, unfinished, rebuild. An
        export that was to be removed and could not be is `named` in it, with the reason; an `unfinished` one that is
        in it is still being written.
    """
    place = store.open_store(ws.store)
    named = sorted({*what.who, *map(erased.requested, patients)})
    known = erased.add(ws.store, named)
    record: dict[str, Any] = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "who": current_user(),
        "why": why,
        "patients": len(set(patients)),
        "marks": sorted(erased.mark(known.key, name) for name in named),
        "removed": [asdict(one) for one in what.artifacts if one.does == "removed"],
        "marked": [asdict(one) for one in what.artifacts if one.does == "marked"],
        "unfinished": list(what.unfinished),
        "exports": [asdict(replace(one, note=_PLANNED) if one.does == "removed" else one) for one in what.exports],
        "rebuild": list(what.rebuild),
    }
    record["n"] = len(list(place.list(_RECORDS))) + 1
    while not place.create(f"{_RECORDS}{record['n']}.json", json.dumps(record, indent=1).encode()):
        record["n"] += 1
    from medmim.data import gallery  # imports Pillow

    kept_pixels.clear(ws.home)
    index.clear(ws.home)
    gallery.clear(ws.home)
    _clear_unfinished(ws.home)
    for name in what.resume:
        if is_repeated(name):
            clear(place, name)
    for run in what.runs:
        for page in ("", "-models"):
            (ws.home / "reports" / f"{run.partition('/')[2]}{page}.html").unlink(missing_ok=True)
    for path in _copies(ws, [one["name"] for one in record["removed"]]):
        path.unlink(missing_ok=True)
    gone = {one["name"].partition("/")[2] for one in record["removed"]}
    for key in list(place.list("steps/")):  # a step on a cluster may not replace what it would find there
        if readings.digests(readings.read_text(place, key)) & gone:
            place.delete(key)
    with step_lock(place, LOCK):
        with bar("erase", len(record["removed"]), "artifacts") as shown:
            for one in sorted(
                record["removed"], key=lambda one: str(one["why"]) == "holds"
            ):  # last: they lead to the rest
                remove(place, one["name"])
                store.discard(one["name"].partition("/")[2], ws.cache)
                shown.add()
        finish(place)
        place.delete(INVENTORY)  # the recipes of what is gone are in it
    for path in records.places(place, records.load(place)):
        folders.remove_unfinished(path)
    record["unfinished"] = _unfinished(place)
    if what.exports or what.unfinished or record["unfinished"]:  # last: others may hold them, and keep them from going
        record["exports"] = [asdict(one) for one in _remove_exports(place, what.exports)]
        place.write(f"{_RECORDS}{record['n']}.json", json.dumps(record, indent=1).encode())
    return record


def _remove_exports(place: store.Store, exports: Iterable[Exported]) -> Iterator[Exported]:
    """Remove those that are to be removed, and say of each what was done; one that fails keeps no other."""
    every = records.load(place)
    for one in exports:
        if one.does == "removed":
            state = records.states(every)[one.id]
            note = _kept(Path(one.folder)) if state == "here" else "it was replaced or moved meanwhile"
            if not note:
                try:
                    folders.remove(Path(one.folder))
                except UserError as error:
                    note = f"it cannot be removed: {error.fact}"
            one = replace(one, does="named" if note else "removed", note=note)
        yield one


def _unfinished(place: store.Store) -> list[str]:
    """Folders of unfinished exports on this machine."""
    found = {str(one) for path in records.places(place, records.load(place)) for one in folders.unfinished(path)}
    return sorted(found)


def _kept(folder: Path) -> str:
    """Why the folder of an export must stay; empty where it need not."""
    more = folders.others(folder)
    return f"it holds other files: {', '.join(more[:3])}" if more else ""


def _copies(ws: Workspace, removed: Sequence[str]) -> list[Path]:
    """The pages of this home that show what artifacts do, such as a night's or those of `bench page`: by content."""
    found = [store.find(f"{ws.store}/{name}") for name in removed if name.startswith("report/")]
    digests = {facts["sha256"] for one in found if one is not None for facts in one.files.values()}
    return [path for path in (ws.home / "reports").glob("*.html") if store.file_digest(path) in digests]


def is_repeated(name: str) -> bool:
    """Whether what is in a folder of unfinished work is made again, without the patient, where it is removed.

    Builds read their images again, and answers are asked again.
    """
    from medmim.bench import crew

    return name.startswith((kept_pixels.UNFINISHED, crew.UNFINISHED))


def _clear_unfinished(home: Path) -> None:
    """Remove what killed builds of this home have read: with another list of the erased, none of them is resumed.

    A build that is running keeps its folder.
    """
    for folder in sorted((home / "work").glob("data-*")):
        if folder.is_dir():
            with suppress(UserError), locked(folder, UserError):
                shutil.rmtree(folder)


def _exports(place: store.Store, patients: Sequence[str]) -> tuple[list[Exported], set[people.Identity]]:
    """The exports that ever held any of the patients, whether or not their data set is there, and who was found."""
    every = records.load(place)
    states = records.states(every)
    rows, known = records.holding(place, every, patients)
    found = []
    earlier = _removed_exports(place)
    for one in every:
        if one.id in rows and ((state := states[one.id]) == "here" or one.id not in earlier):
            note = _kept(Path(one.folder)) if state == "here" else _NOT_HERE[state]
            does: Literal["removed", "named"] = "named" if note else "removed"
            found.append(Exported(one.id, one.folder, one.host, one.form, rows[one.id], state, does, note))
    return found, known


def marked(ws: Workspace) -> set[str]:
    """Digests of what descends from an erased patient and was not removed."""
    place = store.open_store(ws.store)
    names = (one["name"] for key in place.list(_RECORDS) for one in json.loads(place.read(key))["marked"])
    return {name.partition("/")[2] for name in names}


def _removed_exports(place: store.Store) -> set[str]:
    """Ids of the exports that erasures have removed."""
    every = (one for key in place.list(_RECORDS) for one in json.loads(place.read(key)).get("exports", ()))
    return {one["id"] for one in every if one["does"] == "removed" and one["note"] != _PLANNED}


_RECORDS = f"{erased.FOLDER}/records/"
_NOT_HERE = {
    "elsewhere": "another machine's",
    "gone": "not where it was written: it was moved, or somebody removed it",
    "replaced": "a later export is recorded in its place, out of which it may have been moved before",
}
_PLANNED = "to be removed"  # the note that a killed erasure leaves


def _keys(known: Iterable[people.Identity], patients: Sequence[str]) -> tuple[str, ...]:
    """What is marked of patients: the identifier alone where it was given so and only quarantined rows name it."""
    placed = {who for who in known if who[0]}
    alone = {name for population, name in known if not population and name in patients} - {name for _, name in placed}
    return tuple(sorted({"/".join(who) for who in placed} | alone))


def _holders(
    place: store.Store, entries: Iterable[Entry], patients: set[str]
) -> tuple[list[Entry], set[people.Identity]]:
    """Data sets that hold any of the patients, unfinished ones included, and the patients that were found.

    Quarantined rows do not say of which population they are, so those of an equal identifier count.
    """
    alone = {name for patient in patients if (name := patient.partition("/")[2])}
    sets = [entry for entry in entries if entry.kind == "data"]
    holders: list[Entry] = []
    known: set[people.Identity] = set()
    with bar("searching", len(sets), "data sets") as shown:
        for entry in sets:
            inside = {
                who
                for who in erased.identities_of(place, entry.name)
                if erased.spellings(who) & (patients if who[0] else patients | alone)
            }
            known |= inside
            if inside:
                holders.append(entry)
            shown.add()
    return holders, known


def _recipes(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """Each recipe once, with the names of what it made."""
    found: dict[str, dict[str, Any]] = {}
    for entry in entries:
        if entry.recipe:
            text = json.dumps(entry.recipe, sort_keys=True)
            found.setdefault(text, {"recipe": entry.recipe, "made": []})["made"].append(entry.name)
    return list(found.values())
