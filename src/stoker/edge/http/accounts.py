"""The routes of accounts, for who runs the platform.

Reads envelopes, asks the catalog, writes envelopes. Does not know what an account has.
"""

from __future__ import annotations

from typing import Annotated, cast

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stoker.catalog.accounts import QUOTA_MAX
from stoker.catalog.catalog import Catalog
from stoker.catalog.events import quotas_content
from stoker.catalog.quotas import QUOTAS, UNLIMITED, Quotas
from stoker.catalog.stored import Account
from stoker.edge.http import api
from stoker.edge.http.access import Access
from stoker.edge.http.answers import AccountAnswer, AccountMade, QuotaLimits
from stoker.edge.http.body import read_whole
from stoker.edge.http.conditions import is_strict
from stoker.edge.http.functions import answer, success
from stoker.edge.http.listing import listed
from stoker.edge.http.scopes import GuardedRoute

Quota = Annotated[int, Meta(extra_json_schema={"minimum": 0, "maximum": QUOTA_MAX})]


class AccountLimits(msgspec.Struct):
    """The quotas of an account; what is absent or null has no limit."""

    functions: Quota | None = None
    code_bytes: Quota | None = None
    concurrent_invocations: Quota | None = None
    invocations_per_minute: Quota | None = None
    record_bytes: Quota | None = None


class LimitsPut(AccountLimits):
    """The body of `PUT .../limits`: the quotas, as they are or under `limits`, as when an account is made."""

    limits: AccountLimits | None = None


class AccountCreate(msgspec.Struct):
    """The body of `POST /accounts`."""

    name: Annotated[str, Meta(extra_json_schema={"pattern": "^[A-Za-z0-9_-]{1,64}$"})]
    limits: AccountLimits | None = None


class AccountRoutes:
    """All accounts."""

    def __init__(self, catalog: Catalog, access: Access) -> None:
        self._catalog = catalog
        self._access = access

    def routes(self) -> list[Route]:
        """Return every route."""
        return [
            GuardedRoute("GET", "/accounts", self.list_all),
            GuardedRoute("POST", "/accounts", self.create),
            GuardedRoute("PUT", "/accounts/{account}/limits", self.limit),
            GuardedRoute("DELETE", "/accounts/{account}", self.delete),
        ]

    async def list_all(self, request: Request) -> Response:
        """`GET /accounts`: those created first first."""
        self._access.allowed(request)
        accounts = self._catalog.accounts.all()
        return answer(listed(request, accounts, lambda account: account.created_sequence, account_answer))

    async def create(self, request: Request) -> Response:
        """`POST /accounts`: 201 with the account's first token, which is shown this once."""
        self._access.allowed(request)
        body, _ = api.read_body(await read_whole(request), AccountCreate, strict=is_strict(request))
        quotas = UNLIMITED if body.limits is None else _quotas(body.limits)
        account, token, stored = await self._catalog.accounts.create(body.name, quotas)
        made: AccountMade = {
            "name": account.name,
            "token_id": stored.token_id,
            "token": token,
            "limits": _limits(account.quotas),
        }
        return answer({"body": made}, 201)

    async def limit(self, request: Request) -> Response:
        """`PUT .../limits`: the quotas in place of all that the account had."""
        self._access.allowed(request)
        name = self._catalog.accounts.find(api.decoded(request.path_params["account"])).name
        body, _ = api.read_body(await read_whole(request), LimitsPut, strict=is_strict(request))
        account = await self._catalog.accounts.limit(name, _quotas(body.limits or body))
        return answer({"body": account_answer(account)})

    async def delete(self, request: Request) -> Response:
        """`DELETE` of an account, with all that it had: nothing of it is there for anybody from then on."""
        self._access.allowed(request)
        await self._catalog.accounts.delete(api.decoded(request.path_params["account"]))
        return success()


def _limits(quotas: Quotas) -> QuotaLimits:
    return cast(QuotaLimits, quotas_content(quotas))


def _quotas(body: AccountLimits) -> Quotas:
    return Quotas(**{name: getattr(body, name) for name in QUOTAS})


def account_answer(account: Account) -> AccountAnswer:
    """Return an account as lists hold it."""
    members: AccountAnswer = {"name": account.name, "limits": _limits(account.quotas)}
    if account.created_ms:  # `default` was never created
        members["created"] = api.rfc3339(account.created_ms)
    return members
