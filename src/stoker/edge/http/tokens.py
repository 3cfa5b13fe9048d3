"""The routes of tokens.

Reads envelopes, asks the catalog, writes envelopes. Does not know how a token is recognised.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stoker.catalog.catalog import Catalog
from stoker.catalog.principal import SCOPES
from stoker.catalog.stored import StoredToken
from stoker.catalog.tokens import LIFETIME_S_MAX, PER_MINUTE_MAX, TokenDraft
from stoker.edge.http import api, bodies
from stoker.edge.http.access import Access
from stoker.edge.http.answers import TokenAnswer, TokenMade
from stoker.edge.http.body import read_whole
from stoker.edge.http.conditions import is_strict
from stoker.edge.http.functions import answer, success
from stoker.edge.http.listing import listed
from stoker.edge.http.scopes import GuardedRoute


def _number(most: int, description: str | None = None) -> Meta:
    return Meta(description=description, extra_json_schema={"minimum": 1, "maximum": most})


class TokenCreate(msgspec.Struct):
    """The body of `POST /tokens`."""

    name: bodies.Name
    scopes: Annotated[
        list[Annotated[str, Meta(extra_json_schema={"enum": list(SCOPES)})]],
        Meta(extra_json_schema={"minItems": 1}),
    ]
    collection: Annotated[str, Meta(description="The only one that it sees: topic or name.")] | None = None
    calls_per_minute: Annotated[int, _number(PER_MINUTE_MAX)] | None = None
    expires_in: Annotated[int, _number(LIFETIME_S_MAX, "Seconds.")] | None = None


class TokenRoutes:
    """Tokens of the caller's account, as far as its own token sees them."""

    def __init__(self, catalog: Catalog, access: Access) -> None:
        self._catalog = catalog
        self._access = access

    def routes(self) -> list[Route]:
        """Return every route."""
        return [
            GuardedRoute("GET", "/tokens", self.list_all),
            GuardedRoute("POST", "/tokens", self.create),
            GuardedRoute("DELETE", "/tokens/{token}", self.delete),
        ]

    async def list_all(self, request: Request) -> Response:
        """`GET /tokens`: those that have not expired, those made first first."""
        tokens = self._catalog.tokens.seen_by(self._access.allowed(request))
        return answer(listed(request, tokens, lambda token: token.revision, token_answer))

    async def create(self, request: Request) -> Response:
        """`POST /tokens`: 201 with the token, which is shown this once."""
        principal = self._access.allowed(request)
        body, _ = api.read_body(await read_whole(request), TokenCreate, strict=is_strict(request))
        wanted = TokenDraft(
            name=body.name,
            scopes=tuple(body.scopes),
            collection=body.collection,
            calls_per_minute=body.calls_per_minute,
            expires_in=body.expires_in,
        )
        token, stored = await self._catalog.tokens.create(principal, wanted)
        made: TokenMade = {"id": stored.token_id, "token": token, **token_answer(stored)}
        return answer({"body": made}, 201)

    async def delete(self, request: Request) -> Response:
        """`DELETE` of a token: it opens nothing from now on, nor does any that was made with it."""
        principal = self._access.allowed(request)
        await self._catalog.tokens.delete(principal, api.decoded(request.path_params["token"]))
        return success()


def token_answer(token: StoredToken) -> TokenAnswer:
    """Return what is shown of a token; what does not limit it is left out."""
    scopes = SCOPES if "*" in token.scopes else sorted(token.scopes)
    members: TokenAnswer = {
        "id": token.token_id,
        "name": token.name,
        "scopes": list(scopes),
        "created": api.rfc3339(token.created_ms),
    }
    if token.principal.collection is not None:
        members["collection"] = token.principal.collection
    if token.principal.rates:
        members["calls_per_minute"] = min(rate.per_minute for rate in token.principal.rates)
    if token.expires_ms is not None:
        members["expires"] = api.rfc3339(token.expires_ms)
    if token.maker is not None:
        members["made_by"] = token.maker
    return members
