"""What a store holds: its artifacts and runs, which of them are referenced, and what was made of what."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from medmim import progress, store, tracking
from medmim.data import erased
from medmim.data.export import records as exports
from medmim.errors import UserError
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
_MANY = 200  # reading so many takes seconds in S3
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

Ages = Mapping[str, tuple[float, int]]  # key -> (s since 1970, bytes), as `Store.ages` gives it


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


def scan(place: store.Store, ages: Ages) -> dict[str, Entry]:
    """Everything below `KIND/DIGEST`, by that name."""
    entries: dict[str, Entry] = {}
    for key, (when, size) in ages.items():
        kind, _, rest = key.partition("/")
        digest, _, file = rest.partition("/")
        if kind in _NOT_ARTIFACTS or not file or not _DIGEST.fullmatch(digest):
            continue
        entry = entries.setdefault(f"{kind}/{digest}", Entry(f"{kind}/{digest}"))
        entry.time = max(entry.time, when)
        entry.bytes += size
        entry.complete = entry.complete or file == MANIFEST
    if len(entries) > _MANY:
        progress.say(f"reading the provenance of {len(entries):,} artifacts")
    for entry in entries.values():
        entry.time = max(entry.time, ages.get(f"{USED}/{entry.name}", (0.0, 0))[0])
        if entry.complete:
            text = read_text(place, f"{entry.name}/{store.PROVENANCE}")
            if f"{entry.name}/{adapters.BASE}" in ages:  # adapters are of no use without their base
                entry.parents |= digests(read_text(place, f"{entry.name}/{adapters.BASE}"))
            entry.parents |= digests(text) - {entry.digest}
            with suppress(ValueError, AttributeError):  # edited by hand
                record = json.loads(text)
                entry.recipe = record.get("recipe") or {}
                entry.imported = record.get("step") == "import"
    return entries


def roots(ws: Workspace, runs: Iterable[str] = ()) -> dict[str, set[str]]:
    """Digests that must stay: `decision` (in a log) and `version` (in the tags of a registered version).

    Raises:
        UserError: MLflow knows none of the models that decisions or the runs' records name.
    """
    place = store.open_store(ws.store)
    logs = "".join(read_text(place, key) for key in place.list(f"{decisions.FOLDER}/"))
    known = tracking.registered(ws)
    named = set(decisions.names(ws))
    if not known:
        registered = (read_text(place, f"{run}/register.json") for run in runs)
        named |= {json.loads(text).get("facts", {}).get("name") or "" for text in registered if text} - {""}
    if named and not named & {*known, *(name.removesuffix(CANDIDATE) for name in known)}:
        raise UserError(
            f"MLflow at {shown(ws.tracking)} knows none of the models of this store",
            reason=f"decisions or runs in {ws.store} name {', '.join(sorted(named))}: what MLflow's versions reference "
            "must stay, so it must be the MLflow that belongs to this store",
            fix="set MLFLOW_TRACKING_URI, or --home to the home with its mlflow.db",
        )
    tags = (value for model in known.values() for version in model.versions for value in version.tags.values())
    return {"decision": digests(logs), "version": digests(" ".join(tags))}


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


def referenced_by(place: store.Store, run: str, ages: Ages) -> set[str]:
    """Digests in the records of a run's stages and in the requests of its Ray jobs."""
    keys = [key for key in ages if key.startswith(f"{run}/") and key.endswith(".json")]
    wanted = [key for key in keys if key.count("/") == 2 or key.endswith("/order.json")]
    return {digest for key in wanted for digest in digests(read_text(place, key))}


def digests(text: str) -> set[str]:
    """Every digest that a text names."""
    return set(_DIGEST.findall(text))


def read_text(place: store.Store, key: str) -> str:
    """An object as text; empty where it does not exist."""
    try:
        return place.read(key).decode(errors="replace")
    except FileNotFoundError:
        return ""
