"""Restraint: an instance that says too much is heard less, so that the event loop stays everybody's.

Knows bounds and times. Does not know frames nor what they are for.
"""

from __future__ import annotations

import asyncio

VAIN_MAX = 1000
"""Frames that nobody waits for, beyond one for each call that an instance was given. A shim sends none but
late answers; past this the function itself is at the wire."""
LINES_MAX = 64
"""Lines of the log in one read, past which the time that they took is weighed."""
REST_TIMES = 9
"""As often as the time that its lines took an instance is left alone: a tenth of the loop is its at most."""
REST_S_MAX = 0.25


def rest_s(lines: int, took_s: float) -> float:
    """Return how long to leave an instance alone after a read that held so many lines and took so long."""
    return min(REST_S_MAX, took_s * REST_TIMES) if lines > LINES_MAX else 0.0


class Rest:
    """Times in which nothing is read from one transport."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, transport: asyncio.Transport, seconds: float) -> None:
        """Read nothing for so long. Harmless while it rests, and once the transport closes."""
        if self._timer is None and not transport.is_closing():
            transport.pause_reading()
            self._timer = self._loop.call_later(seconds, self._end, transport)

    def close(self) -> None:
        """Forget the transport."""
        if self._timer is not None:
            self._timer.cancel()

    def _end(self, transport: asyncio.Transport) -> None:
        self._timer = None
        if not transport.is_closing():
            transport.resume_reading()
