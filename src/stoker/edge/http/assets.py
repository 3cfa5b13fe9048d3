"""The routes of code: a function's compute asset, its versions, and objects for linked assets.

Reads envelopes, asks the catalog, writes envelopes. Does not know how contents are stored or code is run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from stoker.catalog.catalog import Catalog
from stoker.catalog.fold import Entry, Fold
from stoker.edge.http import api, bodies
from stoker.edge.http.access import Access
from stoker.edge.http.answers import VersionAnswer
from stoker.edge.http.body import read_pieces, read_whole
from stoker.edge.http.conditions import etag, if_match, is_strict
from stoker.edge.http.functions import answer, success
from stoker.edge.http.items import item_answer, read_assets
from stoker.edge.http.listing import page_of
from stoker.edge.http.scopes import COMPUTE_ASSET, GuardedRoute
from stoker.model.errors import InvalidRequest
from stoker.model.function import CodeVersion, Function
from stoker.model.limits import Limits


class AssetRoutes:
    """Compute assets with their history, and stored objects."""

    def __init__(self, catalog: Catalog, fold: Fold, access: Access, limits: Limits) -> None:
        self._catalog = catalog
        self._fold = fold
        self._access = access
        self._limits = limits

    def routes(self) -> list[Route]:
        """Return every route; paths keep their percent-encoding, as names may hold anything."""
        return [
            GuardedRoute("GET", COMPUTE_ASSET, self.get),
            GuardedRoute("PATCH", COMPUTE_ASSET, self.patch),
            GuardedRoute("GET", COMPUTE_ASSET + "/history", self.history),
            GuardedRoute("POST", COMPUTE_ASSET + "/rollback", self.roll_back),
            GuardedRoute("PUT", "/compute/assets/{key}", self.put_object),
        ]

    def _entry(self, request: Request) -> Entry:
        return self._access.entry(request, self._fold)[1]

    async def get(self, request: Request) -> Response:
        """`GET` of the code that runs now, its assets inline."""
        return await self._answer(self._entry(request).function)

    async def _answer(self, function: Function) -> Response:
        contents = await self._catalog.contents_of(function)
        body = _version_answer(function, function.code)
        body["assets"] = list(map(item_answer, function.code.assets, contents))
        return answer({"body": body}, headers=etag(function.revision))

    async def patch(self, request: Request) -> Response:
        """`PATCH`: a new version, with what is given in place of those keys of the latest one."""
        principal, entry = self._access.entry(request, self._fold)
        account = principal.account
        typed, plain = api.read_body(
            await read_whole(request), bodies.ComputeAssetPatch, strict=is_strict(request)
        )
        changes: dict[str, Any] = {
            key: value
            for key in typed.__struct_fields__
            if (value := getattr(typed, key)) is not msgspec.UNSET
        }
        if "assets" in changes:
            find = partial(self._catalog.objects.find, account, within=principal.collection)
            bytes_max = self._limits.code_bytes_max
            changes["assets"] = read_assets(changes["assets"], find, bytes_max=bytes_max, pointer="/assets")
        if changes.get("read_only_fs", True) is None:
            changes["read_only_fs"] = True
        for key in ("env_vars", "secrets"):
            if changes.get(key) is not None:
                changes[key] = tuple(changes[key])
        if changes.get("secrets"):
            self._catalog.secrets.require_for(principal, changes["secrets"], "/secrets")
        if "network" in changes:
            changes["network"] = plain["network"]  # as it was given
        await self._catalog.versions.change(account, entry, changes, revisions=if_match(request))
        return success()

    async def roll_back(self, request: Request) -> Response:
        """`POST .../rollback`: a new version that equals an old one."""
        entry = self._entry(request)
        body, _ = api.read_body(await read_whole(request), bodies.Rollback, strict=is_strict(request))
        function = await self._catalog.versions.roll_back(
            entry.function.account, entry, body.version, revisions=if_match(request)
        )
        return await self._answer(function)

    async def history(self, request: Request) -> Response:
        """`GET .../history`: every version, the oldest first, with its assets inline."""
        entry = self._entry(request)
        versions, rest = page_of(request, list(entry.versions.values()), lambda code: code.version)
        function = entry.function
        pieces = self._pieces(function, versions, rest)
        return StreamingResponse(pieces, headers=etag(function.revision), media_type="application/json")

    async def _pieces(
        self, function: Function, versions: Sequence[CodeVersion], rest: dict[str, object]
    ) -> AsyncIterator[bytes]:
        """Yield the answer an item at a time: all versions together may be more than there is memory."""
        before = b'{"body":{"results":['
        for code in versions:
            yield before + _opened(_version_answer(function, code)) + b'"assets":['
            between = b""
            for item in code.assets:
                content = await self._catalog.content(function.account, item.digest)
                yield between + msgspec.json.encode(item_answer(item, content))
                between = b","
            before = b"]},"
        end = b"]}]," if versions else before + b"],"
        yield end + _opened(rest).removeprefix(b"{").removesuffix(b",") + b"}}"

    async def put_object(self, request: Request) -> Response:
        """`PUT /compute/assets/{key}`: raw bytes for assets with `link: true`."""
        principal = self._access.allowed(request)
        key = api.decoded(request.path_params["key"])
        if not 1 <= len(key) <= 1024:
            raise InvalidRequest("a key has 1 to 1024 characters")
        pieces = read_pieces(request, bytes_max=self._limits.code_bytes_max)
        stored = await self._catalog.objects.put(principal.account, key, pieces, within=principal.collection)
        return answer({"body": {"key": key, "size_bytes": stored.size_bytes}}, 201)


def _version_answer(function: Function, code: CodeVersion) -> VersionAnswer:
    answered = api.asset_answer(function, code)
    return {**answered, "version": code.version, "modified": code.modified}


def _opened(members: Mapping[str, object]) -> bytes:
    """Return an object that more members are to follow in."""
    return msgspec.json.encode(members).removesuffix(b"}") + b","
