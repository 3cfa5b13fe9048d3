"""What the bodies of all requests at once take of the memory, over real sockets."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from stoker.edge.http.body import read_whole
from stoker.model.errors import StokerError
from stoker.model.limits import MIB, Limits

if TYPE_CHECKING:
    from tests.integration.http.conftest import Calls, Client, Edge, StartEdge

LIMITS = Limits(
    request_bytes_max=4 * MIB,
    held_bodies_bytes_max=5 * MIB,
    payload_bytes_max=MIB,
    async_payload_bytes_max=MIB,
)
LARGE = b"x" * (4 * MIB)
"""Of which three MiB count: a second one does not fit beside it."""
Requested = Callable[[bytes], bytes]


async def tell_size(request: Request) -> Response:
    try:
        return PlainTextResponse(str(len(await read_whole(request))))
    except StokerError as error:
        return PlainTextResponse(error.code, status_code=503)


APP = Starlette(routes=[Route("/size", tell_size, methods=["POST"])])


def lean(body: bytes) -> bytes:
    head = b"POST /compute/functions/c/f/invoke HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n"
    return head % len(body) + body


def routed(body: bytes) -> bytes:
    return b"POST /size HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % len(body) + body


@pytest.fixture
def edge(start_edge: StartEdge) -> Edge:
    return start_edge(app=APP, limits=LIMITS)


def held(edge: Edge) -> int:
    service = edge.server._service
    assert service is not None
    return int(edge.on_loop(lambda: service.holding._bytes))


def send_all_but_the_end(edge: Edge, request: bytes) -> Client:
    """Send a request but for its last byte; return once the server has the rest."""
    client = edge.connect()
    before = held(edge)
    client.send(request[:-1])
    while held(edge) < before + 2 * MIB:
        pass
    return client


@pytest.mark.parametrize("first", [lean, routed])
@pytest.mark.parametrize("second", [lean, routed])
def test_a_large_body_beside_another_that_fills_the_memory_is_refused_and_small_ones_are_not(
    edge: Edge, first: Requested, second: Requested
) -> None:
    filling = send_all_but_the_end(edge, first(LARGE))

    refused = edge.connect()
    refused.send(second(LARGE)[:-1])
    answer = refused.answer()
    small = edge.connect()
    small.send(second(b"small"))

    assert answer.status == 503
    assert b"no_capacity" in answer.body
    assert answer.headers["connection"] == "close"
    assert small.answer().status == 200
    filling.send(LARGE[-1:])
    assert filling.answer().status == 200


def test_the_refusal_says_when_to_try_again_and_what_else_to_do(edge: Edge) -> None:
    send_all_but_the_end(edge, lean(LARGE))

    refused = edge.connect()
    refused.send(lean(LARGE)[:-1])
    answer = refused.answer()

    assert json.loads(answer.body)["code"] == "no_capacity"
    assert "PUT /compute/assets" in json.loads(answer.body)["hint"]
    assert int(answer.headers["retry-after"]) >= 1


@pytest.mark.parametrize("request_of", [lean, routed])
def test_what_was_answered_counts_no_more(edge: Edge, request_of: Requested) -> None:
    client = edge.connect()

    for _ in range(5):
        client.send(request_of(LARGE))
        assert client.answer().status == 200

    assert held(edge) == 0


@pytest.mark.parametrize("request_of", [lean, routed])
def test_what_was_sent_ahead_counts_until_its_own_answer(edge: Edge, request_of: Requested) -> None:
    client = edge.connect()

    for _ in range(5):
        client.send(request_of(LARGE) + request_of(b"small"))
        assert [client.answer().status, client.answer().status] == [200, 200]

    assert held(edge) == 0


@pytest.mark.parametrize("request_of", [lean, routed])
def test_who_leaves_in_the_middle_counts_no_more(edge: Edge, request_of: Requested) -> None:
    send_all_but_the_end(edge, request_of(LARGE)).close()

    follows = edge.connect()
    while held(edge):
        pass
    follows.send(request_of(LARGE))
    assert follows.answer().status == 200


def test_a_call_that_runs_counts_until_it_is_answered(start_edge: StartEdge, calls: Calls) -> None:
    edge = start_edge(invoke=calls, limits=LIMITS)
    client = edge.connect()
    client.send(lean(LARGE))
    exchange = calls.next()
    assert held(edge) > 2 * MIB

    edge.on_loop(lambda: exchange.respond(200, b"{}"))

    assert client.answer().status == 200
    assert held(edge) == 0
