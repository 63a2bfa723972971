"""What a store holds, and what points to what."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from medmim import progress, store, tracking
from medmim.data import erased
from medmim.errors import UserError
from medmim.nightly import records
from medmim.registry import decisions
from medmim.run.workspace import Workspace
from medmim.store.removal import MANIFEST, REMOVING, USED

LAST_RECORD = "report.json"  # of a run, on every way out
LAST_OF_NIGHT = "trend.json"  # likewise
_MANY = 200  # take seconds in S3
_DIGEST = re.compile(r"[0-9a-f]{64}")
_RUN = re.compile(r"^(.*)-\d{8}-\d{6}-[0-9a-f]+$|^(.*-nightly)-\d{8}-[0-9a-f]+$")
_NOT_ARTIFACTS = ("runs", "steps", "resume", decisions.FOLDER, records.FOLDER, erased.FOLDER, USED, REMOVING)

Ages = Mapping[str, tuple[float, int]]  # key -> (s since 1970, bytes), as `Store.ages` gives it


@dataclass
class Held:
    """What lies below one name: an artifact, files that no manifest claims, or a run.

    Attributes:
        name: `KIND/DIGEST`, or `runs/RUN`.
        time: When it was last written or claimed.
        bytes: Its size.
        whole: It has a manifest; a run: its last record.
        recipe: Recipe of its provenance, as it was dumped; empty where there is none.
        names: Digests in its provenance: its parents.
    """

    name: str
    time: float = 0.0
    bytes: int = 0
    whole: bool = False
    recipe: dict[str, Any] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)

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


def look(place: store.Store, ages: Ages) -> dict[str, Held]:
    """Everything below `KIND/DIGEST`, by that name."""
    held: dict[str, Held] = {}
    for key, (when, size) in ages.items():
        kind, _, rest = key.partition("/")
        digest, _, file = rest.partition("/")
        if kind in _NOT_ARTIFACTS or not file or not _DIGEST.fullmatch(digest):
            continue
        own = held.setdefault(f"{kind}/{digest}", Held(f"{kind}/{digest}"))
        own.time, own.bytes, own.whole = max(own.time, when), own.bytes + size, own.whole or file == MANIFEST
    if len(held) > _MANY:
        progress.say(f"reading the provenance of {len(held):,} artifacts")
    for own in held.values():
        own.time = max(own.time, ages.get(f"{USED}/{own.name}", (0.0, 0))[0])
        if own.whole:
            text = text_of(place, f"{own.name}/{store.PROVENANCE}")
            own.names = digests(text) - {own.digest}
            with suppress(ValueError, AttributeError):  # edited by hand
                own.recipe = json.loads(text).get("recipe") or {}
    return held


def roots(ws: Workspace, runs: Iterable[str] = ()) -> dict[str, set[str]]:
    """Digests that must stay: `decision` (in a log) and `version` (in the tags of a registered version).

    Raises:
        UserError: MLflow knows none of the models that decisions or the runs' records name.
    """
    place = store.open_store(ws.store)
    logs = "".join(text_of(place, key) for key in place.list(f"{decisions.FOLDER}/"))
    known = tracking.registered(ws)
    named = set(decisions.names(ws))
    if not known:
        registered = (text_of(place, f"{run}/register.json") for run in runs)
        named |= {json.loads(text).get("facts", {}).get("name") or "" for text in registered if text} - {""}
    if named and not named & known.keys():
        raise UserError(
            f"MLflow at {ws.tracking} knows none of the models of this store",
            reason=f"decisions or runs in {ws.store} name {', '.join(sorted(named))}: what MLflow's versions point to "
            "must stay, so it must be the MLflow that belongs to this store",
            fix="set MLFLOW_TRACKING_URI, or --home to the home with its mlflow.db",
        )
    tags = (value for model in known.values() for version in model.versions for value in version.tags.values())
    return {"decision": digests(logs), "version": digests(" ".join(tags))}


def with_ancestors(held: Iterable[Held], digests: set[str]) -> set[str]:
    """The digests, and those of all that they were made of."""
    return _reached(digests, ((own.digest, parent) for own in held for parent in own.names))


def with_descendants(held: Iterable[Held], digests: set[str]) -> set[str]:
    """The digests, and those of all that was made of them."""
    return _reached(digests, ((parent, own.digest) for own in held for parent in own.names))


def _reached(start: set[str], arrows: Iterable[tuple[str, str]]) -> set[str]:
    """Where the arrows lead from the start, which is among it."""
    leads: dict[str, set[str]] = defaultdict(set)
    for tail, head in arrows:
        leads[tail].add(head)
    found, ahead = set(start), list(start)
    while ahead:
        new = leads[ahead.pop()] - found
        found |= new
        ahead += new
    return found


def below(top: str, ages: Ages) -> dict[str, tuple[float, int]]:
    """`TOP/NAME` -> (newest time, bytes) of all that lies below it."""
    found: dict[str, tuple[float, int]] = {}
    for key, (when, size) in ages.items():
        parts = key.split("/", 2)
        if parts[0] == top and len(parts) == 3:
            name = f"{top}/{parts[1]}"
            newest, total = found.get(name, (0.0, 0))
            found[name] = max(newest, when), total + size
    return found


def ended(run: str, ages: Ages) -> bool:
    """Whether a run, or a night, has its last record."""
    return any(f"{run}/{last}" in ages for last in (LAST_RECORD, LAST_OF_NIGHT))


def named_in(place: store.Store, run: str, ages: Ages) -> set[str]:
    """Digests in the records of a run's stages and in the orders of its jobs."""
    keys = [key for key in ages if key.startswith(f"{run}/") and key.endswith(".json")]
    wanted = [key for key in keys if key.count("/") == 2 or key.endswith("/order.json")]
    return {digest for key in wanted for digest in digests(text_of(place, key))}


def recipe_of(name: str) -> str:
    """The recipe of `runs/RECIPE-DATE-TIME-RANDOM`, with `-nightly` that of a night; else the whole name."""
    run = name.partition("/")[2]
    found = _RUN.match(run)
    return found[1] or found[2] if found else run


def digests(text: str) -> set[str]:
    """Every digest that a text names."""
    return set(_DIGEST.findall(text))


def text_of(place: store.Store, key: str) -> str:
    """An object as text; empty where it is not there."""
    try:
        return place.read(key).decode(errors="replace")
    except FileNotFoundError:
        return ""
