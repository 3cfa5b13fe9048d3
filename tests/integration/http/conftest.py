"""A real server on a real port, on an event loop in a thread; the tests are its clients."""

from __future__ import annotations

import asyncio
import queue
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvloop
from starlette.applications import Starlette
from starlette.types import ASGIApp

from stoker.edge.http.request import Exchange, LeanHandler, Request
from stoker.edge.http.server import HttpServer
from stoker.model.limits import Limits

PATIENCE_S = 15.0
"""After which a test that waits for something fails. Nothing is measured against it."""


@dataclass(slots=True)
class Answer:
    """One answer as it came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """One connection, which sends bytes and reads answers one by one."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.file = sock.makefile("rb")

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    @staticmethod
    def invoke(body: bytes, *, headers: bytes = b"", version: bytes = b"1.1") -> bytes:
        """Return the bytes of an invoke request."""
        head = b"POST /compute/functions/c/f/invoke HTTP/%b\r\nHost: test\r\n" % version
        return head + headers + b"Content-Length: %d\r\n\r\n" % len(body) + body

    def call(self, body: bytes, *, headers: bytes = b"") -> Answer:
        self.send(self.invoke(body, headers=headers))
        return self.answer()

    def get(self, path: str, *, method: str = "GET") -> Answer:
        self.send(f"{method} {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        return self.answer(bodiless=method == "HEAD")

    def answer(self, *, bodiless: bool = False, already: bytes = b"") -> Answer:
        line = already + self.file.readline()
        if not line.startswith(b"HTTP/1.1 "):
            raise ConnectionError(f"no answer but {line!r}")
        headers = {}
        while (header := self.file.readline()) not in (b"\r\n", b""):
            name, _, value = header.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        status = int(line.split()[1])
        if bodiless or status in (100, 204, 304):
            body = b""
        elif headers.get("transfer-encoding") == "chunked":
            body = b"".join(iter(self.chunk, b""))
        elif "content-length" in headers:
            body = self.file.read(int(headers["content-length"]))
        else:
            body = self.file.read()
        return Answer(status, headers, body)

    def chunk(self) -> bytes:
        size = int(self.file.readline(), 16)
        data = self.file.read(size)
        assert self.file.readline() == b"\r\n"
        return data

    def is_closed(self) -> bool:
        """Wait for the server's end of stream; False if something else comes."""
        return self.file.read(1) == b""

    def close(self) -> None:
        self.file.close()
        self.sock.close()


class Log:
    """Keeps what was logged."""

    def __init__(self) -> None:
        self.events: list[dict[str, object]] = []

    def warning(self, event: str, **fields: object) -> None:
        self.events.append({"event": event, **fields})

    error = warning


@dataclass(slots=True)
class Edge:
    """The server under test."""

    loop: asyncio.AbstractEventLoop
    server: HttpServer
    port: int
    log: Log
    clients: list[Client] = field(default_factory=list)

    def connect(self, *, receive_bytes: int | None = None, tls: ssl.SSLContext | None = None) -> Client:
        sock = socket.socket()
        if receive_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.settimeout(PATIENCE_S)
        try:
            sock.connect(("127.0.0.1", self.port))
        except OSError:
            sock.close()
            raise
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = Client(sock if tls is None else tls.wrap_socket(sock, server_hostname="localhost"))
        self.clients.append(client)
        return client

    def stopping(self, *, drain_ms: int) -> Callable[[], None]:
        """Begin to stop. Returns what waits for the end."""
        future = asyncio.run_coroutine_threadsafe(self.server.stop(drain_ms=drain_ms), self.loop)
        return lambda: future.result(PATIENCE_S)

    def on_loop(self, action: Callable[[], Any]) -> Any:
        """Run `action` on the server's loop and return its result."""

        async def run() -> Any:
            return action()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(PATIENCE_S)


class Calls:
    """A lean handler that keeps what it is asked, for the test to answer when it likes."""

    def __init__(self) -> None:
        self.asked: queue.Queue[tuple[Request, Exchange]] = queue.Queue()
        self.left = threading.Semaphore(0)

    def __call__(self, request: Request, exchange: Exchange) -> None:
        exchange.gone = self._gone
        self.asked.put((request, exchange))

    def _gone(self) -> None:
        self.left.release()

    def next(self) -> Exchange:
        return self.asked.get(timeout=PATIENCE_S)[1]


def echo(request: Request, exchange: Exchange) -> None:
    exchange.respond(200, bytes(request.body))


StartEdge = Callable[..., Edge]


@pytest.fixture
def calls() -> Calls:
    """A handler whose calls the test answers."""
    return Calls()


@pytest.fixture
def start_edge() -> Iterator[StartEdge]:
    """Return a function that starts a server; all of them are gone after the test."""
    started: list[tuple[Edge, threading.Thread]] = []

    def start(
        *,
        invoke: LeanHandler = echo,
        app: ASGIApp | None = None,
        limits: Limits | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> Edge:
        loop = uvloop.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="edge under test")
        thread.start()
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        log = Log()

        async def begin() -> HttpServer:
            server = HttpServer(app=app or Starlette(), invoke=invoke, limits=limits or Limits(), log=log)
            await server.start(sock, tls)
            return server

        server = asyncio.run_coroutine_threadsafe(begin(), loop).result(PATIENCE_S)
        edge = Edge(loop, server, sock.getsockname()[1], log)
        started.append((edge, thread))
        return edge

    yield start
    for edge, thread in started:
        edge.stopping(drain_ms=0)()
        for client in edge.clients:
            client.close()
        edge.loop.call_soon_threadsafe(edge.loop.stop)
        thread.join(PATIENCE_S)
        edge.loop.close()
