"""Space: whether one more instance fits on this machine, and which idle one goes to make room.

Knows how many there are and how much memory is left. Does not start or end anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from stoker.model.limits import Limits
from stoker.worker.eviction import SCARCE_SHARE, Idle, Pressure, first_to_go, to_evict
from stoker.worker.group import Group
from stoker.worker.groups import Groups
from stoker.worker.instance import Instance

KEPT_FREE = 4
"""The part of the machine's instances, one in so many, that patient calls leave to others."""


class Space:
    """The machine's room for instances. `serving` holds the group of each that lives; it is only read."""

    def __init__(
        self,
        groups: Groups,
        serving: Mapping[Instance, Group],
        limits: Limits,
        *,
        pressure: Callable[[], Pressure],
        clock: Callable[[], float],
    ) -> None:
        self._groups = groups
        self._serving = serving
        self._limits = limits
        self._pressure = pressure
        self._clock = clock

    @property
    def is_scarce(self) -> bool:
        """Whether so little memory is left that nothing new is to start."""
        return self._pressure().share_free < SCARCE_SHARE

    def fits(self, group: Group) -> bool:
        """Tell whether one more instance of a group fits as it is.

        A part of the machine is left to others where a group that has instances only wants more for patient
        calls.
        """
        highest = self._limits.instances_max
        if is_modest(group):
            highest -= highest // KEPT_FREE
        there = len(self._serving) + sum(one.starting for one in self._groups)
        return there < highest and not self.is_scarce

    def first_to_go(self, group: Group) -> Instance | None:
        """Return the idle instance of another group whose place this one may have; None if there is none."""
        if is_modest(group):
            return None
        idle = self._idle()
        key = first_to_go([one for instance, one in idle.items() if instance not in group.free])
        return next((instance for instance, one in idle.items() if one.key == key), None)

    def too_old(self) -> list[Instance]:
        """Return the instances that idled for longer than the memory that is left allows."""
        idle = self._idle()
        keys = set(to_evict(list(idle.values()), self._pressure(), self._limits.idle_ms_max))
        return [instance for instance, one in idle.items() if one.key in keys]

    def _idle(self) -> dict[Instance, Idle]:
        now = self._clock()
        found = {}
        for group in self._groups:
            idle = [one for one in reversed(group.free) if not one.running]
            kept = group.instances_min - (len(group.instances) - len(idle))
            for position, instance in enumerate(idle):
                idle_ms = (now - instance.idle_since) * 1000
                key, calls = instance.sandbox.id, instance.calls_served
                found[instance] = Idle(key, idle_ms, calls, kept=position < kept)
        return found


def is_modest(group: Group) -> bool:
    """Tell whether a group that has instances wants more for patient calls alone."""
    return bool(group.size) and group.waits_patiently
