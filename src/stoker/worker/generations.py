"""Generations: which group serves a version of a function, and what a change makes of the one before.

Owns the making and retiring of groups. Does not know calls, nor how an instance is started or ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from stoker.model.function import Function
from stoker.model.limits import Limits
from stoker.worker.following import Following
from stoker.worker.group import Group, generation_of
from stoker.worker.groups import Groups, Key, identity_of, key_of
from stoker.worker.growth import Growth
from stoker.worker.instance import Instance


class Generations:
    """One for a pool. `end` is asked to end the idle instances of a group that takes no more calls."""

    def __init__(
        self,
        groups: Groups,
        following: Following,
        growth: Growth,
        limits: Limits,
        *,
        end: Callable[[Instance], None],
        clock: Callable[[], float],
    ) -> None:
        self._groups = groups
        self._following = following
        self._growth = growth
        self._limits = limits
        self._end = end
        self._clock = clock

    def group_for(self, key: Key, function: Function) -> Group:
        """Return the living group that serves a function as it is now; `key` is the function's."""
        group = self._groups.living.get(key)
        if group is not None:
            if group.generation == generation_of(function):
                group.function = function  # another description or limit: what runs is the same
                return group
            self._retire(group)
        group = self._groups.living[key] = self.new_group(function)
        return group

    def new_group(self, function: Function) -> Group:
        """Return a group that serves nothing yet."""
        loop = asyncio.get_running_loop()
        group = Group(function, self._limits, loop, grow=self._growth.grow, clock=self._clock)
        group.tap = self._following.of(identity_of(function))
        return group

    def function_changed(self, before: Function, after: Function | None) -> None:
        """End what serves a function that is gone, or let what it has become take over.

        Where the old version had instances the new one gets as many as were busy, one at least, as far as
        spares stand ready: who calls meanwhile is not to wait for a cold start.
        """
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
        group = self.group_for(key, after)
        group.current = True
        if old is not None and old is not group:
            group.run_ms = old.run_ms
            if not old.retired:
                self._retire(old)
            self._growth.warm(group, at_once)
        self._growth.keep_minimum(group)

    def secret_changed(self, account: str, name: str) -> None:
        """Let every function that lists a secret of an account begin anew with its new value.

        As with a new version, what had instances gets some anew, and calls in flight end in the old ones.
        """
        for group in list(self._groups.living.values()):
            function = group.function
            if function.account != account or name not in (function.code.secrets or ()):
                continue
            at_once = max(1, group.busy) if group.size else 0
            self._retire(group)
            anew = self.group_for(key_of(function), function)
            anew.current, anew.run_ms = group.current, group.run_ms
            self._growth.warm(anew, at_once)
            self._growth.keep_minimum(anew)

    def _retire(self, group: Group) -> None:
        self._groups.retire(group)
        for instance in list(group.free):
            if not instance.running:
                self._end(instance)
        self._groups.drop_if_done(group)
