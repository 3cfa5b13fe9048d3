"""A connection of a function: its head is read, then bytes go to and fro until one side has ended.

Owns both sockets of it, their backpressure and their end. Does not know what is allowed: that is decided by
who made it. Never looks into what passes.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Protocol, cast

from stoker.egress import head

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
CHUNK_BYTES = 64 * 1024
"""Read at once: with what the transport may hold, what a slow reader can make us keep."""


class Host(Protocol):
    """Who is told what happens."""

    def opened(self, tunnel: Tunnel) -> None:
        """A function has connected."""

    def asked(self, tunnel: Tunnel, data: bytes) -> None:
        """Its head is complete, as is what came with it."""

    def passed(self, tunnel: Tunnel, sent: int, received: int) -> bool:
        """So many bytes have come from a side, and go on if this returns True."""

    def closed(self, tunnel: Tunnel) -> None:
        """Both sides are gone. Once."""


class _Side(asyncio.Protocol):
    """One socket of a tunnel."""

    def __init__(self, tunnel: Tunnel) -> None:
        self.tunnel = tunnel
        self.transport: asyncio.Transport | None = None
        self.ended = False
        """Whether nothing more comes from it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if hasattr(transport, "max_size"):
            transport.max_size = CHUNK_BYTES
        self.tunnel.made(self)

    def data_received(self, data: bytes) -> None:
        self.tunnel.received(self, data)

    def eof_received(self) -> bool:
        return self.tunnel.half_closed(self)

    def pause_writing(self) -> None:
        self.tunnel.other(self).pause()

    def resume_writing(self) -> None:
        self.tunnel.other(self).resume()

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self.tunnel.lost(error is not None)

    def pause(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def write(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)


class Tunnel:
    """From a function's connection to the end of both sides. `inner` is made by the listening server.

    `told`: whether the function says first where it wants to go, in a head of HTTP.
    """

    def __init__(self, host: Host, clock: Callable[[], float], *, told: bool) -> None:
        self._host = host
        self._clock = clock
        self.inner = _Side(self)
        self.outer = _Side(self)
        self.active_at = clock()
        self.target = ""
        """Where it leads, `host:port`, once that was asked for."""
        self._dropped = 0
        self.work: asyncio.Task[None] | None = None
        """What decides about it and connects, while that goes on."""
        self._told = told
        self._head: bytearray | None = bytearray() if told else None
        self._coming = bytearray()
        self._came: asyncio.Future[bytes] | None = None
        """Set once a second head is complete, inside of what the first one asked for."""
        self._early = bytearray()
        """What the server said before the function was told that it is connected."""
        self._joined = False
        self._refused = False
        self._over = False

    @property
    def waits(self) -> bool:
        """Whether it is the function's turn: to say where it wants to go, or to leave after a refusal."""
        return self._head is not None or self._refused

    def join(self, *, inner: bytes, outer: bytes) -> None:
        """Let bytes pass; `inner` and `outer` are what each side is sent first."""
        self._joined = True
        self.active_at = self._clock()
        if not self._host.passed(self, len(outer), len(self._early)):
            return
        self.inner.write(inner + self._early)
        self.outer.write(outer)
        self._early.clear()
        self.inner.resume()

    async def next_head(self, first: bytes) -> bytes:
        """Tell the function that it is connected, and return what it then says, up to the end of a head.

        `first` is what it has said already. Or too many bytes, or the first ones that are no HTTP; cancelled
        if it leaves.
        """
        self._coming = bytearray(first)
        self._came = asyncio.get_running_loop().create_future()
        self.inner.write(ESTABLISHED)
        self._look(self.inner)
        if not self._came.done():
            self.inner.resume()
        return await self._came

    def _look(self, side: _Side) -> None:
        coming = self._coming
        if not self._came or self._came.done() or not coming:
            return
        if not coming[:1].isalpha() or head.END in coming or len(coming) > head.BYTES_MAX:
            side.pause()
            self._came.set_result(bytes(coming))

    def answer(self, status: str, text: str) -> None:
        """Refuse, in an answer of HTTP if it speaks that, and end."""
        if not self._told:
            self._reset()
            return
        body = f"{text}\n".encode()
        lines = f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n"
        self.inner.write(f"{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        self._refused = True
        self.active_at = self._clock()
        if self.inner.transport is not None and not self.inner.transport.is_closing():
            # What it still sends is read and dropped: closed at once, it would hear of that and not read us.
            self.inner.transport.write_eof()
            self.inner.resume()

    def _reset(self) -> None:
        transport = self.inner.transport
        if transport is not None:
            # Not an orderly end, which a client might take for an answer of its server.
            transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
        self.abort()

    def abort(self) -> None:
        """Cut both sides now."""
        if self.work is not None:
            self.work.cancel()
        for side in (self.inner, self.outer):
            if side.transport is not None:
                side.transport.abort()

    # -- from the sides --------------------------------------------------------------------------

    def other(self, side: _Side) -> _Side:
        """Return the side across."""
        return self.outer if side is self.inner else self.inner

    def made(self, side: _Side) -> None:
        """A side has its transport."""
        if side is self.inner:
            self._host.opened(self)
            if not self._told and side.transport is not None and not side.transport.is_closing():
                side.pause()
                self._host.asked(self, b"")
        elif self.inner.transport is None:
            self.abort()  # the function left while we connected

    def received(self, side: _Side, data: bytes) -> None:
        """Bytes have come."""
        self.active_at = self._clock()
        if self._joined:
            sent, received = (len(data), 0) if side is self.inner else (0, len(data))
            if self._host.passed(self, sent, received):
                self.other(side).write(data)
        elif side is self.inner and self._head is not None:
            self._head += data
            if head.END in self._head or len(self._head) > head.BYTES_MAX:
                whole, self._head = bytes(self._head), None
                side.pause()
                self._host.asked(self, whole)
        elif side is self.inner and self._came is not None:
            self._coming += data
            self._look(side)
        elif side is self.outer:
            self._early += data
        elif self._refused:
            self._dropped += len(data)
            if self._dropped > head.BYTES_MAX * 16:
                self.abort()
        else:
            self.abort()  # it was told to read no more

    def half_closed(self, side: _Side) -> bool:
        """One side sends no more; returns whether its other direction goes on."""
        side.ended = True
        across = self.other(side)
        if not self._joined or across.ended or across.transport is None:
            return False
        if across.transport.can_write_eof() and not across.transport.is_closing():
            across.transport.write_eof()
        return True

    def lost(self, broken: bool) -> None:
        """A side is gone: the other gets what was sent to it, and goes too."""
        for side in (self.inner, self.outer):
            if side.transport is not None:
                if broken:
                    side.transport.abort()
                else:
                    side.transport.close()
        if self.inner.transport is None and self.work is not None:
            self.work.cancel()
        if self.inner.transport is None and self.outer.transport is None and not self._over:
            self._over = True
            self._host.closed(self)
