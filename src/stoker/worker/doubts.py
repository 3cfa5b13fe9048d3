"""Doubts: a handler that failed may have failed for want of processes, which only the kernel's count tells.

Owns the looks at that count. Does not know how a call ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from stoker.model.errors import StokerError
from stoker.model.outcome import Failure
from stoker.runtimes import wire
from stoker.sandbox.engine import Sandbox
from stoker.worker.running import Running


def failure_said(body: bytes) -> Failure:
    """Return the failure that an ERROR tells, or that it tells none."""
    try:
        return wire.decode_error(body)
    except wire.WireError:
        return Failure("function.error", "the function failed and could not say why")


class Doubts:
    """`on_settled(running, hit)` is called once for each look, also for one that was cut short."""

    __slots__ = ("_looks", "_loop", "_on_settled", "_sandbox")

    def __init__(
        self,
        sandbox: Sandbox,
        loop: asyncio.AbstractEventLoop,
        *,
        on_settled: Callable[[Running, bool], None],
    ) -> None:
        self._sandbox = sandbox
        self._loop = loop
        self._on_settled = on_settled
        self._looks: set[asyncio.Task[None]] = set()

    def look(self, running: Running) -> None:
        """Find out whether the instance hit its limit of processes; returns at once."""
        look = self._loop.create_task(self._look(running), name=f"limits of {self._sandbox.id}")
        self._looks.add(look)
        look.add_done_callback(self._looks.discard)

    def close(self) -> None:
        """Cut short what is looked up. Harmless when repeated."""
        for look in self._looks:
            look.cancel()

    async def _look(self, running: Running) -> None:
        hit = False
        try:
            with suppress(StokerError):  # there is nobody to ask any more: what the function said counts
                hit = (await self._sandbox.usage()).processes_limit_hit
        finally:
            self._on_settled(running, hit)
