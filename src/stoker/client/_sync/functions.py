# Made from stoker/client/_async by `python -m stoker.testing.mirror`: change it there.
"""Functions, their code and versions, collections, and what runs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from stoker.client import asks
from stoker.client._sync.session import Session
from stoker.client.asks import Answer, Ask
from stoker.client.errors import Details, NotFound
from stoker.client.names import InvalidName, function_path, parts, segment
from stoker.client.types import (
    Code,
    CodeChanges,
    Collection,
    Function,
    FunctionChanges,
    FunctionCreate,
    FunctionSummary,
)


def _function(answer: Answer) -> Function:
    function = asks.one(Function)(answer)
    return msgspec.structs.replace(function, etag=answer.headers.get("etag"))


def _creation(function: FunctionCreate) -> dict[str, Any]:
    """Return the body of a create, without what was not given."""
    members = msgspec.to_builtins(function)
    return _given({**members, "compute_asset": _given(members["compute_asset"])})


def _given(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None and value != ""}


class Functions:
    """The functions of the token's account. `name` is `collection/name` (topics or names), or a subject."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def list(self, collection: str | None = None) -> Sequence[FunctionSummary]:
        """Return all functions, or those of one collection, the oldest first."""
        path = "/compute/functions"
        if collection is not None:
            path = f"/compute/collections/{segment(collection)}/functions"
        return self._session.send(asks.get(path, asks.many(FunctionSummary)))

    def find(self, name: str) -> str:
        """Return a name with its collection, given one, a subject, or a name that is unique.

        Only a bare name is looked for. Raises NotFound, also if there is more than one.
        """
        if "/" in name or "." in name:
            try:
                return "/".join(parts(name))
            except InvalidName:
                pass
        found = [function for function in self.list() if function.name == name]
        if len(found) == 1:
            return found[0].address
        if not found:
            raise NotFound(f"there is no function {name!r}", Details("not_found", 404))
        raise NotFound(
            f"there are {len(found)} functions {name!r}",
            Details("not_found", 404, hint="name one: " + ", ".join(function.address for function in found)),
        )

    def get(self, name: str) -> Function:
        """Return a function with its code."""
        return self._session.send(asks.get(f"/compute/functions/{function_path(name)}", _function))

    def create(self, function: FunctionCreate) -> Function:
        """Create a function; raises NameTaken if its collection has one of that name."""
        return self._session.send(
            asks.change("POST", "/compute/functions", _function, body=_creation(function))
        )

    def change(self, name: str, changes: FunctionChanges, *, if_match: str | None = None) -> None:
        """Change what is not code. With `if_match` raises VersionConflict if somebody else was first."""
        path = f"/compute/functions/{function_path(name)}"
        self._session.send(asks.change("PATCH", path, asks.nothing, body=changes, if_match=if_match))

    def change_code(self, name: str, changes: CodeChanges, *, if_match: str | None = None) -> None:
        """Make a new version, with `changes` in place of those of the latest one."""
        path = f"/compute/compute-assets/{function_path(name)}"
        self._session.send(asks.change("PATCH", path, asks.nothing, body=changes, if_match=if_match))

    def delete(self, name: str, *, if_match: str | None = None) -> None:
        """Delete a function. Its records stay readable until their ttl."""
        path = f"/compute/functions/{function_path(name)}"
        self._session.send(asks.change("DELETE", path, asks.nothing, if_match=if_match))

    def versions(self, name: str) -> Sequence[Code]:
        """Return all versions with their code, the oldest first."""
        path = f"/compute/compute-assets/{function_path(name)}/history"
        return self._session.send(asks.get(path, asks.many(Code)))

    def roll_back(self, name: str, version: int, *, if_match: str | None = None) -> Code:
        """Make a new version that equals an old one, and return it."""
        path = f"/compute/compute-assets/{function_path(name)}/rollback"
        body = {"version": version}
        return self._session.send(asks.change("POST", path, asks.one(Code), body=body, if_match=if_match))

    def put_object(
        self, key: str, content: bytes, *, on_progress: Callable[[int], None] | None = None
    ) -> None:
        """Store what an asset with `link` names, without base64. `on_progress` is told bytes sent so far."""
        ask = Ask(
            "PUT",
            f"/compute/assets/{segment(key)}",
            asks.nothing,
            headers={"Content-Type": "application/octet-stream"},
            content=content,
            repeatable=True,
            answer_s_max=asks.CALL_S_MAX,
        )
        self._session.send(ask, on_progress=on_progress)


class Collections:
    """The collections of the token's account. `name` is a topic or a name."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def list(self) -> Sequence[Collection]:
        """Return all collections, the oldest first."""
        return self._session.send(asks.get("/compute/collections", asks.many(Collection)))

    def get(self, name: str) -> Collection:
        """Return one collection."""
        return self._session.send(asks.get(f"/compute/collections/{segment(name)}", asks.one(Collection)))

    def create(self, name: str, *, description: str | None = None) -> Collection:
        """Create a collection; raises NameTaken."""
        body = {"name": name} | ({} if description is None else {"description": description})
        return self._session.send(
            asks.change("POST", "/compute/collections", asks.one(Collection), body=body)
        )

    def change(self, name: str, *, new_name: str | None = None, description: str | None = None) -> None:
        """Change its name or description."""
        given = {"name": new_name, "description": description}
        body = {key: value for key, value in given.items() if value is not None}
        path = f"/compute/collections/{segment(name)}"
        self._session.send(asks.change("PATCH", path, asks.nothing, body=body))

    def delete(self, name: str) -> None:
        """Delete a collection; raises NotEmpty while it holds functions."""
        self._session.send(asks.change("DELETE", f"/compute/collections/{segment(name)}", asks.nothing))
