"""What a tool is, and what it answers: plain values, of no library.

Does not know any particular tool.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from stoker.edge.mcp.asking import Answer
from stoker.edge.mcp.schemas import RESULT

DEPTH_MAX = 128
"""Of arrays and objects within each other; past some more, libraries of clients refuse the whole message."""


@dataclass(frozen=True, slots=True)
class Hints:
    """What a client may tell its user of a tool before it is called."""

    read_only: bool = False
    destructive: bool = False
    """It changes or removes what is there, rather than adding to it."""
    idempotent: bool = False
    """Once more with the same arguments changes nothing more."""
    open_world: bool = False
    """It may reach what is outside of this server."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool as it is listed."""

    name: str
    title: str
    description: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any] | None
    hints: Hints


@dataclass(frozen=True, slots=True)
class ToolAnswer:
    """What a call of a tool came to."""

    text: str
    structured: dict[str, Any] | None = None
    failed: bool = False
    invocation_id: str | None = None
    """Of the call of a function that it made."""


def value_of(text: str) -> Any:
    """Return the value of a JSON text; a question mark for half a surrogate pair, which no client reads."""
    value = json.loads(text)
    if "\\ud" in text or "\\uD" in text:
        value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    return value


def is_readable(value: Any, text: str) -> bool:
    """Tell whether clients can read a value, which is written as `text`, as part of a message."""
    if text.count("[") + text.count("{") <= DEPTH_MAX:
        return True
    level = [value]
    for _ in range(DEPTH_MAX):
        members = (one.values() if isinstance(one, dict) else one for one in level)
        level = [inner for one in members for inner in one if isinstance(inner, dict | list)]
        if not level:
            return True
    return False


def told(value: Any, invocation_id: str | None = None) -> ToolAnswer:
    """Return the answer that is a value; one that is no object is the one member of the structured form."""
    text = json.dumps(value, ensure_ascii=False)
    structured = value if isinstance(value, dict) else {RESULT: value}
    return ToolAnswer(text, structured if is_readable(value, text) else None, invocation_id=invocation_id)


def refused(members: dict[str, Any], invocation_id: str | None = None) -> ToolAnswer:
    """Return the error with these members: `error`, `code` and whatever else helps to mend it."""
    return ToolAnswer(json.dumps(members, ensure_ascii=False), failed=True, invocation_id=invocation_id)


def refusal(answer: Answer) -> ToolAnswer:
    """Return what a route refused as the error of a tool."""
    return refused(answer.json(), answer.invocation_id)
