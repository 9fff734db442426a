"""The ASGI application: each command and each query of an `App` behind a route of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import Any, TypeAlias
from urllib.parse import quote

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from ensue.app import App
from ensue.app.checks import checked_principal
from ensue.domain.call import Principal
from ensue.domain.command import CommandDefinition
from ensue.domain.query import QueryDefinition
from ensue.errors import DefinitionError, InvalidEvent, Refusal
from ensue.events.message import Command, Query
from ensue.http import headers
from ensue.http.openapi import described
from ensue.http.problems import Problem, answered, problem_of
from ensue.http.routes import DESCRIPTION, Route, routes_of
from ensue.http.streams import EVENT_STREAM, JSON_LINES, Answers, Lines, Watch

__all__ = ["Authenticate", "TenantOf", "asgi"]

Authenticate: TypeAlias = Callable[[Request], Awaitable[str | Principal | None]]
"""Who asks: a name or an object with an `id`, or None for one who is not let in. A `Refusal` that it raises is told with the 401."""
TenantOf: TypeAlias = Callable[[Request], Awaitable[str | None]]
"""For which tenant a request is: a name, or None for one that is for none."""
Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]

BODY_BYTES = 1024 * 1024
HEADER_BYTES = 32 * 1024
URL_BYTES = 16 * 1024
BODY_SECONDS = 30.0
"""How long a body may take to come: one that trickles holds a connection and what is read of it."""


def asgi(
    app: App,
    /,
    *,
    only: Iterable[type[Command[Any]] | type[Query[Any]]] = (),
    prefix: str = "",
    authenticate: Authenticate | None = None,
    tenant: TenantOf | None = None,
    body_bytes: int = BODY_BYTES,
) -> Starlette:
    """The commands and queries of an application as an ASGI application, to be served alone or mounted in another.

    A command is posted to its path as JSON and answered with its result and its position; a query is asked there by GET, its
    fields as parameters, or by POST as JSON. `/openapi.json` describes all routes. See docs/http.md for headers and problems.

    `only` are those that are reached; without it all are. `prefix` stands before every path where nothing is mounted.
    `authenticate` is asked before anything of a request is read but its headers. `tenant` is asked then, and says for which one a
    request is, where the application has tenants. `body_bytes` is the largest body.

    Served alone, its lifespan opens and closes the application; mounted, that is the outer one's: `lifespan=app.lifespan`. It is
    made after all handlers are declared. Errors: `DefinitionError`, also at the start or the first request.
    """
    if prefix and (not prefix.startswith("/") or prefix.endswith("/")):
        raise DefinitionError(f"prefix={prefix!r}; a prefix begins with / and does not end with one: /shop")
    chosen = tuple(only)
    routes = routes_of(app.name, app._registered(), chosen, prefix)
    description = described(app.name, routes, authenticated=authenticate is not None)

    def check() -> None:
        if (app._has_tenants or app._tagged) != (tenant is not None):
            raise DefinitionError(
                f"{app.name} has {'tenants' if tenant is None else 'no tenants'}, and asgi() was called with{'out' if tenant is None else ''} "
                "tenant=, which says for which one a request is"
            )
        if not chosen and (late := _late(app, routes)):
            raise DefinitionError(
                f"{app.name}: {', '.join(late)} got a handler after asgi({app.name}) was called, and would not be reached: call it "
                "when all handlers are declared"
            )

    door = _Door(app, authenticate, tenant, body_bytes, check)

    async def describe(request: Request) -> Response:
        await door.principal(request)
        servers = [{"url": request.scope.get("root_path") or "/"}]
        return answered(msgspec.json.encode({**description, "servers": servers}))

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None, None]:
        check()
        if app._engine is not None or app._tenants is not None:  # whoever opened it closes it
            yield
            return
        async with app.lifespan():
            yield

    served = Starlette(
        routes=[
            StarletteRoute(prefix + DESCRIPTION, door.told(describe), methods=["GET"]),
            *(StarletteRoute(one.path, door.endpoint(one), methods=_methods(one)) for one in routes),
        ],
        exception_handlers={HTTPException: _told},
        middleware=[Middleware(_Bounded)],
        lifespan=lifespan,
    )
    served.router.redirect_slashes = False
    return served


def _late(app: App, routes: Iterable[Route]) -> list[str]:
    registered, reached = app._registered(), {route.message for route in routes}
    messages: list[type[Any]] = [message for definition in registered.commands for message in definition.commands]
    messages += [definition.query for definition in registered.queries]
    return [message.__name__ for message in messages if message not in reached]


def _methods(route: Route) -> list[str]:
    return ["POST"] if isinstance(route.definition, CommandDefinition) else ["GET", "POST"]


class _Door:
    """What every request passes."""

    def __init__(
        self,
        app: App,
        authenticate: Authenticate | None,
        tenant: TenantOf | None,
        body_bytes: int,
        check: Callable[[], None],
    ) -> None:
        self._app = app
        self._check: Callable[[], None] | None = check  # mounted, the first request is the first to come by
        self._authenticate = authenticate
        self._tenant = tenant
        self._body_bytes = body_bytes

    def endpoint(self, route: Route) -> Endpoint:
        work = self._command if isinstance(route.definition, CommandDefinition) else self._query

        async def serve(request: Request) -> Response:
            return await work(route, request, await self.principal(request))

        return self.told(serve)

    def told(self, work: Endpoint) -> Endpoint:
        """The same, with what it raises told as problems. Nothing goes on to the server: it would break the connection, with what
        the client sent behind it."""

        async def serve(request: Request) -> Response:
            try:
                return await work(request)
            except HTTPException as error:  # what an `authenticate` of other frameworks raises
                return await _told(request, error)
            except Exception as error:
                return problem_of(error, request).response()

        return serve

    async def principal(self, request: Request) -> str | Principal | None:
        """Who asks. Errors: `Problem`; `DefinitionError` where a route is missing."""
        if self._check is not None:
            self._check()
            self._check = None
        if self._authenticate is None:
            return None
        challenge = {"WWW-Authenticate": "Bearer"}
        try:
            principal = await self._authenticate(request)
        except Refusal as refusal:
            found = problem_of(refusal, request)
            raise Problem(401, kind=found.kind, title=found.title, headers=challenge, **found.members) from None
        if principal is None:
            raise Problem(401, "This is for those who are known", headers=challenge)
        try:
            checked_principal(principal, None)
        except InvalidEvent as error:
            raise TypeError(f"authenticate={self._authenticate!r}: {error}") from None
        return principal

    @contextlib.asynccontextmanager
    async def _opened(self, request: Request) -> AsyncGenerator[App, None]:
        """The application that the request is about. Errors: `Problem`; those of `App.tenant`."""
        if self._tenant is None:
            yield self._app
            return
        name = await self._tenant(request)
        if name is None:
            raise Problem.of("unknown-tenant", "The request is for none")
        async with self._app.tenant(name) as app:
            yield app

    async def _command(self, route: Route, request: Request, principal: str | Principal | None) -> Response:
        key, after, timeout = headers.idempotency_key(request), headers.after(request), headers.timeout(request)
        command = route.form.of_json(await self._body(request))
        async with self._opened(request) as app:
            if after is not None:
                await app._open_engine().caught_up(after, timeout.total_seconds())
            receipt = await app.send(
                command,
                idempotency_key=_own(key, principal),
                principal=principal,
                traceparent=headers.traceparent(request),
            )
        told = {headers.POSITION: str(receipt.position)}
        if receipt.replayed:
            told[headers.REPLAYED] = "true"
        return answered(msgspec.json.encode(receipt.result), headers=told)

    async def _query(self, route: Route, request: Request, principal: str | Principal | None) -> Response:
        accepted = request.headers.get("accept", "")
        watched = EVENT_STREAM in accepted and "application/json" not in accepted and request.method != "HEAD"
        streamed = isinstance(route.definition, QueryDefinition) and route.definition.streams
        if watched and streamed:
            raise Problem(406, f"This is answered as {JSON_LINES}; it cannot be watched")
        last = headers.after(request, headers.LAST) if watched else None
        after, timeout = last or headers.after(request), headers.timeout(request)
        if request.method == "POST":
            query = route.form.of_json(await self._body(request))
        else:
            query = route.form.of_parameters(request.query_params.multi_items())
        async with contextlib.AsyncExitStack() as stack:
            app = await stack.enter_async_context(self._opened(request))
            if not watched and not streamed:
                answer = await app.ask(query, after=after, timeout=timeout, principal=principal)
                return answered(msgspec.json.encode(answer))
            ask = app.watch if watched else app.stream
            made = ask(query, after=after, timeout=timeout, principal=principal)
            answers = Answers(app._open_engine().world, made)
            await answers.begin()
            if request.method == "HEAD":
                await answers.close()
                return Response(None, 200, {"Cache-Control": "no-store"}, JSON_LINES)
            answers.ends(stack.pop_all())
        return Watch(answers, app.log.head, lambda error: problem_of(error, request)) if watched else Lines(answers)

    async def _body(self, request: Request) -> bytes:
        """Errors: `Problem` for one that is no JSON by its type, is too large, or does not come."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json" and not kind.endswith("+json"):
            # Not only for order: a page of another site can send any other type in the name of whoever looks at it.
            raise Problem(415, "Send JSON, with Content-Type: application/json", headers={"Accept": "application/json"})
        if request.headers.get("content-encoding", "identity") != "identity":
            raise Problem(415, "Send it as it is, without a Content-Encoding")
        too_large = Problem(413, f"The body may have {self._body_bytes} bytes")
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._body_bytes:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for part in request.stream():
                    body += part
                    if len(body) > self._body_bytes:
                        raise too_large
        except TimeoutError:
            raise Problem(408, f"The body did not come within {BODY_SECONDS:.0f} seconds") from None
        except ClientDisconnect:
            raise Problem(400, "The body ended before it was whole") from None
        return bytes(body)


