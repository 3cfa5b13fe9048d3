"""Live invocations: what is told of those under way, and who waits for their ends."""

from __future__ import annotations

import asyncio

from stoker.invocation.backlog import Backlog
from stoker.invocation.live import Live, LiveInvocations, Stage
from stoker.model.call import Call, CallIds, text_of
from stoker.model.function import Function
from stoker.model.record import QUEUED, RUNNING, Accepted, Record, Work
from stoker.testing.clock import in_fake_time, passed, settled
from stoker.testing.functions import a_function

IDS = CallIds()


def a_live(function: Function | None = None, *, account: str = "default", attempts: int = 0) -> Live:
    """Return one that is ready."""
    function = function or a_function()
    call_id = IDS.next()
    record = Record(
        invocation_id=text_of(call_id),
        function=function.subject,
        version=1,
        invocation_type="Async",
        status=QUEUED,
        created_ms=5,
        attempts=attempts,
    )
    work = Work(topic=function.collection_topic, service=function.service)
    return Live(Accepted(account, record, work, 1), call_id, b"{}", queued_at=0.0, stage=Stage.READY)


def an_end(one: Live) -> Record:
    """Return the record of its end."""
    return Record(invocation_id="", function="", version=1, status="ok", created_ms=5, ended_ms=9)


def submit(one: Live, function: Function) -> None:
    """Let the executor have it."""
    one.stage = Stage.SUBMITTED
    one.call = Call(one.call_id, function, b"{}", queued_at=0.0, ended=lambda _call, _outcome: None)


def test_one_is_found_by_its_account_and_id_alone() -> None:
    live = LiveInvocations()
    one = a_live()
    live.add(one)

    invocation_id = one.accepted.record.invocation_id
    assert live.find("default", invocation_id) is one
    assert live.find("other", invocation_id) is None
    assert (len(live), list(live)) == (1, [one])


def test_one_that_has_not_begun_is_queued() -> None:
    function = a_function(version=3)
    one = a_live(function, attempts=1)
    assert one.record() == one.accepted.record

    submit(one, function)

    assert (one.record().status, one.record().version, one.record().attempts) == (QUEUED, 1, 1)


def test_one_that_has_begun_runs_and_tells_its_version_and_attempt() -> None:
    function = a_function(version=3)
    one = a_live(function, attempts=1)
    submit(one, function)

    one.stage, one.started_ms = Stage.BEGUN, 7

    record = one.record()
    assert (record.status, record.version, record.attempts, record.started_ms) == (RUNNING, 3, 2, 7)


def test_one_whose_end_is_being_stored_still_runs_for_all_that_is_known() -> None:
    # It was told as queued again for as long as the store took.
    function = a_function()
    one = a_live(function)
    submit(one, function)
    one.stage, one.started_ms = Stage.ENDING, 7

    assert one.record().status == RUNNING


@in_fake_time
async def test_who_waits_is_told_of_the_end_and_of_an_unknown_one_at_once() -> None:
    live = LiveInvocations()
    one = a_live()
    live.add(one)
    invocation_id = one.accepted.record.invocation_id
    waiting = [asyncio.ensure_future(live.wait("default", invocation_id, 60_000)) for _ in range(3)]
    await settled()

    end = an_end(one)
    live.ended(one, end)

    assert await asyncio.gather(*waiting) == [end] * 3
    assert await live.wait("default", invocation_id, 60_000) is None
    assert (one.waiters, len(live)) == ([], 0)


@in_fake_time
async def test_who_waits_long_enough_is_told_how_it_is_by_then() -> None:
    live = LiveInvocations()
    one = a_live()
    live.add(one)

    record = await live.wait("default", one.accepted.record.invocation_id, 500)

    assert record == one.record()
    assert asyncio.get_running_loop().time() == 1000.5
    assert one.waiters == []


@in_fake_time
async def test_an_end_in_the_very_moment_in_which_the_wait_is_over_is_told() -> None:
    live = LiveInvocations()
    one = a_live()
    live.add(one)
    end = an_end(one)
    # Set for the same moment as the timeout, which comes first and cancels nothing that is done.
    waiting = asyncio.ensure_future(live.wait("default", one.accepted.record.invocation_id, 500))
    asyncio.get_running_loop().call_at(1000.5, live.ended, one, end)

    assert await waiting == end


@in_fake_time
async def test_who_leaves_is_not_waited_for() -> None:
    live = LiveInvocations()
    one = a_live()
    live.add(one)
    waiting = asyncio.ensure_future(live.wait("default", one.accepted.record.invocation_id, 60_000))
    await settled()

    waiting.cancel()
    await settled()

    assert one.waiters == []
    live.ended(one, an_end(one))


@in_fake_time
async def test_of_one_that_is_forgotten_is_told_what_is_known() -> None:
    live = LiveInvocations()
    one = a_live()
    live.add(one)
    waiting = asyncio.ensure_future(live.wait("default", one.accepted.record.invocation_id, 60_000))
    await passed(1)

    live.forget(one)

    assert await waiting == one.accepted.record
    assert len(live) == 0


def test_a_backlog_gives_the_first_that_is_still_ready() -> None:
    backlog = Backlog()
    ones = [a_live() for _ in range(3)]
    for one in ones:
        backlog.add(one)

    ones[0].stage = Stage.ENDING

    assert backlog.first() is ones[1]
    assert [backlog.take(), backlog.take(), backlog.take()] == [ones[1], ones[2], None]
    assert backlog.idle


def test_one_that_is_put_back_has_the_next_turn() -> None:
    backlog = Backlog()
    ones = [a_live() for _ in range(2)]
    for one in ones:
        backlog.add(one)
    taken = backlog.take()
    assert taken is ones[0]

    backlog.put_back(taken)

    assert [backlog.take(), backlog.take()] == ones


def test_a_backlog_with_work_on_its_way_is_not_idle() -> None:
    loading, submitted = Backlog(), Backlog()

    loading.loading = 1
    submitted.submitted = 1

    assert [one.idle for one in (Backlog(), loading, submitted)] == [True, False, False]
