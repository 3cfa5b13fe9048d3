"""A group: the instances of one function version, and the calls that wait for them.

Owns the queue and who is free. Does not know how an instance is started: it asks `grow` for more.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from stoker.model.call import Call
from stoker.model.errors import FunctionBusy, NoCapacity
from stoker.model.function import Function
from stoker.model.limits import Limits
from stoker.worker.instance import Instance
from stoker.worker.running import cancelled_before_it_began, patience_end
from stoker.worker.tail import Tap

FIRST_MS = 50.0
"""A first call that has run for so long tells that its function is not a quick one."""
UNUSUAL_MS = 250.0
"""A later one that has run for so long, and for five times as long as usual, says more than those before it.
Less may be a pause of the machine, and to boot instances would prolong that."""
QUICK_MS = 1.0
"""A call that runs no longer is a quick one."""
STEADY_CALLS = 64
"""So many quick and silent calls in a row make a function one whose calls may be sent ahead."""
BEYOND = 3
"""Patient calls that may wait beyond the places there are."""
STEADY_MAX = 256
SLOW_WEIGHT = 16
"""What one slow call takes back."""
AHEAD_MAX = 16
"""Calls in one instance that wait for their turn."""
AHEAD_BYTES_MAX = 2048
"""Payloads that are sent ahead: 16 of them and the words that ask them back are read by a shim at a time."""
AHEAD_MS = 0.3
"""How long a call may wait for its turn in a busy instance although an idle one stands by."""


class Group:
    """One generation of a function: what it runs and under which limits never changes."""

    def __init__(
        self,
        function: Function,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
        *,
        grow: Callable[[Group], None],
        clock: Callable[[], float],
    ) -> None:
        self.function = function
        self.generation = generation_of(function)
        self.instances: set[Instance] = set()
        self.free: list[Instance] = []
        """Those with a slot, the last used last: the rest may grow old and be ended."""
        self.starting = 0
        self.retired = False
        """True once a newer generation serves: it ends what it has and starts nothing idle."""
        self.current = False
        """True once it is known to run the function's newest version: others keep no instances ready."""
        self.tap: Tap | None = None
        """Who follows what its calls print."""
        self.run_ms: float | None = None
        self._steady = 0
        """About how many calls in a row were quick, ended well and printed nothing."""
        self._waiting: OrderedDict[Call, asyncio.TimerHandle] = OrderedDict()
        """The longest waiting first, each with the timer that ends its patience. Who leaves is out at once:
        callers that come and go must not pile up here."""
        self._patient: OrderedDict[Call, None] = OrderedDict()
        """Those whose turn comes once nobody else waits, the longest waiting first."""
        self._limits = limits
        self._loop = loop
        self._grow = grow
        self._clock = clock

    @property
    def waiting(self) -> int:
        """How many calls wait."""
        return len(self._waiting) + len(self._patient)

    @property
    def waits_patiently(self) -> bool:
        """Whether calls wait, and all of them are patient."""
        return bool(self._patient) and not self._waiting

    @property
    def size(self) -> int:
        """Instances that it has or that are on their way."""
        return len(self.instances) + self.starting

    @property
    def instances_max(self) -> int:
        """How many it may have: the function's own limit, else the machine's."""
        highest = self.function.concurrency.max_instances
        return self._limits.instances_max if highest is None else highest

    @property
    def instances_min(self) -> int:
        """How many it is to keep ready."""
        return self.function.concurrency.min_instances if self.current and not self.retired else 0

    @property
    def busy(self) -> int:
        """How many instances run a call."""
        return sum(1 for instance in self.instances if instance.running)

    @property
    def room(self) -> int:
        """How many more patient calls are worth giving to it now.

        As many as find a place, and a few that wait, so that it is seen that more instances are of use; never
        more in all than the function may have at once.
        """
        per_instance = self.function.concurrency.per_instance
        places = sum(instance.slots for instance in self.instances) + self.starting * per_instance
        running = sum(len(instance.running) for instance in self.instances)
        left = self.instances_max * per_instance - running - self.waiting
        return max(0, min(places + BEYOND - self.waiting, left))

    def submit(self, call: Call) -> None:
        """Run the call in a free instance, or let it wait. Raises FunctionBusy if too many wait."""
        is_next = not self._waiting and not (call.patient and self._patient)
        if is_next and self._may_go_ahead(call):
            instance = self._worth_lining_up()
            if instance is not None:
                instance.run(call)
                return
        while is_next and self.free:
            instance = self.free[-1]
            if instance.slots <= 1:
                self.free.pop()
            if instance.slots > 0:
                instance.run(call)
                return
        if not call.patient and len(self._waiting) >= self._limits.waiting_calls_max:
            raise FunctionBusy(
                f"{len(self._waiting)} calls of this function wait for an instance already", retry_after_s=1
            )
        self._wait(call)
        self._grow(self)

    def _may_go_ahead(self, call: Call) -> bool:
        return (
            self._steady >= STEADY_CALLS and len(call.payload) <= AHEAD_BYTES_MAX and self.tap is None
        )  # what a call prints is told to followers at once: it must be clear whose it is

    def _worth_lining_up(self) -> Instance | None:
        """Return a busy instance in which the call waits for its turn, if that is better than all else.

        For quick calls it is: the instance takes the next one without a word from us in between, many are
        sent and answered at a time, and fewer processes contend for the cores. Only where calls have run
        quickly and printed nothing for a while, and only so many that their wait stays short.
        """
        run_ms = max(self.run_ms or QUICK_MS, 0.02)
        most = AHEAD_MAX if not self.free else min(AHEAD_MAX, int(AHEAD_MS / run_ms))
        best, room = None, 0
        for instance in self.instances:
            left = instance.room_ahead(most)
            if left > room:
                best, room = instance, left
        return best

    def _wait(self, call: Call) -> None:
        if call.patient:
            self._patient[call] = None
        else:
            left_s = max(0.0, patience_end(call, self._limits) - self._clock())
            self._waiting[call] = self._loop.call_later(left_s, self._give_up, call)
        call.cancel = partial(self._cancel, call)

    def _give_up(self, call: Call) -> None:
        if self._leave(call):
            self._refuse(call)

    def _refuse(self, call: Call) -> None:
        waited_ms = round((patience_end(call, self._limits) - call.queued_at) * 1000)
        highest = self.function.concurrency.max_instances
        if highest is not None and self.size >= highest:
            told = f"all {highest} instances that the function may have were busy for {waited_ms} ms"
            call.end(FunctionBusy(told, retry_after_s=1))
        else:
            call.end(NoCapacity(f"no instance became free within {waited_ms} ms", retry_after_s=1))

    def _cancel(self, call: Call) -> None:
        if self._leave(call):
            told = "the call was cancelled while it waited for an instance"
            call.end(cancelled_before_it_began(call, told, self._clock()))

    def _leave(self, call: Call) -> bool:
        if call in self._patient:
            del self._patient[call]
        elif (timer := self._waiting.pop(call, None)) is not None:
            timer.cancel()
        else:
            return False
        call.cancel = None
        return True

    def _first(self) -> Call | None:
        return next(iter(self._waiting or self._patient), None)

    def take_waiting(self) -> Call | None:
        """Return the call whose turn it is, out of the queue; None if none waits.

        That is the one that waits longest, a patient one only if no other does.
        """
        call = self._first()
        if call is not None:
            self._leave(call)
        return call

    def offer(self, instance: Instance) -> None:
        """Give the instance what waits; what is left of it is free."""
        while instance.slots > 0:
            call = self.take_waiting()
            if call is None:
                if instance not in self.free:
                    self.free.append(instance)
                return
            instance.run(call)
        while (call := self._first()) is not None and self._may_go_ahead(call):
            if instance.room_ahead(AHEAD_MAX) <= 0:
                return
            self._leave(call)
            instance.run(call)

    def returned(self, call: Call) -> None:
        """Take back a call that was sent ahead and did not begin: it is the first in the queue again.

        One whose patience is over is told so.
        """
        self._steady = 0
        if self._clock() >= patience_end(call, self._limits):
            self._refuse(call)
            return
        self._wait(call)
        if call.patient:
            self._patient.move_to_end(call, last=False)
        else:
            self._waiting.move_to_end(call, last=False)
        self._wake_idle()
        self._grow(self)

    def _wake_idle(self) -> None:
        """Give what waits to an instance that became idle when nothing did: nobody else would tell it."""
        while self.free and self._first() is not None:
            instance = self.free.pop()
            self.offer(instance)

    def observe(self, instance: Instance) -> None:
        """Learn from a call that ended how long calls run."""
        seen = instance.last_run_ms
        if not instance.last_was_silent:
            self._steady = 0
        elif seen > QUICK_MS:  # it, or we: an event loop that was busy with something else counts as well
            self._steady = max(0, self._steady - SLOW_WEIGHT)
        else:
            self._steady = min(self._steady + 1, STEADY_MAX)
        if self.run_ms is None:
            self.run_ms = seen
            return
        # Quickly down, slowly up: under load a call takes longer because others do, and more instances
        # would only make that worse. What it takes when nothing is in its way tells whether it waits.
        self.run_ms += (seen - self.run_ms) * (0.3 if seen < self.run_ms else 0.01)

    def forget(self, instance: Instance) -> None:
        """Take an instance out that is gone or going."""
        self.instances.discard(instance)
        if instance in self.free:
            self.free.remove(instance)

    def longest_run_ms(self, now: float) -> float | None:
        """Return how long calls run if undisturbed, or the age of the oldest one if that is unusual.

        None while no call has ended and none has run for unusually long.
        """
        oldest = min(
            (running.started for one in self.instances for running in one.running.values()), default=now
        )
        age_ms = (now - oldest) * 1000
        usual_ms = FIRST_MS if self.run_ms is None else max(UNUSUAL_MS, 5 * self.run_ms)
        if age_ms > usual_ms:
            return age_ms
        return self.run_ms


def generation_of(function: Function) -> tuple[object, ...]:
    """Return what a change of makes running instances stale."""
    return (function.code, function.memory_bytes, function.name, function.concurrency.per_instance)
