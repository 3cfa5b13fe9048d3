"""The route of metrics, for who runs the platform. Does not know what is measured."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stoker.edge.http.access import Access
from stoker.edge.http.scopes import GuardedRoute


class MetricsRoute:
    """`measured` returns the text of all metrics as they are just now, in the form `content_type` names."""

    def __init__(self, access: Access, measured: Callable[[], str], content_type: str) -> None:
        self._access = access
        self._measured = measured
        self._content_type = content_type

    def routes(self) -> list[Route]:
        """Return every route."""
        return [GuardedRoute("GET", "/metrics", self.metrics)]

    async def metrics(self, request: Request) -> Response:
        """`GET /metrics`: the text that Prometheus reads."""
        self._access.allowed(request)
        headers = {"content-type": self._content_type, "cache-control": "no-store"}
        return Response(self._measured(), headers=headers)
