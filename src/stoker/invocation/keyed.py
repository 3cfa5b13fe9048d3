"""Keyed calls: RequestResponse with an Idempotency-Key, which runs once and is answered again as it was.

It is stored before it runs and its outcome before it is answered. One that a crash cut off has ended as
lost, and is not run again. Does not know how anything is stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from msgspec.structs import replace

from stoker.catalog.catalog import Catalog
from stoker.catalog.fold import Entry, Fold
from stoker.catalog.principal import Principal
from stoker.invocation.acceptance import REQUEST_RESPONSE, Acceptance, KeyRequest
from stoker.invocation.admission import checked
from stoker.invocation.ending import Ending
from stoker.invocation.invoker import Executor
from stoker.invocation.live import Live, LiveInvocations, Stage
from stoker.model.call import Call
from stoker.model.clock import wall_ms
from stoker.model.ended import ended_record, error_of
from stoker.model.errors import IdempotencyInProgress, StokerError
from stoker.model.outcome import Failure, Outcome, Timings
from stoker.model.record import Accepted, Keeping, KeyHolder, id_of_text, reason_of

LOST = Failure("platform.lost", "the server ended while the call ran")


class KeyedCalls:
    """One for a server."""

    def __init__(
        self,
        catalog: Catalog,
        fold: Fold,
        executor: Executor,
        acceptance: Acceptance,
        live: LiveInvocations,
        ending: Ending,
        *,
        counted: Callable[[Call, Outcome], None],
        clock: Callable[[], float],
        now_ms: Callable[[], int] = wall_ms,
    ) -> None:
        self._catalog = catalog
        self._usage = catalog.usage
        self._fold = fold
        self._executor = executor
        self._acceptance = acceptance
        self._live = live
        self._ending = ending
        self._counted = counted
        self._clock = clock
        self._now_ms = now_ms

    async def invoke(
        self,
        principal: Principal,
        entry: Entry,
        payload: bytes,
        key: KeyRequest,
        *,
        version: int | None = None,
    ) -> tuple[str, Outcome]:
        """Return the invocation's id and its outcome, which is stored; or those of the first with the key.

        Nobody's leaving cancels it: who asks again must find its outcome. Raises as `Acceptance.accept`;
        IdempotencyInProgress while the first still runs; FunctionBusy, NoCapacity or QuotaExceeded if no
        instance took it, and then the key is free again.
        """
        found = await self._acceptance.accept(
            principal, entry, payload, REQUEST_RESPONSE, version=version, key=key
        )
        if isinstance(found, KeyHolder):
            if not found.ended:
                raise IdempotencyInProgress(
                    "the first request with this Idempotency-Key still runs", retry_after_s=1
                )
            return found.invocation_id, outcome_of(found)
        try:
            return found.record.invocation_id, await self._run(found, entry, payload, version)
        finally:
            self._acceptance.settled(found)

    async def _run(self, accepted: Accepted, entry: Entry, payload: bytes, version: int | None) -> Outcome:
        call_id = id_of_text(accepted.record.invocation_id)
        assert call_id is not None
        function = entry.function if version is None else entry.at_version(version)
        contract = entry.contract or self._catalog.contract(entry)
        one = Live(accepted, call_id, payload, queued_at=self._clock(), stage=Stage.SUBMITTED)
        ended: asyncio.Future[Outcome | StokerError] = asyncio.get_running_loop().create_future()

        def began() -> None:
            one.stage = Stage.BEGUN
            one.started_ms = self._now_ms()

        def tell(_call: Call, outcome: Outcome | StokerError) -> None:
            if not ended.done():
                ended.set_result(outcome)

        call = one.call = Call(
            call_id,
            function,
            payload,
            queued_at=one.queued_at,
            ended=tell,
            caller=accepted.record.caller,
            created_ms=accepted.record.created_ms,
            began=began,
        )
        call.parent = accepted.record.parent
        self._live.add(one)
        outcome = await self._ended(call, accepted.account, ended)
        if not isinstance(outcome, Outcome):
            await self._ending.release(one)
            raise outcome
        outcome = checked(outcome, contract.output)
        self._counted(call, outcome)
        keeping = Keeping.of(function.monitor_config)
        record = ended_record(call, outcome, keeping, ended_ms=self._now_ms())
        answer = None if outcome.result is None else outcome.result.decode(errors="replace")
        await self._ending.end(one, record, keeping, answer=answer)
        return outcome

    async def _ended(
        self, call: Call, account: str, ended: asyncio.Future[Outcome | StokerError]
    ) -> Outcome | StokerError:
        """Run a call and return how it ended, or why it did not begin."""
        try:
            self._usage.begin(account)
        except StokerError as error:
            return error
        try:
            self._executor.submit(call)
            return await ended
        except StokerError as error:
            call.drop()
            return error
        finally:
            self._usage.end(account)

    async def recover(self, stored: Iterable[Accepted]) -> None:
        """End the calls that an earlier server did not: whoever asks again is told that they were lost."""
        for accepted in stored:
            call_id = id_of_text(accepted.record.invocation_id)
            assert call_id is not None
            one = Live(accepted, call_id, None, queued_at=self._clock(), stage=Stage.ENDING)
            entry = self._fold.functions.get(one.identity)
            keeping = Keeping.of({} if entry is None else entry.function.monitor_config)
            now_ms = self._now_ms()
            record = replace(
                accepted.record,
                status=reason_of(LOST.code),
                code=LOST.code,
                attempts=1,
                ended_ms=now_ms,
                error=error_of(LOST),
                payload=await self._ending.payload_of(one) if keeping.store_payload else None,
            )
            await self._ending.end(one, record, keeping)


def outcome_of(holder: KeyHolder) -> Outcome:
    """Return how a keyed call ended that was answered before."""
    failure = None
    if holder.code is not None:
        error = holder.error
        failure = Failure(
            holder.code,
            holder.code if error is None else error.error,
            None if error is None else error.error_type,
            None if error is None else error.stack,
            None if error is None else error.field,
        )
    result = None if holder.result is None else holder.result.encode()
    return Outcome(result, failure, b"", 0, Timings(0.0, 0.0, 0.0))
