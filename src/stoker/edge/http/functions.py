"""The routes of functions.

Reads envelopes, asks the catalog, writes envelopes. Does not know how anything is stored or run.
"""

from __future__ import annotations

from functools import partial

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stoker.catalog.catalog import Catalog
from stoker.catalog.draft import FunctionDraft
from stoker.catalog.fold import Entry, Fold
from stoker.edge.http import api
from stoker.edge.http.access import Access, require
from stoker.edge.http.body import read_whole
from stoker.edge.http.conditions import etag, if_match, is_strict
from stoker.edge.http.items import read_assets
from stoker.edge.http.listing import listed
from stoker.model.errors import InvalidRequest
from stoker.model.limits import Limits


def answer(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON answer."""
    return Response(msgspec.json.encode(body), status, headers, "application/json")


def success() -> Response:
    """Return what PATCH and DELETE answer."""
    return answer({"message": "success"})


class FunctionRoutes:
    """Functions, in all collections and in one."""

    def __init__(self, catalog: Catalog, fold: Fold, access: Access, limits: Limits) -> None:
        self._catalog = catalog
        self._fold = fold
        self._access = access
        self._limits = limits

    def routes(self) -> list[Route]:
        """Return every route; paths keep their percent-encoding, as names may hold anything."""
        one = "/compute/functions/{collection}/{function}"
        return [
            Route("/compute/functions", self.create, methods=["POST"]),
            Route("/compute/functions", self.list_all, methods=["GET"]),
            Route("/compute/collections/{collection}/functions", self.list_collection, methods=["GET"]),
            Route(one, self.get, methods=["GET"]),
            Route(one, self.patch, methods=["PATCH"]),
            Route(one, self.delete, methods=["DELETE"]),
        ]

    async def create(self, request: Request) -> Response:
        """`POST /compute/functions`: 201 with the function as it is stored."""
        account = self._access.account(request, "functions:write")
        body, plain = api.read_body(await read_whole(request), api.FunctionCreate, strict=is_strict(request))
        asset = body.compute_asset
        collection = asset.collection_topic if asset.collection_topic is not None else asset.namespace
        if collection is None:
            raise InvalidRequest(
                "compute_asset.collection_topic is required", field="/compute_asset/collection_topic"
            )

        function = await self._catalog.create_function(
            account,
            FunctionDraft(
                name=body.name,
                collection=collection,
                handler=asset.handler,
                assets=read_assets(
                    asset.assets or [],
                    partial(self._catalog.objects.find, account),
                    bytes_max=self._limits.code_bytes_max,
                ),
                runtime=asset.runtime or "nodejs",
                timeout=asset.timeout,
                read_only_fs=True if asset.read_only_fs is None else asset.read_only_fs,
                env_vars=None if asset.env_vars is None else tuple(asset.env_vars),
                secrets=None if asset.secrets is None else tuple(asset.secrets),
                network=plain["compute_asset"].get("network"),
                description=body.description,
                monitor_config=plain["monitor_config"],
                schema=plain.get("schema"),
                size=body.size,
                retry=plain.get("retry"),
                concurrency=plain.get("concurrency"),
            ),
        )
        return answer({"body": api.function_answer(function)}, 201)

    async def list_all(self, request: Request) -> Response:
        """`GET /compute/functions`."""
        account = self._access.account(request, "functions:read")
        return self._list(request, account, None)

    async def list_collection(self, request: Request) -> Response:
        """`GET /compute/collections/{collection_topic}/functions`."""
        principal = self._access.principal(request)
        collection = self._fold.collection_of_path(principal.account, request.path_params["collection"])
        require(principal, "functions:read")
        return self._list(request, principal.account, collection.topic)

    def _list(self, request: Request, account: str, topic: str | None) -> Response:
        entries = list(self._fold.entries(account, topic))
        return answer(
            listed(
                request,
                entries,
                lambda entry: entry.created_sequence,
                lambda entry: api.function_summary(entry.function),
            )
        )

    def _entry(self, request: Request, scope: str) -> Entry:
        principal = self._access.principal(request)
        path = request.path_params
        entry = self._fold.resolve(principal.account, path["collection"], path["function"])
        require(principal, scope)
        return entry

    async def get(self, request: Request) -> Response:
        """`GET` of one function, its assets inline."""
        function = self._entry(request, "functions:read").function
        contents = await self._catalog.contents_of(function)
        return answer({"body": api.function_answer(function, contents)}, headers=etag(function.revision))

    async def patch(self, request: Request) -> Response:
        """`PATCH` of one function: what is given replaces that key whole."""
        entry = self._entry(request, "functions:write")
        typed, plain = api.read_body(await read_whole(request), api.FunctionPatch, strict=is_strict(request))
        changes = {key: plain[key] for key in typed.__struct_fields__ if key in plain}
        await self._catalog.patch_function(
            entry.function.account, entry, changes, revisions=if_match(request)
        )
        return success()

    async def delete(self, request: Request) -> Response:
        """`DELETE` of one function."""
        entry = self._entry(request, "functions:write")
        await self._catalog.delete_function(entry.function.account, entry, revisions=if_match(request))
        return success()
