"""Every route but invoke, as one ASGI application: health, its doors, and JSON for whatever goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from stoker.edge.errors import ErrorAnswers
from stoker.edge.http.functions import answer
from stoker.edge.http.scopes import INVOKE, GuardedRoute
from stoker.model.errors import InvalidRequest, MethodNotAllowed, NotFound, StokerError


class RawPaths:
    """Has routes matched on the path as it was sent: a `%2F` in a name is no separator."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            # With `app` in it starlette raises what it does not find, in place of answering in plain text.
            scope = {**scope, "path": scope["raw_path"].decode("latin-1"), "app": self._app}
        await self._app(scope, receive, send)


class Door(Protocol):
    """The routes of one noun."""

    def routes(self) -> list[Route]:
        """Return every route; paths keep their percent-encoding."""
        ...


def make_app(
    doors: Sequence[Door],
    errors: ErrorAnswers,
    problem: Callable[[], str | None],
    notes: Callable[[], Mapping[str, object]],
) -> ASGIApp:
    """Return the application.

    An exception that is no StokerError leaves it, for who serves it to answer. `problem` tells why the
    server is not ready, or None if it is; `notes` what there is to say of it then.
    """

    async def healthz(request: Request) -> Response:
        return answer({"status": "ok"})

    async def readyz(request: Request) -> Response:
        reason = problem()
        if reason is not None:
            return answer({"status": "not ready", "error": reason, "code": "no_capacity"}, 503)
        return answer({"status": "ready", **notes()})

    async def misled_invoke(request: Request) -> Response:
        raise NotFound(f"there is nothing at {request.url.path}")

    async def failed(request: Request, error: Exception) -> Response:
        found = errors.answer(_ours(request, error, routes) if isinstance(error, HTTPException) else error)
        return Response(found.body, found.status, dict(found.headers), "application/json")

    routes = [
        Route("/healthz", healthz, methods=["GET"]),
        Route("/readyz", readyz, methods=["GET"]),
        *(route for door in doors for route in door.routes()),
        GuardedRoute("POST", INVOKE, misled_invoke),  # the lean path serves it; here for other verbs' Allow
    ]
    router = Router(routes, redirect_slashes=False)
    return RawPaths(ExceptionMiddleware(router, handlers={StokerError: failed, HTTPException: failed}))


def _ours(request: Request, error: HTTPException, routes: Sequence[Route]) -> StokerError:
    path = request.url.path
    if error.status_code == 405:
        allow = _allowed(request, routes)
        return MethodNotAllowed(f"{request.method} is not allowed on {path}", allow=allow)
    if error.status_code == 404:
        return NotFound(f"there is nothing at {path}")
    return InvalidRequest(str(error.detail))


def _allowed(request: Request, routes: Sequence[Route]) -> tuple[str, ...]:
    """Return every verb that some route of this path takes; a route alone knows only its own."""
    verbs: set[str] = set()
    for route in routes:
        if route.path_regex.match(request.scope["path"]):
            verbs |= route.methods or set()
    return tuple(sorted(verbs))
