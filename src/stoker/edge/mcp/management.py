"""The tools that manage functions: name, words, arguments and routes of each, and which of them a token has.

Does not know what they do. Source: the operating contract, *The other doors*.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from stoker.catalog.principal import Principal
from stoker.edge.http import scopes
from stoker.edge.http.access import require
from stoker.edge.mcp import arguments as args
from stoker.edge.mcp import manage_calls as calls
from stoker.edge.mcp import manage_functions as functions
from stoker.edge.mcp.request import Action
from stoker.edge.mcp.tool import Hints, Tool
from stoker.model.errors import Forbidden
from stoker.model.limits import Limits

_READS = Hints(read_only=True, idempotent=True)
_CALLS = Hints(destructive=True, open_world=True)


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


_ASSET, _FUNCTION = scopes.COMPUTE_ASSET, scopes.FUNCTION
_INVOCATION, _LETTERS = scopes.INVOCATION, scopes.DEAD_LETTERS
_TABLE: tuple[tuple[str, str, str, type[msgspec.Struct], Hints, Action, tuple[tuple[str, str], ...]], ...] = (
    (
        "stoker_list_functions",
        "List functions",
        "The functions, those created first first: name, description, runtime and subject of each.",
        args.ListFunctions,
        _READS,
        functions.list_functions,
        (("GET", "/compute/functions"),),
    ),
    (
        "stoker_get_function",
        "Read a function",
        "A function with all its settings and the text of its files.",
        args.OneFunction,
        _READS,
        functions.get_function,
        (("GET", _FUNCTION),),
    ),
    (
        "stoker_create_function",
        "Create a function",
        "Create a function from source files. With `schema.input` and `schema.output` it becomes a tool with "
        "typed arguments and results. It can be called at once.",
        args.CreateFunction,
        Hints(),
        functions.create_function,
        (("POST", "/compute/functions"),),
    ),
    (
        "stoker_update_function",
        "Change a function",
        "Change a function. New code (`files`, or `change_files` for some of them) makes a new version that "
        "the next call runs, and the versions before stay to be rolled back to.",
        args.UpdateFunction,
        Hints(destructive=True, idempotent=True),
        functions.update_function,
        (("PATCH", _ASSET), ("PATCH", _FUNCTION), ("GET", _FUNCTION)),
    ),
    (
        "stoker_delete_function",
        "Delete a function",
        "Delete a function with its versions. Records of its invocations stay until they expire.",
        args.OneFunction,
        Hints(destructive=True),
        functions.delete_function,
        (("DELETE", _FUNCTION),),
    ),
    (
        "stoker_versions",
        "List versions",
        "The versions of a function's code, the oldest first, with the names of their files.",
        args.Pages,
        _READS,
        functions.versions,
        (("GET", _ASSET + "/history"),),
    ),
    (
        "stoker_rollback",
        "Roll a function back",
        "Make an old version of the code the current one, as a new version that equals it.",
        args.OfVersion,
        Hints(destructive=True),
        functions.roll_back,
        (("POST", _ASSET + "/rollback"),),
    ),
    (
        "stoker_invoke",
        "Call a function",
        "Call a function and wait for its result. An error tells code, message, stack and invocation id.",
        args.Invoke,
        _CALLS,
        calls.invoke,
        (("POST", scopes.INVOKE),),
    ),
    (
        "stoker_invoke_async",
        "Call a function in the background",
        "Queue a call: it is stored, run, and tried again if it fails. Answers the invocation's id.",
        args.Invoke,
        _CALLS,
        calls.invoke_async,
        (("POST", scopes.INVOKE),),
    ),
    (
        "stoker_get_invocation",
        "Read an invocation",
        "What became of an invocation: status, code, error with its stack, timings, attempts, memory.",
        args.GetInvocation,
        _READS,
        calls.get_invocation,
        (("GET", _INVOCATION),),
    ),
    (
        "stoker_invocations",
        "List invocations",
        "Invocations, the latest first, by function, status and time.",
        args.Invocations,
        _READS,
        calls.list_invocations,
        (("GET", "/compute/invocations"),),
    ),
    (
        "stoker_logs",
        "Read logs",
        "What an invocation printed, or the latest ones of a function.",
        args.Logs,
        _READS,
        calls.read_logs,
        (("GET", _INVOCATION + "/log"), ("GET", "/compute/invocations")),
    ),
    (
        "stoker_cancel",
        "Cancel an invocation",
        "End a queued or running background call.",
        args.OneInvocation,
        Hints(destructive=True),
        calls.cancel,
        (("POST", _INVOCATION + "/cancel"),),
    ),
    (
        "stoker_replay",
        "Run an invocation again",
        "Call the function again with the payload of an invocation that has ended, if that was kept.",
        args.Replay,
        _CALLS,
        calls.replay,
        (("POST", _INVOCATION + "/replay"),),
    ),
    (
        "stoker_dead_letters",
        "List dead letters",
        "Background calls of a function that failed to the end, the latest first.",
        args.Pages,
        _READS,
        calls.list_dead_letters,
        (("GET", _LETTERS),),
    ),
    (
        "stoker_redrive",
        "Run a dead letter again",
        "Queue a dead letter once more as a new invocation.",
        args.OneLetter,
        _CALLS,
        calls.redrive,
        (("POST", _LETTERS + "/{invocation}/redrive"),),
    ),
)
