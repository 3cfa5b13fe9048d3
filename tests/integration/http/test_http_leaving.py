"""Clients that leave, half-close, are slow or say nothing; and a server that stops."""

from __future__ import annotations

import json
import socket
import struct
import threading
from typing import TYPE_CHECKING

import pytest

from stoker.edge.http.request import Exchange, Request
from stoker.model.limits import Limits

if TYPE_CHECKING:
    from tests.integration.http.conftest import Calls, StartEdge

WAIT_S = 15.0


def test_a_half_closed_client_gets_its_whole_answer(start_edge: StartEdge, calls: Calls) -> None:
    client = start_edge(invoke=calls).connect()
    client.send(client.invoke(b"{}"))
    exchange = calls.next()

    client.sock.shutdown(socket.SHUT_WR)
    probe = client.file.read(1)  # proof that the server has seen the end of stream
    exchange.respond(200, b"answer")
    answer = client.answer(already=probe)

    assert probe == b"H"
    assert (answer.status, answer.body) == (200, b"answer")
    assert client.is_closed()
    assert not calls.left.acquire(blocking=False)


def test_a_half_closed_client_that_is_answered_late_gets_one_prefix(
    start_edge: StartEdge, calls: Calls
) -> None:
    client = start_edge(invoke=calls).connect()
    client.send(client.invoke(b"{}"))
    exchange = calls.next()

    client.sock.shutdown(socket.SHUT_WR)
    probes = client.file.read(2)  # the second one comes a second later
    exchange.respond(404, b"answer")
    answer = client.answer(already=probes)

    assert probes == b"HT"
    assert (answer.status, answer.body) == (404, b"answer")


def test_every_pipelined_request_of_a_half_closed_client_is_answered(
    start_edge: StartEdge, calls: Calls
) -> None:
    client = start_edge(invoke=calls).connect()
    client.send(client.invoke(b"1") + client.invoke(b"2") + client.invoke(b"3"))
    client.sock.shutdown(socket.SHUT_WR)

    for _ in range(3):
        exchange = calls.next()
        exchange.respond(200, bytes(exchange.request.body))

    assert [client.answer().body for _ in range(3)] == [b"1", b"2", b"3"]
    assert client.is_closed()


def test_a_client_that_closes_is_gone(start_edge: StartEdge, calls: Calls) -> None:
    client = start_edge(invoke=calls).connect()
    client.send(client.invoke(b"{}"))
    exchange = calls.next()

    client.close()

    assert calls.left.acquire(timeout=WAIT_S)
    assert not exchange.open
    exchange.respond(200, b"too late")  # does nothing, raises nothing


def test_a_client_that_resets_is_gone_once(start_edge: StartEdge, calls: Calls) -> None:
    edge = start_edge(invoke=calls)
    client = edge.connect()
    client.send(client.invoke(b"{}"))
    calls.next()

    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()

    assert calls.left.acquire(timeout=WAIT_S)
    edge.connect().close()
    assert not calls.left.acquire(blocking=False)


def test_a_client_that_half_closes_first_and_leaves_later_is_gone(
    start_edge: StartEdge, calls: Calls
) -> None:
    client = start_edge(invoke=calls).connect()
    client.send(client.invoke(b"{}"))
    calls.next()
    client.sock.shutdown(socket.SHUT_WR)
    client.file.read(1)  # the probe is read, so that closing sends nothing

    client.close()

    assert calls.left.acquire(timeout=WAIT_S)


def test_a_call_that_waits_behind_another_is_not_run_for_a_client_who_left(
    start_edge: StartEdge, calls: Calls
) -> None:
    edge = start_edge(invoke=calls)
    client = edge.connect()
    client.send(client.invoke(b"1") + client.invoke(b"2"))
    calls.next()

    client.close()
    assert calls.left.acquire(timeout=WAIT_S)
    edge.on_loop(lambda: None)

    assert calls.asked.empty()


def test_a_client_that_reads_one_byte_at_a_time_gets_it_all(start_edge: StartEdge) -> None:
    client = start_edge().connect(receive_bytes=4_096)
    client.send(client.invoke(b"x" * 20_000))

    received = b"".join(client.sock.recv(1) for _ in range(20_000))

    assert received.startswith(b"HTTP/1.1 200 OK\r\n")


def test_answers_do_not_pile_up_behind_a_client_that_does_not_read(start_edge: StartEdge) -> None:
    handled: list[int] = []

    def invoke(request: Request, exchange: Exchange) -> None:
        handled.append(1)
        exchange.respond(200, b"x" * 4_000_000)

    edge = start_edge(invoke=invoke)
    client = edge.connect(receive_bytes=4_096)
    client.send(b"".join(client.invoke(b"{}") for _ in range(20)))
    other = edge.connect()
    for _ in range(60):  # more turns of the loop than the requests would need
        other.get("/nowhere")

    assert len(handled) < 10
    assert all(len(client.answer().body) == 4_000_000 for _ in range(20))


def test_a_client_that_floods_an_unanswered_connection_is_not_read_without_bound(
    start_edge: StartEdge, calls: Calls
) -> None:
    client = start_edge(invoke=calls).connect()
    client.sock.settimeout(1)
    request = client.invoke(b"x" * 100_000)
    client.send(request)
    calls.next()

    def flood() -> None:
        for _ in range(2_000):
            client.send(request)

    with pytest.raises(TimeoutError):  # nobody reads any more: 200 MB do not fit between
        flood()


