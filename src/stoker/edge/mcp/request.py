"""A tool's request to the routes: who asks, and the words of tools put into those of the API.

Does not know any particular tool.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from stoker.edge.http import scopes
from stoker.edge.mcp.arguments import Invoke
from stoker.edge.mcp.asking import Answer, Asker, Credential
from stoker.edge.mcp.functions import json_text
from stoker.edge.mcp.tool import ToolAnswer, refusal, told
from stoker.model.errors import InvalidRequest
from stoker.model.subjects import service_of_subject


@dataclass(frozen=True, slots=True)
class Asking:
    """Who calls a tool, and the way to the routes."""

    asker: Asker
    credential: Credential

    async def __call__(self, method: str, path: str, **rest: Any) -> Answer:
        """Return what a route answers."""
        return await self.asker.ask(self.credential, method, path, **rest)

    async def invoke(self, wanted: Invoke, payload: object, invocation_type: str) -> Answer:
        """Return what the invoke route answers."""
        path = scopes.FUNCTION.format_map(place_of(wanted.function))
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


def place_of(function: str) -> dict[str, str]:
    """Return the segments of a path that mean a function. Raises InvalidRequest for what can mean none."""
    known = service_of_subject(function)
    if known is not None:
        return {"collection": known[0], "function": known[1]}
    collection, slash, name = function.partition("/")
    if not slash or not collection or not name:
        raise InvalidRequest("function is collection/name, or a subject", field="/function")
    return {"collection": quote(collection, ""), "function": quote(name, "")}


def invocation_path(invocation_id: str) -> str:
    return scopes.INVOCATION.format(invocation=quote(invocation_id, ""))


def body_of(answer: Answer) -> ToolAnswer:
    return told(answer.json()["body"]) if answer.ok else refusal(answer)


def named(plain: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: plain[name] for name in names if name in plain}


def given(plain: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in named(plain, names).items() if value is not None}
