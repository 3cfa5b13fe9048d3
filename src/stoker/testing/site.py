"""The comfortable routes over in-memory stores, with tokens that may do everything, little or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx

from stoker.catalog import events
from stoker.catalog.principal import SCOPES
from stoker.catalog.tokens import Authenticator, digest_of
from stoker.edge.errors import ErrorAnswers
from stoker.edge.http.access import Access
from stoker.edge.http.app import Door, make_app
from stoker.edge.http.assets import AssetRoutes
from stoker.edge.http.collections import CollectionRoutes
from stoker.edge.http.functions import FunctionRoutes
from stoker.edge.http.runtimes import RuntimeRoutes
from stoker.model.limits import Limits
from stoker.testing.catalog import ACCOUNT, CatalogBench
from stoker.testing.worker import Notes

TOKENS = {
    "admin": ["*"],
    "reader": ["functions:read"],
    "writer": ["functions:write"],
    "caller": ["functions:invoke"],
    "nobody": [],
}
"""Of the account; what each may do."""
STRANGER = "stranger"
"""The token of another account, which may do everything there, and what only the platform's owner may."""
VISITOR = "visitor"
"""The token that another account has in earnest: it may do all there is within the account."""
OTHER = "other"
"""That account's id."""


class Log(Notes):
    """Of the edge."""

    error = Notes.warning


class Site:
    """The application with its catalog; `problem` is why it is not ready."""

    def __init__(self, request: dict[str, Any], *, limits: Limits | None = None) -> None:
        self._request = request
        self.limits = limits or Limits()
        self.bench = CatalogBench(self.limits)
        self.log = Log()
        self.problem: str | None = None
        for token, scopes in TOKENS.items():
            self._add_token(ACCOUNT, token, scopes)
        self._add_token(OTHER, STRANGER, ["*"])
        self._add_token(OTHER, VISITOR, [scope for scope in SCOPES if scope != "accounts:write"])
        self.app = make_app(
            self._doors(Access(Authenticator(self.bench.fold))),
            ErrorAnswers(self.log, new_id=lambda: "id"),
            lambda: self.problem,
            lambda: {"isolation": "crun"},
        )
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app, raise_app_exceptions=True),
            base_url="http://stoker",
            headers={"Authorization": "Bearer admin"},
        )

    def _doors(self, access: Access) -> Sequence[Door]:
        catalog, fold, limits = self.bench.catalog, self.bench.fold, self.limits
        return (
            FunctionRoutes(catalog, fold, access, limits),
            AssetRoutes(catalog, fold, access, limits),
            CollectionRoutes(catalog, fold, access),
            RuntimeRoutes(access, {"nodejs": "24.1.0", "python": "3.11.2"}),
        )

    def _add_token(self, account: str, token: str, scopes: list[str]) -> None:
        digest = digest_of(token.encode()).hex()
        data = events.encode("created", 0, name=token, digest=digest, scopes=scopes)
        fold = self.bench.fold
        # Far ahead of the log, whose numbers begin at 1.
        fold.apply(str(events.token_key(account, token)), data, 10_000 + len(fold.tenants.tokens))

    async def create(self, **changes: Any) -> httpx.Response:
        """Create the function of the request, with something changed."""
        return await self.client.post("/compute/functions", json={**self._request, **changes})
