"""The wire's end on our side: bytes of one instance in, frames out, and what is written to it.

Owns the transport. Does not know what a frame is for; who it belongs to hears them, a read at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from stoker.runtimes import wire
from stoker.worker.restraint import Rest, rest_s


class WireEnd(asyncio.Protocol):
    """Made before the connection, which it is the protocol of.

    `on_frames` gets what one read completed and returns how many lines of the log were in it; it may raise
    WireError. `on_broken` is called where it did, or where no next frame can be found: the wire is closed
    after that. `on_lost` is called once, when it has closed, whoever closed it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        frame_bytes_max: int,
        on_frames: Callable[[list[wire.Frame]], int],
        on_broken: Callable[[], None],
        on_lost: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._loop = loop
        self._on_frames = on_frames
        self._on_broken = on_broken
        self._on_lost = on_lost
        self._clock = clock
        self._reader = wire.FrameReader(frame_bytes_max=frame_bytes_max)
        self._rest = Rest(loop)
        self._transport: asyncio.Transport | None = None
        self._unwritten: list[bytes] = []

    # -- what the instance asks ------------------------------------------------------------------

    def write(self, frame: bytes) -> None:
        """Write now; what is written after the wire closed goes nowhere."""
        if self._unwritten:  # what came first goes out first
            self._flush()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame)

    def write_soon(self, frame: bytes) -> None:
        """Write at the end of this turn of the loop, with whatever else comes in it: one system call."""
        if not self._unwritten:
            self._loop.call_soon(self._flush)
        self._unwritten.append(frame)

    def abort(self) -> None:
        """Close it at once. Harmless when repeated."""
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Forget the connection, which has been lost."""
        self._rest.close()

    # -- what the loop tells ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclasses of it

    def data_received(self, data: bytes) -> None:
        began = self._clock()
        try:
            lines = self._on_frames(self._reader.feed(data))
        except wire.WireError:
            self._on_broken()
            self.abort()
            return
        if lines and self._transport is not None:
            rest = rest_s(lines, self._clock() - began)
            if rest:
                self._rest.begin(self._transport, rest)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._on_lost()

    def _flush(self) -> None:
        if self._unwritten:
            frames, self._unwritten = self._unwritten, []
            self.write(b"".join(frames))
