"""The queue: Async invocations, from their acceptance to the one end that is stored of each.

An invocation is accepted when it is stored; it is run at least once, tried again as its function's `retry`
says, and ends once. Functions do not wait for each other: each has a backlog of its own. Owns whose turn it
is; `attempts` knows what a turn comes to. Does not know how invocations are stored or where they run.
"""

from __future__ import annotations

import asyncio
import dataclasses
import heapq
import random as chance
from collections.abc import Callable, Iterable
from itertools import count

from msgspec.structs import replace

from stoker.catalog.catalog import Catalog
from stoker.catalog.fold import Entry, Fold
from stoker.invocation.attempts import Attempts
from stoker.invocation.backlog import Backlog
from stoker.invocation.ending import Ending
from stoker.invocation.invoker import Executor
from stoker.invocation.live import Identity, Live, LiveInvocations, Stage
from stoker.invocation.payloads import Payloads
from stoker.invocation.retry import has_expired, policy_of
from stoker.invocation.store import Notes
from stoker.invocation.tasks import Tasks
from stoker.model.call import Call
from stoker.model.clock import wall_ms
from stoker.model.errors import NotFound
from stoker.model.function import Function
from stoker.model.limits import Limits
from stoker.model.outcome import Failure, Outcome
from stoker.model.record import Accepted, Record, id_of_text

TICK_S = 0.1
"""How often a backlog looks whether there is room by now, where nothing told it so."""
LEAVING_MAX = 1_000
"""So many end at a time without having run; a deleted function may have a backlog of any length."""


