"""Every route but invoke, as one ASGI application: health, functions, and JSON for whatever goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from stoker.edge.http.errors import ErrorAnswers
from stoker.edge.http.functions import FunctionRoutes, answer
from stoker.model.errors import InvalidRequest, MethodNotAllowed, NotFound


class RawPaths:
    """Has routes matched on the path as it was sent: a `%2F` in a name is no separator."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": scope["raw_path"].decode("latin-1")}
        await self._app(scope, receive, send)


def make_app(
    functions: FunctionRoutes,
    errors: ErrorAnswers,
    problem: Callable[[], str | None],
    notes: Callable[[], Mapping[str, object]],
) -> ASGIApp:
    """Return the application.

    `problem` tells why the server is not ready, or None if it is; `notes` what there is to say of it then.
    """

    async def healthz(request: Request) -> Response:
        return answer({"status": "ok"})

    async def readyz(request: Request) -> Response:
        reason = problem()
        if reason is not None:
            return answer({"status": "not ready", "error": reason, "code": "no_capacity"}, 503)
        return answer({"status": "ready", **notes()})

    async def invoke_by_another_verb(request: Request) -> Response:
        raise MethodNotAllowed(f"{request.method} is not allowed on {request.url.path}", allow=("POST",))

    async def failed(request: Request, error: Exception) -> Response:
        found = errors.answer(_ours(request, error))
        return Response(found.body, found.status, dict(found.headers), "application/json")

    app = Starlette(
        routes=[
            Route("/healthz", healthz, methods=["GET"]),
            Route("/readyz", readyz, methods=["GET"]),
            *functions.routes(),
            Route(
                "/compute/functions/{collection}/{function}/invoke",
                invoke_by_another_verb,
                methods=["GET", "PUT", "PATCH", "DELETE", "OPTIONS"],
            ),
        ],
        exception_handlers={Exception: failed, HTTPException: failed},
    )
    app.router.redirect_slashes = False
    return RawPaths(app)


def _ours(request: Request, error: Exception) -> Exception:
    if not isinstance(error, HTTPException):
        return error
    path = request.url.path
    if error.status_code == 405:
        return MethodNotAllowed(f"{request.method} is not allowed on {path}", allow=_allowed(request))
    if error.status_code == 404:
        return NotFound(f"there is nothing at {path}")
    return InvalidRequest(str(error.detail))


def _allowed(request: Request) -> tuple[str, ...]:
    """Return every verb that some route of this path takes; a route alone knows only its own."""
    verbs: set[str] = set()
    for route in request.app.routes:
        if isinstance(route, Route) and route.path_regex.match(request.scope["path"]):
            verbs |= route.methods or set()
    return tuple(sorted(verbs))
