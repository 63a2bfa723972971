"""promote: write a decision into the log, of the gate or of a person, and set MLflow's aliases by it.

The log decides, the aliases are a projection: `champion`, `previous-champion` and `challenger` (the last model that the
gate judged). Set by hand, they are restored by the next run, or by `medmim registry reconcile`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from medmim import hints, progress, store
from medmim.errors import TRY_AGAIN, Refused, UserError
from medmim.recipe.registry import CANDIDATE
from medmim.recipe.schema import Recipe
from medmim.registry import approval, decisions, evidence, gate, lookup, retired
from medmim.registry.aliases import champion, drift, sync
from medmim.registry.decisions import Decision, Roles, roles
from medmim.run.person import is_unfilled, person
from medmim.run.provenance import terms_of
from medmim.run.stage import Outcome, stage
from medmim.run.workspace import Workspace
from medmim.store import Artifact
from medmim.terms import reasons
from medmim.tracking import Version
from medmim.tracking.training_run import model_name


def run(recipe: Recipe, ws: Workspace, version: str, decision: str) -> Outcome:
    """Write the gate's decision into the log and set the aliases. The same decision twice is one entry.

    Where promotion needs approval, neither is changed: the candidate is tagged, see `approval`.

    Args:
        recipe: `register.model` is the name, `promote.approval` whether a person must agree.
        ws: The workspace.
        version: The candidate's model version.
        decision: Store URI of the gate's decision.

    Returns:
        Facts: `decision` (`promoted`, `kept`, `refused` or `awaiting approval`), `champion` (`name`, `version`,
        `digest`, `uri`; None where there is none), `entry` (its number in the log, 0 for none), `restored` (a sentence
        for every alias that had been set by hand), `command` (what promotes a version that awaits approval).

    Raises:
        Refused: The gate said no; a person has refused this model; or this evidence promoted the model once and it was
            replaced since. All is written.
        UserError: The decision is about another model, the model does not exist, or another decision came first.
    """
    with stage(ws, "promote") as outcome:
        name, registered = recipe.register_.model, model_name(recipe)
        document, judged = gate.read(ws, decision), store.get(decision)
        candidate = lookup.get_version(ws, registered, version)
        model = evidence.model_of(ws, registered, candidate)
        if candidate.tags.get(lookup.DIGEST) != document["candidate"]:
            raise UserError(
                f"the decision {decision} is not about version {version} of {registered}",
                reason=f"it judged the model {document['candidate'][:12]}",
                fix=f"give the version that `{hints.command('registry', 'list')}` shows for that digest",
            )
        if registered != name:
            return _propose(ws, name, outcome, document, candidate, judged)

        def decide(log: list[Decision]) -> Decision:
            entry = Decision(
                verdict=document["decision"],
                version=version,
                digest=model.digest,
                uri=model.uri,
                evidence=judged.digest,
                evidence_uri=judged.uri,
                bench=document["bench"],
                against=_opponent_uri(log, document),
                why="; ".join(document["reasons"]),
            )
            found = _known_or_new(log, document, entry)
            if not found.n and found.verdict == "promoted":
                _respect_refusal(log, name, version, model.digest)
            return found

        differing = drift(ws, name)
        before = len(decisions.read(ws, name))
        entry = decisions.append(ws, name, decide)
        changed = sync(ws, name)
        now = roles(decisions.read(ws, name))
        changed |= retired.mark(ws, name, candidate, document, now)
        outcome.cached = entry.n <= before and not changed
        outcome.facts = {
            "decision": document["decision"],
            "champion": champion(ws, name, now),
            "entry": entry.n,
            "restored": [f"restored: {text}" for text in differing],
        }
        _raise_refusal(document, name, version)
        if now.champion is None or now.champion.digest != entry.digest:
            outcome.facts["decision"] = "refused"
            raise _superseded(name, version, entry, now)
    return outcome


def promote(
    ws: Workspace,
    name: str,
    version: str,
    why: str,
    who: str = "",
    despite_terms: bool = False,
    despite_gate: bool = False,
    policy: str = "",
    seen: int | None = None,
) -> Decision:
    """Make a version champion by a person's decision.

    The model must exist, and every byte of it be what its digest says. A version of `NAME-candidate` gets a version in
    NAME first. Its entry names the gate's decision, computed again, where that is for the present champion; what it
    claims and does not follow from its answers is refused.

    Args:
        ws: The workspace.
        name: The registered model, or `NAME-candidate`.
        version: The version's number in it.
        why: The reason.
        who: The person to record; by default MEDMIM_USER, else the user of this process.
        despite_terms: Promote a model that nobody may serve; the log says so.
        despite_gate: Promote a version that is retired, since the gate refused it, or that a person refused, or a
            candidate whose evidence does not hold: it is not looked at. The log says so.
        policy: The promoter's policy, see `evidence.check`.
        seen: Number of the decision that made the champion which the person saw, 0 where there was none; with another
            one nothing is done. None: the present one.

    Returns:
        The new entry, or the one that made this model champion before.

    Raises:
        Refused: The candidate's evidence does not hold.
        UserError: No such version or model, no reason or no person given, it is retired or refused by a person, its
            terms of use forbid to serve it, or another promotion came first.
    """
    candidate = lookup.get_version(ws, name, version)
    model = evidence.model_of(ws, name, candidate)
    reason, who = _reason(why), person(who)  # before anything is written
    if not despite_gate:
        retired.refuse(name, candidate)
    elif name.endswith(CANDIDATE) or retired.reason(candidate):
        reason = f"{reason} (although {retired.reason(candidate) or 'no evidence of the gate was looked at'})"
    forbidden = reasons(terms_of(model), ["serve"])
    if forbidden and not despite_terms:
        raise UserError(
            f"version {version} of {name} must not answer users",
            reason=f"{forbidden[0]}; the champion is what a server and a night ask",
            fix="for research only, where nobody else asks it: add --despite-terms, which the decision log then says",
        )
    if forbidden:
        reason = f"{reason} (despite the terms of use: {forbidden[0]})"
    production = name.removesuffix(CANDIDATE)
    log = decisions.read(ws, production)
    before = roles(log).champion
    _check_seen(seen, before)
    if not despite_gate:
        _respect_refusal(log, name, version, model.digest)
    evidence.check_content(model)
    proposed, found, own = production != name, None, candidate
    if proposed and despite_gate:
        progress.say("promoting by hand, without the gate's evidence, which is not looked at")
    elif proposed and (before is None or before.digest != model.digest):
        found = evidence.check(ws, name, candidate, model, before, policy)
        reason = reason if found else f"{reason} (without evidence of the gate)"
    if not proposed:
        approval.refuse_shared(ws, production)
    if proposed or approval.is_foreign(ws, name, candidate):
        own = approval.to_production(ws, production, candidate, model, found.bench if found else None)
    entry = Decision("promoted", own.number, model.digest, model.uri, why=reason, who=who)
    if found:
        entry = replace(
            entry, evidence=found.decision.digest, evidence_uri=found.decision.uri, bench=found.bench.digest
        )

    def decide(log: list[Decision]) -> Decision:
        holder = roles(log).champion
        if holder and holder.digest == model.digest:
            return holder
        _check_unchanged(before, holder)
        refusal = decisions.refusal(log, model.digest)
        if refusal and not despite_gate:
            _respect_refusal(log, name, version, model.digest)
        told = f" (although {_refused_by(refusal)})" if refusal else ""
        return replace(entry, why=reason + told, against=holder.uri if holder else "")

    made = decisions.append(ws, production, decide)
    sync(ws, production)
    if not proposed:  # the candidate itself is its run's: a promoter has no right to change it
        retired.bring_back(ws, name, candidate)
    return made


def rollback(ws: Workspace, name: str, why: str, who: str = "", seen: int | None = None) -> Decision:
    """Make the champion before this one champion again. Done twice, it swaps the two back.

    Args:
        ws: The workspace.
        name: The registered model.
        why: The reason.
        who: The person to record; by default MEDMIM_USER, else the user of this process.
        seen: As for `promote`.

    Returns:
        The new entry.

    Raises:
        UserError: There was no champion before, that version or its model is gone or damaged, a person has refused it,
            or no reason or no person given.
    """
    reason, who = _reason(why), person(who)
    before = roles(decisions.read(ws, name)).champion
    _check_seen(seen, before)

    def decide(log: list[Decision]) -> Decision:
        now = roles(log)
        _check_unchanged(before, now.champion)
        if now.previous is None:
            raise UserError(
                f"{name} has no champion to roll back to",
                reason="only one model was champion so far" if now.champion else "no model has been promoted yet",
                fix=hints.command("registry", "promote", name, "VERSION", "--why", "..."),
            )
        _respect_refusal(log, name, now.previous.version, now.previous.digest)
        goal = lookup.version_of(ws, name, now.previous)
        if goal is None:
            raise UserError(
                f"version {now.previous.version} of {name}, the champion before, is gone from MLflow",
                fix="register it again with its recipe, or: "
                + hints.command("registry", "promote", name, "VERSION", "--why", "..."),
            )
        model = evidence.model_of(ws, name, goal)
        evidence.check_content(model)
        approval.refuse_shared(ws, name)
        if approval.is_foreign(ws, name, goal):
            goal = approval.to_production(ws, name, goal, model, None)
        old = now.previous
        return Decision("rolled-back", goal.number, old.digest, old.uri, against=old.against, why=reason, who=who)

    entry = decisions.append(ws, name, decide)
    sync(ws, name)
    return entry


def refuse(ws: Workspace, name: str, version: str, why: str, who: str = "") -> Decision:
    """Refuse a version by a person's decision: it awaits approval no more, and only --despite-gate promotes it.

    Args:
        ws: The workspace.
        name: The registered model, or `NAME-candidate`.
        version: The version's number in it.
        why: The reason.
        who: The person to record; by default MEDMIM_USER, else the user of this process.

    Returns:
        The new entry, or the one by which a person refused this model before.

    Raises:
        UserError: As `check_refusable`; no such version, or no reason or no person given.
    """
    candidate, entry = _word_against("refused", ws, name, version, why, who)

    def decide(log: list[Decision]) -> Decision:
        check_refusable(ws, name, candidate, log)
        return decisions.refusal(log, entry.digest) or entry

    return decisions.append(ws, name.removesuffix(CANDIDATE), decide)


def retire(ws: Workspace, name: str, version: str, why: str, who: str = "") -> Decision:
    """Take a version out of use by a person's decision: garbage collection may then remove its model.

    It is refused from then on, as by `refuse`; lineage, scores and the decisions about it stay.

    Args:
        ws: The workspace.
        name: The registered model, or `NAME-candidate`.
        version: The version's number in it.
        why: The reason.
        who: The person to record; by default MEDMIM_USER, else the user of this process.

    Returns:
        The new entry, or the one by which a person retired this model before.

    Raises:
        UserError: As `check_refusable`; it is the champion of any model, or the one that a rollback needs; no such
            version, or no reason or no person given.
    """
    candidate, word = _word_against("retired", ws, name, version, why, who)
    production = name.removesuffix(CANDIDATE)

    def decide(log: list[Decision]) -> Decision:
        check_refusable(ws, name, candidate, log)
        for other, entries in {**decisions.read_all(ws), production: log}.items():
            _check_out_of_use(f"version {version} of {name}", word.digest, other, roles(entries))
        return decisions.retirement(log, word.digest) or word

    entry = decisions.append(ws, production, decide)
    retired.by_person(ws, name, candidate, entry)
    return entry


def _word_against(
    verdict: Literal["refused", "retired"], ws: Workspace, name: str, version: str, why: str, who: str
) -> tuple[Version, Decision]:
    """A version and a person's word against it, not yet in the log; its reason names the candidate it was given as."""
    candidate = lookup.get_version(ws, name, version)
    digest, uri = evidence.named_by(name, candidate)
    reason, who = _reason(why), person(who)
    if name.endswith(CANDIDATE):
        reason = f"{reason} (version {version} of {name})"
    return candidate, Decision(verdict, version, digest, uri, why=reason, who=who)


