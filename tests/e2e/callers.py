"""Callers that come at once, and what they get."""

from __future__ import annotations

import json
import select
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx

from tests.e2e.conftest import Client


def at_once(count: int, call: Callable[[int], httpx.Response]) -> list[httpx.Response]:
    """Make `count` calls from as many threads that start together."""
    together = threading.Barrier(count)

    def one(number: int) -> httpx.Response:
        together.wait()
        return call(number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(one, range(count)))


def results(answers: list[httpx.Response]) -> list[Any]:
    assert [a.status_code for a in answers] == [200] * len(answers), {a.text for a in answers}
    return [json.loads(a.json()["body"]) for a in answers]


@contextmanager
def sent(client: Client, name: str, events: list[dict[str, Any]]) -> Iterator[list[socket.socket]]:
    """Send a call for each event from one thread, over a connection each; whoever is not answered leaves."""
    host, port = client.url.removeprefix("http://").split(":")
    requests = [_request(client, name, event) for event in events]
    with ExitStack() as stack:
        sockets = []
        for _ in events:
            sockets.append(socket.create_connection((host, int(port)), timeout=60))
            stack.callback(sockets[-1].close)
        for connection, request in zip(sockets, requests, strict=True):
            connection.sendall(request)
        yield sockets


def burst(client: Client, name: str, events: list[dict[str, Any]]) -> list[httpx.Response]:
    """Send a call for each event before any answer is read; return the answers.

    A quick function is still busy with the first when the last arrives, which callers in threads that
    contend for one interpreter do not achieve.
    """
    with sent(client, name, events) as sockets:
        return [_answer(connection) for connection in sockets]


def first_answer(sockets: list[socket.socket]) -> httpx.Response:
    """Return the answer that comes first; no other is read."""
    ready, _, _ = select.select(sockets, [], [], 60)
    assert ready, "nobody is answered"
    return _answer(ready[0])


def _request(client: Client, name: str, event: dict[str, Any]) -> bytes:
    body = json.dumps({"payload": json.dumps(event), "invocation_type": "RequestResponse"}).encode()
    head = (
        f"POST /compute/functions/{client.collection}/{name}/invoke HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {client.token}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _answer(connection: socket.socket) -> httpx.Response:
    head, _, body = b"".join(iter(lambda: connection.recv(65536), b"")).partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = [tuple(line.split(": ", 1)) for line in lines]
    return httpx.Response(int(status.split()[1]), headers=headers, content=body)  # type: ignore[arg-type]
