"""Origins: who calls on a connection that comes from inside an instance.

Such a connection carries no token: that it was handed to us says whose it is. What it may do is what the
token of an invocation may: invoke functions of its account, while the call runs and not too deep. Does not
know sockets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from stoker.catalog.principal import Principal
from stoker.model.call import DEPTH_MAX, Call, Parent
from stoker.model.errors import Forbidden, Unauthenticated

SCOPES = frozenset({"functions:invoke"})
PARENT_HEADER = "x-parent-invocation"


class Origin:
    """One instance, as the caller of requests. `calls` returns what runs in it, in the order of beginning."""

    def __init__(self, account: str, calls: Callable[[], Sequence[Call]]) -> None:
        self._account = account
        self._calls = calls

    def require(self, path: bytes, *, has_token: bool) -> None:
        """Raise Forbidden for what anybody may ask from outside, such as how the server is."""
        if not has_token and not path.startswith(b"/compute/"):
            raise Forbidden("a function without a token of its own may invoke functions, and nothing else")

    def principal(self, named: bytes | None) -> Principal:
        """Return who calls, if the request has no token; `named` is the header that says which call it is.

        Where several calls share an instance and none is named, it is the one that began last, as deep as the
        deepest. Raises Unauthenticated if none runs any more, Forbidden if that one does not, or is too deep.
        """
        parent = self._parent(named)
        return Principal(self._account, f"invocation:{parent.invocation_id}", SCOPES, parent=parent)

    def within(self, principal: Principal, named: bytes | None) -> Principal:
        """Return a principal who has a token of its own, as one who calls from in here. Raises as above."""
        return replace(principal, parent=self._parent(named))

    def _parent(self, named: bytes | None) -> Parent:
        calls = self._calls()
        if not calls:
            raise Unauthenticated(
                "no call runs in this instance any more, and its token ended with it",
                hint="await what a handler begins before it returns",
            )
        if named is None:
            parent, depth = calls[-1], max(map(_depth, calls))
        else:
            text = named.decode("latin-1")
            found = next((call for call in calls if call.text == text.lower()), None)
            if found is None:
                raise Forbidden("X-Parent-Invocation names no call that runs in this instance")
            parent, depth = found, _depth(found)
        if depth >= DEPTH_MAX:
            raise Forbidden(
                f"the call is {DEPTH_MAX} invocations deep, as deep as calls may be",
                hint="a function that calls itself needs an end; long chains go by Async calls from outside",
            )
        return Parent(parent.text, depth + 1)


def _depth(call: Call) -> int:
    return 0 if call.parent is None else call.parent.depth
