"""The route of runtimes: what functions may be written in here.

Does not know how a runtime is started.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stoker.edge.http.access import Access
from stoker.edge.http.functions import answer
from stoker.edge.http.listing import listed
from stoker.edge.http.scopes import GuardedRoute

_DESCRIPTIONS = {
    "nodejs": "Node.js: JavaScript as CommonJS or ES modules, and TypeScript with its types stripped",
    "python": "Python: plain and async handlers",
}


class RuntimeRoutes:
    """What runs here, by the name in the API with its version."""

    def __init__(self, access: Access, versions: Mapping[str, str]) -> None:
        self._access = access
        self._runtimes = [
            {"name": name, "version": version, "description": _DESCRIPTIONS.get(name, name)}
            for name, version in versions.items()
        ]

    def routes(self) -> list[Route]:
        """Return the one route."""
        return [GuardedRoute("GET", "/compute/runtimes", self.list_all)]

    async def list_all(self, request: Request) -> Response:
        """`GET /compute/runtimes`."""
        self._access.allowed(request)
        places = list(enumerate(self._runtimes, 1))
        return answer(listed(request, places, lambda place: place[0], lambda place: place[1]))