class _Bounded:
    """Refuses headers that are too large before anything looks at them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if sum(len(name) + len(value) for name, value in scope["headers"]) > HEADER_BYTES:
                problem = Problem(431, f"All headers together may have {HEADER_BYTES} bytes")
                await problem.response()(scope, receive, send)
                return
            if len(scope["query_string"]) + len(scope["path"]) > URL_BYTES:
                problem = Problem(414, f"The URL may have {URL_BYTES} bytes; a query can be posted as JSON")
                await problem.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)


async def _told(request: Request, error: Exception) -> Response:
    """What Starlette refuses, with what the router alone knows added: no such route, no such method."""
    assert isinstance(error, HTTPException)
    said = {
        404: f"Nothing is at this path; {DESCRIPTION} says what there is",
        405: f"{request.method} is not for this path",
    }
    detail = error.detail if error.detail != HTTPStatus(error.status_code).phrase else said.get(error.status_code, "")
    return Problem(error.status_code, detail, headers=error.headers).response()


def _own(key: str | None, principal: str | Principal | None) -> str | None:
    """The key as a key of whoever asks: nobody is given the answer of another one who chose the same."""
    if key is None or principal is None:
        return key
    return f"{quote(principal if isinstance(principal, str) else principal.id, safe='')}/{key}"
