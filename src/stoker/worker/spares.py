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
REFILL_AFTER_MS = 30
"""A spare's successor boots a little later: it must not contend with the first call that the spare serves."""
BOOTS_AT_ONCE_MAX = 4
"""More boots at once win nothing on a few cores (43 a second with four, 33 with two)."""


Boot = Callable[[Callable[[], bool]], Awaitable[Instance]]
"""Boots one instance to its hello; is given what tells whether somebody waits for one."""


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
        hurry: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runtime = runtime
        self._boot = boot
        self._count = count
        self._loop = loop
        self._on_failure = on_failure
        self._hurry = hurry
        self._clock = clock
        self._ready: deque[Instance] = deque()
        self._waiters: deque[asyncio.Future[Instance]] = deque()
        self._boots: set[asyncio.Task[None]] = set()
        self._coming = 0
        self._slots = asyncio.Semaphore(BOOTS_AT_ONCE_MAX)
        self._failures = 0
        self._again: asyncio.TimerHandle | None = None
        self._closed = False
        self.boot_ms = 100.0
        """A moving mean of what a boot takes."""
        self.booted = 0
        """Boots that came to their hello so far."""
        self.failed = 0
        """Boots that did not."""

    @property
    def ready(self) -> int:
        """How many stand ready."""
        return len(self._ready)

    @property
    def failing(self) -> bool:
        """Whether the last boots all failed."""
        return self._failures >= 3

    async def fill(self) -> None:
        """Boot the spares, one at least; return once the first has said hello. Raises as `take`."""
        first = self._wait()
        self._start_boots(max(1, self._count))
        self._put(await first)

    def refill(self) -> None:
        """Start the boots that are missing: one for each waiter and for each spare below the count."""
        self._start_boots(self._count - len(self._ready) + len(self._waiters) - self._coming)

    def _start_boots(self, missing: int) -> None:
        for _ in range(0 if self._closed else missing):
            task = self._loop.create_task(self._boot_one(), name=f"boot {self._runtime}")
            self._coming += 1
            self._boots.add(task)
            task.add_done_callback(self._boots.discard)

    async def take(self) -> Instance:
        """Return a booted instance that is the caller's alone.

        Waits for a boot if none stands ready; raises PlatformError if boots fail, NoCapacity at the end.
        """
        while True:
            if self._closed:
                raise NoCapacity("the server is stopping", retry_after_s=1)
            instance = self.take_now() or await self._next_booted()
            if not instance.dead:  # it may have died since its boot
                return instance

    def take_now(self) -> Instance | None:
        """Return a spare that stands ready, or None."""
        while self._ready:
            instance = self._ready.popleft()
            if not instance.dead:
                self._loop.call_later(REFILL_AFTER_MS / 1000, self.refill)
                return instance
        return None

    async def _next_booted(self) -> Instance:
        waiter = self._wait()
        self.refill()
        self._hurry()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            elif not waiter.cancelled() and waiter.exception() is None:
                self._put(waiter.result())  # it came in the moment we were cancelled
            raise

    def give_back(self, instance: Instance) -> None:
        """Put back one that was taken and not given to any function."""
        self._put(instance)

    def _wait(self) -> asyncio.Future[Instance]:
        waiter: asyncio.Future[Instance] = self._loop.create_future()
        self._waiters.append(waiter)
        return waiter

    async def _boot_one(self) -> None:
        async with self._slots:
            began = self._clock()
            try:
                async with asyncio.timeout(BOOT_MS_MAX / 1000):
                    instance = await self._boot(lambda: bool(self._waiters))
            except Exception as error:
                self._coming -= 1
                self._failures += 1
                self.failed += 1
                self._on_failure(self._runtime, error)
                self._fail_a_waiter(error)
                self._refill_later()
                return
            self._coming -= 1
            self._failures = 0
            self.booted += 1
            self.boot_ms += ((self._clock() - began) * 1000 - self.boot_ms) * 0.2
            self._put(instance)

    def _refill_later(self) -> None:
        if self._again is None and not self._closed:
            delay_s = min(10.0, 0.1 * 2 ** min(self._failures, 7))
            self._again = self._loop.call_later(delay_s, self._refill_again)

    def _refill_again(self) -> None:
        self._again = None
        self.refill()

    def _put(self, instance: Instance) -> None:
        if self._closed:
            instance.kill()
            return
        if instance.dead:
            self._refill_later()
            return
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(instance)
                return
        if len(self._ready) < max(1, self._count):
            self._ready.append(instance)
        else:
            instance.kill()  # its place was filled while it was taken

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
            self._refill_later()  # not at once: what dies as soon as it has booted would keep us busy

    async def close(self) -> None:
        """End all spares and every boot under way."""
        self._closed = True
        if self._again is not None:
            self._again.cancel()
        for task in list(self._boots):
            task.cancel()
        await asyncio.gather(*self._boots, return_exceptions=True)
        while self._waiters:
            self._fail_a_waiter(NoCapacity("the server is stopping", retry_after_s=1))
        while self._ready:
            self._ready.popleft().kill()
