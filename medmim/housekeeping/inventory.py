"""What a store holds: its artifacts and runs, which of them are referenced, and what was made of what."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from medmim import hints, store, tracking
from medmim.data import erased
from medmim.data.export import records as exports
from medmim.errors import UserError
from medmim.housekeeping.readings import Ages, Readings, digests, read_text
from medmim.lvlm import adapters
from medmim.nightly import records
from medmim.recipe.registry import CANDIDATE
from medmim.redact import shown
from medmim.registry import decisions, lookup, retired, store_id
from medmim.registry.decisions import Decision
from medmim.run import run_name, step_lock
from medmim.run.workspace import Workspace
from medmim.store.folder import FolderStore
from medmim.store.removal import MANIFEST, REMOVING, USED
from medmim.tracking import Registered, Version

LAST_RECORD = "report.json"  # of a run, however it ended
LAST_OF_NIGHT = "trend.json"  # likewise
_PARTS, _AT_ONCE = 500, 8  # of a listing
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NOT_ARTIFACTS = (
    "runs",
    "steps",
    "resume",
    step_lock.FOLDER,
    decisions.FOLDER,
    records.FOLDER,
    erased.FOLDER,
    exports.FOLDER,
    USED,
    REMOVING,
)


@dataclass
class Entry:
    """Everything below one name: an artifact, files without a manifest, or a run.

    Attributes:
        name: `KIND/DIGEST`, or `runs/RUN`.
        time: When it was last written or claimed, in s since 1970.
        bytes: Its size.
        complete: It has a manifest; a run: its last record.
        recipe: Recipe of its provenance, as it was dumped; empty where there is none.
        parents: Digests in its provenance.
        imported: A base, or approved wordings, that somebody brought in; no step makes it again.
    """

    name: str
    time: float = 0.0
    bytes: int = 0
    complete: bool = False
    recipe: dict[str, Any] = field(default_factory=dict)
    parents: set[str] = field(default_factory=set)
    imported: bool = False

    @property
    def recipe_name(self) -> str:
        """Empty where no recipe is known."""
        return str(self.recipe.get("name") or "")

    @property
    def kind(self) -> str:
        """First part of the name."""
        return self.name.partition("/")[0]

    @property
    def digest(self) -> str:
        """The rest of it."""
        return self.name.partition("/")[2]


def listed(place: store.Store) -> Ages:
    """Everything in the folders of a store: of S3 in parts at once, since each answer names but a thousand objects."""
    if isinstance(place, FolderStore):
        return place.ages()
    prefixes = [f"{top}/" for top in place.folders("") if top != "runs"]
    runs = place.folders("runs/")
    recipes = sorted({f"runs/{run_name.recipe_of(name)}-" for name in runs})
    covering: list[str] = []
    for prefix in recipes:
        if not covering or not prefix.startswith(covering[-1]):
            covering.append(prefix)
    named = any(run_name.recipe_of(name) == name for name in runs)  # by no recipe
    prefixes += ["runs/"] if named or len(covering) > _PARTS else covering
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return {key: written for part in pool.map(place.ages, prefixes) for key, written in part.items()}


def scan(known: Readings) -> dict[str, Entry]:
    """Everything below `KIND/DIGEST`, by that name."""
    entries: dict[str, Entry] = {}
    ages = known.ages
    for key, (when, size) in ages.items():
        kind, _, rest = key.partition("/")
        digest, _, file = rest.partition("/")
        if kind in _NOT_ARTIFACTS or not file or not _DIGEST.fullmatch(digest):
            continue
        entry = entries.setdefault(f"{kind}/{digest}", Entry(f"{kind}/{digest}"))
        entry.time = max(entry.time, when)
        entry.bytes += size
        entry.complete = entry.complete or file == MANIFEST
    complete = [entry for entry in entries.values() if entry.complete]
    made = known.read(f"{entry.name}/{store.PROVENANCE}" for entry in complete)
    tuned = [entry for entry in complete if f"{entry.name}/{adapters.BASE}" in ages]
    bases = dict(
        zip((one.name for one in tuned), known.read(f"{one.name}/{adapters.BASE}" for one in tuned), strict=True)
    )
    for entry in entries.values():
        entry.time = max(entry.time, ages.get(f"{USED}/{entry.name}", (0.0, 0))[0])
    for entry, record in zip(complete, made, strict=True):
        entry.parents |= record.digests - {entry.digest}
        if entry.name in bases:  # adapters are of no use without their base
            entry.parents |= bases[entry.name].digests
        entry.recipe, entry.imported = dict(record.recipe), record.imported
    return entries


@dataclass(frozen=True)
class Roots:
    """Digests that registry and decisions name.

    Attributes:
        decision: In a decision log.
        version: In the tags of a registered version.
        released: Of these, the models that nobody needs any more: see `_released`.
    """

    decision: frozenset[str]
    version: frozenset[str]
    released: frozenset[str]


def roots(ws: Workspace, known: Readings, records: Mapping[str, Sequence[str]], cutoff: float = 0.0) -> Roots:
    """What registry and decisions name.

    Args:
        ws: The workspace.
        known: What the store holds.
        records: The runs' records, as `records_of` gives them.
        cutoff: A model that was retired since (s since 1970) is not released.

    Raises:
        UserError: This MLflow is not the store's.
    """
    models, logs = tracking.registered(ws), decisions.read_all(ws)
    named = set(logs)
    if not models:
        registered = (f"{run}/register.json" for run in records)
        texts = (read_text(known.place, key) for key in registered if key in known.ages)
        named |= {json.loads(text).get("facts", {}).get("name") or "" for text in texts} - {""}
    if named or store_id.read(ws):
        _refuse_another_mlflow(ws, known, models, logs, named)
    decided = {
        digest
        for log in logs.values()
        for entry in log
        for text in (entry.digest, entry.uri, entry.evidence, entry.evidence_uri, entry.bench, entry.against)
        for digest in digests(text)
    }
    tags = (value for model in models.values() for version in model.versions for value in version.tags.values())
    released = _released(models, logs, cutoff)
    return Roots(frozenset(decided), frozenset(digests(" ".join(tags))), frozenset(released))


def names_of(ws: Workspace, known: Readings) -> list[str]:
    """The registered models in this MLflow that have a log in this store, or a version whose model is in it.

    Raises:
        UserError: There are none: this MLflow is not the store's.
    """
    models, logs = tracking.registered(ws), decisions.read_all(ws)
    found = [
        name
        for name, model in models.items()
        if name.removesuffix(CANDIDATE) in logs or any(_is_here(known, version) for version in model.versions)
    ]
    if not found:
        raise _another_mlflow(ws, "it has no model that a decision in it names, and no version of a model in it", False)
    return sorted(found)


def _released(models: Mapping[str, Registered], logs: Mapping[str, Sequence[Decision]], cutoff: float) -> Iterator[str]:
    """Models that are out of use: the gate has refused each of their versions, or a person has refused or retired them.

    Not those that are champion, that a rollback makes champion or that nights ask as the challenger, whatever the
    name; nor what an alias names; nor, but by a person's word, what was champion once.
    """
    used: set[str] = set()
    judged: dict[tuple[str, str], float] = {}  # by a person: name, digest -> when
    for name, log in logs.items():
        used |= {entry.digest for entry in decisions.roles(log).by_alias().values()}
        own: dict[str, list[Decision]] = defaultdict(list)
        for entry in log:
            own[entry.digest].append(entry)
        for digest, entries in own.items():
            made = any(entry.verdict in ("promoted", "rolled-back") for entry in entries)
            by_person = decisions.retirement(entries, digest) if made else decisions.refusal(entries, digest)
            if by_person:
                judged[name, digest] = _time(by_person.time)
            elif made:
                used.add(digest)
    since: dict[str, list[float]] = defaultdict(list)
    for (_, digest), when in judged.items():
        since[digest].append(when)
    for name, model in models.items():
        named = set(model.aliases.values())
        for version in model.versions:
            digest = version.tags.get(lookup.DIGEST, "")
            if version.number in named:
                used.add(digest)
            by_gate = _time(version.tags.get(retired.RETIRED, ""))
            since[digest].append(judged.get((name.removesuffix(CANDIDATE), digest), by_gate))
    return (digest for digest, times in since.items() if digest not in used and max(times) < cutoff)


def _time(text: str) -> float:
    """A time as a tag or an entry has it, in s since 1970; what cannot be read, or is not there, never comes."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return float("inf")


