"""Registered models, their versions, where these come from, and the decisions about them; who may, decides here."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import RedirectResponse, Response

from medmim import tracking
from medmim.errors import Unavailable, UserError
from medmim.housekeeping import erase
from medmim.recipe.registry import CANDIDATE
from medmim.registry import aliases, approval, decisions, evidence, facts, lineage, lookup, promote, retired
from medmim.registry.decisions import Decision
from medmim.run.provenance import terms_of
from medmim.run.workspace import Workspace
from medmim.terms import FLAGS, reasons
from medmim.tracking import Registered, Version
from medmim_console import audit, catalog, starting
from medmim_console.catalog import Listing
from medmim_console.promotions import Busy, Change
from medmim_console.site import PER_PAGE, Form, Number, Promoter, Refusal, ThisSite, Who, address, draw

router = APIRouter(dependencies=[Depends(starting.mlflow)])

Name = Annotated[str, Path(max_length=250)]  # of a registered model
Ordinal = Annotated[str, Path(pattern=r"^[0-9]{1,18}$")]  # of a version
Search = Annotated[str, Query(alias="name", max_length=200)]
_AT_ONCE = 8  # models of a list that are looked at together
_LONGEST = 2000  # characters of a reason
_NEITHER = "it can be neither promoted nor refused here: register it by a run of a recipe"
_SOON = 1.5  # s: what ends within shows its result at once


@router.get("/models")
def models(request: Request, this: ThisSite, search: Search = "", number: Number = 1) -> Response:
    """The registered models."""
    found, more = tracking.page_of_models(this.ws, search.strip(), number, PER_PAGE)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        rows = tuple(pool.map(lambda name: _listed(this.ws, name, found[name]), found))
    return draw(request, "models.html.j2", listing=Listing(rows, number, more), search=search)


@router.get("/models/{name}")
def model(request: Request, this: ThisSite, who: Who, name: Name, number: Number = 1) -> Response:
    """A model: its versions, the newest first, and what was decided."""
    named = lookup.aliases(this.ws, name)
    production = name.removesuffix(CANDIDATE)
    log = decisions.read(this.ws, production)
    roles = decisions.roles(log)
    listed, more = tracking.page_of_versions(this.ws, name, number, PER_PAGE)
    erased = erase.marked(this.ws)
    rows = tuple(_row(name, named, log, version, erased) for _, version in listed)
    return draw(
        request,
        "model.html.j2",
        name=name,
        production=production,
        listing=Listing(rows, number, more),
        roles=roles,
        drift=aliases.drift(this.ws, name) if log and production == name else [],
        history=list(reversed(log))[:PER_PAGE],
        decided=len(log),
        candidates=production == name and tracking.aliases(this.ws, name + CANDIDATE) is not None,
        changes=this.promotions.of(name),
        rollback=_rollback(who.person, roles),
    )


@router.get("/models/{name}/history")
def history(request: Request, this: ThisSite, name: Name, number: Number = 1) -> Response:
    """All decisions about a model, the newest first."""
    production = name.removesuffix(CANDIDATE)
    log = decisions.read(this.ws, production)
    if not log:
        lookup.aliases(this.ws, name)
    return draw(request, "history.html.j2", name=production, listing=catalog.cut(list(reversed(log)), number))


@router.get("/models/{name}/rollback")
def ask_rollback(request: Request, this: ThisSite, who: Who, name: Name) -> Response:
    """What a rollback changes, and the form for it."""
    lookup.aliases(this.ws, name)
    roles = decisions.roles(decisions.read(this.ws, name))
    return draw(request, "rollback.html.j2", name=name, roles=roles, why_not=_rollback(who.person, roles))


@router.post("/models/{name}/rollback")
def do_rollback(request: Request, this: ThisSite, person: Promoter, fields: Form, name: Name) -> Response:
    """Make the champion before this one champion again."""
    return _begin(
        request, this, person, fields, lambda why: promote.rollback(this.ws, name, why, person, int(fields["seen"]))
    )


@router.get("/models/{name}/{ordinal}")
def version(request: Request, this: ThisSite, who: Who, name: Name, ordinal: Ordinal) -> Response:
    """A version: what it was made of, how it was judged, its terms, and what was decided about it."""
    found = lookup.get_version(this.ws, name, ordinal)
    named = tracking.aliases(this.ws, name) or {}
    production = name.removesuffix(CANDIDATE)
    log = decisions.read(this.ws, production)
    judged = lineage.judged(this.ws, found, log)
    digest = found.tags.get(lookup.DIGEST, "")
    return draw(
        request,
        "version.html.j2",
        name=name,
        production=production,
        row=_row(name, named, log, found, erase.marked(this.ws)),
        lineage=lineage.tree(this.ws, found, judged),
        judged=judged,
        terms=_terms(this.ws, name, found),
        history=[entry for entry in reversed(log) if digest and entry.digest == digest],
        foreign=_foreign(name, found),
        why_not=_why_not(who.person, name, found, log),
        tags=dict(sorted(found.tags.items())),
        run=found.run,
    )


@router.get("/models/{name}/{ordinal}/promote")
def ask_promotion(request: Request, this: ThisSite, who: Who, name: Name, ordinal: Ordinal) -> Response:
    """What a promotion changes, and the form for it."""
    found = lookup.get_version(this.ws, name, ordinal)
    production = name.removesuffix(CANDIDATE)
    log = decisions.read(this.ws, production)
    if foreign := _foreign(name, found):
        raise Refusal(409, foreign, _NEITHER)
    digest = found.tags[lookup.DIGEST]
    refusal = decisions.refusal(log, digest)
    forbidden, gone = _forbidden(this.ws, name, found)
    return draw(
        request,
        "promote.html.j2",
        name=name,
        production=production,
        ordinal=ordinal,
        roles=decisions.roles(log),
        judged=lineage.judged(this.ws, found, log),
        digest=digest,
        against_gate=[
            *([reason] if (reason := retired.reason(found, log)) else []),
            *(
                [f"{refusal.who} refused it in decision {refusal.n}: {refusal.why}"]
                if refusal and refusal.verdict == "refused"
                else []
            ),
        ],
        against_terms=forbidden,
        why_not=gone or _why_not(who.person, name, found, log),
    )


@router.post("/models/{name}/{ordinal}/promote")
def do_promotion(
    request: Request, this: ThisSite, person: Promoter, fields: Form, name: Name, ordinal: Ordinal
) -> Response:
    """Make a version champion."""

    def decide(why: str) -> Decision:
        gate, terms = "despite_gate" in fields, "despite_terms" in fields
        return promote.promote(this.ws, name, ordinal, why, person, terms, gate, seen=int(fields["seen"]))

    return _begin(request, this, person, fields, decide)


@router.get("/models/{name}/{ordinal}/refuse")
def ask_refusal(request: Request, this: ThisSite, who: Who, name: Name, ordinal: Ordinal) -> Response:
    """What a refusal means, and the form for it."""
    found = lookup.get_version(this.ws, name, ordinal)
    if foreign := _foreign(name, found):
        raise Refusal(409, foreign, _NEITHER)
    production = name.removesuffix(CANDIDATE)
    log = decisions.read(this.ws, production)
    why_not = _why_not(who.person, name, found, log) or _not_refusable(this.ws, name, found, log)
    digest = found.tags.get(lookup.DIGEST, "")
    same, more = _of_same_model(this.ws, production, digest)
    return draw(
        request, "refuse.html.j2", name=name, production=production, ordinal=ordinal, why_not=why_not,
        judged=lineage.judged(this.ws, found, log), digest=digest, more=more,
        is_champion=_as_champion(found, log) is not None,
        same=[(model, number) for model, number in same if (model, number) != (name, ordinal)],
    )  # fmt: skip


@router.post("/models/{name}/{ordinal}/refuse")
def do_refusal(
    request: Request, this: ThisSite, person: Promoter, fields: Form, name: Name, ordinal: Ordinal
) -> Response:
    """Refuse a version."""
    return _begin(request, this, person, fields, lambda why: promote.refuse(this.ws, name, ordinal, why, person))


@router.get("/promotions/{name}")
def promotion(request: Request, this: ThisSite, name: Annotated[str, Path(max_length=40)]) -> Response:
    """A change that is running or has ended."""
    change = this.promotions.get(name)
    if change is None:
        # a page that was left open asks again and again, and htmx shows it nothing but an answer that is 200
        return draw(request, "no_promotion.html.j2", 200 if "hx-request" in request.headers else 404)
    return draw(request, "promotion.html.j2", change=change, production=change.asked.model.removesuffix(CANDIDATE))


def _begin(
    request: Request, this: ThisSite, person: str, fields: Mapping[str, str], decide: Callable[[str], Decision]
) -> Response:
    """Begin a change in the background; the answer leads to its page."""
    why = fields.get("why", "").strip()
    asked = audit.attempt(request, person, address(request), why)
    if wrong := _wrong(asked.what, why, fields.get("seen", "")):
        audit.write(asked, f"refused: {wrong}")
        raise Refusal(400, wrong, "go back, or open the page again, and send the form from there")

    def ended(change: Change) -> None:
        made, error = change.made, change.error
        told = f"done: decision {made.n}, {made.verdict}" if made else f"failed: {error.fact if error else ''}"
        audit.write(asked, told)

    def begun() -> Decision:
        audit.write(asked, "started")
        return decide(why)

    try:
        change = this.promotions.start(asked, begun, ended, this.ws.home)
    except Busy as busy:
        other = (
            f"{busy.by.asked.who} decides about this model just now" if busy.by else "too many promotions are running"
        )
        audit.write(asked, f"refused: {other}")
        raise Refusal(409, other, "wait until that has ended, then look at the model again") from None
    except (RuntimeError, MemoryError) as error:
        audit.write(asked, f"failed: {error}")
        fact = "the console could not begin it, and nothing has changed: its machine has no thread or memory left"
        raise Refusal(503, fact, "send it again in some minutes; if it stays so, raise the console's limits") from error
    change.wait(_SOON)
    return RedirectResponse(f"/promotions/{change.id}", 303)


def _wrong(what: str, why: str, seen: str) -> str:
    """What is wrong with a form; empty for a good one."""
    if not why:
        return "a decision needs its reason, which the decision log keeps"
    if len(why) > _LONGEST:
        return f"a reason has {_LONGEST:,} characters at most"
    number = seen.isascii() and seen.isdigit() and len(seen) < 10
    return "" if number or what == "refuse" else "the form does not say which champion you saw"


def _listed(ws: Workspace, name: str, found: Registered) -> tuple[str, facts.Overview | None, str]:
    """A model's row: its name, what is known of it, and why that cannot be read, which is one model's trouble."""
    try:
        return name, facts.overview(ws, name, found), ""
    except UserError as error:
        if error.exit_code != 2:
            raise
        return name, None, error.fact


def _row(name: str, named: Mapping[str, str], log: list[Decision], found: Version, erased: set[str]) -> dict[str, Any]:
    digest = found.tags.get(lookup.DIGEST, "")
    refusal = decisions.refusal(log, digest) if digest else None
    refusal = refusal if refusal and refusal.verdict == "refused" else None  # what is retired, `retired` says
    return {
        **facts.of_version(named, found, log),
        "awaiting": name.endswith(CANDIDATE) and approval.is_awaiting(log, found),
        "refused": f"{refusal.who}: {refusal.why}" if refusal else "",
        "erased": bool(digest) and digest in erased,
    }


def _foreign(name: str, found: Version) -> str:
    """Why a version is none of medmim's; empty for one of its own."""
    try:
        evidence.named_by(name, found)
    except UserError as error:
        return f"{error.fact}: {error.reason}"
    return ""


