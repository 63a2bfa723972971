"""What every page shares: the workspace, who asks, how a page is drawn and how it is refused."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Depends, Path, Query, Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment

from medmim import __version__
from medmim.errors import INTERNAL, Missing, Unavailable, UserError
from medmim.page.page import templates
from medmim.run.workspace import Workspace
from medmim_console import audit
from medmim_console.identity import Access, Session, is_of_session
from medmim_console.limits import Rates, TooMany
from medmim_console.promotions import Promotions

_log = logging.getLogger("medmim.console")
PER_PAGE = 25  # rows of a list
Digest = Annotated[str, Path(pattern="^[0-9a-f]{64}$")]  # of an artifact, in the address of a page
Number = Annotated[int, Query(alias="page", ge=1, le=1_000_000)]  # of a page of a list


@dataclass(frozen=True)
class Site:
    """What the pages are over.

    Attributes:
        ws: The workspace: store, registry, and a home for copies and indexes.
        access: Who may promote.
        rates: How often somebody may ask.
        promotions: Those that are running or have ended.
        links: Name -> address of a web page that runs link to: `kfp`, `mlflow`, `ray`; only those that are known.
        patience: Seconds that a page waits for MLflow's first start; then it says that it starts.
    """

    ws: Workspace
    access: Access
    rates: Rates = field(default_factory=Rates)
    links: Mapping[str, str] = field(default_factory=dict)
    promotions: Promotions = field(default_factory=Promotions)
    patience: float = 1.0
    environment: Environment = field(default_factory=lambda: _environment())


class Refusal(Exception):
    """A request that gets a page which says why it is not answered.

    Args:
        status: Of HTTP.
        fact: What is wrong.
        fix: What to do.
        link: Title and address of a page that helps; empty without.
    """

    def __init__(self, status: int, fact: str, fix: str = "", link: tuple[str, str] | tuple[()] = ()) -> None:
        super().__init__(fact)
        self.status, self.fact, self.fix, self.link = status, fact, fix, link


def site(request: Request) -> Site:
    """The site of a request, as a dependency."""
    found: Site = request.app.state.site
    return found


def session(request: Request) -> Session:
    """Who asks, as a dependency."""
    peer = request.client.host if request.client else ""
    return site(request).access.session(request.headers, request.cookies, peer)


def address(request: Request) -> str:
    """The address that asks: of the client where our ingress hands it on."""
    peer = request.client.host if request.client else ""
    if not site(request).access.is_proxy(peer):
        return peer
    forwarded = request.headers.getlist("x-forwarded-for") or [""]  # the ingress adds to the end, of the last one
    return forwarded[-1].rpartition(",")[2].strip() or peer


async def promoter(request: Request, who: Annotated[Session, Depends(session)]) -> str:
    """The person who may promote and has sent this form, as a dependency. A refusal has its audit line.

    Raises:
        Refusal: 401 for nobody, 403 for a form of another site or session.
        TooMany: One too many.
    """
    tried = audit.attempt(request, who.person, address(request))
    try:
        if not who.person:
            raise Refusal(401, who.why or "promoting needs to know who you are", "log in, then do it again")
        fields = await form(request)
        tried = replace(tried, why=fields.get("why", ""))
        if not is_of_session(who, fields.get("csrf", ""), request.headers):
            fix = "open the page again, then send it from there"
            raise Refusal(403, "this form is not of your present session", fix)
        site(request).rates.count("change", who.person)
    except (Refusal, TooMany) as error:
        audit.write(tried, f"refused: {error if isinstance(error, Refusal) else 'too many changes in a minute'}")
        raise
    return who.person


async def form(request: Request) -> dict[str, str]:
    """The fields of a form, as a dependency; files are left out."""
    found = await request.form(max_files=0, max_fields=50)
    return {name: value for name, value in found.items() if isinstance(value, str)}


ThisSite = Annotated[Site, Depends(site)]
Who = Annotated[Session, Depends(session)]
Promoter = Annotated[str, Depends(promoter)]
Form = Annotated[dict[str, str], Depends(form)]


def draw(request: Request, template: str, status: int = 200, **values: Any) -> Response:
    """A page from a template, which gets `who`, `path`, `links` and `version` besides.

    Asked by htmx for a part of the page (`HX-Request`), a template may leave its frame out: it gets `whole`.

    Raises:
        Refusal: 404: its `listing` has no such page.
    """
    _refuse_no_page(request, values.get("listing"))
    this, who = site(request), session(request)
    html = this.environment.get_template(template).render(
        who=who,
        path=request.url.path,
        query=dict(request.query_params),
        has_login=this.access.has_login,
        whole="hx-request" not in request.headers or "hx-boosted" in request.headers,
        links=this.links,
        version=__version__,
        **values,
    )
    return HTMLResponse(html, status)


def set_session(request: Request, answer: Response, cookie: str) -> None:
    """Give a browser its session."""
    from medmim_console.identity import COOKIE, HOURS

    https = request.headers.get("x-forwarded-proto", request.url.scheme) == "https"
    answer.set_cookie(COOKIE, cookie, max_age=HOURS * 3600, httponly=True, samesite="strict", secure=https)


def failure(request: Request, error: UserError) -> Response:
    """The page of an error: what is wrong, why, and what to do.

    404 is a wrong address alone, 503 what may pass by itself. All else is 500, so that whoever watches the console
    hears of it: a damaged file of the store is no fault of who asks.
    """
    status, title = HTTPStatus.INTERNAL_SERVER_ERROR, "Cannot be read"
    if isinstance(error, Missing):
        status, title = HTTPStatus.NOT_FOUND, "Not Found"
    elif isinstance(error, Unavailable):
        status, title = HTTPStatus.SERVICE_UNAVAILABLE, "Does not answer just now"
    elif error.exit_code == INTERNAL:
        title = "A fault of medmim"
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.error("%s %s", request.state.id, error)
    answer = draw(
        request, "error.html.j2", int(status), title=title, code=int(status), fact=error.fact, reason=error.reason,
        fix=error.fix, problems=error.problems, link=(),
    )  # fmt: skip
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        answer.headers["Retry-After"] = "5"
    return answer


def refused(request: Request, refusal: Refusal) -> Response:
    """The page of a refused request."""
    title = HTTPStatus(refusal.status).phrase
    return draw(
        request, "error.html.j2", refusal.status, title=title, code=refusal.status, fact=refusal.fact, reason="",
        fix=refusal.fix, problems=(), link=refusal.link,
    )  # fmt: skip


def unnamed(request: Request) -> Response:
    """The page for who comes by a host name that is none of this console's: of a page of another site, perhaps.

    So it says nothing of the session or of the store.
    """
    html = site(request).environment.get_template("error.html.j2").render(
        who=Session(), path="", query={}, has_login=False, whole=True, links={}, version=__version__, strange=True,
        title="Bad Request", code=400, problems=(), link=(),
        fact=f"this console does not go by the name {request.headers.get('host', '')[:100] or '(none)'}",
        reason="a page of another site can have its own name point here, so unknown names are refused",
        fix="open it at the address that it printed at its start; who runs it adds a name with --name NAME, "
        "in the chart with console.names",
    )  # fmt: skip
    return HTMLResponse(html, 400)


def _refuse_no_page(request: Request, listing: Any) -> None:
    if listing is None or listing.number == 1 or listing.number <= (listing.pages if listing.total is not None else 0):
        return
    if listing.total is None and listing.rows:
        return
    last = 1 if listing.total is None else listing.pages
    address = request.url.path + _query_with(request.query_params, page="" if last == 1 else last)
    told = f"it has {last:,} page{'s' if last > 1 else ''}" if listing.total is not None else "it is shorter"
    title = "its last page" if last > 1 else "its first page"
    raise Refusal(404, f"this list has no page {listing.number:,}: {told}", link=(title, address))


def _environment() -> Environment:
    made = templates("medmim_console", "medmim.nightly")
    made.filters |= {"count": _count, "short": lambda digest: digest[:12], "p": _p}
    made.globals["query_with"] = _query_with
    return made


def _count(value: object) -> str:
    """A number of things; of a file that anybody can have written, it may be something else."""
    return f"{value:,}" if isinstance(value, int | float) else "–"


def _p(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}" if value >= 0.00005 else "< 0.0001"


def _query_with(query: Mapping[str, str], **changed: object) -> str:
    """`?key=value...` of a page's address with some of it changed; what becomes empty is left out."""
    wanted = {key: str(value) for key, value in {**query, **changed}.items() if value not in ("", None)}
    return f"?{urlencode(wanted)}" if wanted else ""
