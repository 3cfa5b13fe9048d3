"""Growth: how the groups of this machine get more instances, and when.

Owns the starts that are on their way. Does not know what a change of a function asks for, nor which call an
instance serves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

from stoker.model.errors import PlatformError, StokerError
from stoker.worker.group import Group
from stoker.worker.groups import Groups
from stoker.worker.handover import Handover
from stoker.worker.instance import Instance
from stoker.worker.placement import Load, instances_to_start
from stoker.worker.space import Space
from stoker.worker.spares import Spares

GROW_AGAIN_S = 0.05
"""While calls wait the decision to start instances is taken anew this often."""


class Notes(Protocol):
    """The operator's log."""

    def warning(self, event: str, **fields: object) -> object: ...

    def info(self, event: str, **fields: object) -> object: ...


class Growth:
    """One for a pool, whose groups, spares and space it is given.

    `on_started(group, instance)` is told of an instance that is a group's from now on, before it is loaded.
    `end` is asked to end an idle one.
    """

    def __init__(
        self,
        groups: Groups,
        spares: Mapping[str, Spares],
        space: Space,
        handover: Handover,
        *,
        on_started: Callable[[Group, Instance], None],
        end: Callable[[Instance], None],
        cores: int,
        notes: Notes,
        clock: Callable[[], float],
    ) -> None:
        self._groups = groups
        self._spares = spares
        self._space = space
        self._handover = handover
        self._on_started = on_started
        self._end = end
        self._cores = cores
        self._notes = notes
        self._clock = clock
        self.is_cramped = False
        """Whether a function that has no instance at all waits for room."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticking: asyncio.TimerHandle | None = None

    def grow(self, group: Group) -> None:
        """Start what the calls that wait for a group are worth; look again while any do."""
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
                self.is_cramped = self.is_cramped or not group.size
                break
            self._start(group)
        if group.waiting and self._ticking is None:
            self._ticking = asyncio.get_running_loop().call_later(GROW_AGAIN_S, self._grow_again)

    def warm(self, group: Group, count: int) -> None:
        """Have a group get so many at once, as far as spares stand ready and nobody has to make room."""
        spares = self._spares[group.function.code.runtime]
        count = min(count, max(1, spares.ready), group.instances_max)
        while group.size < count and self._space.fits(group):
            self._start(group)

    def keep_minimum(self, group: Group) -> None:
        """Start what a group is to keep ready and has not."""
        for _ in range(group.instances_min - group.size):
            if not self._make_room(group):
                return
            self._start(group)

    def give_way(self, group: Group, instance: Instance) -> None:
        """Let the instance look idle once, so that a function that has none may have its place."""
        if instance not in group.free:
            group.free.append(instance)
        self.is_cramped = False  # told anew by who still is
        for other in self._groups:
            if other.waiting and not other.size:
                self.grow(other)

    async def close(self) -> None:
        """Let go of what is on its way; return once that has ended. Nothing is asked for after it."""
        if self._ticking is not None:
            self._ticking.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _grow_again(self) -> None:
        self._ticking = None
        self.is_cramped = False  # told anew by who still is
        for group in self._groups:
            if group.waiting:
                self.grow(group)

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
        task = asyncio.get_running_loop().create_task(
            self._specialise(group, spare), name=f"start {group.function.name}"
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _specialise(self, group: Group, spare: Instance | None) -> None:
        function = group.function
        began = self._clock()
        try:
            prepared = await self._handover.prepare(function, spare, self._spares[function.code.runtime])
        except Exception as error:
            group.starting -= 1
            self._failed(group, error)
            return
        instance = prepared.instance
        group.starting -= 1
        group.instances.add(instance)
        self._on_started(group, instance)
        self._handover.load(prepared, function, (self._clock() - began) * 1000)
        if group.tap is not None:
            instance.follow(group.tap)
        group.offer(instance)
        if group.retired and not instance.running:
            self._end(instance)

    def _failed(self, group: Group, error: Exception) -> None:
        self._notes.warning("instance_failed", function=group.function.subject, error=repr(error))
        told = error if isinstance(error, StokerError) else PlatformError("an instance could not be started")
        call = group.take_waiting()
        if call is not None:
            call.end(told)
        self._groups.drop_if_done(group)
