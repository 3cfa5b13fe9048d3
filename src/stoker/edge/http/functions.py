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
from stoker.catalog.principal import Principal
from stoker.edge.http import api, bodies
from stoker.edge.http.access import Access
from stoker.edge.http.body import read_whole
from stoker.edge.http.conditions import etag, if_match, is_strict
from stoker.edge.http.items import read_assets
from stoker.edge.http.listing import listed
from stoker.edge.http.scopes import COLLECTION, FUNCTION, GuardedRoute
from stoker.model.errors import Forbidden, InvalidRequest
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
        return [
            GuardedRoute("POST", "/compute/functions", self.create),
            GuardedRoute("GET", "/compute/functions", self.list_all),
            GuardedRoute("GET", COLLECTION + "/functions", self.list_collection),
            GuardedRoute("GET", FUNCTION, self.get),
            GuardedRoute("PATCH", FUNCTION, self.patch),
            GuardedRoute("DELETE", FUNCTION, self.delete),
        ]

    async def create(self, request: Request) -> Response:
        """`POST /compute/functions`: 201 with the function as it is stored."""
        principal = self._access.allowed(request)
        account = principal.account
        body, plain = api.read_body(
            await read_whole(request), bodies.FunctionCreate, strict=is_strict(request)
        )
        asset = body.compute_asset
        collection = asset.collection_topic if asset.collection_topic is not None else asset.namespace
        if collection is None:
            raise InvalidRequest(
                "compute_asset.collection_topic is required", field="/compute_asset/collection_topic"
            )
        if principal.collection is not None:
            collection = self._own_collection(principal, collection)
        self._catalog.secrets.require_for(principal, asset.secrets, "/compute_asset/secrets")
        function = await self._catalog.create_function(
            account,
            FunctionDraft(
                name=body.name,
                collection=collection,
                handler=asset.handler,
                assets=read_assets(
                    asset.assets or [],
                    partial(self._catalog.objects.find, account, within=principal.collection),
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
        principal = self._access.allowed(request)
        return self._list(request, principal.account, principal.collection)

    async def list_collection(self, request: Request) -> Response:
        """`GET /compute/collections/{collection_topic}/functions`."""
        principal, collection = self._access.collection(request, self._fold)
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

    def _own_collection(self, principal: Principal, text: str) -> str:
        """Return the topic of the only collection that a token sees, if `text` means that one."""
        assert principal.collection is not None
        known = self._fold.collection(principal.account, text)
        if (text if known is None else known.topic) != principal.collection:
            raise Forbidden(
                "the token is limited to another collection", field="/compute_asset/collection_topic"
            )
        return principal.collection

    def _entry(self, request: Request) -> Entry:
        return self._access.entry(request, self._fold)[1]

    async def get(self, request: Request) -> Response:
        """`GET` of one function, its assets inline."""
        function = self._entry(request).function
        contents = await self._catalog.contents_of(function)
        return answer({"body": api.function_answer(function, contents)}, headers=etag(function.revision))

    async def patch(self, request: Request) -> Response:
        """`PATCH` of one function: what is given replaces that key whole."""
        entry = self._entry(request)
        typed, plain = api.read_body(
            await read_whole(request), bodies.FunctionPatch, strict=is_strict(request)
        )
        changes = {key: plain[key] for key in typed.__struct_fields__ if key in plain}
        await self._catalog.patch_function(
            entry.function.account, entry, changes, revisions=if_match(request)
        )
        return success()

    async def delete(self, request: Request) -> Response:
        """`DELETE` of one function."""
        entry = self._entry(request)
        await self._catalog.delete_function(entry.function.account, entry, revisions=if_match(request))
        return success()
