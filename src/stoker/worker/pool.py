"""The pool: which instance serves the next call of a function.

Owns every instance of this machine. Does not know HTTP or NATS, nor how an instance is isolated; when more
are started `growth` knows, and which group serves a changed function `generations`.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from stoker.model.call import Call
from stoker.model.clock import wall_ms
from stoker.model.errors import NoCapacity, PlatformError
from stoker.model.function import CodeVersion, Function
from stoker.model.launch import LaunchPlan
from stoker.model.limits import Limits
from stoker.model.machine import Machine
from stoker.model.outcome import Failure
from stoker.sandbox.engine import Engine
from stoker.worker.boots import Boots
from stoker.worker.eviction import Pressure
from stoker.worker.following import Following
from stoker.worker.generations import Generations
from stoker.worker.group import Group
from stoker.worker.groups import Groups, Identity, key_of
from stoker.worker.growth import Growth, Notes
from stoker.worker.handover import CodeFolders, Contents, Handover, Secrets
from stoker.worker.instance import Instance
from stoker.worker.space import Space
from stoker.worker.spares import Spares
from stoker.worker.tail import Tap

TIDY_S = 1.0


class Pool:
    """Executes calls; an async context is not needed: `open` starts it and `close` ends it."""

    def __init__(
        self,
        engine: Engine,
        plans: Mapping[str, LaunchPlan],
        folders: CodeFolders,
        contents: Contents,
        secrets: Secrets,
        limits: Limits,
        *,
        spares: Mapping[str, int],
        cpu_millis: Callable[[int], int],
        pressure: Callable[[], Pressure],
        cores: int,
        notes: Notes,
        clock: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int] = wall_ms,
    ) -> None:
        self._engine = engine
        self._plans = plans
        self._limits = limits
        self._spare_counts = spares
        self._notes = notes
        self._clock = clock
        self._now_ms = now_ms
        self._spares: dict[str, Spares] = {}
        self._groups = Groups()
        self._following = Following(self._groups, self._tap_failed)
        self.served = 0
        """Instances that were given to functions so far."""
        self._group_of: dict[Instance, Group] = {}
        self._space = Space(self._groups, self._group_of, limits, pressure=pressure, clock=clock)
        self._growth = Growth(
            self._groups,
            self._spares,
            self._space,
            Handover(folders, contents, secrets, limits, cpu_millis, self._inward, self._injected),
            on_started=self._started,
            end=self._end,
            cores=cores,
            notes=notes,
            clock=clock,
        )
        self._generations = Generations(
            self._groups, self._following, self._growth, limits, end=self._end, clock=clock
        )
        self.on_inward: Callable[[str, Callable[[], Sequence[Call]], socket.socket], None] = _not_served
        """Told of a connection that an instance has made to stoker itself: account, its calls, the socket."""
        self._tidying: asyncio.TimerHandle | None = None
        self._closed = False

    def _injected(self, instance: Instance, secret: str, host: str) -> None:
        """Note that a secret has gone into a request: in the operator's log, and the call's."""
        function = instance.function
        if function is not None:
            self._notes.info(
                "secret_used", secret=secret, function=function.subject, account=function.account, host=host
            )
        instance.note(f"the secret {secret} went to {host}")

    def _inward(self, instance: Instance, connection: socket.socket) -> None:
        function = instance.function
        if function is None or instance.dead:
            connection.close()
        else:
            self.on_inward(function.account, lambda: instance.calls, connection)

    # -- life ------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Boot the spares; returns once one of each runtime has said hello. Raises PlatformError."""
        self._loop = asyncio.get_running_loop()
        boots = self._boots = Boots(
            self._engine,
            self._limits,
            self._loop,
            on_free=self._freed,
            on_ended=self._ended,
            on_returned=self._returned,
            clock=self._clock,
        )
        self._spares |= {
            runtime: Spares(
                runtime,
                boots.of(plan),
                count=self._spare_counts.get(runtime, 0),
                loop=self._loop,
                on_failure=self._boot_failed,
                hurry=partial(boots.hurry, runtime),
                clock=self._clock,
            )
            for runtime, plan in self._plans.items()
        }
        filled = await asyncio.gather(
            *(spares.fill() for spares in self._spares.values()), return_exceptions=True
        )
        for failure in filled:
            if failure is not None:
                await self.close()
                raise failure
        self._tidying = self._loop.call_later(TIDY_S, self._tidy)

    async def close(self) -> None:
        """End every instance. Calls still in flight end as lost, those that wait as told to try again."""
        self._closed = True
        if self._tidying is not None:
            self._tidying.cancel()
        for group in self._groups:
            while (call := group.take_waiting()) is not None:
                call.end(NoCapacity("the server is stopping", retry_after_s=1))
        await self._growth.close()
        await asyncio.gather(*(spares.close() for spares in self._spares.values()))
        if self._spares:
            await self._boots.close()

    @property
    def problem(self) -> str | None:
        """Why no function can be run just now, or None."""
        failing = [runtime for runtime, spares in self._spares.items() if spares.failing]
        return f"instances of {', '.join(failing)} fail to boot" if failing else None

    @property
    def code_in_use(self) -> list[CodeVersion]:
        """The code of every function that has instances, or calls that wait for one."""
        return [group.function.code for group in self._groups]

    @property
    def figures(self) -> dict[str, int]:
        """How many instances there are."""
        return {
            "serving": len(self._group_of),
            **{f"spare_{name}": spares.ready for name, spares in self._spares.items()},
        }

    @property
    def waiting(self) -> int:
        """How many calls wait for an instance."""
        return sum(group.waiting for group in self._groups)

    @property
    def spares(self) -> Mapping[str, Spares]:
        """The spares of each runtime, to be looked at."""
        return self._spares

    # -- calls -----------------------------------------------------------------------------------

    def submit(self, call: Call) -> None:
        """Run a call, now or as soon as an instance is free; its end is told to the call.

        Raises FunctionBusy where too many calls of the function wait already, NoCapacity while the pool
        closes, PlatformError for a runtime that is not here.
        """
        function = call.function
        if self._closed:
            raise NoCapacity("the server is stopping", retry_after_s=1)
        if function.code.runtime not in self._spares:
            raise PlatformError(f"the runtime {function.code.runtime} does not run here")
        code = function.code  # `key_of`, without its call
        key = (function.account, function.collection_topic, function.service, code.version)
        group = self._groups.living.get(key)
        if group is None or group.function is not function:
            group = self._generations.group_for(key, function)
        group.submit(call)

    def room(self, function: Function) -> int:
        """Return how many more patient calls of a function are worth submitting now; 0 while closed."""
        if self._closed:
            return 0
        group = self._groups.living.get(key_of(function)) or self._generations.new_group(function)
        return group.room

    def function_changed(self, before: Function, after: Function | None) -> None:
        """Take note of a stored change: instances of what is gone end, `min_instances` are started."""
        if not self._closed:
            self._generations.function_changed(before, after)

    def secret_changed(self, account: str, name: str) -> None:
        """Take note of a secret's new value: the calls that come from now on get instances that have it."""
        self._generations.secret_changed(account, name)

    # -- what instances tell ---------------------------------------------------------------------

    def _started(self, group: Group, instance: Instance) -> None:
        self._group_of[instance] = group
        self.served += 1
        instance.number, instance.created_ms = self.served, self._now_ms()

    def _boot_failed(self, runtime: str, error: BaseException) -> None:
        self._notes.warning("boot_failed", runtime=runtime, error=repr(error))

    def _freed(self, instance: Instance) -> None:
        group = self._group_of.get(instance)
        if group is None:
            return
        group.observe(instance)
        if self._growth.is_cramped and group.waits_patiently:
            self._growth.give_way(group, instance)
        group.offer(instance)
        if not instance.running and (instance.load_failed or group.retired):
            self._end(instance)

    def _returned(self, instance: Instance, call: Call) -> None:
        group = self._group_of.get(instance)
        if group is None or self._closed:
            call.end(NoCapacity("the instance ended before the call began", retry_after_s=1))
        else:
            group.returned(call)

    def _ended(self, instance: Instance) -> None:
        group = self._group_of.pop(instance, None)
        if group is None:
            for spares in self._spares.values():
                spares.lost(instance)
            return
        group.forget(instance)
        if group.waiting and not self._closed:
            self._growth.grow(group)
        self._groups.drop_if_done(group)

    def _end(self, instance: Instance) -> None:
        group = self._group_of.get(instance)
        if group is not None:
            group.forget(instance)
        instance.kill(Failure("platform.lost", "the instance was ended"))

    # -- idle ones -------------------------------------------------------------------------------

    def _tidy(self) -> None:
        """End what idled too long and start what is to be kept, once a second.

        No sooner: a function that dies whenever it is loaded would be started as fast as it dies.
        """
        self._tidying = self._loop.call_later(TIDY_S, self._tidy)
        for instance in self._space.too_old():
            self._end(instance)
        for group in list(self._groups.living.values()):
            self._growth.keep_minimum(group)
        self._groups.tidy()

    # -- what others may see ---------------------------------------------------------------------

    def follow(self, identity: Identity, tap: Tap) -> Callable[[], None]:
        """Have what the calls of a function print told from now on, as they print it; return what ends that.

        `identity` is account, collection topic and service. `tap` gets the id of the call and whole
        lines, at the call's end also an unfinished one; past `log_bytes_max` one line says that the rest of
        the call's output is left out. It must not wait.
        """
        return self._following.follow(identity, tap)

    def _tap_failed(self, error: Exception) -> None:
        self._loop.call_exception_handler(
            {"message": "what a call printed could not be told", "exception": error}
        )

    def machines(self) -> list[Machine]:
        """Return the instances that serve a function, the oldest first."""
        found = [
            Machine(
                id=instance.sandbox.id,
                number=instance.number,
                pid=instance.sandbox.pid,
                function=group.function,
                runtime_version=self._plans[group.function.code.runtime].version,
                created_ms=instance.created_ms,
                memory_bytes=group.function.memory_bytes,
                isolation=self._engine.name,
            )
            for instance, group in self._group_of.items()
            if not instance.ending
        ]
        return sorted(found, key=lambda machine: machine.number)

    async def machine_stats(self, machine: str) -> dict[str, Any] | None:
        """Return what a machine has used, in the shape of an OCI runtime's `events --stats`.

        None if it has ended. Raises PlatformError if nobody can tell.
        """
        for instance in self._group_of:
            if instance.sandbox.id == machine:
                return await instance.sandbox.stats()
        return None


def _not_served(_account: str, _calls: Callable[[], Sequence[Call]], connection: socket.socket) -> None:
    connection.close()


def machine_pressure() -> Pressure:
    """Return how much memory this machine has left, as its kernel estimates it."""
    figures = {}
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            name, _, rest = line.partition(":")
            if name in ("MemTotal", "MemAvailable"):
                figures[name] = int(rest.split()[0]) * 1024
    return Pressure(figures["MemAvailable"], figures["MemTotal"])
