"""Versions that the gate refused are retired: tagged in MLflow, not deleted, so that lineage and scores stay readable.

A later gate that passes the version takes the tags away again. `medmim.retired` holds the time of the refusal, which
housekeeping can go by; a person promotes such a version only by saying so.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from medmim import tracking
from medmim.errors import UserError
from medmim.registry import approval
from medmim.registry.decisions import Roles
from medmim.run.workspace import Workspace
from medmim.tracking import Version

RETIRED, WHY = "medmim.retired", "medmim.retired_why"


def mark(ws: Workspace, name: str, version: Version, document: Mapping[str, Any], now: Roles) -> bool:
    """Retire a version that the gate refused, and bring back one that it passed; True where a tag had to be changed.

    Args:
        ws: The workspace.
        name: The registered model of the version.
        version: What was judged.
        document: The gate's decision.
        now: Of the decision log: a champion, or the one before it, is not retired.
    """
    holders = {entry.digest for entry in (now.champion, now.previous) if entry}
    if document["decision"] != "refused" or document["candidate"] in holders:
        return bring_back(ws, name, version)
    why = "; ".join(rule["text"] for rule in document["rules"] if rule["passed"] is False)
    if RETIRED in version.tags and version.tags.get(WHY) == why:
        return False
    when = version.tags.get(RETIRED) or datetime.now(UTC).isoformat(timespec="seconds")
    api = tracking.client(ws)
    with tracking.answering(ws.tracking):
        api.set_model_version_tag(name, version.number, WHY, why)
        api.set_model_version_tag(name, version.number, RETIRED, when)
    return True


def bring_back(ws: Workspace, name: str, version: Version) -> bool:
    """Take the mark from a version; False where it has none."""
    marked = [key for key in (RETIRED, WHY) if key in version.tags]
    api = tracking.client(ws)
    with tracking.answering(ws.tracking):
        for key in marked:
            api.delete_model_version_tag(name, version.number, key)
    return bool(marked)


def reason(version: Version) -> str:
    """Why a version is retired; empty for one that is not."""
    return f"the gate refused it: {version.tags.get(WHY, '')}" if RETIRED in version.tags else ""


def refuse(name: str, version: Version) -> None:
    """Refuse to promote a retired version.

    Raises:
        UserError: It is retired.
    """
    if said := reason(version):
        again = f"{approval.command(name, version.number)} --despite-gate"
        raise UserError(
            f"version {version.number} of {name} is retired",
            reason=said,
            fix=f"promote another one; or this one all the same, which the decision log then says: {again}",
        )
