"""Access: whose token a request carries, and whether it may do what it asks.

The only place where a scope, and the limit to a collection, is checked. What is another account's, or another
collection's for a token that is limited to one, answers 404 as what does not exist. Does not know what
happens after.
"""

from __future__ import annotations

from starlette.requests import Request

from stoker.catalog.fold import Entry, Fold
from stoker.catalog.principal import Principal
from stoker.catalog.tokens import Authenticator
from stoker.edge.http.origin import PARENT_HEADER, Origin
from stoker.edge.http.request import Request as Lean
from stoker.edge.http.scopes import Needs, needs_of
from stoker.model.errors import Forbidden, NotFound
from stoker.model.function import Collection
from stoker.model.record import Record
from stoker.model.subjects import service_of_subject


def require(principal: Principal, needs: Needs) -> None:
    """Raise Forbidden if a principal may not do what asks for `needs`.

    To be asked once what the request names has been found: what is another account's answers 404, not 403.
    """
    if needs.scope is not None and not principal.may(needs.scope):
        raise Forbidden(f"the token lacks the scope {needs.scope}")
    if needs.whole_account and principal.collection is not None:
        raise Forbidden("the token is limited to a collection")


def resolve(fold: Fold, principal: Principal, collection: str, function: str) -> Entry:
    """Return the function that a path names, if it is there for the principal. Raises NotFound."""
    entry = fold.resolve(principal.account, collection, function)
    if principal.collection is not None and principal.collection != entry.function.collection_topic:
        raise NotFound("no such function")
    return entry


def sees(principal: Principal, record: Record) -> bool:
    """Tell whether an account's record is there for a principal."""
    if principal.collection is None:
        return True
    place = service_of_subject(record.function)
    return place is not None and principal.sees(place[0])


class Access:
    """Knows who calls."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    def principal_of(self, authorization: bytes | None, api_key: bytes | None) -> Principal:
        """Return whose token stands in the headers. Raises Unauthenticated."""
        return self._authenticator.authenticate(authorization, api_key)

    def caller(self, request: Lean) -> Principal:
        """Return who calls on the lean path: whose token it is, or which call's. Raises Unauthenticated.

        Of a call that is too deep, or runs no more, also Forbidden.
        """
        origin = request.origin
        if origin is None:
            return self._authenticator.authenticate(request.authorization, request.api_key)
        named = request.header(PARENT_HEADER.encode())
        if request.authorization is None and request.api_key is None:
            return origin.principal(named)
        return origin.within(self.principal_of(request.authorization, request.api_key), named)

    def still_knows(self, principal: Principal) -> bool:
        """Tell whether the token has not been revoked and has not expired since."""
        return self._authenticator.still_knows(principal)

    def principal(self, request: Request) -> Principal:
        """Return whose token a request of the comfortable routes carries. Raises Unauthenticated."""
        headers = request.headers
        authorization, api_key = headers.get("authorization"), headers.get("x-api-key")
        origin: Origin | None = request.scope.get("origin")
        if origin is not None and authorization is None and api_key is None:
            named = headers.get(PARENT_HEADER)
            return origin.principal(None if named is None else named.encode("latin-1"))
        return self.principal_of(
            None if authorization is None else authorization.encode("latin-1"),
            None if api_key is None else api_key.encode("latin-1"),
        )

    def allowed(self, request: Request) -> Principal:
        """Return whose token a request carries that names nothing that could be missing.

        Raises Unauthenticated, or Forbidden if the token may not do it.
        """
        principal = self.principal(request)
        require(principal, needs_of(request))
        return principal

    def entry(self, request: Request, fold: Fold) -> tuple[Principal, Entry]:
        """Return whose token it is, and the function that the path names.

        Raises Unauthenticated, NotFound, Forbidden, in this order.
        """
        principal = self.principal(request)
        path = request.path_params
        entry = resolve(fold, principal, path["collection"], path["function"])
        require(principal, needs_of(request))
        return principal, entry

    def collection(self, request: Request, fold: Fold) -> tuple[Principal, Collection]:
        """Return whose token it is, and the collection that the path names; raises as `entry`."""
        principal = self.principal(request)
        collection = fold.collection_of_path(principal.account, request.path_params["collection"])
        if not principal.sees(collection.topic):
            raise NotFound("no such collection")
        require(principal, needs_of(request))
        return principal, collection
