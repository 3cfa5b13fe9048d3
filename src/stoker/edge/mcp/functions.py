"""Functions as tools: what each takes and gives, and a call of it.

Does not know which of them a token may call, nor how a call is run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from stoker.edge.mcp.asking import Answer, Asker, Credential
from stoker.edge.mcp.names import tool_names
from stoker.edge.mcp.schemas import ARGUMENT, RESULT, ToolSchema, input_of, output_of
from stoker.edge.mcp.tool import DEPTH_MAX, Hints, Tool, ToolAnswer, is_readable, refused, value_of
from stoker.invocation.acceptance import REQUEST_RESPONSE
from stoker.model.function import Function

HINTS = Hints(destructive=True, open_world=True)
"""Nothing is known of what a function does: a client is to ask its user, as is the protocol's default."""

UNREADABLE = {
    "error": f"the result is nested more than {DEPTH_MAX} deep, which clients of this protocol cannot read",
    "code": "function.result_invalid",
    "hint": "give back something flatter, or call the function over HTTP",
}


@dataclass(frozen=True, slots=True)
class FunctionTool:
    """One function as a tool."""

    tool: Tool
    path: str
    """Of the function, in the API."""
    input: ToolSchema
    output: ToolSchema | None


def function_tools(places: Iterable[tuple[str, Function]]) -> dict[str, FunctionTool]:
    """Return a tool for each (name of the collection, function), by the tool's name."""
    given = list(places)
    names = tool_names((collection, function.name, function.subject) for collection, function in given)
    return {
        name: _function_tool(name, collection, function)
        for name, (collection, function) in zip(names, given, strict=True)
    }


def _function_tool(name: str, collection: str, function: Function) -> FunctionTool:
    taken, given = input_of(function.schema), output_of(function.schema)
    what = f"The function {function.name} of the collection {collection}."
    tool = Tool(
        name=name,
        title=f"{collection}/{function.name}",
        description=f"{function.description}\n\n{what}" if function.description else what,
        input_schema=taken.schema,
        output_schema=None if given is None else given.schema,
        hints=HINTS,
    )
    path = f"/compute/functions/{function.collection_topic}/{function.service}"
    return FunctionTool(tool, path, taken, given)


async def call_function(
    asker: Asker, credential: Credential, function: FunctionTool, arguments: dict[str, Any]
) -> ToolAnswer:
    """Return the result of a function, or why there is none, in the forms of its tool."""
    payload: object = arguments
    if function.input.wrapped:
        if ARGUMENT not in arguments:
            return refused(
                {"error": f"{ARGUMENT} is required", "code": "request.invalid", "field": f"/{ARGUMENT}"}
            )
        payload = arguments[ARGUMENT]
    answer = await asker.invoke(credential, function.path, json_text(payload), REQUEST_RESPONSE)
    if not answer.ok:
        return _refusal(answer, wrapped=function.input.wrapped)
    text: str = answer.json()["body"]
    value = value_of(text)
    if not is_readable(value, text):
        if function.output is None:
            return ToolAnswer(text, invocation_id=answer.invocation_id)
        return refused({**UNREADABLE, "invocation_id": answer.invocation_id}, answer.invocation_id)
    wrapped = not isinstance(value, dict) if function.output is None else function.output.wrapped
    return ToolAnswer(text, {RESULT: value} if wrapped else value, invocation_id=answer.invocation_id)


def _refusal(answer: Answer, *, wrapped: bool) -> ToolAnswer:
    members = answer.json()
    if wrapped and members["code"] == "schema.input" and "field" in members:
        members["field"] = f"/{ARGUMENT}{members['field']}"
    return refused(members, members.get("invocation_id"))


def json_text(value: object) -> bytes:
    """Return a value of JSON as text; integers may be of any size."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")
