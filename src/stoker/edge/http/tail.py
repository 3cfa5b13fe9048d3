"""The live tail: what a function's calls print, as server-sent events, while they print it.

Each client has a bounded buffer; one that reads too slowly is told so and let go, and nobody waits for it.
Does not know where lines come from. Source: the compute API contract, *Invocations*.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from stoker.catalog.fold import Fold, Identity
from stoker.edge.http.access import Access, require
from stoker.model.call import text_of
from stoker.model.errors import InvalidRequest, NoCapacity
from stoker.model.limits import KIB, Limits

BUFFER_BYTES_MAX = 1024 * KIB
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
        self._events: deque[bytes] = deque()
        self._bytes = 0
        self._woken = asyncio.Event()
        self._why_ended: bytes | None = None

    def take(self, call_id: bytes, text: bytes) -> None:
        """Take lines in; the end of the tail where there is no more room."""
        if self._why_ended is not None:
            return
        invocation_id = text_of(call_id)
        for line in text.decode(errors="replace").removesuffix("\n").split("\n"):
            event = b"event: log\ndata: " + msgspec.json.encode(Line(invocation_id, line)) + b"\n\n"
            self._events.append(event)
            self._bytes += len(event)
        if self._bytes > BUFFER_BYTES_MAX:
            self.end("dropped: you read more slowly than the function prints; follow it again to go on")
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
            while self._events:
                chunk = b"".join(self._events)
                self._events.clear()
                self._bytes = 0
                yield chunk
            if self._why_ended is not None:
                yield self._why_ended
                return
            self._woken.clear()
            try:
                async with asyncio.timeout(SILENCE_S):
                    await self._woken.wait()
            except TimeoutError:
                yield b": nothing new\n\n"


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
        return [Route("/compute/functions/{collection}/{function}/log", self.follow, methods=["GET"])]

    def close(self) -> None:
        """Let every client go: the server stops."""
        self._closed = True
        for tail in self._tails:
            tail.end("the server is stopping")

    async def follow(self, request: Request) -> Response:
        """`GET .../log?follow=true`: `text/event-stream` of log lines as they are written."""
        principal = self._access.principal(request)
        path = request.path_params
        function = self._fold.resolve(principal.account, path["collection"], path["function"]).function
        require(principal, "records:read")
        if request.query_params.get("follow", "").lower() not in ("true", "1"):
            raise InvalidRequest(
                "the log of a function can only be followed",
                hint="?follow=true; GET /compute/invocations/{id}/log for one invocation",
            )
        if self._closed or len(self._tails) >= self._limits.followers_max:
            raise NoCapacity(f"{len(self._tails)} clients follow logs already", hint="limits.followers_max")
        tail = Tail()
        self._tails.add(tail)
        identity = (function.account, function.collection_topic, function.service)
        unfollow = self._source.follow(identity, tail.take)

        async def events() -> AsyncIterator[bytes]:
            try:
                async for chunk in tail.events():
                    yield chunk
            finally:
                unfollow()
                self._tails.discard(tail)

        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(events(), headers=headers, media_type="text/event-stream")
