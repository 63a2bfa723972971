"""promote: a decision enters the log, and MLflow's aliases follow it.

The log decides, the aliases are a projection: `champion`, `previous-champion` and `challenger` (the last model that the
gate judged). Moved by hand, they are put back by the next run, or by `medmim registry reconcile`.
"""

from collections.abc import Mapping
from typing import Any

from medmim import store, tracking
from medmim.errors import TRY_AGAIN, Refused, UserError
from medmim.recipe import Recipe
from medmim.registry import decisions, gate, versions
from medmim.registry.decisions import Decision, Standing, standing
from medmim.steps import Outcome, Workspace, stage

ROLES = ("champion", "previous-champion", "challenger")


def run(recipe: Recipe, ws: Workspace, version: str, decision: str) -> Outcome:
    """Write the gate's decision into the log and move the aliases. The same decision twice is one entry.

    Args:
        recipe: `register.model` is the name.
        ws: The workspace.
        version: The candidate's model version.
        decision: Store URI of the gate's decision.

    Returns:
        Facts: `decision`, `champion` (`name`, `version`, `digest`, `uri`; None where there is none), `entry` (its place
        in the log), `restored` (a sentence for every alias that had been moved by hand).

    Raises:
        Refused: The gate said no, or this evidence promoted the model once and it was replaced since. All is written.
        UserError: The decision is about another model, or another one came first.
    """
    with stage(ws, "promote") as outcome:
        name = recipe.register_.model
        document, evidence = gate.read(ws, decision), store.get(decision)
        candidate = versions.lookup(ws, name, version)
        if candidate.tags.get(versions.DIGEST) != document["candidate"]:
            raise UserError(
                f"the decision {decision} is not about version {version} of {name}",
                reason=f"it judged the model {document['candidate'][:12]}",
                fix="give the version that `medmim registry list` shows for that digest",
            )
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
                    uri=candidate.tags[versions.URI],
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
        if document["decision"] == "refused":
            raise Refused(
                f"the gate refused version {version} of {name}",
                problems=[rule["text"] for rule in document["rules"] if rule["passed"] is False],
            )
        if now.champion is None or now.champion.digest != entry.digest:
            outcome.facts["decision"] = "refused"
            raise _superseded(name, version, entry, now)
    return outcome


def promote(ws: Workspace, name: str, version: str, why: str, who: str = "") -> Decision:
    """Make a version champion because a person says so.

    Returns:
        The new entry, or the one that made this model champion before.

    Raises:
        UserError: No such version, no reason given, or another promotion came first.
    """
    candidate = versions.lookup(ws, name, version)
    missing = [tag for tag in (versions.DIGEST, versions.URI) if tag not in candidate.tags]
    if missing:
        raise UserError(
            f"version {version} of {name} was not registered by medmim",
            reason=f"it has no tag {' and no tag '.join(missing)}",
            fix="register it with a recipe: medmim run RECIPE",
        )
    digest, uri = candidate.tags[versions.DIGEST], candidate.tags[versions.URI]
    seen = standing(decisions.read(ws, name)).champion

    def decide(log: list[Decision]) -> Decision:
        holder = standing(log).champion
        if holder and holder.digest == digest:
            return holder
        _unchanged(seen, holder)
        against = holder.uri if holder else ""
        return Decision("promoted", version, digest, uri, against=against, why=_said(why), who=who)

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
        goal = versions.held(ws, name, now.previous)
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


def reconcile(ws: Workspace, name: str | None = None) -> dict[str, list[str]]:
    """Make the aliases what the log says.

    Args:
        ws: The workspace.
        name: One model, or all that have a log.

    Returns:
        Name -> what differed and is right now.
    """
    every = [name] if name else decisions.names(ws)
    found = {each: drift(ws, each) for each in every}
    for each in every:
        project(ws, each)
    return found


def drift(ws: Workspace, name: str) -> list[str]:
    """Where the aliases differ from the log: moved by hand, or left behind by a run that was killed."""
    return [text for _, _, text in _differences(ws, name)]


def project(ws: Workspace, name: str) -> bool:
    """Set the aliases from the log; whether anything had to be set.

    Raises:
        UserError: The champion's version is gone from MLflow.
    """
    changed = False
    while True:
        log = decisions.read(ws, name)
        differences = _differences(ws, name, log)
        if differences:
            changed = True
            api = tracking.client(ws)
            with tracking.answering(ws.tracking):
                for role, number, _ in differences:
                    if number:
                        api.set_registered_model_alias(name, role, number)
                    elif role in tracking.registered(ws, name)[name].aliases:
                        api.delete_registered_model_alias(name, role)
        if len(decisions.read(ws, name)) == len(log):  # else we may have written over a newer projection
            break
    holder = standing(log).champion
    if holder and versions.held(ws, name, holder) is None:
        raise UserError(
            f"version {holder.version} of {name}, the champion, is gone from MLflow",
            reason=f"the decision log made it champion (decision {holder.n}), but it was deleted there",
            fix="run its recipe again to register the same model anew, or name another champion: "
            f"medmim registry rollback {name} --why ..., medmim registry promote {name} VERSION --why ...",
        )
    return changed


def champion(ws: Workspace, name: str, now: Standing) -> dict[str, str] | None:
    """The champion as screen and `--json` show it."""
    if now.champion is None:
        return None
    version = versions.held(ws, name, now.champion)
    number = version.number if version else now.champion.version
    return {"name": name, "version": number, "digest": now.champion.digest, "uri": now.champion.uri}


def _differences(ws: Workspace, name: str, log: list[Decision] | None = None) -> list[tuple[str, str, str]]:
    """Role, version that it should name (empty: none) and a sentence, for every alias that is not so."""
    roles = standing(decisions.read(ws, name) if log is None else log).roles()
    present = tracking.registered(ws, name).get(name, tracking.Registered()).aliases
    found = []
    for role in ROLES:
        entry = roles.get(role)
        version = versions.held(ws, name, entry) if entry else None
        number = version.number if version else ""
        if present.get(role, "") == number:
            continue
        stands = f"was on version {present[role]}" if role in present else "was not set"
        gone = f"version {entry.version}, which is gone" if entry else "none"
        should = f"version {number}" if number else gone
        found.append((role, number, f"alias {role} of {name} {stands}; the decision log says {should}"))
    return found


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
