"""Keyed calls: one runs once, whoever asks how often, and is answered again as it was."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stoker.catalog.fold import Entry
from stoker.invocation.acceptance import KeyRequest
from stoker.model.call import text_of
from stoker.model.errors import (
    FunctionBusy,
    IdempotencyConflict,
    IdempotencyInProgress,
    NoCapacity,
    StokerError,
    StorageFull,
    Unavailable,
)
from stoker.model.outcome import END_REASON_OF_CODE, Failure, Outcome
from stoker.model.record import RUNNING, Accepted
from stoker.testing.catalog import ACCOUNT
from stoker.testing.clock import in_fake_time, passed, settled
from stoker.testing.invocation import an_outcome
from stoker.testing.invocation_bench import PRINCIPAL, InvocationBench

KEY = KeyRequest("order-7", b'{"payload":"{}"}')
OTHER_BODY = KeyRequest("order-7", b'{"payload":"[]"}')
Answer = tuple[str, Outcome]


class Desk(InvocationBench):
    """With one function."""

    async def with_function(self, **changes: Any) -> Desk:
        await self.catalog.create(**changes)
        return self

    @property
    def entry(self) -> Entry:
        return self.catalog.entry()

    def ask(self, key: KeyRequest = KEY, payload: bytes = b"{}", **asked: Any) -> asyncio.Task[Answer]:
        return asyncio.ensure_future(self.keyed.invoke(PRINCIPAL, self.entry, payload, key, **asked))

    async def answered(self, outcome: Outcome, **asked: Any) -> Answer:
        """Ask, and let the call end."""
        asking = self.ask(**asked)
        await settled()
        self.executor.end(self.executor.calls[-1], outcome)
        return await asking

    async def after_a_crash(self) -> Desk:
        """Return the next server, as a start leaves it."""
        other = Desk(catalog=self.catalog, store=self.store)
        await other.keyed.recover(self.store.pending())
        return other

    def interrupted(self) -> Accepted:
        """Return the one that has not ended."""
        (one,) = self.store.pending()
        return one


@in_fake_time
async def test_a_call_runs_once_it_is_stored_and_is_answered_once_its_outcome_is() -> None:
    desk = await Desk().with_function(monitor_config={"store_payload": True})
    desk.store.held = asyncio.Event()
    asking = desk.ask(payload=b'"p"')
    await passed(1)
    assert desk.executor.calls == []
    desk.store.held.set()
    await settled()
    call = desk.executor.calls[0]

    desk.store.held.clear()
    desk.executor.end(call, an_outcome(b'"done"', log=b"line\n"))
    await passed(1)
    assert not asking.done()
    desk.store.held.set()
    invocation_id, outcome = await asking

    assert invocation_id == text_of(call.id)
    assert outcome.result == b'"done"'
    record = desk.ended(invocation_id)
    assert (record.status, record.attempts, record.invocation_type) == ("ok", 1, "RequestResponse")
    assert (record.payload, record.result, record.log) == ('"p"', '"done"', "line\n")
    assert (call.payload, call.patient, call.caller) == (b'"p"', False, "token-1")
    assert desk.counted == [(call, outcome)]
    assert len(desk.live) == 0


@in_fake_time
async def test_while_it_runs_it_is_told_as_running_and_the_key_is_in_progress() -> None:
    desk = await Desk().with_function()
    asking = desk.ask()
    await settled()
    desk.executor.begin(desk.executor.calls[0])

    (live,) = desk.live
    assert (live.record().status, live.record().attempts) == (RUNNING, 1)
    with pytest.raises(IdempotencyInProgress) as refused:
        await desk.ask()
    assert refused.value.retry_after_s == 1
    with pytest.raises(IdempotencyConflict):
        await desk.ask(OTHER_BODY)

    desk.executor.calls[0].end(an_outcome(b"1"))
    await asking
    with pytest.raises(IdempotencyConflict):
        await desk.ask(OTHER_BODY)
    assert len(desk.executor.calls) == 1


@in_fake_time
async def test_fifty_at_once_run_one_call_and_all_are_answered_alike_in_the_end() -> None:
    desk = await Desk().with_function()
    asking = [desk.ask() for _ in range(50)]
    await settled()
    desk.executor.end(desk.executor.calls[0], an_outcome(b"1"))

    found = await asyncio.gather(*asking, return_exceptions=True)
    later = await asyncio.gather(*(desk.ask() for _ in range(49)))

    assert sum(isinstance(one, IdempotencyInProgress) for one in found) == 49
    (first,) = [one for one in found if not isinstance(one, BaseException)]
    assert {(invocation_id, outcome.result) for invocation_id, outcome in later} == {(first[0], b"1")}
    assert len(desk.executor.calls) == 1


@in_fake_time
async def test_an_outcome_is_answered_again_after_a_restart_too() -> None:
    desk = await Desk().with_function()
    first = await desk.answered(an_outcome(b'{"n": 1}'))

    again = await desk.ask()
    after = await desk.after_a_crash()
    later = await after.ask()

    assert again[0] == later[0] == first[0]
    assert [answer[1].result for answer in (again, later)] == [b'{"n": 1}'] * 2
    assert (after.executor.calls, len(desk.executor.calls)) == ([], 1)


@pytest.mark.parametrize("code", sorted(END_REASON_OF_CODE))
@in_fake_time
async def test_a_failure_is_an_outcome_that_is_answered_again_and_is_not_run_again(code: str) -> None:
    desk = await Desk().with_function()
    failure = Failure(code, "boom", "TypeError", "at a\nat b", "/n")
    first = await desk.answered(an_outcome(failure=failure))

    again = await desk.ask()

    assert (again[0], again[1].failure) == (first[0], failure)
    assert again[1].result is None
    assert len(desk.executor.calls) == 1
    assert desk.store.letters() == [], "only an Async one is a dead letter"


@in_fake_time
async def test_a_result_that_does_not_fit_its_schema_is_answered_again_as_that() -> None:
    desk = await Desk().with_function(schema={"output": {"type": "object"}})

    first = await desk.answered(an_outcome(b"1"))
    again = await desk.ask()

    assert first[1].failure is not None
    assert again[1].failure == first[1].failure
    assert first[1].failure.code == "schema.output"


@in_fake_time
async def test_a_version_that_was_asked_for_is_the_one_that_runs() -> None:
    desk = await Desk().with_function()

    await desk.answered(an_outcome(b"1"), version=1)

    assert desk.executor.calls[0].function is desk.entry.at_version(1)


# -- what never ran --------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("error", [FunctionBusy("busy"), NoCapacity("full")], ids=["busy", "full"])
@in_fake_time
async def test_a_key_is_free_again_if_no_instance_took_the_call(error: StokerError, at_once: bool) -> None:
    desk = await Desk().with_function()
    desk.executor.refuses_with = error if at_once else None
    asking = desk.ask()
    await settled()
    if not at_once:
        desk.executor.calls[0].end(error)

    with pytest.raises(type(error)):
        await asking
    desk.executor.refuses_with = None
    _, outcome = await desk.answered(an_outcome(b"1"))

    assert outcome.result == b"1"
    assert len(desk.store.ends) == 1
    assert len(desk.live) == 0


@in_fake_time
async def test_a_key_is_free_again_also_where_that_could_not_be_stored_at_once() -> None:
    # Its key was in progress, and it live, until the next start.
    desk = await Desk().with_function()
    asking = desk.ask()
    await settled()
    desk.store.fails_with = Unavailable("away")
    desk.executor.calls[0].end(NoCapacity("full"))
    await passed(5)
    assert not asking.done()

    desk.store.fails_with = None
    with pytest.raises(NoCapacity):
        await asking
    _, outcome = await desk.answered(an_outcome(b"1"))

    assert outcome.result == b"1"
    assert len(desk.live) == 0


@in_fake_time
async def test_one_that_is_refused_before_it_is_stored_leaves_nothing() -> None:
    desk = await Desk().with_function()
    desk.store.fails_next.append(StorageFull("full"))

    with pytest.raises(StorageFull):
        await desk.ask()

    assert (desk.executor.calls, len(desk.live), desk.store.keys) == ([], 0, {})


# -- a store that is away, clients that leave, crashes ---------------------------------------------


@in_fake_time
async def test_a_store_that_is_away_delays_the_answer() -> None:
    desk = await Desk().with_function()
    asking = desk.ask()
    await settled()
    desk.store.fails_with = Unavailable("away")
    desk.executor.end(desk.executor.calls[0], an_outcome(b"1"))
    await passed(60)
    assert not asking.done()

    desk.store.fails_with = None

    assert (await asking)[1].result == b"1"
    assert len(desk.store.ends) == 1


@in_fake_time
async def test_an_outcome_that_is_stored_though_that_could_not_be_told_is_answered_all_the_same() -> None:
    desk = await Desk().with_function()
    asking = desk.ask()
    await settled()
    desk.store.answers_lost = 1
    desk.executor.end(desk.executor.calls[0], an_outcome(b"1"))

    invocation_id, outcome = await asking
    again = await desk.ask()

    assert outcome.result == b"1"
    assert again == (invocation_id, again[1])
    assert again[1].result == b"1"
    assert len(desk.store.ends) == 1


@in_fake_time
async def test_an_end_after_its_asker_is_gone_disturbs_nobody() -> None:
    # Doors do not cancel it; the end of a server does.
    desk = await Desk().with_function()
    asking = desk.ask()
    await settled()

    asking.cancel()
    await settled()
    desk.executor.end(desk.executor.calls[0], an_outcome(b"1"))
    await settled()

    assert desk.interrupted().record.invocation_id == text_of(desk.executor.calls[0].id)
    with pytest.raises(IdempotencyInProgress):
        await desk.ask()


@in_fake_time
async def test_a_call_that_a_crash_cut_off_ends_as_lost_and_is_answered_so_and_not_run() -> None:
    desk = await Desk().with_function(monitor_config={"store_payload": True})
    cut_off = desk.ask(payload=b'"p"')
    await settled()
    invocation_id = desk.interrupted().record.invocation_id

    after = await desk.after_a_crash()
    answer = await after.ask()

    failure = answer[1].failure
    assert failure is not None
    assert (answer[0], failure.code) == (invocation_id, "platform.lost")
    record = after.ended(invocation_id)
    assert (record.status, record.attempts, record.payload) == ("lost", 1, '"p"')
    assert record.ended_ms is not None
    assert after.executor.calls == []
    with pytest.raises(IdempotencyConflict):
        await after.ask(OTHER_BODY)
    cut_off.cancel()


@in_fake_time
async def test_a_large_payload_is_kept_in_the_record_of_a_lost_call() -> None:
    desk = await Desk().with_function(monitor_config={"store_payload": True})
    desk.store.apart_bytes = 5
    cut_off = desk.ask(payload=b'"a large one"')
    await settled()
    invocation_id = desk.interrupted().record.invocation_id

    after = await desk.after_a_crash()

    assert after.ended(invocation_id).payload == '"a large one"'
    cut_off.cancel()


@in_fake_time
async def test_a_lost_call_of_a_deleted_function_ends_as_well() -> None:
    desk = await Desk().with_function()
    cut_off = desk.ask()
    await settled()
    await desk.catalog.catalog.delete_function(ACCOUNT, desk.entry)

    after = await desk.after_a_crash()

    assert [record.status for record in after.store.ends] == ["lost"]
    assert after.store.pending() == []
    cut_off.cancel()


@in_fake_time
async def test_recovery_waits_for_a_store_that_is_away() -> None:
    desk = await Desk().with_function()
    cut_off = desk.ask()
    await settled()
    desk.store.fails_with = Unavailable("away")

    recovering = asyncio.ensure_future(desk.after_a_crash())
    await passed(5)
    assert not recovering.done()
    desk.store.fails_with = None
    await recovering

    assert [record.status for record in desk.store.ends] == ["lost"]
    cut_off.cancel()
