"""The application: its pages, what each answer carries, and a page for everything that goes wrong."""

import hmac
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medmim.errors import UserError, as_user_error
from medmim.run import index
from medmim_console.identity import COOKIE, is_of_this_site
from medmim_console.limits import TooMany
from medmim_console.pages import PAGES
from medmim_console.site import Form, Refusal, Site, ThisSite, address, draw, failure, refused, set_session, unnamed
from medmim_console.starting import Starting

_log = logging.getLogger("medmim.console")
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_PROBES = ("/health", "/ready")
_LARGEST = 64 << 10  # bytes of a form


def make(site: Site, names: Sequence[str] = ("*",)) -> FastAPI:
    """The application.

    Args:
        site: What it is over.
        names: Host names by which it is reached; others are refused, against a page of another site that has its name
            point here (DNS rebinding).
    """
    app = FastAPI(title="medmim console", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.site = site
    for router in PAGES:
        app.include_router(router)
    app.mount(
        "/static", StaticFiles(packages=[("medmim_console", "static"), ("medmim.page", "templates")]), name="static"
    )

    app.add_middleware(_Requests)  # within the next one, which would hide what it raises

    @app.middleware("http")
    async def around(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        begun, request.state.id = time.perf_counter(), secrets.token_hex(6)
        try:
            if request.url.path not in _PROBES:
                site.rates.count("read", address(request))
            found = await answer(request) if _is_named(request, names) else unnamed(request)
        except TooMany:
            found = _too_many(request)
        except Exception as error:  # a fault of ours, or of a library: its traceback goes to a file of the home
            found = failure(request, as_user_error(error, f"answering {request.url.path[:200]}", site.ws.home))
        if request.url.path.startswith("/static/"):
            found.headers["Cache-Control"] = "no-cache"  # held against its ETag
        for name, value in _HEADERS.items():
            found.headers.setdefault(name, value)
        found.headers["X-Request-ID"] = request.state.id
        if request.url.path not in _PROBES:
            seconds = time.perf_counter() - begun
            _log.info("%s %s %s %d in %.3f s", request.state.id, request.method, request.url.path[:200],
                      found.status_code, seconds)  # fmt: skip
        return found

    @app.exception_handler(UserError)
    async def failed(request: Request, error: UserError) -> Response:
        return failure(request, error)

    @app.exception_handler(Refusal)
    async def refusal(request: Request, error: Refusal) -> Response:
        return refused(request, error)

    @app.exception_handler(TooMany)
    async def too_many(request: Request, _: TooMany) -> Response:
        return _too_many(request)

    @app.exception_handler(index.NotReady)
    async def not_ready(request: Request, making: index.NotReady) -> Response:
        return _making(request, making)

    @app.exception_handler(Starting)
    async def starting(request: Request, _: Starting) -> Response:
        told = "It keeps the registered models and takes some seconds, once; the page then shows itself."
        return draw(request, "making.html.j2", 202, title="MLflow is being started", told=told, share=None, wait="")

    @app.exception_handler(RequestValidationError)
    async def unreadable(request: Request, error: RequestValidationError) -> Response:
        told = "; ".join(f"{one['loc'][-1]} {_wrong(one)}" for one in error.errors())
        fix = "go back, or choose a page above"
        return refused(request, Refusal(400, f"the address or the form cannot be read: {told[:300]}", fix))

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        told = {
            404: f"there is no page {request.url.path[:200]}",
            405: f"this page is not there for {request.method}",
        }.get(error.status_code, f"the request cannot be read: {error.detail}")
        answer = refused(request, Refusal(error.status_code, told, "go back, or choose a page above"))
        answer.headers.update(error.headers or {})
        return answer

    @app.get("/health")
    async def health() -> Response:
        """Alive."""
        return JSONResponse({"status": "ok"})

    @app.get("/ready")
    async def ready() -> Response:
        """Answering; a store that is away has a page of its own."""
        return JSONResponse({"status": "ok"})

    @app.get("/")
    def first() -> Response:
        """The leaderboard."""
        return RedirectResponse("/leaderboard")

    @app.get("/login")
    def login(request: Request, this: ThisSite, token: str = "") -> Response:
        """A form for a token; with the token of the address that was printed at the start, its session."""
        if this.access.own and hmac.compare_digest(token.encode(), this.access.own[1].encode()):
            return _logged_in(request, this, token, "/")
        return draw(request, "login.html.j2", to=_local(request.headers.get("referer", "")))

    @app.post("/login")
    def enter(request: Request, this: ThisSite, fields: Form) -> Response:
        """A session for a token."""
        _refuse_foreign(request)
        return _logged_in(request, this, fields.get("token", ""), _local(fields.get("to", "/")))

    @app.post("/logout")
    def leave(request: Request, this: ThisSite) -> Response:
        """End the session."""
        _refuse_foreign(request)
        this.access.log_out(request.cookies.get(COOKIE, ""))
        answer = RedirectResponse("/", 303)
        answer.delete_cookie(COOKIE)
        return answer

    return app


class _Requests:
    """Cuts off a body that is larger than any form, before somebody reads it into memory; HEAD is asked as GET."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = 0

        async def bounded() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > _LARGEST:
                raise Refusal(413, f"the form is larger than {_LARGEST:,} bytes", "write less")
            return message

        if scope["type"] == "http" and scope["method"] == "HEAD":  # which FastAPI does not answer by itself
            scope = {**scope, "method": "GET"}  # the server sends no body
        await self._app(scope, bounded if scope["type"] == "http" else receive, send)


def _wrong(error: Mapping[str, Any]) -> str:
    """What is wrong with a value of an address, in words of a page."""
    known = error.get("ctx", {})
    told = {
        "literal_error": f"is none of {str(known.get('expected', '')).removeprefix(repr('') + ', ')}",
        "string_pattern_mismatch": "is not of its form",
        "int_parsing": "is no number",
        "int_parsing_size": "is no number",
        "greater_than_equal": f"begins at {known.get('ge')}",
        "less_than_equal": f"ends at {known.get('le'):,}" if "le" in known else "",
        "string_too_long": f"has {known.get('max_length')} characters at most",
    }
    return told.get(error["type"]) or str(error["msg"])


def _is_named(request: Request, names: Sequence[str]) -> bool:
    try:
        host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    except ValueError:
        return False
    return "*" in names or host in {name.strip("[]").lower() for name in names}


def _logged_in(request: Request, site: Site, token: str, to: str) -> Response:
    site.rates.count("login", address(request))
    try:
        cookie = site.access.log_in(token)
    except UserError as error:
        raise Refusal(401, error.fact, error.fix) from None
    answer = RedirectResponse(to, 303)
    set_session(request, answer, cookie)
    return answer


def _refuse_foreign(request: Request) -> None:
    if not is_of_this_site(request.headers):
        raise Refusal(403, "this form is of another site", "open the page here, then send it from there")


def _making(request: Request, making: index.NotReady) -> Response:
    """The page that waits for an index and then shows what was asked for."""
    by_script = "hx-request" in request.headers
    if by_script and "figure" in request.url.path.split("/"):  # the page around it stays, with the link to the figure
        answer = refused(request, Refusal(503, "this benchmark is being indexed", "ask for the figure again"))
        answer.headers["Retry-After"] = "2"
        return answer
    told = (
        "What a benchmark asked and was answered is read once, so that filters are fast. This takes some seconds; the "
        "page then shows itself."
    )
    wait = "Another process does it, or others come first."
    answer = draw(
        request, "making.html.j2", 202, title="The items are being indexed", told=told, share=making.share, wait=wait
    )
    if by_script:  # no part of a page can say it, and a reload would forget what was asked
        answer.headers["HX-Redirect"] = urlunsplit(("", "", request.url.path, request.url.query, ""))
    return answer


def _too_many(request: Request) -> Response:
    answer = refused(request, Refusal(429, "too many requests", "wait a minute"))
    answer.headers["Retry-After"] = str(TooMany.retry)
    return answer


def _local(to: str) -> str:
    """The path of an address of this site; never another site."""
    found = urlsplit(to)
    path = "/" + found.path.lstrip("/\\")
    return f"{path}?{found.query}" if found.query else path
