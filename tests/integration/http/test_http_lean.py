"""The lean path over real sockets: keep-alive, order, bodies, limits."""

from __future__ import annotations

import json
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from stoker.edge.http.request import Exchange, Request
from stoker.model.limits import Limits
from tests.integration.http.conftest import PATIENCE_S

if TYPE_CHECKING:
    from tests.integration.http.conftest import Calls, Client, StartEdge


def sees_close(client: Client) -> bool:
    """Read to the end. False if the connection was reset, which could destroy an answer."""
    try:
        return client.is_closed()
    except ConnectionResetError:
        return False


def test_the_very_first_connection_is_served(start_edge: StartEdge) -> None:
    client = start_edge().connect()

    answer = client.call(b'{"n":1}')

    assert (answer.status, answer.body) == (200, b'{"n":1}')
    assert answer.headers["content-type"] == "application/json"
    assert "date" in answer.headers
    assert "server" not in answer.headers


def test_a_connection_is_kept_for_further_calls(start_edge: StartEdge) -> None:
    client = start_edge().connect()

    bodies = [client.call(b"%d" % n).body for n in range(50)]

    assert bodies == [b"%d" % n for n in range(50)]


def test_what_the_handler_needs_of_the_head_is_picked_out(start_edge: StartEdge, calls: Calls) -> None:
    client = start_edge(invoke=calls).connect()

    client.send(
        b"POST /compute/functions/a%2Fb/f/invoke?version=3&x=%20 HTTP/1.1\r\nHost: test\r\n"
        b"AUTHORIZATION: Bearer t \t\r\nx-api-key:k\r\nIdempotency-Key: i\r\nContent-Type: text/x\r\n"
        b"X-Other: o\r\nContent-Length: 2\r\n\r\n{}"
    )
    request = calls.next().request

    assert (request.method, request.path) == (b"POST", b"/compute/functions/a%2Fb/f/invoke")
    assert request.query == b"version=3&x=%20"
    assert (request.authorization, request.api_key) == (b"Bearer t", b"k")
    assert (request.idempotency_key, request.content_type) == (b"i", b"text/x")
    assert request.header(b"x-other") == b"o"
    assert request.body == b"{}"


def test_pipelined_requests_are_answered_in_order(start_edge: StartEdge) -> None:
    client = start_edge().connect()

    client.send(b"".join(client.invoke(b"%d" % n) for n in range(300)))

    assert [client.answer().body for _ in range(300)] == [b"%d" % n for n in range(300)]


def test_lean_and_other_requests_of_one_connection_keep_their_order(start_edge: StartEdge) -> None:
    client = start_edge().connect()
    other = b"GET /nowhere HTTP/1.1\r\nHost: test\r\n\r\n"

    client.send(client.invoke(b"1") + other + client.invoke(b"2") + other + other + client.invoke(b"3"))

    assert [client.answer().status for _ in range(6)] == [200, 404, 200, 404, 404, 200]


def test_a_client_that_sends_thousands_of_requests_at_once_does_not_keep_others_waiting(
    start_edge: StartEdge,
) -> None:
    order: list[bytes] = []
    serving, sent = threading.Event(), threading.Event()

    def invoke(request: Request, exchange: Exchange) -> None:
        if not order:  # the server stands still until the other client's request lies before it too
            serving.set()
            sent.wait(PATIENCE_S)
        order.append(bytes(request.body))
        exchange.respond(200, b"{}")

    edge = start_edge(invoke=invoke)
    flood, other = edge.connect(), edge.connect()
    flood.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1024 * 1024)  # takes all of it at once
    flood.send(b"".join(flood.invoke(b"flood") for _ in range(2_000)))
    assert serving.wait(PATIENCE_S)
    other.send(other.invoke(b"other"))
    sent.set()

    assert other.answer().status == 200
    assert [flood.answer().status for _ in range(2_000)] == [200] * 2_000
    assert order.index(b"other") < 1_000  # served long before the flood was


def test_a_body_in_many_pieces_arrives_whole(start_edge: StartEdge) -> None:
    client = start_edge().connect()
    body = bytes(range(256)) * 8_000

    answer = client.call(body)

    assert answer.body == body


def test_a_chunked_body_arrives_whole(start_edge: StartEdge) -> None:
    client = start_edge().connect()
    head = b"POST /compute/functions/c/f/invoke HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"

    client.send(head + b'3;x=y\r\n{"a\r\n4\r\n":1}\r\n0\r\nAuthorization: trailer\r\n\r\n')

    assert client.answer().body == b'{"a":1}'
    assert client.call(b"next").body == b"next"


def test_a_request_that_comes_byte_by_byte_is_one_request(start_edge: StartEdge) -> None:
    client = start_edge().connect()

    for byte in client.invoke(b'{"n":1}', headers=b"Authorization: Bearer t\r\n"):
        client.send(bytes([byte]))

    assert client.answer().body == b'{"n":1}'


def test_a_client_that_waits_for_continue_is_asked_for_its_body(start_edge: StartEdge) -> None:
    client = start_edge().connect()
    request = client.invoke(b"body", headers=b"Expect: 100-continue\r\n")

    client.send(request[:-4])
    asked = client.answer()
    client.send(request[-4:])

    assert asked.status == 100
    assert client.answer().body == b"body"


