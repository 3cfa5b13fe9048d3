"""Principals: who calls, and what the token may do.

A value; does not know how a token is recognised, nor what a route asks for.
"""

from __future__ import annotations

from dataclasses import dataclass

from stoker.model.call import Parent

SCOPES = (
    "functions:read",
    "functions:write",
    "functions:invoke",
    "records:read",
    "secrets:write",
    "tokens:write",
    "accounts:write",
)
"""Every scope that a token may be given."""
ALL_SCOPES = frozenset({"*"})
"""Of an administrator's token: whatever there is, and whatever comes."""
OF_THE_ACCOUNT = frozenset({"secrets:write", "accounts:write"})
"""Scopes over what is no collection's: a token that is limited to one cannot have them."""


@dataclass(frozen=True, slots=True)
class Rate:
    """So many calls a minute, counted together for a token and all that were made with it."""

    token_id: str
    per_minute: int


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls: an account, and what the token may do."""

    account: str
    """The account's id, which is not its name."""
    token_id: str
    scopes: frozenset[str]
    collection: str | None = None
    """The topic of the only collection that it sees; None for all."""
    rates: tuple[Rate, ...] = ()
    """What bounds its calls: its own rate, and that of those that it was made with."""
    parent: Parent | None = None
    """The invocation whose function calls, if one does."""

    def may(self, scope: str) -> bool:
        """Tell whether it has a scope; a `:write` includes the `:read` of the same noun."""
        scopes = self.scopes
        if "*" in scopes or scope in scopes:
            return True
        noun, _, verb = scope.partition(":")
        return verb == "read" and f"{noun}:write" in scopes

    def sees(self, topic: str) -> bool:
        """Tell whether a collection, by its topic, is there for it."""
        return self.collection is None or self.collection == topic
