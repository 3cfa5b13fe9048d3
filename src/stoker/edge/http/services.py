"""The route of services: what is deployed, in the sense of NATS service discovery.

Does not know how it is discovered over NATS; both show the same `Services`.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stoker.catalog.fold import Entry, Fold
from stoker.edge.http.access import Access
from stoker.edge.http.answers import ServiceAnswer
from stoker.edge.http.functions import answer
from stoker.edge.http.listing import listed
from stoker.edge.http.scopes import GuardedRoute
from stoker.edge.services import Services

TYPE = "io.nats.micro.v1.info_response"


class ServiceRoutes:
    """Services of the caller's account."""

    def __init__(self, fold: Fold, access: Access, services: Services) -> None:
        self._fold = fold
        self._access = access
        self._services = services

    def routes(self) -> list[Route]:
        """Return every route."""
        return [GuardedRoute("GET", "/compute/services", self.list_all)]

    async def list_all(self, request: Request) -> Response:
        """`GET /compute/services`."""
        principal = self._access.allowed(request)
        entries = list(self._fold.entries(principal.account, principal.collection))
        return answer(listed(request, entries, lambda entry: entry.created_sequence, self._answer))

    def _answer(self, entry: Entry) -> ServiceAnswer:
        service = self._services.of(entry.function)
        counter = service.counter
        return {
            "id": service.id,
            "name": service.name,
            "version": service.version,
            "description": service.description,
            "endpoints": [service.endpoint],
            "metadata": service.metadata,
            "type": TYPE,
            "stats": {
                "requests": counter.requests,
                "errors": counter.errors,
                "average_processing_ms": round(counter.average_ms, 3),
            },
        }