@pytest.mark.parametrize(
    ("version", "header", "kept"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: keep-alive\r\n", True),
    ],
)
def test_a_connection_is_kept_or_closed_as_the_client_asks(
    start_edge: StartEdge, version: bytes, header: bytes, kept: bool
) -> None:
    client = start_edge().connect()

    client.send(client.invoke(b"1", headers=header, version=version))
    answer = client.answer()

    expected = "keep-alive" if version == b"1.0" else None
    assert answer.headers.get("connection") == (expected if kept else "close")
    if kept:
        client.send(client.invoke(b"2", headers=header, version=version))
        assert client.answer().body == b"2"
    else:
        assert sees_close(client)


def test_an_upgrade_is_ignored_and_its_body_is_no_request(start_edge: StartEdge) -> None:
    client = start_edge().connect()
    upgrade = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
    body = client.invoke(b"smuggled")

    client.send(client.invoke(body, headers=upgrade) + client.invoke(b"next"))

    assert client.answer().body == body
    assert client.answer().body == b"next"


def test_a_body_past_the_limit_is_refused_before_it_is_read(start_edge: StartEdge) -> None:
    client = start_edge(limits=Limits(request_bytes_max=1_000)).connect()

    client.send(client.invoke(b"x" * 1_001)[:-1_001])
    answer = client.answer()

    assert (answer.status, json.loads(answer.body)["code"]) == (413, "too_large")
    assert answer.headers["connection"] == "close"


def test_a_client_that_sends_a_body_past_the_limit_to_its_end_still_sees_the_answer(
    start_edge: StartEdge,
) -> None:
    client = start_edge(limits=Limits(request_bytes_max=1_000)).connect()

    client.send(client.invoke(b"x" * 20_000_000))
    answer = client.answer()

    assert answer.status == 413
    assert sees_close(client)


def test_a_chunked_body_is_refused_once_it_passes_the_limit(start_edge: StartEdge, calls: Calls) -> None:
    client = start_edge(invoke=calls, limits=Limits(request_bytes_max=1_000)).connect()
    head = b"POST /compute/functions/c/f/invoke HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"

    client.send(head + b"3e8\r\n" + b"x" * 1_000 + b"\r\n1\r\nx\r\n")

    assert client.answer().status == 413
    assert calls.asked.empty()


def test_too_long_a_head_is_refused(start_edge: StartEdge) -> None:
    client = start_edge(limits=Limits(header_bytes_max=2_000)).connect()

    answer = client.call(b"{}", headers=b"X-Long: " + b"x" * 2_000 + b"\r\n")

    assert (answer.status, json.loads(answer.body)["code"]) == (400, "request.invalid")
    assert sees_close(client)


def test_what_is_not_http_is_answered_in_json_and_closed(start_edge: StartEdge) -> None:
    client = start_edge().connect()

    client.send(b"\x16\x03\x01 hello\r\n\r\n")
    answer = client.answer()

    assert (answer.status, json.loads(answer.body)["code"]) == (400, "request.invalid")
    assert answer.headers["content-type"] == "application/json"
    assert sees_close(client)


def test_a_malformed_request_does_not_take_the_answer_of_the_one_before(
    start_edge: StartEdge, calls: Calls
) -> None:
    client = start_edge(invoke=calls).connect()

    client.send(client.invoke(b"good") + b"bad\r\n\r\n")
    calls.next().respond(200, b"good")

    assert client.answer().body == b"good"
    assert client.answer().status == 400
    assert sees_close(client)


def test_after_connection_close_nothing_more_is_run(start_edge: StartEdge, calls: Calls) -> None:
    client = start_edge(invoke=calls).connect()

    client.send(client.invoke(b"last", headers=b"Connection: close\r\n") + client.invoke(b"after"))
    calls.next().respond(200, b"{}")
    client.answer()

    assert calls.asked.empty()


def test_a_handler_that_raises_is_a_500_that_hides_why(start_edge: StartEdge) -> None:
    def invoke(request: Request, exchange: Exchange) -> None:
        raise ValueError("secret")

    edge = start_edge(invoke=invoke)
    client = edge.connect()
    answer = client.call(b"{}")
    body = json.loads(answer.body)

    assert (answer.status, body["code"]) == (500, "platform.error")
    assert b"secret" not in answer.body
    assert [event["id"] for event in edge.log.events] == [body["id"]]
    assert client.call(b"{}").status == 500  # the connection lives on


def test_the_first_answer_counts(start_edge: StartEdge) -> None:
    def invoke(request: Request, exchange: Exchange) -> None:
        exchange.respond(200, b"1", b"X-Extra: yes\r\n")
        exchange.respond(500, b"2")

    client = start_edge(invoke=invoke).connect()
    first, second = client.call(b"{}"), client.call(b"{}")

    assert (first.status, first.body, first.headers["x-extra"]) == (200, b"1", "yes")
    assert (second.status, second.body) == (200, b"1")
