"""A seat: the sessions of one token, and what they are told, over the SDK and in-memory stores."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from stoker.catalog.principal import Principal
from stoker.edge.errors import ErrorAnswers
from stoker.edge.http.request import Exchange, Request
from stoker.edge.mcp import seat
from stoker.edge.mcp.asking import Asker
from stoker.edge.mcp.seat import IDLE_S_MAX, Seat
from stoker.edge.mcp.toolbox import Toolbox
from stoker.model.errors import NoCapacity, Unauthenticated
from stoker.model.limits import MIB, Limits
from stoker.testing.catalog import ACCOUNT, CatalogBench
from stoker.testing.worker import Notes

HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}
READY = {"jsonrpc": "2.0", "method": "notifications/initialized"}
LIST = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
CHANGED = b"notifications/tools/list_changed"
WAIT_S_MAX = 10


class Log(Notes):
    """Of the edge."""

    error = Notes.warning


@dataclass
class Sent:
    """What one request was answered so far."""

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    ended: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])
        else:
            self.body += message.get("body", b"")
            self.ended = not message.get("more_body", False)
        self.changed.set()

    async def until(self, text: bytes) -> None:
        async with asyncio.timeout(WAIT_S_MAX):
            while text not in self.body:
                self.changed.clear()
                await self.changed.wait()


class Bench:
    """A seat over a catalog, with a clock of the test's."""

    def __init__(self) -> None:
        self.catalog = CatalogBench()
        self.now_s = 1_000.0
        errors = ErrorAnswers(Log(), new_id=lambda: "id")
        self.toolbox = Toolbox(
            self.catalog.fold, Asker(self._no_app, self._no_invoke, errors), errors, Limits()
        )
        principal = Principal(ACCOUNT, "token", frozenset({"functions:invoke"}))
        self.seat = Seat(principal, self.toolbox, errors, body_bytes_max=MIB, clock=lambda: self.now_s)
        self.requests: set[asyncio.Task[None]] = set()

    async def _no_app(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("no route is asked")

    def _no_invoke(self, request: Request, exchange: Exchange) -> None:
        raise AssertionError("no function is called")

    def begin(
        self, method: str, body: Any = None, session: str | None = None
    ) -> tuple[asyncio.Task[None], Sent]:
        """Send a request; return its task and what it is answered."""
        headers = [
            (b"accept", b"application/json, text/event-stream"),
            (b"content-type", b"application/json"),
            (b"host", b"127.0.0.1"),
        ]
        if session is not None:
            headers.append((b"mcp-session-id", session.encode()))
        messages = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

        async def receive() -> Message:
            if not messages:
                await asyncio.Event().wait()
            return messages.pop()

        scope: dict[str, Any] = {
            "type": "http",
            "method": method,
            "path": "/mcp",
            "query_string": b"",
            "headers": headers,
        }
        sent = Sent()
        task = asyncio.ensure_future(self.seat.serve(scope, receive, sent))
        self.requests.add(task)
        return task, sent

    async def ask(self, method: str, body: Any = None, session: str | None = None) -> Sent:
        """Send a request and return its answer."""
        task, sent = self.begin(method, body, session)
        async with asyncio.timeout(WAIT_S_MAX):
            await task
        return sent

    async def listed(self, session: str, params: dict[str, str]) -> dict[str, Any]:
        """Return a page of the tools."""
        sent = await self.ask("POST", {**LIST, "params": params}, session)
        data = sent.body.partition(b"data: ")[2].partition(b"\r\n")[0]
        found: dict[str, Any] = json.loads(data)["result"]
        return found

    async def session(self) -> str:
        """Begin a session and return its id."""
        session = (await self.ask("POST", HELLO)).headers[b"mcp-session-id"].decode()
        assert (await self.ask("POST", READY, session)).status == 202
        return session


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.seat.close(NoCapacity("the test is over"))
    await asyncio.gather(*bench.requests, return_exceptions=True)


async def test_a_change_of_the_tools_is_told_and_one_that_changes_no_tool_is_not(bench: Bench) -> None:
    session = await bench.session()
    _, stream = bench.begin("GET", session=session)
    await stream.until(b": open")

    await bench.catalog.create(name="f")
    bench.seat.look()
    await stream.until(CHANGED)
    entry = bench.catalog.entry("f")
    await bench.catalog.catalog.patch_function(ACCOUNT, entry, {"size": "large"})
    bench.seat.look()
    await bench.ask("POST", LIST, session)  # what was announced before goes before its answer
    first = stream.body.count(CHANGED)
    await bench.catalog.catalog.patch_function(ACCOUNT, entry, {"description": "new"})
    bench.seat.look()
    await bench.ask("POST", LIST, session)

    assert (first, stream.body.count(CHANGED)) == (1, 2)


async def test_a_session_is_over_after_it_was_idle_for_long_but_not_while_somebody_listens(
    bench: Bench,
) -> None:
    await bench.session()
    listening = await bench.session()
    _, stream = bench.begin("GET", session=listening)
    await stream.until(b": open")

    bench.now_s += IDLE_S_MAX
    bench.seat.look()
    both = bench.seat.sessions
    bench.now_s += 1
    bench.seat.look()

    assert (both, bench.seat.sessions) == (2, 1)


async def test_a_session_that_is_ended_lets_its_listener_go(bench: Bench) -> None:
    session = await bench.session()
    task, stream = bench.begin("GET", session=session)
    await stream.until(b": open")

    ended = await bench.ask("DELETE", session=session)
    async with asyncio.timeout(WAIT_S_MAX):
        await task
    after = await bench.ask("POST", LIST, session)

    assert (ended.status, after.status, stream.ended, bench.seat.sessions) == (200, 404, True, 0)


async def test_a_seat_is_idle_without_sessions_and_requests(bench: Bench) -> None:
    session = await bench.session()
    bench.now_s += 10
    used = bench.seat.idle_s
    await bench.ask("DELETE", session=session)
    bench.now_s += 5

    assert (used, bench.seat.idle_s) == (0.0, 5.0)


async def test_what_a_token_may_do_by_now_is_what_counts(bench: Bench) -> None:
    session = await bench.session()
    before = await bench.ask("POST", LIST, session)
    bench.seat.renew(Principal(ACCOUNT, "token", frozenset({"records:read"})))
    after = await bench.ask("POST", LIST, session)

    assert b'"stoker_invoke"' in before.body
    assert b'"stoker_invoke"' not in after.body
    assert b'"stoker_logs"' in after.body


async def test_a_closed_seat_ends_what_is_open(bench: Bench) -> None:
    session = await bench.session()
    task, stream = bench.begin("GET", session=session)
    await stream.until(b": open")

    await bench.seat.close(Unauthenticated("the token is not known here"))
    async with asyncio.timeout(WAIT_S_MAX):
        await task

    assert stream.ended
    assert bench.seat.sessions == 0


async def test_a_long_list_of_tools_comes_in_pages(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seat, "TOOLS_A_PAGE", 4)
    for name in ("f", "g", "h"):
        await bench.catalog.create(name=name)
    session = await bench.session()
    names: list[str] = []
    params: dict[str, str] = {}
    while True:
        page = await bench.listed(session, params)
        names += [tool["name"] for tool in page["tools"]]
        assert len(page["tools"]) <= 4
        if "nextCursor" not in page:
            break
        params = {"cursor": page["nextCursor"]}
    wrong = await bench.ask("POST", {**LIST, "params": {"cursor": "!"}}, session)

    assert names == [tool.name for tool in bench.toolbox.menu(bench.seat.principal).tools]
    assert len(names) > 4
    assert b"the cursor is not one of ours" in wrong.body
