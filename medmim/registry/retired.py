"""Versions that the gate refused, or a person has retired: tagged in MLflow, not deleted, so lineage and scores stay.

A later gate that passes the version takes its own tags away again, a person's never. `medmim.retired` holds the time,
by which garbage collection removes the model; a person promotes such a version only by saying so. A person's word is
an entry of the decision log, and the tags repeat it where the version is theirs to tag.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from medmim import tracking
from medmim.errors import UserError
from medmim.registry import approval, decisions, lookup
from medmim.registry.decisions import Decision, Roles
from medmim.run.workspace import Workspace
from medmim.tracking import Version

RETIRED, WHY, WHO = "medmim.retired", "medmim.retired_why", "medmim.retired_by"


def mark(ws: Workspace, name: str, version: Version, document: Mapping[str, Any], now: Roles) -> bool:
    """Retire a version that the gate refused, and bring back one that it passed; True where a tag had to be changed.

    Args:
        ws: The workspace.
        name: The registered model of the version.
        version: What was judged.
        document: The gate's decision.
        now: Of the decision log: a champion, or the one before it, is not retired.
    """
    if WHO in version.tags:
        return False
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
    marked = [key for key in (RETIRED, WHY, WHO) if key in version.tags]
    api = tracking.client(ws)
    with tracking.answering(ws.tracking):
        for key in marked:
            api.delete_model_version_tag(name, version.number, key)
    return bool(marked)


def by_person(ws: Workspace, name: str, version: Version, entry: Decision) -> None:
    """Repeat a person's entry as tags of the version; a promoter may not tag a candidate, which is its run's."""
    from mlflow.exceptions import MlflowException

    api = tracking.client(ws)
    with tracking.answering(ws.tracking):
        try:
            for key, value in ((WHY, entry.why), (WHO, entry.who), (RETIRED, entry.time)):
                api.set_model_version_tag(name, version.number, key, value)
        except MlflowException as error:
            if error.get_http_status_code() != 403:
                raise


def reason(version: Version, log: Sequence[Decision] = ()) -> str:
    """Why a version is retired; empty for one that is not.

    Args:
        version: The version; what its tags say.
        log: Of the production model, which knows what a person has retired though no tag says so.
    """
    if entry := decisions.retirement(log, version.tags.get(lookup.DIGEST, "")):
        return f"{entry.who} retired it in decision {entry.n}: {entry.why}"
    if RETIRED not in version.tags:
        return ""
    by = f"{version.tags[WHO]} retired it" if WHO in version.tags else "the gate refused it"
    return f"{by}: {version.tags.get(WHY, '')}"


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