def _refuse_another_mlflow(
    ws: Workspace,
    known: Readings,
    models: Mapping[str, Registered],
    logs: Mapping[str, Sequence[Decision]],
    named: Set[str],
) -> None:
    """Refuse an MLflow that is not the store's: what its versions name would be removed.

    Raises:
        UserError: It is not, as far as can be told.
    """
    identity = store_id.read(ws)
    if any(store_id.is_of(identity, model.tags) for model in models.values()):
        return
    if not models and not named:  # runs and their records go sooner than what they have registered
        why = f"{store_id.FILE} says that models of it were registered, and none is there"
        raise _another_mlflow(ws, why, False, identity)
    if named and not named & {*models, *(name.removesuffix(CANDIDATE) for name in models)}:
        listed = ", ".join(sorted(named))
        why = f"it knows none of the models that decisions or runs in it name: {listed}"
        raise _another_mlflow(ws, why, False, identity)
    if any(store_id.is_of_any(model.tags) for model in models.values()):
        raise _another_mlflow(ws, f"no registered model there has the tag {store_id.tag(identity or 'ID')} of it", True)
    # Registered before stores had an id: names are everybody's, so its versions must be of models in this very store.
    champions = {name: entry for name, log in logs.items() if (entry := decisions.roles(log).champion)}
    gone = [
        f"decision {entry.n} of {name}"
        for name, entry in champions.items()
        if lookup.version_of(ws, name, entry, models.get(name, Registered())) is None
    ]
    if gone or not any(_is_here(known, version) for model in models.values() for version in model.versions):
        why = f"the champion of {gone[0]} is in no version there" if gone else "no version there is of a model in it"
        raise _another_mlflow(ws, why, True)


