"""Scopes: the one table of what each route asks of a token. Routes are made from it.

Source: the compute API contract, *Accounts, tokens, secrets, quotas*. Does not know what a route does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import MappingProxyType

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

FUNCTION = "/compute/functions/{collection}/{function}"
COMPUTE_ASSET = "/compute/compute-assets/{collection}/{function}"
COLLECTION = "/compute/collections/{collection}"
INVOCATION = "/compute/invocations/{invocation}"
DEAD_LETTERS = FUNCTION + "/dead-letters"
INVOKE = FUNCTION + "/invoke"


@dataclass(frozen=True, slots=True)
class Needs:
    """What a route asks of a token."""

    scope: str | None
    """None where any token will do."""
    made_by: str | None = None
    """The scope with which a token may also see what it made itself."""
    whole_account: bool = False
    """Whether it is about the whole account: a token that is limited to a collection may not."""


_READ = Needs("functions:read")
_WRITE = Needs("functions:write")
_INVOKE = Needs("functions:invoke")
_RECORDS = Needs("records:read")
_SECRETS = Needs("secrets:write", whole_account=True)
_TOKENS = Needs("tokens:write")
_ACCOUNTS = Needs("accounts:write", whole_account=True)

TABLE = MappingProxyType(
    {
        ("GET", "/compute/functions"): _READ,
        ("POST", "/compute/functions"): _WRITE,
        ("GET", FUNCTION): _READ,
        ("PATCH", FUNCTION): _WRITE,
        ("DELETE", FUNCTION): _WRITE,
        ("POST", INVOKE): _INVOKE,
        ("GET", FUNCTION + "/log"): _RECORDS,
        ("GET", DEAD_LETTERS): _RECORDS,
        ("POST", DEAD_LETTERS + "/{invocation}/redrive"): _INVOKE,
        ("DELETE", DEAD_LETTERS + "/{invocation}"): _WRITE,
        ("GET", COMPUTE_ASSET): _READ,
        ("PATCH", COMPUTE_ASSET): _WRITE,
        ("GET", COMPUTE_ASSET + "/history"): _READ,
        ("POST", COMPUTE_ASSET + "/rollback"): _WRITE,
        ("PUT", "/compute/assets/{key}"): _WRITE,
        ("GET", "/compute/collections"): _READ,
        ("POST", "/compute/collections"): Needs("functions:write", whole_account=True),
        ("GET", COLLECTION): _READ,
        ("PATCH", COLLECTION): _WRITE,
        ("DELETE", COLLECTION): _WRITE,
        ("GET", COLLECTION + "/functions"): _READ,
        ("GET", COLLECTION + "/containers"): _READ,
        ("GET", "/compute/runtimes"): _READ,
        ("GET", "/compute/services"): _READ,
        ("GET", "/compute/machines"): _READ,
        ("GET", "/compute/invocations"): _RECORDS,
        ("GET", INVOCATION): Needs("records:read", made_by="functions:invoke"),
        ("GET", INVOCATION + "/log"): _RECORDS,
        ("POST", INVOCATION + "/cancel"): _INVOKE,
        ("POST", INVOCATION + "/replay"): _INVOKE,
        ("GET", "/secrets"): _SECRETS,
        ("PUT", "/secrets/{name}"): _SECRETS,
        ("DELETE", "/secrets/{name}"): _SECRETS,
        ("GET", "/tokens"): _TOKENS,
        ("POST", "/tokens"): _TOKENS,
        ("DELETE", "/tokens/{token}"): _TOKENS,
        ("GET", "/limits"): Needs(None),
        ("GET", "/metrics"): _ACCOUNTS,
        ("GET", "/backup"): _ACCOUNTS,
        ("GET", "/accounts"): _ACCOUNTS,
        ("POST", "/accounts"): _ACCOUNTS,
        ("PUT", "/accounts/{account}/limits"): _ACCOUNTS,
        ("DELETE", "/accounts/{account}"): _ACCOUNTS,
    }
)
"""By verb and path. What is not in it needs no token: health, and what describes the API."""


class GuardedRoute(Route):
    """A route of the table; its requests carry what it asks for, for `Access` to hold them to."""

    def __init__(self, verb: str, path: str, endpoint: Callable[[Request], Awaitable[Response]]) -> None:
        super().__init__(path, endpoint, methods=[verb])
        self.verb = verb
        self.needs = TABLE[verb, path]

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As any route, with `needs` beside the path's parameters."""
        match, child = super().matches(scope)
        if match is not Match.NONE:
            child["needs"] = self.needs
        return match, child


def needs_of(request: Request) -> Needs:
    """Return what the route asks for that a request came to."""
    needs: Needs = request.scope["needs"]
    return needs
