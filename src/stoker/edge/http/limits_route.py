"""The route of limits: the quotas of the caller's account, and how much of them is used.

Does not know what is refused when.
"""

from __future__ import annotations

from typing import Protocol, cast

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stoker.catalog.catalog import Catalog
from stoker.catalog.fold import Fold
from stoker.catalog.quotas import QUOTAS
from stoker.edge.http.access import Access
from stoker.edge.http.answers import LimitsAnswer
from stoker.edge.http.functions import answer
from stoker.edge.http.scopes import GuardedRoute


class Records(Protocol):
    """What is kept of invocations."""

    async def bytes_of(self, account: str) -> int:
        """Return what an account's records take."""
        ...


class LimitsRoute:
    """The quotas of the caller's account."""

    def __init__(self, catalog: Catalog, fold: Fold, access: Access, records: Records) -> None:
        self._catalog = catalog
        self._fold = fold
        self._access = access
        self._records = records

    def routes(self) -> list[Route]:
        """Return the one route."""
        return [GuardedRoute("GET", "/limits", self.get)]

    async def get(self, request: Request) -> Response:
        """`GET /limits`: each quota with its limit (null for none) and what is used of it.

        A token with a rate is told of that too; one that is limited to a collection of nothing else, as the
        quotas are the whole account's.
        """
        principal = self._access.allowed(request)
        body: LimitsAnswer = {}
        if principal.collection is None:
            body = await self._account(principal.account)
        if principal.rates:
            lowest = min(principal.rates, key=lambda rate: rate.per_minute)
            used = self._catalog.usage.calls_with(lowest)
            body["calls_per_minute"] = {"limit": lowest.per_minute, "used": used}
        return answer({"body": body})

    async def _account(self, account: str) -> LimitsAnswer:
        usage = self._catalog.usage
        meter = usage.meter(account)
        used = {
            "functions": self._fold.count_of(account),
            "code_bytes": self._fold.references.bytes_of(account),
            "concurrent_invocations": meter.running,
            "invocations_per_minute": usage.calls_of(account),
            "record_bytes": await self._records.bytes_of(account),
        }
        told = {name: {"limit": getattr(meter.quotas, name), "used": used[name]} for name in QUOTAS}
        return cast(LimitsAnswer, told)
