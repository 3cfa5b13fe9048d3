"""The measures of records: what keeping them costs, Async calls, looking up, a backlog, many functions.

Owns the order of the calls and what lies within a measured time. Does not know how servers are started.
"""

from __future__ import annotations

import secrets
import selectors
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

from compute import Stoker, echoed
from exchange import TOKEN_BYTES, Connection, get, learn, payload
from load import run_wrk
from machine import memory
from measures import SETTLE_MS
from program import CannotMeasure
from results import Spread, spread

KEPT = {"store_payload": True}
NOT_KEPT = {"ttl": 0}
COST_CONNECTIONS = 16
ACCEPT_CLIENTS = 64
LOAD_S = 2
STORED_S = 60.0
"""Within so long everything that has ended can be found by search."""


def cost_of_records(server: Stoker, *, rounds: int, seconds: int) -> list[float]:
    """Return, round by round, the calls a second with records (payload too) by those without any.

    Both are the same echo; every round begins with the other one. Raises CannotMeasure.
    """
    exchanges = {}
    with Connection(server.port) as connection:
        for name, config in (("kept", KEPT), ("not kept", NOT_KEPT)):
            path = server.create(connection, "nodejs", monitor_config=config)
            exchanges[name] = learn(server.port, partial(server.invoke, path), echoed)
    for exchange in exchanges.values():
        run_wrk(exchange, connections=COST_CONNECTIONS, seconds=1)
    ratios = []
    for round_ in range(rounds):
        found = {}
        for name in sorted(exchanges, reverse=bool(round_ % 2)):
            time.sleep(SETTLE_MS / 1000)
            cell = run_wrk(exchanges[name], connections=COST_CONNECTIONS, seconds=seconds)
            if cell.wrong or cell.errors:
                raise CannotMeasure(f"records {name}: {cell.wrong} wrong answers, {cell.errors} errors")
            found[name] = cell.requests_per_s
        ratios.append(found["kept"] / found["not kept"])
    return ratios


def accept_alone(server: Stoker, path: str, *, count: int) -> Spread:
    """Time the acceptance of Async calls, one after the other. Raises CannotMeasure."""
    taken = []
    with Connection(server.port) as connection:
        for _ in range(count):
            request = server.invoke(path, payload(secrets.token_hex(TOKEN_BYTES)), kind="Async")
            began = time.perf_counter()
            answer = connection.ask(request)
            taken.append((time.perf_counter() - began) * 1000)
            if answer.status != 200:
                raise CannotMeasure(f"an Async call answers {answer.status} {answer.body[:300]!r}")
    return spread(taken)


def accept_many(server: Stoker, path: str, *, count: int) -> float:
    """Return how many Async calls a second are accepted of as many clients as wait for one each.

    One thread speaks for all of them. Raises CannotMeasure.
    """
    requests = (
        server.invoke(path, payload(secrets.token_hex(TOKEN_BYTES)), kind="Async") for _ in range(count)
    )
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        for _ in range(ACCEPT_CLIENTS):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=30))
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(client, selectors.EVENT_READ)
        began = time.perf_counter()
        _exchange_all(selector, requests)
        return count / (time.perf_counter() - began)


def _exchange_all(selector: selectors.BaseSelector, requests: Iterator[bytes]) -> None:
    waiting: dict[socket.socket, bytes] = {}
    for key in selector.get_map().values():
        client = key.fileobj
        assert isinstance(client, socket.socket)
        if (request := next(requests, None)) is not None:
            client.sendall(request)
            waiting[client] = b""
    while waiting:
        for key, _ in selector.select(30):
            client = key.fileobj
            assert isinstance(client, socket.socket)
            received = waiting[client] + client.recv(65536)
            if not received.startswith(b"HTTP/1.1 200 "[: len(received)]) or not received:
                raise CannotMeasure(f"an Async call answers {received[:300]!r}")
            waiting[client] = received
            if not received.endswith(b'"}'):
                continue  # the rest of the answer is on its way
            del waiting[client]
            if (request := next(requests, None)) is not None:
                client.sendall(request)
                waiting[client] = b""


def look_ups(
    server: Stoker, *, stored: int, count: int, tell: Callable[[str], None]
) -> tuple[Spread, Spread]:
    """Store so many records; time the look-up of one, and a filtered list of a hundred.

    Raises CannotMeasure.
    """
    with Connection(server.port) as connection:
        path = server.create(connection, "nodejs", monitor_config=KEPT)
        exchange = learn(server.port, lambda value: server.invoke(path, value), echoed)
        topic, service = path.split("/")[-2:]
        subject = f"ms.compute.{topic}.function.{service}"
        everything = f"/compute/invocations?function={subject}&status=ok&limit=100"
        while (found := _total(server, connection, everything)) < stored:
            tell(f"{found:,} of {stored:,} records")
            run_wrk(exchange, connections=COST_CONNECTIONS, seconds=LOAD_S)
            _settled(server, connection, everything)
        ids: list[str] = []
        where = everything
        while len(ids) < count:
            body = _body(server, connection, where)
            ids += [record["invocation_id"] for record in body["results"]]
            where = f"{everything}&cursor={body['next_cursor']}"
        one = [_timed(server, connection, f"/compute/invocations/{one}") for one in ids[:count]]
        listed = [_timed(server, connection, everything) for _ in range(count // 10)]
    return spread(one), spread(listed)


def _settled(server: Stoker, connection: Connection, where: str) -> None:
    """Wait until no more records come to be found."""
    before, until = -1, time.monotonic() + STORED_S
    while (now := _total(server, connection, where)) != before and time.monotonic() < until:
        before = now
        time.sleep(0.5)


def _total(server: Stoker, connection: Connection, where: str) -> int:
    return int(_body(server, connection, where)["results_total"])


def _body(server: Stoker, connection: Connection, where: str) -> Any:
    answer = connection.ask(get(where, token=server.token))
    if answer.status != 200:
        raise CannotMeasure(f"{where} answers {answer.status} {answer.body[:300]!r}")
    return answer.json()["body"]


def _timed(server: Stoker, connection: Connection, where: str) -> float:
    request = get(where, token=server.token)
    began = time.perf_counter()
    answer = connection.ask(request)
    taken_ms = (time.perf_counter() - began) * 1000
    if answer.status != 200:
        raise CannotMeasure(f"{where} answers {answer.status} {answer.body[:300]!r}")
    return taken_ms


def create_many(server: Stoker, *, count: int, tell: Callable[[str], None]) -> None:
    """Create so many functions. Raises CannotMeasure."""
    with Connection(server.port) as connection:
        for number in range(count):
            if number % 250 == 0:
                tell(f"{number:,} of {count:,} functions")
            server.create(connection, "nodejs")


def list_of_functions(server: Stoker, *, count: int) -> Spread:
    """Time the list of all functions. Raises CannotMeasure."""
    with Connection(server.port) as connection:
        return spread([_timed(server, connection, "/compute/functions") for _ in range(count)])


def gateway_bytes(server: Stoker) -> int:
    """Return what the process that holds the catalog takes. Raises CannotMeasure."""
    return next(process.pss_bytes for process in memory(server.pid) if process.pid == server.pid)
