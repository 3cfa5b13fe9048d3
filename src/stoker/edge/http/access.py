"""Access: whose token a request carries, and whether it may do what it asks.

The only place where a scope is checked. Does not know what happens after.
"""

from __future__ import annotations

from starlette.requests import Request

from stoker.catalog.tokens import Authenticator, Principal
from stoker.model.errors import Forbidden


def may(principal: Principal, scope: str) -> bool:
    """Tell whether a principal has a scope; a `:write` includes the `:read` of the same noun."""
    scopes = principal.scopes
    if "*" in scopes or scope in scopes:
        return True
    noun, _, verb = scope.partition(":")
    return verb == "read" and f"{noun}:write" in scopes


class Access:
    """Checks requests of the comfortable routes; the lean path asks `principal_of` itself."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    def principal_of(self, authorization: bytes | None, api_key: bytes | None, scope: str) -> Principal:
        """Return who calls. Raises Unauthenticated, or Forbidden if the token lacks the scope."""
        principal = self._authenticator.authenticate(authorization, api_key)
        if not may(principal, scope):
            raise Forbidden(f"the token lacks the scope {scope}")
        return principal

    def account(self, request: Request, scope: str) -> str:
        """Return the account of a request. Raises as `principal_of`."""
        headers = request.headers
        authorization, api_key = headers.get("authorization"), headers.get("x-api-key")
        return self.principal_of(
            None if authorization is None else authorization.encode("latin-1"),
            None if api_key is None else api_key.encode("latin-1"),
            scope,
        ).account
