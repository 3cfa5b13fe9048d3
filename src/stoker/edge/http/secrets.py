"""The routes of secrets. Values go in and never come out.

Reads envelopes, asks the catalog, writes envelopes. Does not know how a value is kept.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stoker.catalog.catalog import Catalog
from stoker.catalog.stored import StoredSecret
from stoker.edge.http import api
from stoker.edge.http.access import Access
from stoker.edge.http.answers import SecretAnswer
from stoker.edge.http.bodies import HOST_PATTERN
from stoker.edge.http.body import read_whole
from stoker.edge.http.conditions import is_strict
from stoker.edge.http.functions import answer, success
from stoker.edge.http.listing import listed
from stoker.edge.http.scopes import GuardedRoute
from stoker.model.injection import HOSTS_MAX, injection_of
from stoker.model.secret import Secret


class Inject(msgspec.Struct):
    """Where a secret is put, in place of the function's environment."""

    hosts: Annotated[
        list[
            Annotated[
                str,
                Meta(
                    description="A name or an address, with a port if it is not 443.",
                    extra_json_schema={"pattern": HOST_PATTERN, "maxLength": 254},
                ),
            ]
        ],
        Meta(
            description="They are asked by https.", extra_json_schema={"minItems": 1, "maxItems": HOSTS_MAX}
        ),
    ]
    header: Annotated[
        str,
        Meta(
            description="The header of requests that the value goes into.",
            extra_json_schema={"pattern": "^[Xx]-[A-Za-z0-9-]{1,98}$|^[Aa]uthorization$"},
        ),
    ]
    format: (
        Annotated[
            str,
            Meta(
                description="What the header says, with the value in place of {}; `{}` if not given.",
                extra_json_schema={"pattern": r"^(?:[!-z|~]+ ?)?\{\}$"},
            ),
        ]
        | None
    ) = None


class SecretPut(msgspec.Struct):
    """The body of `PUT /secrets/{name}`."""

    value: Annotated[str, Meta(extra_json_schema={"pattern": "^[^\\x00]*$"})]

    inject: Inject | None = None

    def __repr__(self) -> str:
        return "SecretPut(***)"


class SecretRoutes:
    """Secrets of the caller's account."""

    def __init__(self, catalog: Catalog, access: Access) -> None:
        self._catalog = catalog
        self._access = access

    def routes(self) -> list[Route]:
        """Return every route."""
        return [
            GuardedRoute("GET", "/secrets", self.list_all),
            GuardedRoute("PUT", "/secrets/{name}", self.put),
            GuardedRoute("DELETE", "/secrets/{name}", self.delete),
        ]

    async def list_all(self, request: Request) -> Response:
        """`GET /secrets`: names, those stored first first."""
        secrets = self._catalog.secrets.names(self._access.allowed(request).account)
        return answer(listed(request, secrets, lambda secret: secret.created_sequence, secret_answer))

    async def put(self, request: Request) -> Response:
        """`PUT` of a secret's value: 201 if it is new, else 200; calls get it from now on."""
        account = self._access.allowed(request).account
        body, _ = api.read_body(await read_whole(request), SecretPut, strict=is_strict(request))
        name = api.decoded(request.path_params["name"])
        injection = injection_of(None if body.inject is None else msgspec.structs.asdict(body.inject))
        is_new = await self._catalog.secrets.put(account, name, Secret(body.value), injection)
        return answer({"body": {"name": name}}, 201 if is_new else 200)

    async def delete(self, request: Request) -> Response:
        """`DELETE` of a secret, which no function as it is may list any more."""
        account = self._access.allowed(request).account
        await self._catalog.secrets.delete(account, api.decoded(request.path_params["name"]))
        return success()


def secret_answer(secret: StoredSecret) -> SecretAnswer:
    """Return what is told of a secret."""
    found: SecretAnswer = {"name": secret.name, "modified": secret.modified}
    inject = secret.inject
    if inject is not None:
        found["inject"] = {"hosts": list(inject.hosts), "header": inject.header, "format": inject.format}
    return found
