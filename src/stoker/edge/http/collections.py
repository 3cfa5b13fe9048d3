"""The routes of collections.

Reads envelopes, asks the catalog, writes envelopes. Does not know functions, whose lists are `functions`'.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stoker.catalog.catalog import Catalog
from stoker.catalog.fold import Fold
from stoker.edge.http import api
from stoker.edge.http.access import Access, require
from stoker.edge.http.body import read_whole
from stoker.edge.http.conditions import etag, if_match, is_strict
from stoker.edge.http.functions import answer, success
from stoker.edge.http.listing import listed
from stoker.model.function import Collection


class CollectionRoutes:
    """Collections, and the containers that none of them holds yet."""

    def __init__(self, catalog: Catalog, fold: Fold, access: Access) -> None:
        self._catalog = catalog
        self._fold = fold
        self._access = access

    def routes(self) -> list[Route]:
        """Return every route; paths keep their percent-encoding, as names may hold anything."""
        one = "/compute/collections/{collection}"
        return [
            Route("/compute/collections", self.list_all, methods=["GET"]),
            Route("/compute/collections", self.create, methods=["POST"]),
            Route(one, self.get, methods=["GET"]),
            Route(one, self.patch, methods=["PATCH"]),
            Route(one, self.delete, methods=["DELETE"]),
            Route(f"{one}/containers", self.list_containers, methods=["GET"]),
        ]

    def _collection(self, request: Request, scope: str) -> Collection:
        principal = self._access.principal(request)
        collection = self._fold.collection_of_path(principal.account, request.path_params["collection"])
        require(principal, scope)
        return collection

    async def list_all(self, request: Request) -> Response:
        """`GET /compute/collections`: those created first first."""
        account = self._access.account(request, "functions:read")
        collections = list(self._fold.collections_of(account))
        return answer(listed(request, collections, lambda one: one.created_sequence, api.collection_answer))

    async def create(self, request: Request) -> Response:
        """`POST /compute/collections`: 201 with the collection, whose topic is the hash of its name."""
        account = self._access.account(request, "functions:write")
        body, _ = api.read_body(await read_whole(request), api.CollectionCreate, strict=is_strict(request))
        collection = await self._catalog.collections.create(
            account,
            body.name,
            description=body.description,
            collection_type="function" if body.collection_type is None else body.collection_type,
        )
        return answer({"body": api.collection_answer(collection)}, 201)

    async def get(self, request: Request) -> Response:
        """`GET` of one collection."""
        collection = self._collection(request, "functions:read")
        return answer({"body": api.collection_answer(collection)}, headers=etag(collection.revision))

    async def patch(self, request: Request) -> Response:
        """`PATCH` of one collection: its name or description."""
        collection = self._collection(request, "functions:write")
        typed, plain = api.read_body(
            await read_whole(request), api.CollectionPatch, strict=is_strict(request)
        )
        changes = {key: plain[key] for key in typed.__struct_fields__ if key in plain}
        await self._catalog.collections.patch(
            collection.account, collection.topic, changes, revisions=if_match(request)
        )
        return success()

    async def delete(self, request: Request) -> Response:
        """`DELETE` of one collection, which has to be empty."""
        collection = self._collection(request, "functions:write")
        await self._catalog.collections.delete(
            collection.account, collection.topic, revisions=if_match(request)
        )
        return success()

    async def list_containers(self, request: Request) -> Response:
        """`GET .../containers`: none, as nothing makes any."""
        self._collection(request, "functions:read")
        return answer(listed(request, (), int, int))