def test_a_request_that_does_not_end_in_time_is_refused(start_edge: StartEdge) -> None:
    client = start_edge(limits=Limits(request_wait_ms_max=100)).connect()

    client.send(client.invoke(b"{}")[:-1])
    answer = client.answer()

    assert (answer.status, json.loads(answer.body)["code"]) == (408, "request.timeout")
    assert client.is_closed()


def test_a_head_that_does_not_end_in_time_is_refused(start_edge: StartEdge) -> None:
    client = start_edge(limits=Limits(request_wait_ms_max=100)).connect()

    client.send(b"GET / HT")

    assert client.answer().status == 408


def test_an_idle_connection_is_closed(start_edge: StartEdge) -> None:
    edge = start_edge(limits=Limits(idle_connection_ms_max=100))
    silent, used = edge.connect(), edge.connect()
    used.call(b"{}")

    assert silent.is_closed()
    assert used.is_closed()


def test_a_call_in_flight_is_not_idle(start_edge: StartEdge, calls: Calls) -> None:
    edge = start_edge(invoke=calls, limits=Limits(idle_connection_ms_max=50))
    busy, silent = edge.connect(), edge.connect()
    busy.send(busy.invoke(b"{}"))
    exchange = calls.next()

    assert silent.is_closed()  # so that the time has passed for both
    assert edge.connect().is_closed()
    exchange.respond(200, b"late")

    assert busy.answer().body == b"late"


def test_stopping_closes_the_idle_and_answers_what_is_in_flight(start_edge: StartEdge, calls: Calls) -> None:
    edge = start_edge(invoke=calls)
    idle, busy = edge.connect(), edge.connect()
    busy.send(busy.invoke(b"{}"))
    exchange = calls.next()

    wait = edge.stopping(drain_ms=10_000)
    assert idle.is_closed()
    with pytest.raises(ConnectionRefusedError):
        edge.connect()
    edge.loop.call_soon_threadsafe(exchange.respond, 200, b"done")
    answer = busy.answer()

    assert (answer.body, answer.headers["connection"]) == (b"done", "close")
    assert busy.is_closed()
    busy.close()
    wait()


def test_what_is_not_done_in_time_is_cut_when_the_server_stops(start_edge: StartEdge, calls: Calls) -> None:
    edge = start_edge(invoke=calls)
    client = edge.connect()
    client.send(client.invoke(b"{}"))
    calls.next()

    edge.stopping(drain_ms=50)()

    assert calls.left.acquire(timeout=WAIT_S)


def test_abort_ends_a_stop_at_once(start_edge: StartEdge, calls: Calls) -> None:
    edge = start_edge(invoke=calls)
    client = edge.connect()
    client.send(client.invoke(b"{}"))
    calls.next()

    wait = edge.stopping(drain_ms=3_600_000)
    edge.on_loop(edge.server.abort)
    wait()

    assert calls.left.acquire(timeout=WAIT_S)


def test_an_answer_to_a_connection_that_is_just_being_cut_raises_nothing(
    start_edge: StartEdge, calls: Calls
) -> None:
    edge = start_edge(invoke=calls)
    client = edge.connect()
    client.send(client.invoke(b"{}"))
    exchange = calls.next()

    def cut_and_answer() -> None:
        edge.server.abort()
        exchange.respond(200, b"x" * 1_000_000)  # before the loop has told that it is lost

    edge.on_loop(cut_and_answer)
    edge.stopping(drain_ms=0)()

    assert edge.log.events == []
    assert not calls.left.acquire(blocking=False)  # it was answered, as far as the handler knows


def test_a_request_half_sent_when_the_server_stops_is_answered_and_what_follows_is_not_run(
    start_edge: StartEdge,
) -> None:
    handled: list[bytes] = []

    def invoke(request: Request, exchange: Exchange) -> None:
        handled.append(bytes(request.body))
        exchange.respond(200, b"{}")

    edge = start_edge(invoke=invoke)
    client, other = edge.connect(), edge.connect()
    request = client.invoke(b"half")
    client.send(request[:20])
    for _ in range(3):  # what was sent before these is read by now
        other.call(b"other")

    wait = edge.stopping(drain_ms=10_000)
    assert other.is_closed()
    client.send(request[20:] + client.invoke(b"after"))
    answer = client.answer()

    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert client.is_closed()
    client.close()
    wait()
    assert handled == [b"other"] * 3 + [b"half"]


def test_a_gone_that_raises_harms_nobody_else(start_edge: StartEdge) -> None:
    left = threading.Event()
    ready = threading.Event()

    def gone() -> None:
        left.set()
        raise ValueError("a mistake")

    def invoke(request: Request, exchange: Exchange) -> None:
        if request.body == b"wait":
            exchange.gone = gone
            ready.set()
        else:
            exchange.respond(200, b"{}")

    edge = start_edge(invoke=invoke)
    client, other = edge.connect(), edge.connect()
    client.send(client.invoke(b"wait"))
    assert ready.wait(WAIT_S)
    client.close()

    assert left.wait(WAIT_S)
    assert other.call(b"{}").status == 200
    assert len(edge.log.events) == 1
