"""Spares: booted instances of a runtime that belong to no function yet.

Keeps a number of them ready, booting new ones in the background at low CPU weight; somebody who waits
for one that still boots makes it hurry. Does not know functions.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

from stoker.model.errors import NoCapacity, PlatformError
from stoker.worker.instance import Instance

BOOT_MS_MAX = 20_000
"""A boot that says no hello in this time has failed; here it takes 50 to 150 ms."""
BOOTS_AT_ONCE_MAX = 4
"""More boots at once win nothing on a few cores (43 a second with four, 33 with two)."""


Boot = Callable[[bool], Awaitable[Instance]]
"""Boots one instance to its hello; True if somebody waits for it."""


class Spares:
    """The spare instances of one runtime."""

    def __init__(
        self,
        runtime: str,
        boot: Boot,
        *,
        count: int,
        loop: asyncio.AbstractEventLoop,
        on_failure: Callable[[str, BaseException], None],
    ) -> None:
        self._runtime = runtime
        self._boot = boot
        self._count = count
        self._loop = loop
        self._on_failure = on_failure
        self._ready: deque[Instance] = deque()
        self._waiters: deque[asyncio.Future[Instance]] = deque()
        self._boots: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(BOOTS_AT_ONCE_MAX)
        self._failures = 0
        self._closed = False
        self.boot_ms = 100.0
        """A moving mean of what a boot takes."""

    @property
    def ready(self) -> int:
        """How many stand ready."""
        return len(self._ready)

    @property
    def failing(self) -> bool:
        """Whether the last boots all failed."""
        return self._failures >= 3

    def refill(self) -> None:
        """Start the boots that are missing: one for each waiter and for each spare below the count."""
        missing = self._count - len(self._ready) + len(self._waiters) - len(self._boots)
        for _ in range(missing):
            if self._closed:
                return
            task = self._loop.create_task(self._boot_one(), name=f"boot {self._runtime}")
            self._boots.add(task)
            task.add_done_callback(self._boots.discard)

    async def take(self) -> Instance:
        """Return a booted instance that is the caller's alone.

        Waits for a boot if none stands ready; raises PlatformError if boots fail.
        """
        while self._ready:
            instance = self._ready.popleft()
            if not instance.dead:
                self._loop.call_soon(self.refill)
                return instance
        if self._closed:
            raise NoCapacity("the server is stopping", retry_after_s=1)
        waiter: asyncio.Future[Instance] = self._loop.create_future()
        self._waiters.append(waiter)
        self.refill()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._put(waiter.result())  # it came in the moment we were cancelled
            raise

    def give_back(self, instance: Instance) -> None:
        """Put back one that was taken and not given to any function."""
        self._put(instance)

    async def _boot_one(self) -> None:
        async with self._slots:
            if self._closed:
                return
            began = time.monotonic()
            try:
                async with asyncio.timeout(BOOT_MS_MAX / 1000):
                    instance = await self._boot(bool(self._waiters))
            except Exception as error:
                self._failures += 1
                self._on_failure(self._runtime, error)
                self._fail_a_waiter(error)
                if not self._closed and not self._waiters:
                    delay_s = min(10.0, 0.1 * 2 ** min(self._failures, 7))
                    self._loop.call_later(delay_s, self.refill)
                return
            self._failures = 0
            self.boot_ms += ((time.monotonic() - began) * 1000 - self.boot_ms) * 0.2
            self._put(instance)

    def _put(self, instance: Instance) -> None:
        if self._closed:
            instance.kill()
            return
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(instance)
                return
        self._ready.append(instance)

    def _fail_a_waiter(self, error: Exception) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                if isinstance(error, NoCapacity):
                    waiter.set_exception(error)
                else:
                    waiter.set_exception(PlatformError("an instance of the runtime could not be started"))
                return

    def lost(self, instance: Instance) -> None:
        """Take note that a spare died before it was given to a function."""
        if instance in self._ready:
            self._ready.remove(instance)
            self._loop.call_soon(self.refill)

    async def close(self) -> None:
        """End all spares and every boot under way."""
        self._closed = True
        for task in list(self._boots):
            task.cancel()
        await asyncio.gather(*self._boots, return_exceptions=True)
        while self._ready:
            self._ready.popleft().kill()
