"""Evidence for a promotion: what a candidate claims of itself, checked by computing it again.

Verdict, decision, scores and cache index are written by the steps that are judged. A promoter looks everything up by
digest in its own store, scores the recorded answers again, and decides by its own policy.
"""

import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmim import hints, progress, store
from medmim.errors import Refused, UserError
from medmim.registry import approval, gate, lookup, policy
from medmim.registry.decisions import Decision
from medmim.run.provenance import provenance, terms_of
from medmim.run.workspace import Workspace
from medmim.store import Artifact
from medmim.tracking import Version

POLICY = "MEDMIM_GATE_POLICY"
_AGREE = ("decision", "candidate", "champion", "opponent", "bench")


@dataclass(frozen=True)
class Evidence:
    """The promoter's own decision, and the scores that it was made from."""

    decision: Artifact
    bench: Artifact


def model_of(ws: Workspace, name: str, version: Version) -> Artifact:
    """The model that a version's tags name, in this store.

    Raises:
        UserError: The version has no such tags, its two tags name two models, or the model does not exist.
    """
    digest, uri = named_by(name, version)
    found = store.find(f"{ws.store}/model/{digest}")
    if found is None or found.digest != digest:
        raise UserError(
            f"the model of version {version.number} of {name} does not exist",
            reason=f"there is no model {digest} in {ws.store}; the version names {uri}",
            fix=f"run its recipe again: {hints.command('run', 'RECIPE')}",
        )
    return found


def named_by(name: str, version: Version) -> tuple[str, str]:
    """Digest and address of the model that a version's tags name.

    Raises:
        UserError: The version has no such tags, or its two tags name two models.
    """
    title = f"version {version.number} of {name}"
    if missing := [tag for tag in (lookup.DIGEST, lookup.URI) if tag not in version.tags]:
        raise UserError(
            f"{title} was not registered by medmim",
            reason=f"it has no tag {' and no tag '.join(missing)}",
            fix=f"register it with a recipe: {hints.command('run', 'RECIPE')}",
        )
    digest, uri = version.tags[lookup.DIGEST], version.tags[lookup.URI]
    lookup.refuse_another(uri, digest, title)
    return digest, uri


def check_content(model: Artifact) -> None:
    """Read every byte of a model, and of the base of adapters, and compare it with the manifest.

    Raises:
        UserError: Files are missing or differ; every one is named.
    """
    from medmim.lvlm import adapters, checkpoint

    progress.say(f"checking the content of the model {model.digest[:12]}")
    if damaged := store.verify(model):
        raise UserError(
            f"{model.uri} is damaged",
            reason="these files are missing or differ from the manifest",
            fix="delete the model's folder and run its recipe again",
            problems=damaged,
        )
    if adapters.are_in(model) and isinstance(base := checkpoint.base_of(model)[1], Artifact):
        check_content(base)


def check(
    ws: Workspace,
    name: str,
    candidate: Version,
    model: Artifact,
    holder: Decision | None,
    ref: str = "",
) -> Evidence | None:
    """The evidence of a candidate, computed again.

    Args:
        ws: The workspace.
        name: `NAME-candidate`.
        candidate: Its version; its tags say only where to look.
        model: Its model.
        holder: The decision that made the present champion.
        ref: The promoter's policy: a shipped name or a file. [default: MEDMIM_GATE_POLICY, else `default`]

    Returns:
        None where the gate has not passed this model against the present champion, which is said: then only a person
        can promote it.

    Raises:
        Refused: The candidate claims what does not follow from its answers; each difference is named.
        UserError: Something that its evidence names is gone or damaged; no such policy.
    """
    from medmim.bench.rescore import differing, rescore
    from medmim.bench.run import SCORES

    ref = ref or os.environ.get(POLICY) or "default"
    limits = policy.load(ref)
    if candidate.tags.get(approval.VERDICT) != "promoted" or approval.EVIDENCE not in candidate.tags:
        _say_by_hand(f"the gate has not passed version {candidate.number} of {name}")
        return None
    claimed = _named(ws, "decision", candidate.tags[approval.EVIDENCE].rpartition("/")[2])
    document = _read(claimed)
    if document["candidate"] != model.digest:
        raise _forged(name, candidate, [f"{claimed.uri} judges the model {document['candidate']}, not {model.digest}"])
    if document["champion"] != (holder.digest if holder else ""):
        _say_by_hand("the gate judged it against another champion than there is now")
        return None
    scores = _named(ws, "bench", document["bench"])
    progress.say(f"scoring the answers of {scores.uri} again")
    computed = rescore(ws, scores)
    recorded = json.loads(store.read_file(scores, SCORES))
    if problems := differing(recorded, computed):
        raise _forged(name, candidate, problems)
    own = gate.decide(limits, computed, holder, terms_of(model)) | {"bench": scores.digest}
    if own["decision"] != "promoted":
        refused = [rule["text"] for rule in own["rules"] if rule["passed"] is False]
        raise _forged(
            name, candidate, refused, f"decided again by the promoter's policy {ref}, it is {own['decision']}"
        )
    if problems := [
        f"{key}: {document.get(key)} recorded, {own[key]} computed" for key in _AGREE if document.get(key) != own[key]
    ]:
        raise _forged(name, candidate, problems)
    return Evidence(_publish(ws, own), scores)


def _named(ws: Workspace, kind: str, digest: str) -> Artifact:
    """What evidence names by its digest, in this store, wherever the evidence says that it lies."""
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise Refused(f"'{digest}' is no digest of a {kind} that could be evidence")
    return store.get(f"{ws.store}/{kind}/{digest}")


def _read(claimed: Artifact) -> Mapping[str, Any]:
    """A decision of somebody, of which all that is used here is text."""
    try:
        document = json.loads(store.read_file(claimed, gate.FILE))
        if all(isinstance(document[key], str) for key in ("candidate", "champion", "bench")):
            return dict(document)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    raise Refused(f"{claimed.uri} is not a decision of the gate")


def _publish(ws: Workspace, own: Mapping[str, Any]) -> Artifact:
    """The decision as computed here: equal to the gate's where that used the same policy, and never merely claimed."""
    made_from = provenance("gate", gate.REVISION, {"bench": own["bench"]}, None)
    with tempfile.TemporaryDirectory(prefix="medmim-") as folder:
        (Path(folder) / gate.FILE).write_text(gate.text(own), encoding="utf-8")
        made = store.publish(Path(folder), ws.store, "decision", {"rules": len(own["rules"])}, made_from)
    store.read_file(made, gate.FILE)  # one that was there already may have been written over
    return made


def _say_by_hand(why: str) -> None:
    progress.say(f"promoting by hand, without the gate's evidence: {why}")


def _forged(name: str, candidate: Version, problems: list[str], why: str = "") -> Refused:
    command = f"{approval.command(name, candidate.number)} --despite-gate"
    return Refused(
        f"the evidence of version {candidate.number} of {name} does not hold",
        reason=why or "what it claims does not follow from the answers that it names",
        fix="find out who wrote it; where an earlier version of medmim benched it, run its recipe again; where another "
        f"policy is meant, name it by --policy or {POLICY}. To promote it all the same, on your own word: {command}",
        problems=problems,
    )