def _check_out_of_use(title: str, digest: str, name: str, now: Roles) -> None:
    """Refuse to retire what servers and nights ask, or what a rollback makes champion."""
    if now.champion and now.champion.digest == digest:
        raise UserError(
            f"{title} is the champion of {name}",
            reason="the model of a retired version may be removed, and the champion is what servers and nights ask",
            fix="promote another version first: "
            + hints.command("registry", "promote", name, "VERSION", "--why", "..."),
        )
    if now.previous and now.previous.digest == digest:
        raise UserError(
            f"{title} is what a rollback of {name} makes champion",
            reason="the model of a retired version may be removed, and a rollback needs it",
            fix="retire it after the next promotion; to keep it from being rolled back to until then: "
            + hints.command("registry", "refuse", name, now.previous.version, "--why", "..."),
        )


def check_refusable(ws: Workspace, name: str, candidate: Version, log: list[Decision]) -> None:
    """Refuse to refuse the champion, and by another version's word a model that was champion.

    Which model a version is of, the run says that registered it: were it believed, a run could name the champion
    before this one, and whoever refused that run's version would take the rollback away.

    Args:
        ws: The workspace.
        name: The registered model, or `NAME-candidate`.
        candidate: Its version.
        log: Of the registered model.

    Raises:
        UserError: It is one of these, or medmim did not register it.
    """
    digest, _ = evidence.named_by(name, candidate)
    production, holder, title = (
        name.removesuffix(CANDIDATE),
        roles(log).champion,
        f"version {candidate.number} of {name}",
    )
    if holder and holder.digest == digest:
        raise UserError(
            f"{title} is the champion",
            reason="a refused model cannot be asked, and the champion is what servers and nights ask",
            fix=f"roll back first: {hints.command('registry', 'rollback', production, '--why', '...')}",
        )
    made = [one for one in log if one.digest == digest and one.verdict in ("promoted", "rolled-back")]
    if not made:
        return
    own = lookup.version_of(ws, production, made[-1])
    number = own.number if own else made[-1].version
    if (production, number) != (name, candidate.number):
        raise UserError(
            f"{title} says that it is the model of version {number} of {production}, which was champion",
            reason="a version's tags are its run's word, and a refusal by them would stop a rollback to that model",
            fix="to refuse that model itself: "
            + hints.command("registry", "refuse", production, number, "--why", "...")
            + "; else find out who registered this version",
        )


