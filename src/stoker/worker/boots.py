"""Boots: from a launch plan to an instance that has said hello.

Owns the boots under way and the instances that live. Does not know how many are wanted, nor functions.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from stoker.model.call import Call
from stoker.model.errors import PlatformError
from stoker.model.launch import LaunchPlan
from stoker.model.limits import Limits
from stoker.sandbox.engine import Engine
from stoker.worker.instance import Instance
from stoker.worker.spares import Boot


class Booting:
    """A boot whose sandbox runs and that has not said hello."""

    __slots__ = ("hello", "runtime", "urgent")

    def __init__(self, runtime: str, hello: asyncio.Future[Instance], *, urgent: bool) -> None:
        self.runtime = runtime
        self.hello = hello
        self.urgent = urgent


class Boots:
    """Boots instances of any plan. `on_free`, `on_ended` and `on_returned` are called as `Instance` says."""

    def __init__(
        self,
        engine: Engine,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
        *,
        on_free: Callable[[Instance], None],
        on_ended: Callable[[Instance], None],
        on_returned: Callable[[Instance, Call], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._limits = limits
        self._loop = loop
        self._on_free = on_free
        self._on_ended = on_ended
        self._on_returned = on_returned
        self._clock = clock
        self._booting: dict[Instance, Booting] = {}
        self._living: set[Instance] = set()
        self._hurries: set[asyncio.Task[None]] = set()

    def of(self, plan: LaunchPlan) -> Boot:
        """Return what boots one instance of a plan; raises PlatformError where that fails."""

        async def boot(waited: Callable[[], bool]) -> Instance:
            urgent = waited()
            sandbox = await self._engine.boot(plan, urgent=urgent)
            instance = Instance(
                sandbox,
                self._limits,
                self._loop,
                on_hello=self._hello,
                on_free=self._on_free,
                on_ended=self._ended,
                on_returned=self._on_returned,
                clock=self._clock,
            )
            booting = Booting(plan.runtime, self._loop.create_future(), urgent=urgent)
            self._booting[instance] = booting
            self._living.add(instance)
            try:
                await instance.connect()
                if waited():
                    self._hurry_one(instance, booting)
                return await booting.hello
            except BaseException:
                instance.kill()
                raise
            finally:
                self._booting.pop(instance, None)

        return boot

    def hurry(self, runtime: str) -> None:
        """Have one more boot of a runtime go on at the weight of a core, as somebody waits for it now."""
        for instance, booting in self._booting.items():
            if booting.runtime == runtime and not booting.urgent:
                self._hurry_one(instance, booting)
                return

    async def close(self) -> None:
        """Kill every instance; return once nothing of them is left."""
        await asyncio.gather(*self._hurries, return_exceptions=True)
        living = list(self._living)
        for instance in living:
            instance.kill()
        await asyncio.gather(*(instance.gone() for instance in living))

    def _hurry_one(self, instance: Instance, booting: Booting) -> None:
        if not booting.urgent:
            booting.urgent = True
            self._own(self._engine.hurry(instance.sandbox), name=f"hurry {instance.sandbox.id}")

    def _own(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        task = self._loop.create_task(work, name=name)
        self._hurries.add(task)
        task.add_done_callback(self._hurries.discard)

    def _hello(self, instance: Instance) -> None:
        booting = self._booting.get(instance)
        if booting is not None and not booting.hello.done():
            booting.hello.set_result(instance)

    def _ended(self, instance: Instance) -> None:
        self._living.discard(instance)
        booting = self._booting.get(instance)
        if booting is not None and not booting.hello.done():
            printed = instance.printed_at_boot
            booting.hello.set_exception(PlatformError(f"the instance died while it booted: {printed}"))
        self._on_ended(instance)