def _is_here(known: Readings, version: Version) -> bool:
    """Whether a version is of a model in this store, which it names by this address."""
    uri = version.tags.get(lookup.URI, "")
    return (
        uri.startswith(f"{known.place.uri}/") and f"{uri.removeprefix(f'{known.place.uri}/')}/{MANIFEST}" in known.ages
    )


def _another_mlflow(ws: Workspace, why: str, may_be: bool, identity: str = "") -> UserError:
    deleted = (
        "; if it is the right one, and all models of this store were deleted there on purpose: create an empty "
        f"registered model in it, of any name, with the tag {store_id.tag(identity)}"
    )
    adopting = f"; if it is the right one (the store was moved, or MLflow restored): `{hints.command('gc', '--adopt')}`"
    return UserError(
        f"MLflow at {shown(ws.tracking)} is not the one of the store {ws.store}",
        reason=f"{why}; what the versions of a store's own MLflow name must stay",
        fix="set MLFLOW_TRACKING_URI, or --home to the home with its mlflow.db"
        + (adopting if may_be else deleted if identity else ""),
    )


def records_of(ages: Ages) -> dict[str, list[str]]:
    """`runs/RUN` -> the keys of its stages' records and of its Ray jobs' requests."""
    found: dict[str, list[str]] = {}
    for key in ages:
        if key.startswith("runs/") and key.endswith(".json"):
            parts = key.split("/", 3)
            if len(parts) == 3 or key.endswith("/order.json"):
                found.setdefault(f"runs/{parts[1]}", []).append(key)
    return found


def with_ancestors(entries: Iterable[Entry], digests: set[str], without: Set[str] = frozenset()) -> set[str]:
    """The digests, and those of all that they were made of; not those `without`, nor what only they were made of.

    What a model is made of stays with it, whatever it is: adapters cannot be loaded without their base.
    """
    edges = (
        (entry.digest, parent)
        for entry in entries
        for parent in (entry.parents if entry.kind == "model" else entry.parents - without)
    )
    return _reachable(digests - without, edges)


def with_descendants(entries: Iterable[Entry], digests: set[str]) -> set[str]:
    """The digests, and those of all that was made of them."""
    return _reachable(digests, ((parent, entry.digest) for entry in entries for parent in entry.parents))


def _reachable(start: set[str], edges: Iterable[tuple[str, str]]) -> set[str]:
    """The nodes that a directed graph reaches from `start`, itself included."""
    following: dict[str, set[str]] = defaultdict(set)
    for tail, head in edges:
        following[tail].add(head)
    found, ahead = set(start), list(start)
    while ahead:
        new = following[ahead.pop()] - found
        found |= new
        ahead += new
    return found


def totals(top: str, ages: Ages) -> dict[str, tuple[float, int]]:
    """`TOP/NAME` -> (newest time, bytes) of everything below it."""
    found: dict[str, tuple[float, int]] = {}
    for key, (when, size) in ages.items():
        parts = key.split("/", 2)
        if parts[0] == top and len(parts) == 3:
            name = f"{top}/{parts[1]}"
            newest, total = found.get(name, (0.0, 0))
            found[name] = max(newest, when), total + size
    return found


def is_finished(run: str, ages: Ages) -> bool:
    """Whether a run, or a night, has its last record."""
    return any(f"{run}/{last}" in ages for last in (LAST_RECORD, LAST_OF_NIGHT))
