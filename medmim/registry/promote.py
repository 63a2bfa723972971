"""promote: a decision enters the log, and MLflow's aliases follow it.

The log decides, the aliases are a projection: `champion`, `previous-champion` and `challenger` (the last model that the
gate judged). Moved by hand, they are put back by the next run, or by `medmim registry reconcile`.
"""

from collections.abc import Mapping
from typing import Any

from medmim import progress, store
from medmim.errors import TRY_AGAIN, Refused, UserError
from medmim.recipe.registry import CANDIDATE
from medmim.recipe.schema import Recipe
from medmim.registry import approval, decisions, gate, lookup, register
from medmim.registry.aliases import champion, drift, project
from medmim.registry.decisions import Decision, Standing, standing
from medmim.run.stage import Outcome, stage
from medmim.run.workspace import Workspace
from medmim.store import Artifact
from medmim.tracking import Version


def run(recipe: Recipe, ws: Workspace, version: str, decision: str) -> Outcome:
    """Write the gate's decision into the log and move the aliases. The same decision twice is one entry.

    Where promotion needs approval, neither is touched: the candidate is tagged, see `approval`.

    Args:
        recipe: `register.model` is the name, `promote.approval` whether a person must agree.
        ws: The workspace.
        version: The candidate's model version.
        decision: Store URI of the gate's decision.

    Returns:
        Facts: `decision` (`promoted`, `kept`, `refused` or `awaiting approval`), `champion` (`name`, `version`,
        `digest`, `uri`; None where there is none), `entry` (its place in the log, 0 for none), `restored` (a sentence
        for every alias that had been moved by hand).

    Raises:
        Refused: The gate said no, or this evidence promoted the model once and it was replaced since. All is written.
        UserError: The decision is about another model, or another one came first.
    """
    with stage(ws, "promote") as outcome:
        name = recipe.register_.model
        document, evidence = gate.read(ws, decision), store.get(decision)
        home = register.home_of(recipe)
        candidate = lookup.lookup(ws, home, version)
        if candidate.tags.get(lookup.DIGEST) != document["candidate"]:
            raise UserError(
                f"the decision {decision} is not about version {version} of {home}",
                reason=f"it judged the model {document['candidate'][:12]}",
                fix="give the version that `medmim registry list` shows for that digest",
            )
        if home != name:
            return _propose(ws, name, outcome, document, candidate, evidence)
        restored = drift(ws, name)
        before = len(decisions.read(ws, name))
        entry = decisions.append(
            ws,
            name,
            lambda log: _enter(
                log,
                document,
                Decision(
                    verdict=document["decision"],
                    version=version,
                    digest=document["candidate"],
                    uri=candidate.tags[lookup.URI],
                    evidence=evidence.digest,
                    evidence_uri=evidence.uri,
                    bench=document["bench"],
                    against=_met(log, document),
                    why="; ".join(document["reasons"]),
                ),
            ),
        )
        changed = project(ws, name)
        now = standing(decisions.read(ws, name))
        outcome.cached = entry.n <= before and not changed
        outcome.facts = {
            "decision": document["decision"],
            "champion": champion(ws, name, now),
            "entry": entry.n,
            "restored": [f"put right: {text}" for text in restored],
        }
        _refuse(document, name, version)
        if now.champion is None or now.champion.digest != entry.digest:
            outcome.facts["decision"] = "refused"
            raise _superseded(name, version, entry, now)
    return outcome


def promote(ws: Workspace, name: str, version: str, why: str, who: str = "") -> Decision:
    """Make a version champion because a person says so.

    A version of `NAME-candidate` is copied into NAME first; its entry names the gate's decision if that still holds.

    Returns:
        The new entry, or the one that made this model champion before.

    Raises:
        UserError: No such version, no reason given, or another promotion came first.
    """
    candidate = lookup.lookup(ws, name, version)
    missing = [tag for tag in (lookup.DIGEST, lookup.URI) if tag not in candidate.tags]
    if missing:
        raise UserError(
            f"version {version} of {name} was not registered by medmim",
            reason=f"it has no tag {' and no tag '.join(missing)}",
            fix="register it with a recipe: medmim run RECIPE",
        )
    digest, uri = candidate.tags[lookup.DIGEST], candidate.tags[lookup.URI]
    _said(why)  # before anything is copied
    if name.endswith(CANDIDATE):
        goal = approval.take_over(ws, name, version)
        name, version = name.removesuffix(CANDIDATE), goal.number
    seen = standing(decisions.read(ws, name)).champion

    def decide(log: list[Decision]) -> Decision:
        holder = standing(log).champion
        if holder and holder.digest == digest:
            return holder
        _unchanged(seen, holder)
        against = holder.uri if holder else ""
        entry = Decision("promoted", version, digest, uri, against=against, why=_said(why), who=who)
        return approval.with_evidence(ws, entry, candidate, holder)

    entry = decisions.append(ws, name, decide)
    project(ws, name)
    return entry