class Queue:
    """One for a server. `recover` takes up what an earlier one left."""

    def __init__(
        self,
        catalog: Catalog,
        fold: Fold,
        executor: Executor,
        live: LiveInvocations,
        ending: Ending,
        limits: Limits,
        notes: Notes,
        *,
        counted: Callable[[Call, Outcome], None],
        clock: Callable[[], float],
        now_ms: Callable[[], int] = wall_ms,
        random: Callable[[], float] = chance.random,
    ) -> None:
        self._usage = catalog.usage
        self._fold = fold
        self._executor = executor
        self._live = live
        self._ending = ending
        self._clock = clock
        self._now_ms = now_ms
        self._backlogs: dict[Identity, Backlog] = {}
        self._waiting: list[tuple[float, int, Live]] = []
        """A heap, by the executor's clock at which they are due."""
        self._order = count()
        self._payloads = Payloads()
        self._tasks = Tasks()
        self._attempts = Attempts(
            catalog,
            fold,
            executor,
            self._payloads,
            ending,
            self._tasks,
            limits,
            notes,
            on_wait=self._wait,
            on_room=self._pump,
            counted=counted,
            clock=clock,
            now_ms=now_ms,
            random=random,
            is_closed=lambda: self.closed,
        )
        self._tick: asyncio.TimerHandle | None = None
        self.closed = False
        """True once nothing is begun any more: what waits is left to the next server."""

    # -- taking in -------------------------------------------------------------------------------

    def take(self, accepted: Accepted, payload: bytes | None) -> None:
        """Take an invocation that is stored; it is run when its turn comes.

        One that is here already is not taken again: what was accepted may be found in the store, by
        `recover`, before its acceptance was acknowledged.
        """
        record, due_ms = accepted.record, accepted.work.due_ms
        if self._live.find(accepted.account, record.invocation_id) is not None:
            return
        call_id = id_of_text(record.invocation_id)
        assert call_id is not None
        now_ms = self._now_ms()
        waited_s = (now_ms - max(record.created_ms, due_ms)) / 1000
        one = Live(accepted, call_id, payload, queued_at=self._clock() - waited_s, stage=Stage.WAITING)
        self._payloads.take(one)
        self._live.add(one)
        wait_s = (due_ms - now_ms) / 1000
        if wait_s > 0:
            self._wait(one, wait_s)
        else:
            self._ready(one)

    def recover(self, stored: Iterable[Accepted]) -> None:
        """Take up Async invocations that an earlier server accepted and that have not ended."""
        for accepted in sorted(stored, key=lambda one: one.record.created_ms):  # the oldest first
            accepted = counted_in(accepted)
            payload = accepted.work.payload
            self.take(accepted, None if payload is None else payload.encode())

    async def cancel(self, one: Live) -> None:
        """Return once it has ended: as cancelled, unless another end came first."""
        if self._live.find(one.accepted.account, one.accepted.record.invocation_id) is not one:
            return
        one.cancelled = True
        waiter: asyncio.Future[Record] = asyncio.get_running_loop().create_future()
        one.waiters.append(waiter)
        if one.stage in (Stage.READY, Stage.WAITING):
            self._cancel(one)
        elif one.call is not None:
            one.call.cancel_now()
        await waiter

    # -- life ------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Begin nothing more, and return when what has begun has ended."""
        self.closed = True
        while any(backlog.submitted or backlog.loading for backlog in self._backlogs.values()) or self._tasks:
            self._tasks.changed.clear()
            await self._tasks.changed.wait()

    async def close(self) -> None:
        """Stop; what has not ended stays stored as it is."""
        self.closed = True
        if self._tick is not None:
            self._tick.cancel()
        await self._tasks.close()

    @property
    def depth(self) -> int:
        """How many invocations have been accepted and have not ended."""
        return len(self._live)

    @property
    def running(self) -> int:
        """How many of its invocations an executor has."""
        return sum(backlog.submitted for backlog in self._backlogs.values())

    @property
    def oldest_ms(self) -> float:
        """How long the one has waited that waits longest for its turn; 0 if none does."""
        firsts = (backlog.first() for backlog in self._backlogs.values())
        now = self._clock()
        return max(((now - one.queued_at) * 1000 for one in firsts if one is not None), default=0.0)

    # -- waiting for a turn ----------------------------------------------------------------------

    def _ready(self, one: Live) -> None:
        backlog = self._backlogs.setdefault(one.identity, Backlog())
        backlog.add(one)
        self._pump(backlog)
        self._arm()

    def _wait(self, one: Live, wait_s: float) -> None:
        if one.cancelled:  # it was asked for while there was nothing that could be cancelled
            self._cancel(one)
            return
        one.stage = Stage.WAITING
        self._payloads.rest(one)
        one.due_at = self._clock() + wait_s
        heapq.heappush(self._waiting, (one.due_at, next(self._order), one))
        self._arm()

    def _arm(self) -> None:
        if self._tick is not None or self.closed:
            return
        if any(backlog.first() for backlog in self._backlogs.values()):
            wait_s = TICK_S
        elif self._waiting:
            wait_s = min(TICK_S, max(0.0, self._waiting[0][0] - self._clock()))
        else:
            return
        self._tick = asyncio.get_running_loop().call_later(wait_s, self._on_tick)

    def _on_tick(self) -> None:
        self._tick = None
        now = self._clock()
        while self._waiting and self._waiting[0][0] <= now:
            one = heapq.heappop(self._waiting)[2]
            if one.stage is Stage.WAITING:
                self._ready(one)
        for identity, backlog in list(self._backlogs.items()):
            self._pump(backlog)
            if backlog.idle:
                del self._backlogs[identity]
        self._arm()

    def _pump(self, backlog: Backlog) -> None:
        """Begin what there is room for, the first first."""
        if backlog.pumping:
            return  # an executor may end a call before it returns: the loop below goes on
        backlog.pumping = True
        try:
            while not self.closed and (one := backlog.first()) is not None:
                if not self._begin(one, backlog):
                    return
        finally:
            backlog.pumping = False

    def _begin(self, one: Live, backlog: Backlog) -> bool:
        """Begin the one whose turn it is, or let it leave; False if it has to wait."""
        entry = self._fold.functions.get(one.identity)
        if entry is None:
            return self._leave(backlog, "invocation.cancelled", "its function was deleted before it began")
        if has_expired(self._attempts.age_ms(one), policy_of(entry.function.retry)):
            return self._leave(backlog, "invocation.expired", "it waited longer than retry.max_age_ms")
        if not self._usage.has_room(one.accepted.account):
            return False
        function = _function_of(one, entry)
        if self._executor.room(function or entry.function) <= backlog.loading:
            return False
        backlog.take()
        one.stage = Stage.SUBMITTED
        if one.payload is None:
            backlog.loading += 1
            self._tasks.start(self._load(one, backlog))
        else:
            self._attempts.submit(one, entry, function, backlog)
        return True

    def _leave(self, backlog: Backlog, code: str, told: str) -> bool:
        if len(self._tasks) >= LEAVING_MAX:
            return False
        one = backlog.take()
        assert one is not None
        self._end_unrun(one, code, told)
        return True

    def _cancel(self, one: Live) -> None:
        self._end_unrun(one, "invocation.cancelled", "cancelled before it began")

    def _end_unrun(self, one: Live, code: str, told: str) -> None:
        one.stage = Stage.ENDING
        self._tasks.start(self._attempts.end_unrun(one, Failure(code, told), dead=False))

    async def _load(self, one: Live, backlog: Backlog) -> None:
        try:
            payload = await self._ending.payload_of(one)
        finally:
            backlog.loading -= 1
        if payload is None:
            self._live.forget(one)  # somebody else has ended it
        elif one.cancelled:
            self._cancel(one)
        else:
            self._payloads.loaded(one, payload.encode())
            backlog.put_back(one)
            self._pump(backlog)
            self._arm()


def _function_of(one: Live, entry: Entry) -> Function | None:
    """Return what one of a function's invocations runs as; None if its version is gone."""
    pinned = one.accepted.work.pinned
    try:
        return entry.function if pinned is None else entry.at_version(pinned)
    except NotFound:
        return None


def counted_in(accepted: Accepted) -> Accepted:
    """Return an invocation with the attempt counted whose end an earlier server did not see."""
    if not accepted.work.begun:
        return accepted
    record = replace(accepted.record, attempts=accepted.record.attempts + 1)
    return dataclasses.replace(accepted, record=record, work=replace(accepted.work, begun=False))
