"""What is known of a registered model and of a version, for screens and `--json`."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from medmim import tracking
from medmim.registry import aliases, approval, decisions, lookup, retired
from medmim.registry.decisions import Decision
from medmim.run.workspace import Workspace
from medmim.tracking import Registered, Version


def of_model(ws: Workspace, name: str, model: Registered) -> dict[str, Any]:
    """A model with all of its versions: name, champion, aliases, versions, decisions, drift, awaiting."""
    log = decisions.read(ws, name)
    champion = aliases.champion(ws, name, decisions.roles(log))
    return {
        "name": name,
        "champion": champion and champion["version"],
        "aliases": dict(model.aliases),
        "versions": [of_version(model.aliases, version) for version in model.versions],
        "decisions": len(log),
        "drift": aliases.drift(ws, name) if log else [],
        "awaiting": [version.number for version in approval.awaiting(ws, name)],
    }


def of_version(named: Mapping[str, str], version: Version) -> dict[str, Any]:
    """A version: its number, what its tags say of it, its aliases, and why the gate refused it.

    Args:
        named: Alias -> version number, of its model.
        version: The version; where medmim did not register it, what its tags would say is empty.
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
        "retired": retired.reason(version),
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
