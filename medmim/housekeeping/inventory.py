"""What a store holds: its artifacts and runs, which of them are referenced, and what was made of what."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medmim import store, tracking
from medmim.data import erased
from medmim.data.export import records as exports
from medmim.errors import UserError
from medmim.housekeeping.readings import Ages, Readings, digests, read_text
from medmim.lvlm import adapters
from medmim.nightly import records
from medmim.recipe.registry import CANDIDATE
from medmim.redact import shown
from medmim.registry import decisions
from medmim.run import step_lock
from medmim.run.workspace import Workspace
from medmim.store.removal import MANIFEST, REMOVING, USED

LAST_RECORD = "report.json"  # of a run, however it ended
LAST_OF_NIGHT = "trend.json"  # likewise
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
        imported: A base that somebody brought in; no step makes it again.
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


def roots(ws: Workspace, known: Readings, records: Mapping[str, Sequence[str]]) -> dict[str, set[str]]:
    """Digests that must stay: `decision` (in a log) and `version` (in the tags of a registered version).

    Args:
        ws: The workspace.
        known: What the store holds.
        records: The runs' records, as `records_of` gives them.

    Raises:
        UserError: MLflow knows none of the models that decisions or the runs' records name.
    """
    models = tracking.registered(ws)
    logs = [key for key in known.ages if key.startswith(f"{decisions.FOLDER}/")]
    named = {key.split("/")[1] for key in logs if not key.endswith(decisions.MADE)}
    if not models:
        registered = (f"{run}/register.json" for run in records)
        texts = (read_text(known.place, key) for key in registered if key in known.ages)
        named |= {json.loads(text).get("facts", {}).get("name") or "" for text in texts} - {""}
    if named and not named & {*models, *(name.removesuffix(CANDIDATE) for name in models)}:
        raise UserError(
            f"MLflow at {shown(ws.tracking)} knows none of the models of this store",
            reason=f"decisions or runs in {ws.store} name {', '.join(sorted(named))}: what MLflow's versions reference "
            "must stay, so it must be the MLflow that belongs to this store",
            fix="set MLFLOW_TRACKING_URI, or --home to the home with its mlflow.db",
        )
    decided = {
        digest
        for log in decisions.read_all(ws).values()
        for entry in log
        for text in (entry.digest, entry.uri, entry.evidence, entry.evidence_uri, entry.bench, entry.against)
        for digest in digests(text)
    }
    tags = (value for model in models.values() for version in model.versions for value in version.tags.values())
    return {"decision": decided, "version": digests(" ".join(tags))}


def records_of(ages: Ages) -> dict[str, list[str]]:
    """`runs/RUN` -> the keys of its stages' records and of its Ray jobs' requests."""
    found: dict[str, list[str]] = {}
    for key in ages:
        if key.startswith("runs/") and key.endswith(".json"):
            parts = key.split("/", 3)
            if len(parts) == 3 or key.endswith("/order.json"):
                found.setdefault(f"runs/{parts[1]}", []).append(key)
    return found


def with_ancestors(entries: Iterable[Entry], digests: set[str]) -> set[str]:
    """The digests, and those of all that they were made of."""
    return _reachable(digests, ((entry.digest, parent) for entry in entries for parent in entry.parents))


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
