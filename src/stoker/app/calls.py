"""Calls, joined: what invocations go through from a door to their end.

Opened when functions can run, closed before the pool. Knows no logic of any part.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from stoker.app.record_keeping import RecordKeeping
from stoker.catalog.catalog import Catalog
from stoker.catalog.fold import Fold
from stoker.invocation.acceptance import ASYNC, Acceptance
from stoker.invocation.async_calls import AsyncCalls
from stoker.invocation.ending import Ending
from stoker.invocation.invoker import Executor, Invoker
from stoker.invocation.keyed import KeyedCalls
from stoker.invocation.live import LiveInvocations
from stoker.invocation.queue import Queue
from stoker.model.call import Call
from stoker.model.errors import StokerError
from stoker.model.limits import Limits
from stoker.model.outcome import Outcome
from stoker.model.record import Accepted
from stoker.telemetry.logging import get_logger

Counted = Callable[[Call, Outcome], None]
AGAIN_S = 0.25
SETTLED_S = 30.0
"""After which an acceptance that is stored has been told, or never will be."""


class Ends:
    """Tells a plain call's end to who counts and to who keeps records."""

    def __init__(self, keeping: RecordKeeping, counted: Counted) -> None:
        self._recorder = keeping.recorder
        self._counted = counted

    @property
    def refusal(self) -> StokerError | None:
        """Why no new work can be recorded just now, or None."""
        return self._recorder.refusal

    def ended(self, call: Call, outcome: Outcome) -> None:
        """Take note of an end; must not wait."""
        self._counted(call, outcome)
        self._recorder.ended(call, outcome)


class Calls:
    """One for a server."""

    def __init__(
        self,
        catalog: Catalog,
        fold: Fold,
        executor: Executor,
        keeping: RecordKeeping,
        limits: Limits,
        counted: Counted,
        *,
        now_ms: Callable[[], int],
    ) -> None:
        log = get_logger("stoker.invocation")
        clock = time.monotonic
        store = keeping.store
        self._log = log
        self._keeping = keeping
        self._settling: set[asyncio.Task[None]] = set()
        self.live = LiveInvocations()
        ending = self.ending = Ending(store, self.live, log)
        self.invoker = Invoker(catalog, executor, Ends(keeping, counted), limits, clock=clock)
        self.queue = Queue(
            catalog,
            fold,
            executor,
            self.live,
            ending,
            limits,
            log,
            counted=counted,
            clock=clock,
            now_ms=now_ms,
        )
        self.acceptance = Acceptance(catalog, store, limits, now_ms=now_ms)
        self.asynchronous = AsyncCalls(self.acceptance, self.queue)
        self.keyed = KeyedCalls(
            catalog,
            fold,
            executor,
            self.acceptance,
            self.live,
            ending,
            counted=counted,
            clock=clock,
            now_ms=now_ms,
        )
        keeping.on_found = self._found

    @property
    def closed(self) -> bool:
        """Whether new work is turned away: the server stops."""
        return self.invoker.closed

    async def recover(self) -> None:
        """Take up what an earlier server accepted: Async ones run, keyed ones have ended as lost."""
        while True:
            try:
                stored = await self._keeping.pending()
                break
            except StokerError as error:
                self._log.warning("recovery_waits", reason=error.message)
                await asyncio.sleep(AGAIN_S)
        self.queue.recover(one for one in stored if one.record.invocation_type == ASYNC)
        await self.keyed.recover(one for one in stored if one.record.invocation_type != ASYNC)

    async def drain(self, wait_ms: int) -> None:
        """Accept nothing more, and return when what has begun has ended, after so long at most."""
        self.invoker.closed = True
        self.acceptance.closed = True
        self.live.stop()
        try:
            async with asyncio.timeout(wait_ms / 1000):
                await self.queue.drain()
        except TimeoutError:
            self._log.warning("left_to_the_next_start", count=self.queue.depth)
        self.live.stop()  # once more: some were to be tried again

    async def close(self) -> None:
        """Begin nothing more; what has not ended stays stored as it is."""
        for task in self._settling:
            task.cancel()
        await asyncio.gather(*self._settling, return_exceptions=True)
        await self.queue.close()

    def _found(self, accepted: Accepted) -> None:
        if accepted.record.invocation_type == ASYNC:
            self.queue.recover([accepted])
            return
        task = asyncio.get_running_loop().create_task(self._settle(accepted), name="a keyed call is found")
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def _settle(self, accepted: Accepted) -> None:
        """End a keyed call that is stored and that nobody took in hand, as its caller was told otherwise."""
        account, invocation_id = accepted.account, accepted.record.invocation_id
        await asyncio.sleep(SETTLED_S)
        while self.live.find(account, invocation_id) is None:
            try:
                current = await self._keeping.store.current(account, invocation_id)
            except StokerError:
                await asyncio.sleep(AGAIN_S)
                continue
            if current is not None and self.live.find(account, invocation_id) is None:
                await self.keyed.recover([current])
            return
