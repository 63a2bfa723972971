"""What is known of a registered model and of a version, for screens and `--json`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from medmim import tracking
from medmim.recipe.registry import CANDIDATE
from medmim.registry import aliases, approval, decisions, lookup, retired
from medmim.registry.decisions import Decision
from medmim.run.workspace import Workspace
from medmim.tracking import Registered, Version

_LOOKED_AT = 100  # candidates of a model in a list


def of_models(ws: Workspace) -> list[dict[str, Any]]:
    """All models with all of their versions, by name: MLflow and the store are asked once for all of them."""
    models, logs = tracking.registered(ws), decisions.read_all(ws)
    return [_of_model(ws, name, model, logs) for name, model in sorted(models.items())]


def _of_model(ws: Workspace, name: str, model: Registered, logs: Mapping[str, list[Decision]]) -> dict[str, Any]:
    """A model with all of its versions: name, champion, aliases, versions, decisions, drift, awaiting."""
    log = logs.get(name, [])
    champion = aliases.champion(ws, name, decisions.roles(log), model)
    decided = logs.get(name.removesuffix(CANDIDATE), [])
    candidates = model.versions if name.endswith(CANDIDATE) else ()
    return {
        "name": name,
        "champion": champion and champion["version"],
        "aliases": dict(model.aliases),
        "versions": [of_version(model.aliases, version, decided) for version in model.versions],
        "decisions": len(log),
        "drift": aliases.drift(ws, name, log, model) if log else [],
        "awaiting": [version.number for version in candidates if approval.is_awaiting(decided, version)],
    }


@dataclass(frozen=True)
class Overview:
    """A model without its versions.

    Attributes:
        champion: The decision that made the champion; None where there is none.
        newest: The newest version; None where there is none.
        awaiting: How many candidates await approval, of the newest `_LOOKED_AT` that passed the gate.
        more: Whether there are more of these.
        drift: A sentence for every alias that is not what the log says.
        decisions: How many the log holds.
    """

    champion: Decision | None
    newest: Version | None
    awaiting: int
    more: bool
    drift: tuple[str, ...]
    decisions: int


def overview(ws: Workspace, name: str, model: Registered) -> Overview:
    """A model for a list, in few questions however many versions it has.

    Args:
        ws: The workspace.
        name: The registered model.
        model: Its aliases and its newest version, as `tracking.page_of_models` gives them.
    """
    production = name.removesuffix(CANDIDATE)
    log = decisions.read(ws, production)
    awaiting, more = 0, False
    if production != name:
        passed, more = tracking.page_of_versions(ws, name, 1, _LOOKED_AT, {approval.VERDICT: "promoted"})
        awaiting = sum(approval.is_awaiting(log, version) for _, version in passed)
        log = []
    roles = decisions.roles(log)
    wanted = {alias: entry.version for alias, entry in roles.by_alias().items()}
    present = {alias: number for alias, number in model.aliases.items() if alias in aliases.ROLES}
    # equal numbers are believed here: `drift` holds each version's digest against the log, on the model's own page
    drift = aliases.drift(ws, name, log) if log and wanted != present else []
    newest = model.versions[-1] if model.versions else None
    return Overview(roles.champion, newest, awaiting, more, tuple(drift), len(log))


def of_version(named: Mapping[str, str], version: Version, log: Sequence[Decision]) -> dict[str, Any]:
    """A version: its number, what its tags say of it, its aliases, and why it is retired.

    Args:
        named: Alias -> version number, of its model.
        version: The version; where medmim did not register it, what its tags would say is empty.
        log: Of the production model.
    """
    return {
        "version": version.number,
        "digest": version.tags.get(lookup.DIGEST, ""),
        "uri": version.tags.get(lookup.URI, ""),
        "created": datetime.fromtimestamp(version.created / 1000, UTC).isoformat(timespec="seconds"),
        "aliases": sorted(alias for alias, number in named.items() if number == version.number),
        "data": version.tags.get("medmim.data", ""),
        "recipe": version.tags.get("medmim.recipe_name", ""),
        "base": version.tags.get("medmim.base", ""),
        "retired": retired.reason(version, log),
    }


def of_decision(ws: Workspace, name: str, entry: Decision, before: int) -> dict[str, Any]:
    """What was decided.

    Args:
        ws: The workspace.
        name: The registered model.
        entry: The decision.
        before: How many there were.
    """
    return {
        "name": name,
        "version": entry.version,
        "digest": entry.digest,
        "uri": entry.uri,
        "decision": entry.n,
        "verdict": entry.verdict,
        "changed": entry.n > before,
        "aliases": tracking.aliases(ws, name) or {},
    }