def _propose(
    ws: Workspace, name: str, outcome: Outcome, document: Mapping[str, Any], candidate: Version, judged: Artifact
) -> Outcome:
    """Tag the candidate for a promoter: what a run without the right to promote may do."""
    log = decisions.read(ws, name)
    changed = approval.propose(ws, name + CANDIDATE, candidate, document, judged.uri)
    changed |= retired.mark(ws, name + CANDIDATE, candidate, document, roles(log))
    known = next((entry for entry in log if entry.evidence == judged.digest), None)
    passed = document["decision"] == "promoted"
    outcome.cached = not changed
    outcome.facts = {
        "decision": approval.AWAITING if passed else document["decision"],
        "champion": champion(ws, name, roles(log)),
        "entry": known.n if known else 0,
        "restored": [],
    }
    _raise_refusal(document, name + CANDIDATE, candidate.number)
    if passed:
        _respect_refusal(log, name + CANDIDATE, candidate.number, document["candidate"])
    if passed and known:
        outcome.facts["decision"] = "refused"
        raise _superseded(name, known.version, known, roles(log))
    if passed:
        outcome.facts["command"] = approval.command(name + CANDIDATE, candidate.number)
        progress.say(f"{approval.AWAITING}: {outcome.facts['command']}")
    return outcome


