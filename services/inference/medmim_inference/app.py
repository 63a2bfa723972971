"""The HTTP server: `/v1/chat/completions`, `/v1/models`, `/health`, `/ready`, `/metrics`."""

import asyncio
import json
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medmim.errors import Unavailable, UserError
from medmim.lvlm.ask_hf import NOT_FINITE
from medmim.registry import chat
from medmim.registry.chat import Refused
from medmim_inference.access import Access
from medmim_inference.batching import Answered, Batcher
from medmim_inference.following import Following
from medmim_inference.limits import Limits
from medmim_inference.metrics import Metrics
from medmim_inference.replica import Target

_log = logging.getLogger("medmim.inference")
_REQUEST_ID = re.compile(r"[\w.:-]{1,128}")
_GONE = 499  # nginx's status of a request whose client has left


def make(following: Following, batcher: Batcher, metrics: Metrics, access: Access, limits: Limits) -> FastAPI:
    """The application.

    Args:
        following: The model, which is loaded.
        batcher: Asks it.
        metrics: What is counted.
        access: Who may ask.
        limits: What one request may ask for.
    """

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        app.state.ready = True
        yield
        app.state.ready = False
        await run_in_threadpool(batcher.end)

    app = FastAPI(title="medmim", docs_url=None, redoc_url=None, openapi_url=None, lifespan=life)
    app.state.ready = False

    app.add_middleware(_Recorded, metrics=metrics)

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return _refusal(error)

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=_GONE)

    @app.exception_handler(404)
    @app.exception_handler(405)
    async def unknown(request: Request, error: Any) -> Response:
        return _refusal(Refused(error.status_code, f"there is no {request.method} {request.url.path[:100]}"))

    @app.exception_handler(500)
    async def fault(request: Request, __: Exception) -> Response:
        found = _refusal(Refused(500, "a fault of the server, which is in its log"))
        found.headers["X-Request-ID"] = request.state.id  # it is sent from outside of `_Recorded`
        return found

    @app.get("/health")
    async def health() -> Response:
        """Alive."""
        return JSONResponse({"status": "ok"})

    @app.get("/ready")
    async def ready() -> Response:
        """A model is loaded, and the server is not ending."""
        found = following.replica().target.name
        return JSONResponse(
            {"status": "ok" if app.state.ready else "ending", "model": found}, 200 if app.state.ready else 503
        )

    @app.get("/metrics")
    async def measured() -> Response:
        metrics.waiting.set(len(batcher))
        target = following.replica().target
        metrics.model.info({"name": target.alias, "digest": target.digest, "version": target.version})
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        _authorize(request, access)
        return JSONResponse({"object": "list", "data": _models(following.replica().target)})

    @app.get("/v1/models/{name:path}")
    async def model(name: str, request: Request) -> Response:
        _authorize(request, access)
        target = following.replica().target
        _refuse_other_model(name, target)
        return JSONResponse(next(one for one in _models(target) if one["id"] == name))

    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> Response:
        _authorize(request, access)
        body = await _body(request, limits)
        asked = await run_in_threadpool(chat.parse, body, limits)
        del body
        _refuse_other_model(asked.model, following.replica().target)
        begun = time.perf_counter()
        reply, replica = await _answer(request, batcher, asked, limits)
        if reply.error == NOT_FINITE:
            raise Refused(500, reply.error)
        if reply.error:
            raise Refused(400, reply.error, "messages")
        metrics.seconds.observe(time.perf_counter() - begun)
        metrics.prompt_tokens.inc(reply.prompt_tokens)
        metrics.new_tokens.inc(reply.new_tokens)
        name = replica.target.name
        _refuse_other_model(asked.model, replica.target)  # another one may have taken its place in between
        metrics.answers.labels(name).inc()
        if not asked.stream:
            return JSONResponse(chat.answer(request.state.id, name, reply))
        events = chat.events(request.state.id, name, reply, asked.usage)
        lines = [*(json.dumps(event, ensure_ascii=False) for event in events), "[DONE]"]
        return StreamingResponse((f"data: {line}\n\n" for line in lines), media_type="text/event-stream")

    return app


class _Recorded:
    """Gives each request an id, which its answer bears, and counts and logs those of the API."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        state = scope.setdefault("state", {})
        state["id"] = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(12)
        begun, status = time.perf_counter(), 500

        async def recorded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = state["id"]
            await send(message)

        try:
            await self._app(scope, receive, recorded)
        finally:
            if scope["path"].startswith("/v1/"):
                self._metrics.requests.labels(status).inc()
                seconds, user = time.perf_counter() - begun, state.get("user", "")
                path = scope["raw_path"].decode("ascii", "replace")[:100]  # decoded, it may hold line breaks
                _log.info("%s %s %d in %.3f s, %s", state["id"], path, status, seconds, user)


def _refusal(refused: Refused) -> Response:
    headers = {} if refused.retry is None else {"Retry-After": str(refused.retry)}
    if refused.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if refused.status in (408, 413):
        headers["Connection"] = "close"  # what is left of its body is not read
    return JSONResponse(refused.body, refused.status, headers)


def _authorize(request: Request, access: Access) -> None:
    request.state.user = access.user(request.headers, request.client.host if request.client else "")


async def _body(request: Request, limits: Limits) -> bytes:
    """The whole body, within its limits of bytes and time."""
    too_large = Refused(413, f"the request is larger than {limits.body:,} bytes")
    if int(request.headers.get("content-length") or 0) > limits.body:
        raise too_large
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.upload):
            async for part in request.stream():
                size += len(part)
                if size > limits.body:
                    raise too_large
                parts.append(part)
    except TimeoutError:
        raise Refused(408, f"the request did not arrive within {limits.upload:g} s") from None
    return b"".join(parts)


async def _answer(request: Request, batcher: Batcher, asked: chat.Asked, limits: Limits) -> Answered:
    """The reply; a question whose client has left is not asked any more."""
    future = batcher.ask(asked.question, asked.new_tokens)
    answered = asyncio.wrap_future(future)
    left = asyncio.ensure_future(_disconnected(request))
    either: list[asyncio.Future[Any]] = [answered, left]
    try:
        done, _ = await asyncio.wait(either, timeout=limits.wait, return_when=asyncio.FIRST_COMPLETED)
        if answered in done:
            return answered.result()
        if left in done:
            raise ClientDisconnect
        raise Refused(504, f"no answer within {limits.wait:g} s", retry=1)
    except UserError as error:
        status = 503 if isinstance(error, Unavailable) else 500
        raise Refused(status, error.fact, retry=1 if status == 503 else None) from None
    finally:
        future.cancel()
        answered.cancel()  # nobody reads what a batch that is under way ends with
        left.cancel()
        with suppress(asyncio.CancelledError):
            await left


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _models(target: Target) -> list[dict[str, Any]]:
    """The name that is followed, and the name of the very model behind it."""
    about = {"object": "model", "created": 0, "owned_by": "medmim", "digest": target.digest, "version": target.version}
    return [{"id": target.alias, **about}, {"id": target.name, **about}]


def _refuse_other_model(name: str, target: Target) -> None:
    if name not in (target.alias, target.name):
        raise Refused(
            404, f"there is no model '{name[:100]}'; this server has {target.alias}, now {target.name}", "model"
        )
