"""The routes of collections.

Reads envelopes, asks the catalog, writes envelopes. Does not know functions, whose lists are `functions`'.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stoker.catalog.catalog import Catalog
from stoker.catalog.fold import Fold
from stoker.edge.http import api, bodies
from stoker.edge.http.access import Access
from stoker.edge.http.body import read_whole
from stoker.edge.http.conditions import etag, if_match, is_strict
from stoker.edge.http.functions import answer, success
from stoker.edge.http.listing import listed
from stoker.edge.http.scopes import COLLECTION, GuardedRoute
from stoker.model.errors import Forbidden
from stoker.model.function import Collection


class CollectionRoutes:
    """Collections, and the containers that none of them holds yet."""

    def __init__(self, catalog: Catalog, fold: Fold, access: Access) -> None:
        self._catalog = catalog
        self._fold = fold
        self._access = access

    def routes(self) -> list[Route]:
        """Return every route; paths keep their percent-encoding, as names may hold anything."""
        return [
            GuardedRoute("GET", "/compute/collections", self.list_all),
            GuardedRoute("POST", "/compute/collections", self.create),
            GuardedRoute("GET", COLLECTION, self.get),
            GuardedRoute("PATCH", COLLECTION, self.patch),
            GuardedRoute("DELETE", COLLECTION, self.delete),
            GuardedRoute("GET", COLLECTION + "/containers", self.list_containers),
        ]

    def _collection(self, request: Request) -> Collection:
        return self._access.collection(request, self._fold)[1]

    async def list_all(self, request: Request) -> Response:
        """`GET /compute/collections`: those created first first."""
        principal = self._access.allowed(request)
        collections = [
            one for one in self._fold.collections_of(principal.account) if principal.sees(one.topic)
        ]
        return answer(listed(request, collections, lambda one: one.created_sequence, api.collection_answer))

    async def create(self, request: Request) -> Response:
        """`POST /compute/collections`: 201 with the collection, whose topic is the hash of its name."""
        account = self._access.allowed(request).account
        body, _ = api.read_body(await read_whole(request), bodies.CollectionCreate, strict=is_strict(request))
        collection = await self._catalog.collections.create(
            account,
            body.name,
            description=body.description,
            collection_type="function" if body.collection_type is None else body.collection_type,
        )
        return answer({"body": api.collection_answer(collection)}, 201)

    async def get(self, request: Request) -> Response:
        """`GET` of one collection."""
        collection = self._collection(request)
        return answer({"body": api.collection_answer(collection)}, headers=etag(collection.revision))

    async def patch(self, request: Request) -> Response:
        """`PATCH` of one collection: its name or description."""
        principal, collection = self._access.collection(request, self._fold)
        typed, plain = api.read_body(
            await read_whole(request), bodies.CollectionPatch, strict=is_strict(request)
        )
        changes = {key: plain[key] for key in typed.__struct_fields__ if key in plain}
        if principal.collection is not None and changes.get("name", collection.name) != collection.name:
            # it would be told which names others have
            raise Forbidden("a token that is limited to a collection does not rename it", field="/name")
        await self._catalog.collections.patch(
            collection.account, collection.topic, changes, revisions=if_match(request)
        )
        return success()

    async def delete(self, request: Request) -> Response:
        """`DELETE` of one collection, which has to be empty."""
        collection = self._collection(request)
        await self._catalog.collections.delete(
            collection.account, collection.topic, revisions=if_match(request)
        )
        return success()

    async def list_containers(self, request: Request) -> Response:
        """`GET .../containers`: none, as nothing makes any."""
        self._collection(request)
        return answer(listed(request, (), int, int))
