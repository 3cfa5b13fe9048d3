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


def require(principal: Principal, scope: str) -> None:
    """Raise Forbidden if a principal lacks a scope.

    To be asked once what the request names has been found: what is another account's answers 404, not 403.
    """
    if not may(principal, scope):
        raise Forbidden(f"the token lacks the scope {scope}")


class Access:
    """Knows who calls."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    def principal_of(self, authorization: bytes | None, api_key: bytes | None) -> Principal:
        """Return whose token stands in the headers. Raises Unauthenticated."""
        return self._authenticator.authenticate(authorization, api_key)

    def principal(self, request: Request) -> Principal:
        """Return whose token a request of the comfortable routes carries. Raises Unauthenticated."""
        headers = request.headers
        authorization, api_key = headers.get("authorization"), headers.get("x-api-key")
        return self.principal_of(
            None if authorization is None else authorization.encode("latin-1"),
            None if api_key is None else api_key.encode("latin-1"),
        )

    def account(self, request: Request, scope: str) -> str:
        """Return the account of a request that names nothing that could be missing.

        Raises Unauthenticated, or Forbidden if the token lacks the scope.
        """
        principal = self.principal(request)
        require(principal, scope)
        return principal.account
