"""Tools that manage functions and look into what happened: a request or two to the routes each.

Decides nothing that the route decides: who may do it, what a value may be, what is answered. Source: the
operating contract, *The other doors*.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import msgspec

from stoker.catalog.principal import Principal
from stoker.edge.http import scopes
from stoker.edge.http.access import require
from stoker.edge.mcp import arguments as args
from stoker.edge.mcp.asking import Answer, Asker, Credential
from stoker.edge.mcp.files import Item, changed_items, field_of, files_of, items_of
from stoker.edge.mcp.functions import json_text
from stoker.edge.mcp.tool import Hints, Tool, ToolAnswer, refusal, refused, told
from stoker.invocation.acceptance import ASYNC, REQUEST_RESPONSE
from stoker.model.errors import Forbidden, InvalidRequest
from stoker.model.limits import Limits
from stoker.model.subjects import service_of_subject

HANDLERS = {"nodejs": "index.handler", "python": "main.handler"}
_CODE = ("handler", "runtime", "timeout", "read_only_fs", "env_vars", "secrets", "network")
"""Arguments that belong to the code: a change of one makes a new version."""
_SETTINGS = ("name", "description", "schema", "size", "monitor_config", "retry", "concurrency")
_READS = Hints(read_only=True, idempotent=True)
_CALLS = Hints(destructive=True, open_world=True)


@dataclass(frozen=True, slots=True)
class Asking:
    """Who calls a tool, and the way to the routes."""

    asker: Asker
    credential: Credential

    async def __call__(self, method: str, path: str, **rest: Any) -> Answer:
        """Return what a route answers."""
        return await self.asker.ask(self.credential, method, path, **rest)

    async def invoke(self, wanted: args.Invoke, payload: object, invocation_type: str) -> Answer:
        """Return what the invoke route answers."""
        path = scopes.FUNCTION.format_map(_place(wanted.function))
        return await self.asker.invoke(
            self.credential,
            path,
            json_text(payload),
            invocation_type,
            version=wanted.version,
            key=wanted.idempotency_key,
        )


Action = Callable[[Asking, Any, dict[str, Any]], Awaitable[ToolAnswer]]
"""Does what typed arguments ask for, which are also there as they were given."""


@dataclass(frozen=True, slots=True)
class Managing:
    """A tool of ours."""

    tool: Tool
    needs: tuple[tuple[str, str], ...]
    """The routes that it asks, by verb and path."""
    kind: type[msgspec.Struct]
    action: Action


def managing_tools(limits: Limits) -> dict[str, Managing]:
    """Return every tool of ours by name."""
    return {
        name: Managing(
            Tool(name, title, description, args.schema_of(kind, limits), None, hints), needs, kind, action
        )
        for name, title, description, kind, hints, action, needs in _TABLE
    }


def allows(principal: Principal, needs: scopes.Needs) -> bool:
    """Tell whether a token may ask a route that needs this, be it only for what it made itself."""
    try:
        require(principal, needs)
    except Forbidden:
        return needs.made_by is not None and principal.may(needs.made_by)
    return True


def is_for(managing: Managing, principal: Principal) -> bool:
    """Tell whether a token has the scopes of a tool. What it may do with it in particular the routes know."""
    return all(allows(principal, scopes.TABLE[route]) for route in managing.needs)


# -- functions ---------------------------------------------------------------------------------------


async def _create(ask: Asking, wanted: args.CreateFunction, plain: dict[str, Any]) -> ToolAnswer:
    items = items_of(plain["files"])
    asset: dict[str, Any] = {
        "collection_topic": wanted.collection,
        "handler": wanted.handler or HANDLERS.get(wanted.runtime, "index.handler"),
        "runtime": wanted.runtime,
        "assets": items,
        **_given(plain, ("timeout", "read_only_fs", "env_vars", "secrets", "network")),
    }
    body = {
        "name": wanted.name,
        "compute_asset": asset,
        "monitor_config": plain.get("monitor_config") or {},
        **_given(plain, ("description", "schema", "size", "retry", "concurrency")),
    }
    answer = await ask("POST", "/compute/functions", body=body, query={"strict": "true"})
    return told(answer.json()["body"]) if answer.ok else _refusal_of_code(answer, items, "files")


async def _update(ask: Asking, wanted: args.UpdateFunction, plain: dict[str, Any]) -> ToolAnswer:
    place = _place(wanted.function)
    code, settings = _named(plain, _CODE), _named(plain, _SETTINGS)
    headers: dict[str, str] = {}
    argument = "files"
    if wanted.files is not msgspec.UNSET:
        if wanted.change_files is not msgspec.UNSET:
            raise InvalidRequest("give files or change_files, not both", field="/change_files")
        code["assets"] = items_of(plain["files"])
    elif wanted.change_files is not msgspec.UNSET:
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


async def _delete(ask: Asking, wanted: args.OneFunction, _: dict[str, Any]) -> ToolAnswer:
    answer = await ask("DELETE", scopes.FUNCTION.format_map(_place(wanted.function)))
    return told({"deleted": wanted.function}) if answer.ok else refusal(answer)


async def _list(ask: Asking, wanted: args.ListFunctions, _: dict[str, Any]) -> ToolAnswer:
    path = "/compute/functions"
    if wanted.collection is not None:
        path = f"{scopes.COLLECTION.format(collection=quote(wanted.collection, ''))}/functions"
    return _body(await ask("GET", path, query={"limit": wanted.limit, "cursor": wanted.cursor}))


async def _get(ask: Asking, wanted: args.OneFunction, _: dict[str, Any]) -> ToolAnswer:
    return await _shown(ask, _place(wanted.function), files=True)


async def _shown(ask: Asking, place: Mapping[str, str], *, files: bool) -> ToolAnswer:
    answer = await ask("GET", scopes.FUNCTION.format_map(place))
    if not answer.ok:
        return refusal(answer)
    body = answer.json()["body"]
    items = body["compute_asset"].pop("assets")
    if files:
        body["files"] = files_of(items)
    return told(body)


async def _versions(ask: Asking, wanted: args.Pages, _: dict[str, Any]) -> ToolAnswer:
    path = f"{scopes.COMPUTE_ASSET.format_map(_place(wanted.function))}/history"
    answer = await ask("GET", path, query={"limit": wanted.limit, "cursor": wanted.cursor})
    if not answer.ok:
        return refusal(answer)
    body = answer.json()["body"]
    for version in body["results"]:
        version["files"] = [item["asset_name"] for item in version.pop("assets")]
    return told(body)


async def _roll_back(ask: Asking, wanted: args.OfVersion, _: dict[str, Any]) -> ToolAnswer:
    path = f"{scopes.COMPUTE_ASSET.format_map(_place(wanted.function))}/rollback"
    answer = await ask("POST", path, body={"version": wanted.version})
    if not answer.ok:
        return refusal(answer)
    body = answer.json()["body"]
    body["files"] = files_of(body.pop("assets"))
    return told(body)


# -- calls -------------------------------------------------------------------------------------------


async def _invoke(ask: Asking, wanted: args.Invoke, plain: dict[str, Any]) -> ToolAnswer:
    return _outcome(await ask.invoke(wanted, plain.get("payload"), REQUEST_RESPONSE))


async def _invoke_async(ask: Asking, wanted: args.Invoke, plain: dict[str, Any]) -> ToolAnswer:
    return _outcome(await ask.invoke(wanted, plain.get("payload"), ASYNC))


async def _replay(ask: Asking, wanted: args.Replay, _: dict[str, Any]) -> ToolAnswer:
    path = f"{_invocation(wanted.invocation_id)}/replay"
    return _outcome(await ask("POST", path, body={"version": wanted.version}))


async def _redrive(ask: Asking, wanted: args.OneLetter, _: dict[str, Any]) -> ToolAnswer:
    letters = scopes.DEAD_LETTERS.format_map(_place(wanted.function))
    return _outcome(await ask("POST", f"{letters}/{quote(wanted.invocation_id, '')}/redrive"))


async def _cancel(ask: Asking, wanted: args.OneInvocation, _: dict[str, Any]) -> ToolAnswer:
    answer = await ask("POST", f"{_invocation(wanted.invocation_id)}/cancel")
    return told({"cancelled": wanted.invocation_id}) if answer.ok else refusal(answer)


def _outcome(answer: Answer) -> ToolAnswer:
    """Return the result of a call beside its id; of one that only was accepted the id alone."""
    if not answer.ok:
        return refusal(answer)
    result = msgspec.json.decode(answer.json()["body"])
    accepted = {"invocation_id": answer.invocation_id}
    body = accepted if result == accepted else {**accepted, "result": result}
    return told(body, answer.invocation_id)


# -- what happened -----------------------------------------------------------------------------------


async def _get_invocation(ask: Asking, wanted: args.GetInvocation, _: dict[str, Any]) -> ToolAnswer:
    return _body(await ask("GET", _invocation(wanted.invocation_id), query={"wait": wanted.wait_ms}))


async def _invocations(ask: Asking, wanted: args.Invocations, plain: dict[str, Any]) -> ToolAnswer:
    names = ("function", "status", "since", "until", "cursor")
    return _body(
        await ask("GET", "/compute/invocations", query={**_given(plain, names), "limit": wanted.limit})
    )


async def _logs(ask: Asking, wanted: args.Logs, _: dict[str, Any]) -> ToolAnswer:
    if wanted.invocation_id is not None:
        answer = await ask("GET", f"{_invocation(wanted.invocation_id)}/log")
        if not answer.ok:
            return refusal(answer)
        text = answer.body.decode(errors="replace")
        return ToolAnswer(text, {"invocation_id": wanted.invocation_id, "log": text})
    if wanted.function is None:
        raise InvalidRequest("give invocation_id, or function for its latest ones", field="/invocation_id")
    query = {"function": wanted.function, "limit": wanted.limit}
    found = await ask("GET", "/compute/invocations", query=query)
    if not found.ok:
        return refusal(found)
    logs = []
    for record in found.json()["body"]["results"]:
        answer = await ask("GET", f"{_invocation(record['invocation_id'])}/log")
        if answer.ok:  # else it has expired meanwhile
            shown = {key: record[key] for key in ("invocation_id", "created", "status")}
            logs.append({**shown, "log": answer.body.decode(errors="replace")})
    text = "\n".join(
        f"-- {log['created']} {log['status']} {log['invocation_id']}\n{log['log']}" for log in logs
    )
    return ToolAnswer(text or "nothing was called yet", {"logs": logs})


async def _dead_letters(ask: Asking, wanted: args.Pages, _: dict[str, Any]) -> ToolAnswer:
    path = scopes.DEAD_LETTERS.format_map(_place(wanted.function))
    return _body(await ask("GET", path, query={"limit": wanted.limit, "cursor": wanted.cursor}))


# -- words -------------------------------------------------------------------------------------------


def _place(function: str) -> dict[str, str]:
    """Return the segments of a path that mean a function. Raises InvalidRequest for what can mean none."""
    known = service_of_subject(function)
    if known is not None:
        return {"collection": known[0], "function": known[1]}
    collection, slash, name = function.partition("/")
    if not slash or not collection or not name:
        raise InvalidRequest("function is collection/name, or a subject", field="/function")
    return {"collection": quote(collection, ""), "function": quote(name, "")}


def _invocation(invocation_id: str) -> str:
    return scopes.INVOCATION.format(invocation=quote(invocation_id, ""))


def _body(answer: Answer) -> ToolAnswer:
    return told(answer.json()["body"]) if answer.ok else refusal(answer)


def _refusal_of_code(answer: Answer, items: list[Item], argument: str) -> ToolAnswer:
    members = answer.json()
    if "field" in members:
        members["field"] = field_of(members["field"], items, argument)
    return refused(members)


def _named(plain: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: plain[name] for name in names if name in plain}


def _given(plain: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in _named(plain, names).items() if value is not None}


_ASSET, _FUNCTION = scopes.COMPUTE_ASSET, scopes.FUNCTION
_INVOCATION, _LETTERS = scopes.INVOCATION, scopes.DEAD_LETTERS
_TABLE: tuple[tuple[str, str, str, type[msgspec.Struct], Hints, Action, tuple[tuple[str, str], ...]], ...] = (
    (
        "stoker_list_functions",
        "List functions",
        "The functions, those created first first: name, description, runtime and subject of each.",
        args.ListFunctions,
        _READS,
        _list,
        (("GET", "/compute/functions"),),
    ),
    (
        "stoker_get_function",
        "Read a function",
        "A function with all its settings and the text of its files.",
        args.OneFunction,
        _READS,
        _get,
        (("GET", _FUNCTION),),
    ),
    (
        "stoker_create_function",
        "Create a function",
        "Create a function from source files. With `schema.input` and `schema.output` it becomes a tool with "
        "typed arguments and results. It can be called at once.",
        args.CreateFunction,
        Hints(),
        _create,
        (("POST", "/compute/functions"),),
    ),
    (
        "stoker_update_function",
        "Change a function",
        "Change a function. New code (`files`, or `change_files` for some of them) makes a new version that "
        "the next call runs, and the versions before stay to be rolled back to.",
        args.UpdateFunction,
        Hints(destructive=True, idempotent=True),
        _update,
        (("PATCH", _ASSET), ("PATCH", _FUNCTION), ("GET", _FUNCTION)),
    ),
    (
        "stoker_delete_function",
        "Delete a function",
        "Delete a function with its versions. Records of its invocations stay until they expire.",
        args.OneFunction,
        Hints(destructive=True),
        _delete,
        (("DELETE", _FUNCTION),),
    ),
    (
        "stoker_versions",
        "List versions",
        "The versions of a function's code, the oldest first, with the names of their files.",
        args.Pages,
        _READS,
        _versions,
        (("GET", _ASSET + "/history"),),
    ),
    (
        "stoker_rollback",
        "Roll a function back",
        "Make an old version of the code the current one, as a new version that equals it.",
        args.OfVersion,
        Hints(destructive=True),
        _roll_back,
        (("POST", _ASSET + "/rollback"),),
    ),
    (
        "stoker_invoke",
        "Call a function",
        "Call a function and wait for its result. An error tells code, message, stack and invocation id.",
        args.Invoke,
        _CALLS,
        _invoke,
        (("POST", scopes.INVOKE),),
    ),
    (
        "stoker_invoke_async",
        "Call a function in the background",
        "Queue a call: it is stored, run, and tried again if it fails. Answers the invocation's id.",
        args.Invoke,
        _CALLS,
        _invoke_async,
        (("POST", scopes.INVOKE),),
    ),
    (
        "stoker_get_invocation",
        "Read an invocation",
        "What became of an invocation: status, code, error with its stack, timings, attempts, memory.",
        args.GetInvocation,
        _READS,
        _get_invocation,
        (("GET", _INVOCATION),),
    ),
    (
        "stoker_invocations",
        "List invocations",
        "Invocations, the latest first, by function, status and time.",
        args.Invocations,
        _READS,
        _invocations,
        (("GET", "/compute/invocations"),),
    ),
    (
        "stoker_logs",
        "Read logs",
        "What an invocation printed, or the latest ones of a function.",
        args.Logs,
        _READS,
        _logs,
        (("GET", _INVOCATION + "/log"), ("GET", "/compute/invocations")),
    ),
    (
        "stoker_cancel",
        "Cancel an invocation",
        "End a queued or running background call.",
        args.OneInvocation,
        Hints(destructive=True),
        _cancel,
        (("POST", _INVOCATION + "/cancel"),),
    ),
    (
        "stoker_replay",
        "Run an invocation again",
        "Call the function again with the payload of an invocation that has ended, if that was kept.",
        args.Replay,
        _CALLS,
        _replay,
        (("POST", _INVOCATION + "/replay"),),
    ),
    (
        "stoker_dead_letters",
        "List dead letters",
        "Background calls of a function that failed to the end, the latest first.",
        args.Pages,
        _READS,
        _dead_letters,
        (("GET", _LETTERS),),
    ),
    (
        "stoker_redrive",
        "Run a dead letter again",
        "Queue a dead letter once more as a new invocation.",
        args.OneLetter,
        _CALLS,
        _redrive,
        (("POST", _LETTERS + "/{invocation}/redrive"),),
    ),
)
