"""The pool: which instance serves the next call of a function.

Owns every instance of this machine and how many there may be. Does not know HTTP or NATS, nor how an
instance is isolated.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from stoker.model.call import Call
from stoker.model.errors import NoCapacity, PlatformError, StokerError
from stoker.model.function import CodeVersion, Function
from stoker.model.launch import LaunchPlan
from stoker.model.limits import Limits
from stoker.model.machine import Machine
from stoker.model.outcome import Failure
from stoker.sandbox.engine import Engine
from stoker.worker.boots import Boots
from stoker.worker.eviction import Pressure
from stoker.worker.following import Following
from stoker.worker.group import Group, generation_of
from stoker.worker.groups import Groups, Identity, Key, identity_of, key_of
from stoker.worker.handover import CodeFolders, Contents, Handover, Secrets
from stoker.worker.instance import Instance
from stoker.worker.placement import Load, instances_to_start
from stoker.worker.space import Space
from stoker.worker.spares import Spares
from stoker.worker.tail import Tap

GROW_AGAIN_S = 0.05
"""While calls wait the decision to start instances is taken anew this often."""
TIDY_S = 1.0


class Notes(Protocol):
    """The operator's log."""

    def warning(self, event: str, **fields: object) -> object: ...

    def info(self, event: str, **fields: object) -> object: ...


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
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._engine = engine
        self._plans = plans
        self._handover = Handover(folders, contents, secrets, limits, cpu_millis)
        self._limits = limits
        self._spare_counts = spares
        self._cores = cores
        self._notes = notes
        self._clock = clock
        self._now_ms = now_ms
        self._spares: dict[str, Spares] = {}
        self._groups = Groups()
        self._following = Following(self._groups, self._tap_failed)
        self.served = 0
        """Instances that were given to functions so far."""
        self._cramped = False
        """Whether a function that has no instance at all waits for room."""
        self._group_of: dict[Instance, Group] = {}
        self._space = Space(self._groups, self._group_of, limits, pressure=pressure, clock=clock)
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticking: asyncio.TimerHandle | None = None
        self._tidying: asyncio.TimerHandle | None = None
        self._closed = False

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
        self._spares = {
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
        for timer in (self._ticking, self._tidying):
            if timer is not None:
                timer.cancel()
        for group in self._groups:
            while (call := group.take_waiting()) is not None:
                call.end(NoCapacity("the server is stopping", retry_after_s=1))
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
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
            group = self._group_for(key, function)
        group.submit(call)

    def room(self, function: Function) -> int:
        """Return how many more patient calls of a function are worth submitting now; 0 while closed."""
        if self._closed:
            return 0
        group = self._groups.living.get(key_of(function)) or self._new_group(function)
        return group.room

    def _group_for(self, key: Key, function: Function) -> Group:
        group = self._groups.living.get(key)
        if group is not None:
            if group.generation == generation_of(function):
                group.function = function  # another description or limit: what runs is the same
                return group
            self._retire(group)
        group = self._groups.living[key] = self._new_group(function)
        return group

    def _new_group(self, function: Function) -> Group:
        group = Group(function, self._limits, self._loop, grow=self._grow, clock=self._clock)
        group.tap = self._following.of(identity_of(function))
        return group

    def function_changed(self, before: Function, after: Function | None) -> None:
        """Take note of a stored change: instances of what is gone end, `min_instances` are started.

        Where the old version had instances the new one gets as many as were busy, one at least, as far as
        spares stand ready: who calls meanwhile is not to wait for a cold start.
        """
        if self._closed:
            return
        if after is None:
            for group in self._groups.of(identity_of(before)):
                if not group.retired:
                    self._retire(group)
            return
        key = key_of(after)
        old = self._groups.living.get(key_of(before))
        if old is None and key not in self._groups.living and not after.concurrency.min_instances:
            return
        at_once = 0 if old is None or not old.size else max(1, old.busy)
        group = self._group_for(key, after)
        group.current = True
        if old is not None and old is not group:
            group.run_ms = old.run_ms
            if not old.retired:
                self._retire(old)
            self._warm(group, at_once)
        self._keep_minimum(group)

    def secret_changed(self, account: str, name: str) -> None:
        """Take note of a secret's new value: the calls that come from now on get instances that have it.

        As with a new version, what had instances gets some anew, and calls in flight end in the old ones.
        """
        for group in list(self._groups.living.values()):
            function = group.function
            if function.account != account or name not in (function.code.secrets or ()):
                continue
            at_once = max(1, group.busy) if group.size else 0
            self._retire(group)
            anew = self._group_for(key_of(function), function)
            anew.current, anew.run_ms = group.current, group.run_ms
            self._warm(anew, at_once)
            self._keep_minimum(anew)

    def _warm(self, group: Group, count: int) -> None:
        spares = self._spares[group.function.code.runtime]
        count = min(count, max(1, spares.ready), group.instances_max)
        while group.size < count and self._space.fits(group):
            self._start(group)

    def _retire(self, group: Group) -> None:
        self._groups.retire(group)
        for instance in list(group.free):
            if not instance.running:
                self._end(instance)
        self._groups.drop_if_done(group)

    # -- more instances --------------------------------------------------------------------------

    def _grow(self, group: Group) -> None:
        spares = self._spares[group.function.code.runtime]
        load = Load(
            waiting=group.waiting,
            serving=len(group.instances),
            starting=group.starting,
            per_instance=group.function.concurrency.per_instance,
            run_ms=group.longest_run_ms(self._clock()),
            spares=spares.ready,
            boot_ms=spares.boot_ms,
            cores=self._cores,
        )
        for _ in range(instances_to_start(load, group.instances_max - group.size)):
            if not self._make_room(group):
                self._cramped = self._cramped or not group.size
                break
            self._start(group)
        if group.waiting and self._ticking is None:
            self._ticking = self._loop.call_later(GROW_AGAIN_S, self._grow_again)

    def _grow_again(self) -> None:
        self._ticking = None
        self._cramped = False  # told anew by who still is
        for group in self._groups:
            if group.waiting:
                self._grow(group)

    def _make_room(self, group: Group) -> bool:
        """Tell whether one more instance fits; ends an idle one of another function if need be."""
        if self._space.fits(group):
            return True
        idle = self._space.first_to_go(group)
        if idle is None:
            return False
        self._end(idle)
        return not self._space.is_scarce or not group.size

    def _start(self, group: Group) -> None:
        group.starting += 1
        # Taken here and now: who decides in the same instant must not count on the same spare.
        spare = self._spares[group.function.code.runtime].take_now()
        task = self._loop.create_task(self._specialise(group, spare), name=f"start {group.function.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _specialise(self, group: Group, spare: Instance | None) -> None:
        function = group.function
        began = self._clock()
        try:
            prepared = await self._handover.prepare(function, spare, self._spares[function.code.runtime])
        except Exception as error:
            group.starting -= 1
            self._start_failed(group, error)
            return
        instance = prepared.instance
        group.starting -= 1
        group.instances.add(instance)
        self._group_of[instance] = group
        self.served += 1
        instance.number, instance.created_ms = self.served, self._now_ms()
        self._handover.load(prepared, function, (self._clock() - began) * 1000)
        if group.tap is not None:
            instance.follow(group.tap)
        group.offer(instance)
        if group.retired and not instance.running:
            self._end(instance)

    def _start_failed(self, group: Group, error: Exception) -> None:
        self._notes.warning("instance_failed", function=group.function.subject, error=repr(error))
        told = error if isinstance(error, StokerError) else PlatformError("an instance could not be started")
        call = group.take_waiting()
        if call is not None:
            call.end(told)
        self._groups.drop_if_done(group)

    # -- what instances tell ---------------------------------------------------------------------

    def _boot_failed(self, runtime: str, error: BaseException) -> None:
        self._notes.warning("boot_failed", runtime=runtime, error=repr(error))

    def _freed(self, instance: Instance) -> None:
        group = self._group_of.get(instance)
        if group is None:
            return
        group.observe(instance)
        if self._cramped and group.waits_patiently:
            self._give_way(group, instance)
        group.offer(instance)
        if not instance.running and (instance.load_failed or group.retired):
            self._end(instance)

    def _give_way(self, group: Group, instance: Instance) -> None:
        """Let the instance look idle once, so that a function that has none may have its place."""
        if instance not in group.free:
            group.free.append(instance)
        self._cramped = False  # told anew by who still is
        for other in self._groups:
            if other.waiting and not other.size:
                self._grow(other)

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
            self._grow(group)
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
            self._keep_minimum(group)
        self._groups.tidy()

    def _keep_minimum(self, group: Group) -> None:
        for _ in range(group.instances_min - group.size):
            if not self._make_room(group):
                return
            self._start(group)

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


def machine_pressure() -> Pressure:
    """Return how much memory this machine has left, as its kernel estimates it."""
    figures = {}
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            name, _, rest = line.partition(":")
            if name in ("MemTotal", "MemAvailable"):
                figures[name] = int(rest.split()[0]) * 1024
    return Pressure(figures["MemAvailable"], figures["MemTotal"])
