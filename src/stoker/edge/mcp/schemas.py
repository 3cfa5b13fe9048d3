"""Schemas of tools: those of a function, in the form that the protocol asks for.

Arguments and structured results are objects there, always. A schema that may take anything else is wrapped:
what it describes is the one member of an object. Pure. Source: Model Context Protocol, *Tools*.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

ARGUMENT = "payload"
"""The member that stands for the whole payload where its schema is wrapped."""
RESULT = "result"
"""The member that stands for the whole result where that is no object."""
_DEFINITIONS = ("$defs", "definitions")
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")


@dataclass(frozen=True, slots=True)
class ToolSchema:
    """A schema of an object, and whether what the function knows is its one member."""

    schema: dict[str, Any]
    wrapped: bool


ANY_OBJECT = ToolSchema({"type": "object"}, wrapped=False)
"""Of a function that says nothing about what it takes: the arguments are the payload."""


def input_of(schema: dict[str, Any] | None) -> ToolSchema:
    """Return the schema of a tool's arguments, from a function's `schema`."""
    document = (schema or {}).get("input")
    if document is None or document is True:
        return ANY_OBJECT
    if isinstance(document, dict) and "type" not in document and "properties" in document:
        return ToolSchema({"type": "object", **document}, wrapped=False)
    return _of_object(document, ARGUMENT)


def output_of(schema: dict[str, Any] | None) -> ToolSchema | None:
    """Return the schema of a tool's structured result; None where the function says nothing about it."""
    document = (schema or {}).get("output")
    return None if document is None or document is True else _of_object(document, RESULT)


def _of_object(document: object, member: str) -> ToolSchema:
    if isinstance(document, dict) and document.get("type") == "object":
        return ToolSchema(document, wrapped=False)
    inner, beside = _taken_apart(document, member) if isinstance(document, dict) else (document, {})
    wrapper = {"type": "object", "properties": {member: inner}, "required": [member], **beside}
    return ToolSchema(wrapper, wrapped=True)


def _taken_apart(document: dict[str, Any], member: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what goes into the member, and what beside it, so that references lead where they did."""
    dialect = {"$schema": document["$schema"]} if "$schema" in document else {}
    inner = {key: value for key, value in document.items() if key != "$schema"}
    if "$id" in inner or "id" in inner:
        return inner, dialect  # a resource of its own: its references stay within it
    into_definitions = tuple(f"#/{key}/" for key in _DEFINITIONS)
    if all(reference.startswith(into_definitions) for reference in _references(inner)):
        outer = {key: inner.pop(key) for key in _DEFINITIONS if key in inner}
        return inner, {**dialect, **outer}
    return {"$id": f"urn:stoker:{member}", **inner}, dialect


def _references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in _REFERENCES and isinstance(inner, str):
                yield inner
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)
