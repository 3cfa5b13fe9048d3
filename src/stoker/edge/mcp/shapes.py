"""Tools, answers and cursors in the types of the SDK.

Imported with the seat alone. Does not know sessions.
"""

from __future__ import annotations

import base64
import binascii

import mcp_types as types
from mcp.shared.exceptions import MCPError
from starlette.requests import Request

from stoker.edge.mcp.asking import Credential
from stoker.edge.mcp.tool import Tool, ToolAnswer

INVOCATION_ID = "stoker/invocation_id"
"""Among what accompanies a result (`_meta`)."""


def listed(tool: Tool) -> types.Tool:
    """Return a tool as a list has it."""
    hints = tool.hints
    return types.Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=tool.input_schema,
        output_schema=tool.output_schema,
        annotations=types.ToolAnnotations(
            title=tool.title,
            read_only_hint=hints.read_only,
            destructive_hint=hints.destructive,
            idempotent_hint=hints.idempotent,
            open_world_hint=hints.open_world,
        ),
    )


def result_of(answer: ToolAnswer) -> types.CallToolResult:
    """Return what a call of a tool came to."""
    result = types.CallToolResult(
        content=[types.TextContent(text=answer.text)],
        structured_content=answer.structured,
        is_error=answer.failed,
    )
    if answer.invocation_id is not None:
        result.meta = {INVOCATION_ID: answer.invocation_id}
    return result


def credential_of(request: Request) -> Credential:
    """Return by what a request says whose it is."""
    headers = dict(request.scope["headers"])
    return Credential(headers.get(b"authorization"), headers.get(b"x-api-key"))


def cursor_of(start: int) -> str:
    """Return the cursor of a page that begins there."""
    return base64.urlsafe_b64encode(str(start).encode()).decode().rstrip("=")


def start_of(cursor: str | None) -> int:
    """Return where the page of a cursor begins. Raises MCPError."""
    if cursor is None:
        return 0
    try:
        start = int(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError):
        start = -1
    if start < 0:
        raise MCPError(types.INVALID_PARAMS, "the cursor is not one of ours")
    return start
