"""Scopes: the table of routes is the contract's, and every route is made from it."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import stoker.edge.http
from stoker.catalog.principal import OF_THE_ACCOUNT, SCOPES
from stoker.edge.http.app import Door
from stoker.edge.http.scopes import INVOKE, TABLE, GuardedRoute, Needs

PUBLIC = {"/healthz", "/readyz", "/openapi.json", "/docs"}
"""What tells nothing of any account."""

BY_SCOPE = {
    "functions:read": """
        GET /compute/functions
        GET /compute/functions/{collection}/{function}
        GET /compute/compute-assets/{collection}/{function}
        GET /compute/compute-assets/{collection}/{function}/history
        GET /compute/collections
        GET /compute/collections/{collection}
        GET /compute/collections/{collection}/functions
        GET /compute/collections/{collection}/containers
        GET /compute/runtimes
        GET /compute/services
        GET /compute/machines""",
    "functions:write": """
        POST /compute/functions
        PATCH /compute/functions/{collection}/{function}
        DELETE /compute/functions/{collection}/{function}
        DELETE /compute/functions/{collection}/{function}/dead-letters/{invocation}
        PATCH /compute/compute-assets/{collection}/{function}
        POST /compute/compute-assets/{collection}/{function}/rollback
        PUT /compute/assets/{key}
        POST /compute/collections
        PATCH /compute/collections/{collection}
        DELETE /compute/collections/{collection}""",
    "functions:invoke": """
        POST /compute/functions/{collection}/{function}/invoke
        POST /compute/functions/{collection}/{function}/dead-letters/{invocation}/redrive
        POST /compute/invocations/{invocation}/cancel
        POST /compute/invocations/{invocation}/replay""",
    "records:read": """
        GET /compute/functions/{collection}/{function}/log
        GET /compute/functions/{collection}/{function}/dead-letters
        GET /compute/invocations
        GET /compute/invocations/{invocation}
        GET /compute/invocations/{invocation}/log""",
    "secrets:write": """
        GET /secrets
        PUT /secrets/{name}
        DELETE /secrets/{name}""",
    "tokens:write": """
        GET /tokens
        POST /tokens
        DELETE /tokens/{token}""",
    "accounts:write": """
        GET /accounts
        POST /accounts
        PUT /accounts/{account}/limits
        DELETE /accounts/{account}
        GET /metrics
        GET /backup""",
    None: "GET /limits",
}
"""The contract's table, row by row."""


async def answers(request: Request) -> Response:
    return Response()


def doors() -> Iterator[Any]:
    """Yield every class that has routes, wherever it is among the modules of HTTP."""
    for module in pkgutil.walk_packages(stoker.edge.http.__path__, "stoker.edge.http."):
        for _, found in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            is_door = inspect.isfunction(getattr(found, "routes", None)) and found is not Door
            if is_door and found.__module__ == module.name:
                yield found


def made_routes() -> list[Route]:
    # a route is its methods, bound; what they work with is not asked for
    return [route for door in doors() for route in object.__new__(door).routes()]


def test_the_table_is_that_of_the_contract() -> None:
    contract = {
        tuple(row.split()): scope for scope, rows in BY_SCOPE.items() for row in rows.strip().splitlines()
    }

    assert {row: needs.scope for row, needs in TABLE.items()} == contract


def test_its_scopes_are_all_that_a_token_can_have() -> None:
    assert {needs.scope for needs in TABLE.values()} - {None} == set(SCOPES)


def test_one_may_be_used_by_who_made_what_it_is_about() -> None:
    own = {row: needs.made_by for row, needs in TABLE.items() if needs.made_by is not None}

    assert own == {("GET", "/compute/invocations/{invocation}"): "functions:invoke"}


def test_what_is_about_a_whole_account_is_not_for_a_token_of_a_collection() -> None:
    whole = {row for row, needs in TABLE.items() if needs.whole_account}

    assert whole == {
        ("POST", "/compute/collections"),
        *(row for row, needs in TABLE.items() if needs.scope in OF_THE_ACCOUNT),
    }


def test_every_route_is_made_from_the_table_or_public() -> None:
    guarded = {(route.verb, route.path) for route in made_routes() if isinstance(route, GuardedRoute)}
    others = {route.path for route in made_routes() if not isinstance(route, GuardedRoute)}

    assert guarded == set(TABLE) - {("POST", INVOKE)}  # which is served without a framework
    assert others <= PUBLIC


def test_a_route_that_is_not_in_the_table_cannot_be_made() -> None:
    with pytest.raises(KeyError):
        GuardedRoute("POST", "/compute/everything", answers)


def test_requests_carry_what_their_route_asks_for() -> None:
    route = GuardedRoute("GET", "/limits", answers)

    _, child = route.matches({"type": "http", "method": "GET", "path": "/limits", "headers": []})

    assert child["needs"] == Needs(None)