def _raise_refusal(document: Mapping[str, Any], name: str, version: str) -> None:
    if document["decision"] == "refused":
        raise Refused(
            f"the gate refused version {version} of {name}",
            problems=[rule["text"] for rule in document["rules"] if rule["passed"] is False],
        )


def _known_or_new(log: list[Decision], document: Mapping[str, Any], entry: Decision) -> Decision:
    """The entry of the log that says the same already, else the new one."""
    for known in log:
        if known.evidence == entry.evidence:
            return known
        if entry.verdict == "kept" and known.bench == entry.bench and known.digest == entry.digest:
            return known
    holder = roles(log).champion
    if (holder.digest if holder else "") != document["champion"]:
        raise _conflict(holder)
    return entry


def _opponent_uri(log: list[Decision], document: Mapping[str, Any]) -> str:
    """Store URI of the champion that the candidate was benched against; empty for the base."""
    opponent = document["opponent"]
    if opponent["role"] != "champion":
        return ""
    return next((entry.uri for entry in log if entry.digest == opponent["digest"]), "")


def _refused_by(refusal: Decision) -> str:
    return f"{refusal.who} {refusal.verdict} it in decision {refusal.n}: {refusal.why}"


def _respect_refusal(log: list[Decision], name: str, version: str, digest: str) -> None:
    """Refuse to promote a model that a person has refused.

    Raises:
        Refused: A person has refused it.
    """
    refusal = decisions.refusal(log, digest)
    if refusal is not None:
        again = f"{approval.command(name, version)} --despite-gate"
        raise Refused(
            f"version {version} of {name} was {refusal.verdict} by a person",
            reason=_refused_by(refusal),
            fix=f"promote another one; or this one all the same, which the decision log then says: {again}",
        )


def _check_seen(seen: int | None, now: Decision | None) -> None:
    if seen is not None and seen != (now.n if now else 0):
        raise _conflict(now)


def _check_unchanged(seen: Decision | None, now: Decision | None) -> None:
    if (seen.n if seen else 0) != (now.n if now else 0):
        raise _conflict(now)


def _conflict(holder: Decision | None) -> UserError:
    now = f"version {holder.version} (decision {holder.n}, by {holder.who}: {holder.why})" if holder else "nobody"
    return UserError(
        "another decision came first",
        reason=f"the champion is now {now}",
        fix="look at it, then run the same command again",
        exit_code=TRY_AGAIN,
    )


def _superseded(name: str, version: str, entry: Decision, now: Roles) -> Refused:
    later = now.champion
    reason = f"decision {entry.n} promoted it on the same evidence"
    if later is not None:
        reason += f", and decision {later.n} ({later.who}: {later.why}) made version {later.version} champion since"
    return Refused(
        f"version {version} of {name} is not promoted again",
        reason=reason,
        fix=hints.command("registry", "promote", name, version, "--why", "..."),
    )


def _reason(why: str) -> str:
    given = why.strip()
    if given in ("", "...", "medmim") or is_unfilled(given):
        raise UserError(f"a decision needs its reason, and '{given}' is none", fix="give it with --why")
    return given
