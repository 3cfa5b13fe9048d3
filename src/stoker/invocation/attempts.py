"""Attempts: an Async invocation that an executor runs once, and what came of it: its end, or one more try.

Does not know whose turn it is, nor how long the others wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgspec.structs import replace

from stoker.catalog.catalog import Catalog
from stoker.catalog.fold import Entry, Fold
from stoker.invocation.admission import admit, checked, input_failure
from stoker.invocation.backlog import Backlog
from stoker.invocation.ending import Ending
from stoker.invocation.invoker import Executor
from stoker.invocation.keyed import LOST
from stoker.invocation.live import Live, Stage
from stoker.invocation.logs import EARLIER_LOG_BYTES_MAX, with_earlier
from stoker.invocation.payloads import Payloads
from stoker.invocation.retry import Again, after_attempt, policy_of
from stoker.invocation.store import Notes
from stoker.invocation.tasks import Tasks
from stoker.model.call import Call
from stoker.model.ended import ended_record, error_of
from stoker.model.errors import InputRejected, StokerError
from stoker.model.function import Function
from stoker.model.limits import Limits
from stoker.model.outcome import Failure, Outcome
from stoker.model.record import Keeping, Record, reason_of

BEGUN_STORED_S = 0.25
"""An attempt that runs for so long is stored as one that began: it counts also if it takes the server along.
Quicker ones are not worth a write each."""
NOT_RUN_S = 0.25
"""After a call that no instance took."""


class Attempts:
    """One for a queue.

    `on_wait(one, wait_s)` is told of one that is to wait for its next attempt, `on_room(backlog)` of a
    backlog of which the executor has one fewer. Once `is_closed()`, what is lost with its instance is left to
    the next server.
    """

    def __init__(
        self,
        catalog: Catalog,
        fold: Fold,
        executor: Executor,
        payloads: Payloads,
        ending: Ending,
        tasks: Tasks,
        limits: Limits,
        notes: Notes,
        *,
        on_wait: Callable[[Live, float], None],
        on_room: Callable[[Backlog], None],
        counted: Callable[[Call, Outcome], None],
        clock: Callable[[], float],
        now_ms: Callable[[], int],
        random: Callable[[], float],
        is_closed: Callable[[], bool],
    ) -> None:
        self._catalog = catalog
        self._usage = catalog.usage
        self._fold = fold
        self._executor = executor
        self._payloads = payloads
        self._ending = ending
        self._tasks = tasks
        self._limits = limits
        self._notes = notes
        self._on_wait = on_wait
        self._on_room = on_room
        self._counted = counted
        self._clock = clock
        self._now_ms = now_ms
        self._random = random
        self._is_closed = is_closed

    def age_ms(self, one: Live) -> int:
        """Return how long ago one was accepted."""
        return max(0, self._now_ms() - one.accepted.record.created_ms)

    def submit(self, one: Live, entry: Entry, function: Function | None, backlog: Backlog) -> None:
        """Begin one whose turn it is, as `function`; None if its version is gone. Its payload is here."""
        assert one.payload is not None
        record = one.accepted.record
        if function is None:
            told = f"its function has no version {one.accepted.work.pinned} any more"
            self._tasks.start(self.end_unrun(one, Failure("function.load_failed", told), dead=True))
            return
        if record.attempts >= policy_of(function.retry).attempts:  # the last one took the server with it
            self._tasks.start(self.end_unrun(one, LOST, dead=True))
            return
        contract = entry.contract or self._catalog.contract(entry)
        try:
            if record.replay_of is not None and not record.attempts:
                admit(contract, one.payload, len(one.payload))  # its size was within the limit once
        except InputRejected as error:
            self._tasks.start(self.end_unrun(one, input_failure(error), dead=True))
            return

        account = one.accepted.account

        def ended(call: Call, outcome: Outcome | StokerError) -> None:
            backlog.submitted -= 1
            self._usage.end(account)
            if isinstance(outcome, Outcome):
                outcome = checked(outcome, contract.output)
                self._counted(call, outcome)
            self._tasks.start(self._finish(one, call, outcome))
            self._on_room(backlog)
            self._tasks.changed.set()

        def began() -> None:
            one.stage = Stage.BEGUN
            one.started_ms = self._now_ms()
            asyncio.get_running_loop().call_later(BEGUN_STORED_S, self._note_begun, one, call)

        call = Call(
            one.call_id,
            function,
            one.payload,
            queued_at=one.queued_at,
            ended=ended,
            caller=record.caller,
            created_ms=record.created_ms,
            patient=True,
            began=began,
        )
        call.replay_of = record.replay_of
        call.parent = record.parent
        one.call, one.started_ms = call, None
        backlog.submitted += 1
        self._usage.begin(account)
        try:
            self._executor.submit(call)
        except StokerError:
            if call.drop():
                backlog.submitted -= 1
                self._usage.end(account)
                self._not_run(one)

    async def end_unrun(self, one: Live, failure: Failure, *, dead: bool) -> None:
        """Store the end of one that no instance has in hand."""
        stored = one.accepted.record
        entry = self._fold.functions.get(one.identity)
        keeping = Keeping.of({} if entry is None else entry.function.monitor_config)
        now_ms = self._now_ms()
        record = replace(
            stored,
            status=reason_of(failure.code),
            code=failure.code,
            ended_ms=now_ms,
            queue_ms=float(now_ms - stored.created_ms),
            init_ms=0.0,
            run_ms=0.0,
            error=error_of(failure),
            payload=await self._ending.payload_of(one) if keeping.store_payload else None,
        )
        await self._end(one, record, keeping, dead=dead)

    def _note_begun(self, one: Live, call: Call) -> None:
        """Store that an attempt has begun, so that it counts also if this server does not see its end."""
        if one.call is call and one.stage is Stage.BEGUN and one.noting is None:
            one.noting = self._tasks.start(self._store_begun(one))

    async def _store_begun(self, one: Live) -> None:
        self._payloads.restore(one)
        await self._ending.note_begun(one, replace(one.accepted.work, begun=True))
        self._payloads.stored(one)

    async def _finish(self, one: Live, call: Call, outcome: Outcome | StokerError) -> None:
        """Store what an attempt came to: the end, or that it is tried again."""
        if one.noting is not None:
            await asyncio.wait([one.noting])
            one.noting = None
        if not isinstance(outcome, Outcome):  # it never began, which is no attempt
            self._notes.warning(
                "call_not_run", invocation=one.accepted.record.invocation_id, reason=outcome.message
            )
            self._not_run(one)
            return
        function = call.function
        failure = outcome.failure
        code = None if failure is None else failure.code
        if self._is_closed() and code == "platform.lost":
            self._not_run(one)  # the server ended the instance: the next one runs it again
            return
        attempts = one.attempts + (failure is None or one.started_ms is not None)
        step = after_attempt(code, attempts, self.age_ms(one), policy_of(function.retry), self._random)
        if isinstance(step, Again):
            await self._again(one, attempts, step.wait_ms, outcome)
            return
        keeping = Keeping.of(function.monitor_config)
        record = ended_record(
            call, outcome, keeping, ended_ms=self._now_ms(), invocation_type="Async", attempts=attempts
        )
        record = with_earlier(record, one.accepted.record, outcome, attempts, self._limits.log_bytes_max)
        if one.started_ms is None:  # it was cancelled before it began, perhaps not for the first time
            record = replace(record, started_ms=one.accepted.record.started_ms)
        await self._end(one, record, keeping, dead=step.dead)

    def _not_run(self, one: Live) -> None:
        one.call = None
        self._on_wait(one, NOT_RUN_S)

    async def _again(self, one: Live, attempts: int, wait_ms: int, outcome: Outcome) -> None:
        self._payloads.restore(one)
        stored = one.accepted.record
        record = replace(stored, attempts=attempts, started_ms=one.started_ms)
        record = with_earlier(record, stored, outcome, attempts, EARLIER_LOG_BYTES_MAX)
        work = replace(one.accepted.work, due_ms=self._now_ms() + wait_ms, begun=False)
        if await self._ending.wait_again(one, record, work):
            self._payloads.stored(one)
            one.queued_at = self._clock() + wait_ms / 1000
            self._on_wait(one, wait_ms / 1000)
        else:
            self._payloads.let_go(one)

    async def _end(self, one: Live, record: Record, keeping: Keeping, *, dead: bool) -> None:
        dead_until_ms = self._now_ms() + self._limits.dead_letter_ms_max if dead else None
        if dead:
            self._payloads.restore(one)
        await self._ending.end(one, record, keeping, dead_until_ms=dead_until_ms)
        self._payloads.let_go(one)