def _as_champion(found: Version, log: list[Decision]) -> Decision | None:
    """The decision that made this very model champion; None where it is not."""
    holder = decisions.roles(log).champion
    return holder if holder and holder.digest == found.tags.get(lookup.DIGEST, "") else None


def _why_not(person: str, name: str, found: Version, log: list[Decision]) -> str:
    """Why this session can decide nothing about a version; empty where it can."""
    if foreign := _foreign(name, found):
        return foreign
    if holder := _as_champion(found, log):
        is_it = (holder.version, name) == (found.number, name.removesuffix(CANDIDATE))
        same = "it is the champion" if is_it else f"version {holder.version}, the champion, is this very model"
        return f"{same}; to refuse it, roll back first"
    return "" if person else "only who has logged in as a promoter decides"


def _forbidden(ws: Workspace, name: str, found: Version) -> tuple[list[str], str]:
    """Why the terms of a model forbid to serve it, and why the model itself cannot be read; empty where it can."""
    try:
        return reasons(terms_of(evidence.model_of(ws, name, found)), ["serve"]), ""
    except UserError as error:
        if error.exit_code != 2:
            raise
        return [], f"{error.fact}{': ' if error.reason else ''}{error.reason}"


def _not_refusable(ws: Workspace, name: str, found: Version, log: list[Decision]) -> str:
    """Why nobody can refuse a version; empty where a promoter can."""
    try:
        promote.check_refusable(ws, name, found, log)
    except UserError as error:
        if error.exit_code != 2:
            raise
        return f"{error.fact}: {error.reason}. {error.fix}"
    return ""


