"""What the tools do that change and show functions: a request or two to the routes each.

Decides nothing that a route decides. Source: the operating contract, *The other doors*.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from msgspec import UNSET

from stoker.edge.http import scopes
from stoker.edge.mcp import arguments as args
from stoker.edge.mcp.asking import Answer
from stoker.edge.mcp.files import Item, changed_items, field_of, files_of, items_of
from stoker.edge.mcp.request import Asking, body_of, given, named, place_of
from stoker.edge.mcp.tool import ToolAnswer, refusal, refused, told
from stoker.model.errors import InvalidRequest
from stoker.model.subjects import service_of_subject

HANDLERS = {"nodejs": "index.handler", "python": "main.handler"}
_CODE = ("handler", "runtime", "timeout", "read_only_fs", "env_vars", "secrets", "network")
"""Arguments that belong to the code: a change of one makes a new version."""
_SETTINGS = ("name", "description", "schema", "size", "monitor_config", "retry", "concurrency")


async def create_function(ask: Asking, wanted: args.CreateFunction, plain: dict[str, Any]) -> ToolAnswer:
    """Create a function and show it."""
    items = items_of(plain["files"])
    asset: dict[str, Any] = {
        "collection_topic": wanted.collection,
        "handler": wanted.handler or HANDLERS.get(wanted.runtime, "index.handler"),
        "runtime": wanted.runtime,
        "assets": items,
        **given(plain, ("timeout", "read_only_fs", "env_vars", "secrets", "network")),
    }
    body = {
        "name": wanted.name,
        "compute_asset": asset,
        "monitor_config": plain.get("monitor_config") or {},
        **given(plain, ("description", "schema", "size", "retry", "concurrency")),
    }
    answer = await ask("POST", "/compute/functions", body=body, query={"strict": "true"})
    return told(answer.json()["body"]) if answer.ok else _refusal_of_code(answer, items, "files")


async def update_function(ask: Asking, wanted: args.UpdateFunction, plain: dict[str, Any]) -> ToolAnswer:
    """Change code and settings, and show what came of it without its files."""
    place = place_of(wanted.function)
    code, settings = named(plain, _CODE), named(plain, _SETTINGS)
    headers: dict[str, str] = {}
    argument = "files"
    if wanted.files is not UNSET:
        if wanted.change_files is not UNSET:
            raise InvalidRequest("give files or change_files, not both", field="/change_files")
        code["assets"] = items_of(plain["files"])
    elif wanted.change_files is not UNSET:
        argument = "change_files"
        now = await ask("GET", scopes.COMPUTE_ASSET.format_map(place))
        if not now.ok:
            return refusal(now)
        headers["If-Match"] = now.headers["etag"]
        code["assets"] = changed_items(now.json()["body"]["assets"], plain["change_files"])
    if not code and not settings:
        raise InvalidRequest("nothing to change was given", hint="files, change_files, schema, ...")
    if code:  # first: what is wrong is most often here, and then nothing has changed
        path = scopes.COMPUTE_ASSET.format_map(place)
        answer = await ask("PATCH", path, body=code, headers=headers, query={"strict": "true"})
        if not answer.ok:
            return _refusal_of_code(answer, code.get("assets", []), argument)
    if settings:
        path = scopes.FUNCTION.format_map(place)
        answer = await ask("PATCH", path, body=settings, query={"strict": "true"})
        if not answer.ok:
            members = answer.json()
            if code:
                members["hint"] = "the code was changed, the settings were not; give the settings again"
            return refused(members)
    if "name" in settings and service_of_subject(wanted.function) is None:
        place["function"] = quote(settings["name"], "")
    return await _shown(ask, place, files=False)


async def delete_function(ask: Asking, wanted: args.OneFunction, _: dict[str, Any]) -> ToolAnswer:
    """Delete a function."""
    answer = await ask("DELETE", scopes.FUNCTION.format_map(place_of(wanted.function)))
    return told({"deleted": wanted.function}) if answer.ok else refusal(answer)


async def list_functions(ask: Asking, wanted: args.ListFunctions, _: dict[str, Any]) -> ToolAnswer:
    """Show functions, a page of them."""
    path = "/compute/functions"
    if wanted.collection is not None:
        path = f"{scopes.COLLECTION.format(collection=quote(wanted.collection, ''))}/functions"
    return body_of(await ask("GET", path, query={"limit": wanted.limit, "cursor": wanted.cursor}))


async def get_function(ask: Asking, wanted: args.OneFunction, _: dict[str, Any]) -> ToolAnswer:
    """Show a function with its files."""
    return await _shown(ask, place_of(wanted.function), files=True)


async def _shown(ask: Asking, place: Mapping[str, str], *, files: bool) -> ToolAnswer:
    answer = await ask("GET", scopes.FUNCTION.format_map(place))
    if not answer.ok:
        return refusal(answer)
    body = answer.json()["body"]
    items = body["compute_asset"].pop("assets")
    if files:
        body["files"] = files_of(items)
    return told(body)


async def versions(ask: Asking, wanted: args.Pages, _: dict[str, Any]) -> ToolAnswer:
    """Show the versions of the code, with the names of their files."""
    path = f"{scopes.COMPUTE_ASSET.format_map(place_of(wanted.function))}/history"
    answer = await ask("GET", path, query={"limit": wanted.limit, "cursor": wanted.cursor})
    if not answer.ok:
        return refusal(answer)
    body = answer.json()["body"]
    for version in body["results"]:
        version["files"] = [item["asset_name"] for item in version.pop("assets")]
    return told(body)


async def roll_back(ask: Asking, wanted: args.OfVersion, _: dict[str, Any]) -> ToolAnswer:
    """Make an old version the current one, and show it."""
    path = f"{scopes.COMPUTE_ASSET.format_map(place_of(wanted.function))}/rollback"
    answer = await ask("POST", path, body={"version": wanted.version})
    if not answer.ok:
        return refusal(answer)
    body = answer.json()["body"]
    body["files"] = files_of(body.pop("assets"))
    return told(body)


def _refusal_of_code(answer: Answer, items: list[Item], argument: str) -> ToolAnswer:
    members = answer.json()
    if "field" in members:
        members["field"] = field_of(members["field"], items, argument)
    return refused(members)
