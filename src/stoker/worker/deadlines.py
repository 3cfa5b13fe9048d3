"""Deadlines: until when the calls in an instance may run, watched by one timer.

Owns the timer. Does not know what becomes of a call whose time is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from math import inf

from stoker.worker.running import Running


class Deadlines:
    """One timer an instance, that looks again when it fires: arming one a call would cost more."""

    __slots__ = ("_clock", "_loop", "_on_over", "_running", "_timer", "at")

    def __init__(
        self,
        running: Mapping[bytes, Running],
        loop: asyncio.AbstractEventLoop,
        *,
        on_over: Callable[[Running], None],
        clock: Callable[[], float],
    ) -> None:
        self._running = running
        self._loop = loop
        self._on_over = on_over
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self.at = inf
        """When the timer fires. Who has an earlier deadline arms it: it is read at every call."""

    def arm(self, at: float) -> None:
        """Have the timer fire at `at` instead."""
        if self._timer is not None:
            self._timer.cancel()
        self.at = at
        self._timer = self._loop.call_at(at, self._look)

    def close(self) -> None:
        """Watch no longer. Harmless when repeated."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer, self.at = None, inf
        if not self._running:
            return
        now = self._clock()
        next_at = min(running.deadline for running in self._running.values())
        if next_at > now:
            self.arm(next_at)
            return
        for running in [one for one in self._running.values() if one.deadline <= now]:
            self._on_over(running)
        if self._running and self._timer is None:
            self.arm(min(running.deadline for running in self._running.values()))
