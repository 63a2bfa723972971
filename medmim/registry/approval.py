"""Candidates awaiting approval: how a run proposes one, and how a promoter copies it into the production model.

A run that may not promote registers into `NAME-candidate` and tags the version there with the gate's verdict. Awaiting
approval is no decision, so the decision log has no entry for it. Only promoters write the log and the production model
NAME.
"""

import io
import os
from collections.abc import Mapping
from contextlib import redirect_stderr
from dataclasses import replace
from typing import Any

from medmim import hints, store, tracking
from medmim.recipe.registry import CANDIDATE
from medmim.registry import decisions, gate, lookup, register
from medmim.registry.decisions import Decision
from medmim.run.workspace import Workspace
from medmim.tracking import Version

VERDICT, EVIDENCE = "medmim.gate", "medmim.gate_evidence"
AWAITING = "awaiting approval"


def propose(ws: Workspace, name: str, version: Version, document: Mapping[str, Any], evidence: str) -> bool:
    """Tag a candidate with the gate's decision; True where a tag had to be set.

    Args:
        ws: The workspace.
        name: `NAME-candidate`.
        version: The candidate.
        document: The gate's decision.
        evidence: Its store URI; the tag that is set last.
    """
    tags = {VERDICT: document["decision"], EVIDENCE: evidence}
    missing = {key: value for key, value in tags.items() if version.tags.get(key) != value}
    if missing:
        api = tracking.client(ws)
        with tracking.answering(ws.tracking):
            for key, value in missing.items():
                api.set_model_version_tag(name, version.number, key, value)
    return bool(missing)


def awaiting(ws: Workspace, name: str) -> list[Version]:
    """Versions of `NAME-candidate` that passed the gate and are not promoted yet; none for any other name."""
    if not name.endswith(CANDIDATE):
        return []
    log = decisions.read(ws, name.removesuffix(CANDIDATE))
    done = {entry.digest for entry in log if entry.verdict == "promoted"}
    listed = tracking.registered(ws, name).get(name, tracking.Registered()).versions
    return [v for v in listed if v.tags.get(VERDICT) == "promoted" and v.tags.get(lookup.DIGEST) not in done]


def command(name: str, number: str) -> str:
    """What a person types to promote a candidate; on a cluster, where MEDMIM_PROMOTER_NAMESPACE is set, as a Job."""
    typed = ["registry", "promote", name, number, "--why", "..."]
    namespace = os.environ.get("MEDMIM_PROMOTER_NAMESPACE")
    return hints.command(*typed, *(["--on-cluster", "--namespace", namespace] if namespace else []))


def copy_to_production(ws: Workspace, name: str, number: str) -> Version:
    """The candidate's version in the production model: copied there now, or found by its digest.

    Args:
        ws: The workspace.
        name: `NAME-candidate`.
        number: The candidate's version.
    """
    production = name.removesuffix(CANDIDATE)
    digest = lookup.get_version(ws, name, number).tags[lookup.DIGEST]
    found = lookup.find(ws, production, digest)
    if found is None:
        api = tracking.client(ws)
        with tracking.answering(ws.tracking), redirect_stderr(io.StringIO()):  # MLflow prints there
            api.copy_model_version(f"models:/{name}/{number}", production)
            found = register.deduplicate(api, ws, production, digest)
    return found


def with_evidence(ws: Workspace, entry: Decision, version: Version, holder: Decision | None) -> Decision:
    """The entry with the gate's decision, where the gate passed this model against the present champion."""
    if version.tags.get(VERDICT) != "promoted" or EVIDENCE not in version.tags:
        return entry
    evidence = store.get(version.tags[EVIDENCE])
    document = gate.read(ws, evidence.uri)
    if document["candidate"] != entry.digest or document["champion"] != (holder.digest if holder else ""):
        return entry
    return replace(entry, evidence=evidence.digest, evidence_uri=evidence.uri, bench=document["bench"])
