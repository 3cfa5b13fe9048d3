"""Services: functions as NATS service discovery sees them, what they did, and who may list them."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from starlette.requests import Request

from stoker.catalog import events
from stoker.catalog.fold import Fold
from stoker.catalog.tokens import Authenticator, digest_of
from stoker.edge.http.access import Access
from stoker.edge.http.scopes import TABLE
from stoker.edge.http.services import ServiceRoutes
from stoker.edge.services import Counters, Services, service_id, service_name
from stoker.model.call import Call
from stoker.model.errors import Forbidden
from stoker.model.function import Function
from stoker.model.outcome import Failure, Outcome
from stoker.testing.catalog import ACCOUNT, CatalogBench
from stoker.testing.functions import a_function
from stoker.testing.invocation import an_outcome


def ended(counters: Counters, function: Function, outcome: Outcome) -> None:
    call = Call(bytes(16), function, b"{}", queued_at=0.0, ended=lambda _call, _outcome: None)
    counters.ended(call, outcome)


def test_calls_and_their_time_and_failures_are_counted() -> None:
    counters, function = Counters(), a_function()

    for outcome in (
        an_outcome(b"1"),
        an_outcome(failure=Failure("function.timeout", "no")),
        an_outcome(b"1"),
    ):
        ended(counters, function, outcome)

    counter = counters.of((function.account, function.collection_topic, function.service))
    assert (counter.requests, counter.errors, counter.last_error) == (3, 1, "function.timeout")
    assert (counter.run_ms, counter.average_ms) == (9.0, 3.0)


def test_functions_are_counted_apart_and_one_that_was_not_called_has_nothing() -> None:
    counters, function = Counters(), a_function()
    twin = replace(function, account="acme")

    ended(counters, function, an_outcome(b"1"))

    counter = counters.of((twin.account, twin.collection_topic, twin.service))
    assert (counter.requests, counter.errors, counter.average_ms) == (0, 0, 0.0)


def test_a_rename_does_not_begin_anew() -> None:
    counters, function = Counters(), a_function()

    ended(counters, function, an_outcome(b"1"))
    ended(counters, replace(function, name="other"), an_outcome(b"1"))

    assert counters.of((function.account, function.collection_topic, function.service)).requests == 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("my-function", "my-function"),
        ("a b.c*>", "a_b_c__"),
        ("über", "_ber"),
        ("$SRV", "_SRV"),
        ("日", "_"),
    ],
)
def test_a_services_name_is_one_token_of_a_subject(name: str, expected: str) -> None:
    assert service_name(a_function(name=name)) == expected
    assert re.fullmatch("[A-Za-z0-9_-]+", expected)


def test_an_id_tells_functions_apart_and_stays_with_one() -> None:
    function = a_function()
    others = [
        replace(function, account="acme"),
        replace(function, collection_topic="other"),
        replace(function, service="1"),
    ]

    assert len({service_id(one) for one in (function, *others)}) == 4
    assert service_id(replace(function, name="renamed")) == service_id(function)
    assert re.fullmatch("[A-Za-z0-9_-]{22}", service_id(function))


async def test_the_services_of_all_accounts_are_there_one_by_one() -> None:
    bench = CatalogBench()
    await bench.create()
    await bench.create(name="other")
    services = Services(bench.fold, Counters())

    assert [one.name for one in services.all()] == ["my-function", "other"]
    assert [one.name for one in services.all("other")] == ["other"]
    (other,) = services.all("other")
    assert [one.id for one in services.all("other", other.id)] == [other.id]
    assert list(services.all("my-function", other.id)) == []


async def test_a_token_without_the_scope_is_forbidden() -> None:
    fold = Fold()
    content = {"name": "t", "digest": digest_of(b"weak").hex(), "scopes": ["functions:invoke"]}
    fold.apply(str(events.token_key(ACCOUNT, "t")), events.encode("created", 0, **content), 1)
    routes = ServiceRoutes(fold, Access(Authenticator(fold)), Services(fold, Counters()))
    needs = TABLE["GET", "/compute/services"]
    scope = {"type": "http", "headers": [(b"x-api-key", b"weak")], "query_string": b"", "needs": needs}
    request = Request(scope)

    with pytest.raises(Forbidden, match="functions:read"):
        await routes.list_all(request)
