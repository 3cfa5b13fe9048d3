"""The live tail: what a function's calls print, as server-sent events, while they print it.

Each client has a bounded buffer; one that reads too slowly is told so and let go, and nobody waits for it.
Does not know where lines come from. Source: the compute API contract, *Invocations*.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from stoker.catalog.fold import Fold, Identity
from stoker.edge.http.access import Access
from stoker.edge.http.scopes import FUNCTION, GuardedRoute
from stoker.model.call import text_of
from stoker.model.errors import InvalidRequest, NoCapacity
from stoker.model.limits import KIB, Limits

BUFFER_BYTES_MAX = 1024 * KIB
"""Of text that is not sent yet: four of the longest logs."""
PRINT_BYTES = 100
"""What each print takes beside its text."""
LINES_AT_ONCE = 500
SILENCE_S = 15.0
"""After which a comment shows that the connection lives."""
_END = b"event: end\ndata: %b\n\n"


class Source(Protocol):
    """Where output is told of while it is printed."""

    def follow(self, identity: Identity, tap: Callable[[bytes, bytes], None]) -> Callable[[], None]:
        """Have `tap` told call ids and whole lines; returns what ends that."""
        ...


class Line(msgspec.Struct):
    """The data of one event."""

    invocation_id: str
    line: str


class Tail:
    """What one client has not read yet."""

    def __init__(self) -> None:
        self._prints: deque[tuple[str, bytes]] = deque()
        """Ids of invocations, and the lines they printed."""
        self._bytes = 0
        self._woken = asyncio.Event()
        self._why_ended: bytes | None = None

    def take(self, call_id: bytes, text: bytes) -> None:
        """Take lines in; the end of the tail where there is no more room."""
        if self._why_ended is not None:
            return
        self._bytes += len(text) + PRINT_BYTES
        if self._bytes > BUFFER_BYTES_MAX:
            self.end("dropped: you read more slowly than the function prints; follow it again to go on")
            return
        self._prints.append((text_of(call_id), text))
        self._woken.set()

    def end(self, why: str) -> None:
        """Let the client go, once it has what is there."""
        if self._why_ended is None:
            self._why_ended = _END % msgspec.json.encode({"reason": why})
            self._woken.set()

    async def events(self) -> AsyncIterator[bytes]:
        """Yield what comes, until the end."""
        yield b": following\n\n"
        while True:
            while self._prints:
                invocation_id, text = self._prints.popleft()
                self._bytes -= len(text) + PRINT_BYTES
                for chunk in _chunks(invocation_id, text):
                    yield chunk
                    await asyncio.sleep(0)  # others have a turn, however short the lines are
            if self._why_ended is not None:
                yield self._why_ended
                return
            self._woken.clear()
            try:
                async with asyncio.timeout(SILENCE_S):
                    await self._woken.wait()
            except TimeoutError:
                yield b": nothing new\n\n"


def _chunks(invocation_id: str, text: bytes) -> Iterator[bytes]:
    """Yield lines as events, some at a time."""
    lines = text.decode(errors="replace").removesuffix("\n").split("\n")
    for at in range(0, len(lines), LINES_AT_ONCE):
        yield b"".join(
            b"event: log\ndata: " + msgspec.json.encode(Line(invocation_id, line)) + b"\n\n"
            for line in lines[at : at + LINES_AT_ONCE]
        )


class Following(StreamingResponse):
    """An event stream; `on_end` is called once it is over, also if it never began."""

    def __init__(self, tail: Tail, on_end: Callable[[], None]) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(tail.events(), headers=headers, media_type="text/event-stream")
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end()


class TailRoutes:
    """The live tails of all clients."""

    def __init__(self, fold: Fold, access: Access, source: Source, limits: Limits) -> None:
        self._fold = fold
        self._access = access
        self._source = source
        self._limits = limits
        self._tails: set[Tail] = set()
        self._closed = False

    def routes(self) -> list[Route]:
        """Return every route; paths keep their percent-encoding."""
        return [GuardedRoute("GET", FUNCTION + "/log", self.follow)]

    def close(self) -> None:
        """Let every client go: the server stops."""
        self._closed = True
        for tail in self._tails:
            tail.end("the server is stopping")

    async def follow(self, request: Request) -> Response:
        """`GET .../log?follow=true`: `text/event-stream` of log lines as they are written."""
        principal, entry = self._access.entry(request, self._fold)
        function = entry.function
        if request.query_params.get("follow", "").lower() not in ("true", "1"):
            raise InvalidRequest(
                "the log of a function can only be followed",
                hint="?follow=true; GET /compute/invocations/{id}/log for one invocation",
            )
        if self._closed:
            raise NoCapacity("the server is stopping", retry_after_s=1)
        if len(self._tails) >= self._limits.followers_max:
            raise NoCapacity(f"{len(self._tails)} clients follow logs already", hint="limits.followers_max")
        tail = Tail()
        self._tails.add(tail)
        identity = (function.account, function.collection_topic, function.service)

        def take(call_id: bytes, text: bytes) -> None:
            if self._access.still_knows(principal):
                tail.take(call_id, text)
            else:
                tail.end("the token is not known here any more")

        unfollow = self._source.follow(identity, take)

        def ended() -> None:
            unfollow()
            self._tails.discard(tail)

        return Following(tail, ended)
