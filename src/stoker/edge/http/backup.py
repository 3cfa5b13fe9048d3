"""The route of backups, for who runs the platform. Does not know what is in one.

Ours alone: `stoker backup` goes through it, as a store cannot be copied while a server works on it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from stoker.edge.http.access import Access
from stoker.edge.http.scopes import GuardedRoute
from stoker.model.errors import NoCapacity

MEDIA = "application/octet-stream"
Take = Callable[[], AsyncGenerator[bytes, None]]


class BackupRoute:
    """`take` begins a backup and yields its bytes; to be closed, whatever happens."""

    def __init__(self, access: Access, take: Take) -> None:
        self._access = access
        self._take = take
        self._taking: AsyncGenerator[bytes, None] | None = None

    def routes(self) -> list[Route]:
        """Return every route."""
        return [GuardedRoute("GET", "/backup", self.backup)]

    async def backup(self, request: Request) -> Response:
        """`GET /backup`: the bytes of a backup, one at a time."""
        self._access.allowed(request)
        if self._taking is not None:
            raise NoCapacity("another backup is being taken", retry_after_s=5)
        pieces = self._taking = self._take()
        try:
            first = await anext(pieces)  # what cannot even begin is an error with a status
        except BaseException:
            await self._end(pieces)
            raise
        return _Streamed(first, pieces, lambda: self._end(pieces))

    async def _end(self, pieces: AsyncGenerator[bytes, None]) -> None:
        await pieces.aclose()
        if self._taking is pieces:  # else it was told before, and another one has begun
            self._taking = None


class _Streamed(StreamingResponse):
    """An answer of pieces; `end` is awaited once it is over, also if its client left."""

    def __init__(self, first: bytes, rest: AsyncIterator[bytes], end: Callable[[], Awaitable[None]]) -> None:
        super().__init__(_all(first, rest, end), headers={"Cache-Control": "no-store"}, media_type=MEDIA)
        self._end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._end()


async def _all(
    first: bytes, rest: AsyncIterator[bytes], end: Callable[[], Awaitable[None]]
) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece
    await end()  # before its client can know that it is over, and ask for another one