def rollback(ws: Workspace, name: str, why: str, who: str = "") -> Decision:
    """Give the title back to the champion before this one. Done twice, it swaps the two again.

    Raises:
        UserError: Nobody was champion before, or that version is gone.
    """
    seen = standing(decisions.read(ws, name)).champion

    def decide(log: list[Decision]) -> Decision:
        now = standing(log)
        _unchanged(seen, now.champion)
        if now.previous is None:
            raise UserError(
                f"{name} has no champion to roll back to",
                reason="one model was champion so far" if now.champion else "no model has been promoted yet",
                fix=f"medmim registry promote {name} VERSION --why ...",
            )
        goal = lookup.held(ws, name, now.previous)
        if goal is None:
            raise UserError(
                f"version {now.previous.version} of {name}, the champion before, is gone from MLflow",
                fix=f"register it again with its recipe, or: medmim registry promote {name} VERSION --why ...",
            )
        old = now.previous
        return Decision("rolled-back", goal.number, old.digest, old.uri, against=old.against, why=_said(why), who=who)

    entry = decisions.append(ws, name, decide)
    project(ws, name)
    return entry


def _propose(
    ws: Workspace, name: str, outcome: Outcome, document: Mapping[str, Any], candidate: Version, evidence: Artifact
) -> Outcome:
    """What a run without the right to promote does: tell, and leave the rest to a promoter."""
    log = decisions.read(ws, name)
    news = approval.propose(ws, name + CANDIDATE, candidate, document, evidence.uri)
    known = next((entry for entry in log if entry.evidence == evidence.digest), None)
    passed = document["decision"] == "promoted"
    outcome.cached = not news
    outcome.facts = {
        "decision": approval.AWAITING if passed else document["decision"],
        "champion": champion(ws, name, standing(log)),
        "entry": known.n if known else 0,
        "restored": [],
    }
    _refuse(document, name + CANDIDATE, candidate.number)
    if passed and known:
        outcome.facts["decision"] = "refused"
        raise _superseded(name, known.version, known, standing(log))
    if passed:
        progress.say(f"waits for: medmim registry promote {name}{CANDIDATE} {candidate.number} --why ...")
    return outcome


def _refuse(document: Mapping[str, Any], name: str, version: str) -> None:
    if document["decision"] == "refused":
        raise Refused(
            f"the gate refused version {version} of {name}",
            problems=[rule["text"] for rule in document["rules"] if rule["passed"] is False],
        )


def _enter(log: list[Decision], document: Mapping[str, Any], entry: Decision) -> Decision:
    """The entry to add, or the one that says the same already."""
    for known in log:
        if known.evidence == entry.evidence:
            return known
        if entry.verdict == "kept" and known.bench == entry.bench and known.digest == entry.digest:
            return known
    holder = standing(log).champion
    if (holder.digest if holder else "") != document["champion"]:
        raise _late(holder)
    return entry


def _met(log: list[Decision], document: Mapping[str, Any]) -> str:
    """Store URI of the champion that the candidate was benched against."""
    digest = document["opponent"]["digest"]
    return next((d.uri for d in log if d.digest == digest), "") if document["opponent"]["role"] == "champion" else ""


def _unchanged(seen: Decision | None, now: Decision | None) -> None:
    if (seen.n if seen else 0) != (now.n if now else 0):
        raise _late(now)


def _late(holder: Decision | None) -> UserError:
    who = f"version {holder.version} (decision {holder.n}, by {holder.who}: {holder.why})" if holder else "nobody"
    return UserError(
        "another decision came first",
        reason=f"the champion is {who} by now",
        fix="look at it, then run the same command again",
        exit_code=TRY_AGAIN,
    )


def _superseded(name: str, version: str, entry: Decision, now: Standing) -> Refused:
    later = now.champion
    reason = f"decision {entry.n} promoted it on this very evidence"
    if later is not None:
        reason += f", and decision {later.n} ({later.who}: {later.why}) made version {later.version} champion since"
    return Refused(
        f"version {version} of {name} is not promoted again",
        reason=reason,
        fix=f"medmim registry promote {name} {version} --why ...",
    )


def _said(why: str) -> str:
    if not why.strip():
        raise UserError("a decision needs its reason", fix="give it with --why")
    return why.strip()
