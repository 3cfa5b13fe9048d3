"""The probe: whether a client that has sent its end of stream is still there to be answered.

TCP shows a peer that only shut down its writing side and one that closed altogether alike, until
something is sent: the closed one then answers with a reset. So the probe sends, one at a time, bytes
with which whatever is written next may begin. Does not know what they are or whose answer it will be.
"""

from __future__ import annotations

import asyncio
import socket

FIRST_GAP_S = 1.0
"""From the first byte to the second; each further gap is twice as long, so that nine bytes last for
four minutes. A client that closes later than its end of stream is noticed within twice that time."""
FIRST_LOOK_S = 0.02
"""After a byte, a round trip within one site; each further look waits twice as long."""
LOOK_S_MAX = 1.0

_TCP_CLOSE = 7  # include/net/tcp_states.h; what a reset leaves behind


class Probe:
    """Watches one half-closed connection, and aborts its transport once the client is gone."""

    __slots__ = ("_bytes", "_gap_s", "_look_s", "_loop", "_next_at", "_timer", "_transport", "sent")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, probe_bytes: bytes
    ) -> None:
        self._bytes = probe_bytes
        self._loop = loop
        self._transport = transport
        self._timer: asyncio.TimerHandle | None = None
        self._gap_s = FIRST_GAP_S
        self._look_s = FIRST_LOOK_S
        self._next_at = 0.0
        self.sent = 0
        """How many of the bytes are out already."""

    def start(self) -> None:
        """Send the first byte and begin to look."""
        self._send()

    def stop(self) -> int:
        """End the watch. Returns how many of the bytes were sent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return self.sent

    def _send(self) -> None:
        self._transport.write(self._bytes[self.sent : self.sent + 1])
        self.sent += 1
        self._next_at = self._loop.time() + self._gap_s
        self._gap_s *= 2
        self._look_s = FIRST_LOOK_S
        self._timer = self._loop.call_later(self._look_s, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._transport.is_closing():
            return
        # After an end of stream the event loop reads no more, and so would not see the reset.
        if _was_reset(self._transport):
            self._transport.abort()
        elif self.sent < len(self._bytes) and self._loop.time() >= self._next_at:
            self._send()
        else:
            self._look_s = min(self._look_s * 2, LOOK_S_MAX)
            self._timer = self._loop.call_later(self._look_s, self._look)


def _was_reset(transport: asyncio.Transport) -> bool:
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    state: bytes = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    return state[0] == _TCP_CLOSE