def _of_same_model(ws: Workspace, production: str, digest: str) -> tuple[list[tuple[str, str]], bool]:
    """The newest versions that say they are of a model, as (registered model, version), and whether there are more."""
    found, further = list[tuple[str, str]](), False
    for name in (production, production + CANDIDATE) if digest else ():
        versions, more = tracking.page_of_versions(ws, name, 1, PER_PAGE, {lookup.DIGEST: digest})
        found += [(name, version.number) for _, version in versions]
        further = further or more
    return found, further


def _rollback(person: str, roles: decisions.Roles) -> str:
    """Why this session cannot roll back; empty where it can."""
    if roles.previous is None:
        return "no model was champion before this one" if roles.champion else "no model has been promoted yet"
    return "" if person else "only who has logged in as a promoter rolls back"


def _terms(ws: Workspace, name: str, found: Version) -> dict[str, Any]:
    """What the terms of a model allow; what its tag says where the model itself is not there."""
    try:
        allowed = terms_of(evidence.model_of(ws, name, found))
    except Unavailable:
        raise
    except UserError as error:
        return {"told": found.tags.get("medmim.terms", ""), "trouble": error.fact, "flags": (), "text": ()}
    return {
        "told": "",
        "trouble": "",
        "flags": [(flag, getattr(allowed, flag), reasons(allowed, [flag])) for flag in FLAGS],
        "text": allowed.text,
    }
