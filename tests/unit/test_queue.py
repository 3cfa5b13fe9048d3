"""The queue: every accepted invocation is run at least once and ends once, whatever is in its way."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from stoker.model.errors import NoCapacity, StokerError, StorageFull, Unavailable
from stoker.model.function import CodeVersion
from stoker.model.limits import Limits
from stoker.model.outcome import Failure
from stoker.model.record import RUNNING
from stoker.testing.catalog import ACCOUNT
from stoker.testing.clock import in_fake_time, passed, settled
from stoker.testing.invocation import a_failure, an_outcome
from stoker.testing.invocation_bench import InvocationBench

RETRY: dict[str, Any] = {"attempts": 3, "backoff_ms": 1000, "max_age_ms": 3_600_000}
KEPT: dict[str, Any] = {"store_payload": True}


# -- running and ending ----------------------------------------------------------------------------


@in_fake_time
async def test_an_accepted_invocation_runs_at_once_and_its_end_is_stored() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create(monitor_config=KEPT)

    one = await bench.accept(function, b'{"a" : 1}')
    call = bench.call(one)
    bench.end(one, an_outcome(b'"done"', log=b"hello\n"))
    await settled()

    record = bench.ended(one)
    assert (call.payload, call.caller, call.patient) == (b'{"a" : 1}', "token-1", True)
    assert (record.status, record.attempts, record.version) == ("ok", 1, 1)
    assert (record.payload, record.result, record.log) == ('{"a" : 1}', '"done"', "hello\n")
    assert record.invocation_type == "Async"
    assert bench.queue.depth == 0
    assert bench.store.letters() == []
    assert [counted for counted, _ in bench.counted] == [call]


@in_fake_time
async def test_while_it_runs_it_is_told_as_running_until_its_end_is_stored() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create()
    one = await bench.accept(function)
    live = bench.one(one)
    assert live.record().status == "queued"

    bench.executor.begin(bench.call(one))
    begun = live.record()
    bench.store.held = asyncio.Event()
    bench.executor.calls[0].end(an_outcome(b"1"))
    await settled()

    assert (begun.status, begun.attempts, begun.started_ms) == (RUNNING, 1, bench.now_ms())
    assert live.record() == begun
    bench.store.held.set()
    await settled()
    assert bench.ended(one).status == "ok"


@in_fake_time
async def test_who_waits_for_its_end_is_told_of_it_once_it_is_stored() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create(retry=RETRY)
    one = await bench.accept(function)
    waiting = asyncio.ensure_future(bench.live.wait(ACCOUNT, one, 60_000))

    bench.end(one, a_failure())
    await passed(1)
    assert not waiting.done(), "an attempt that is made again is no end"
    bench.store.held = asyncio.Event()
    bench.end(one, an_outcome(b"1"))
    await passed(1)
    assert not waiting.done()
    bench.store.held.set()

    assert await waiting == bench.ended(one)


@in_fake_time
async def test_a_result_that_does_not_fit_its_schema_ends_it_without_another_attempt() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create(schema={"output": {"type": "object"}}, retry=RETRY)

    one = await bench.accept(function)
    bench.end(one, an_outcome(b"1"))
    await settled()

    assert (bench.ended(one).code, bench.ended(one).attempts) == ("schema.output", 1)
    assert bench.store.letters() == [one]


@in_fake_time
async def test_what_fails_is_tried_again_after_a_wait_that_doubles() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create(retry=RETRY)
    one = await bench.accept(function)

    bench.end(one, a_failure())
    await passed(0.99)
    early = len(bench.executor.calls)
    await passed(0.01)
    bench.end(one, a_failure("function.timeout"))
    await passed(1.99)
    still = len(bench.executor.calls)
    await passed(0.01)

    assert (early, still, len(bench.executor.calls)) == (1, 2, 3)
    assert bench.executor.calls[2].payload == b"{}"
    assert bench.executor.calls[2].queued_at == asyncio.get_running_loop().time(), "it waited for nothing yet"
    assert bench.stored(one).attempts == 2
    assert bench.store.ends == []


@in_fake_time
async def test_what_fails_to_the_end_is_a_dead_letter_with_its_payload() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create(retry=RETRY)
    one = await bench.accept(function, b'{"n":1}', pinned=1)

    for _ in range(3):
        bench.end(one, a_failure())
        await passed(5)

    record = bench.ended(one)
    (letter,) = bench.store.dead.values()
    assert (record.status, record.code, record.attempts) == ("error", "function.error", 3)
    assert (letter.record.invocation_id, letter.payload, letter.pinned) == (one, '{"n":1}', 1)
    assert len(bench.executor.calls) == 3


@in_fake_time
async def test_an_attempt_that_succeeds_ends_it_with_all_attempts_counted() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create(retry=RETRY)
    one = await bench.accept(function)

    bench.end(one, a_failure("platform.lost"))
    await passed(1)
    second_began_ms = bench.now_ms()
    bench.end(one, an_outcome(b"1"))
    await settled()

    assert (bench.ended(one).status, bench.ended(one).attempts) == ("ok", 2)
    assert bench.ended(one).error is None
    assert bench.store.letters() == []
    assert (bench.ended(one).started_ms or 0) + 3 >= second_began_ms


@in_fake_time
async def test_a_call_that_never_began_is_no_attempt() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create(retry={**RETRY, "attempts": 1})
    one = await bench.accept(function)

    for _ in range(5):
        bench.executor.end(bench.call(one), NoCapacity("no instance"))
        await passed(1)
    bench.end(one, an_outcome(b"1"))
    await settled()

    assert (bench.ended(one).status, bench.ended(one).attempts) == ("ok", 1)
    assert len(bench.executor.calls) == 6


@in_fake_time
async def test_an_executor_that_refuses_is_asked_again() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create()
    bench.executor.refuses_with = NoCapacity("full")
    one = await bench.accept(function)
    await passed(1)
    assert bench.executor.calls == []

    bench.executor.refuses_with = None
    await passed(1)

    assert bench.submitted() == [one]
    assert bench.one(one).attempts == 0


@in_fake_time
async def test_calls_that_end_while_they_are_submitted_do_not_pile_up_on_the_stack() -> None:
    # Each end used to begin the next call from within its own submission.
    bench = InvocationBench()
    function = await bench.catalog.create()
    bench.executor.places = 0
    ids = [await bench.accept(function) for _ in range(2_000)]

    bench.executor.places = 1
    bench.executor.ends_at_once = an_outcome(b"1")
    await passed(1)

    assert bench.submitted() == ids
    assert [record.status for record in bench.store.ends] == ["ok"] * 2_000


# -- order, room, backlogs -------------------------------------------------------------------------


@in_fake_time
async def test_no_more_is_submitted_than_there_is_room_for_and_the_first_goes_first() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create()
    bench.executor.places = 2
    ids = [await bench.accept(function) for _ in range(5)]

    await passed(5)
    assert bench.submitted() == ids[:2]
    for done in range(5):
        bench.end(ids[done], an_outcome(b"1"))
        assert len(bench.executor.open) == min(2, 4 - done)

    assert bench.submitted() == ids


@in_fake_time
async def test_room_that_nobody_tells_of_is_found() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create()
    bench.executor.places = 0
    one = await bench.accept(function)
    await passed(1)

    bench.executor.places = 1
    await passed(0.2)

    assert bench.submitted() == [one]


@in_fake_time
async def test_the_backlog_of_one_function_does_not_hold_up_another() -> None:
    bench = InvocationBench()
    busy = await bench.catalog.create(name="busy")
    other = await bench.catalog.create(name="other")
    bench.executor.places = 1
    first = [await bench.accept(busy) for _ in range(50)]
    assert bench.submitted() == first[:1]

    bench.executor.places = 2
    one = await bench.accept(other)

    assert bench.submitted() == [first[0], one]


@in_fake_time
async def test_one_that_is_tried_again_stands_behind_those_that_were_ready_before_it() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create(retry=RETRY)
    bench.executor.places = 1
    failing = await bench.accept(function)
    second, third = await bench.accept(function), await bench.accept(function)

    bench.end(failing, a_failure())
    await passed(2)
    bench.end(second, an_outcome(b"1"))
    bench.end(third, an_outcome(b"1"))

    assert bench.submitted() == [failing, second, third, failing]


@in_fake_time
async def test_calls_of_a_pinned_version_take_the_room_of_that_version() -> None:
    # The pool has a group for each version: its current one tells nothing of the room of another.
    bench = InvocationBench()
    function = await bench.catalog.create()
    bench.change(function, code=_version(function.code, 2))
    bench.executor.places_of_version = {1: 1}

    pinned = [await bench.accept(function, pinned=1) for _ in range(3)]
    await passed(1)

    assert bench.submitted() == pinned[:1]


@in_fake_time
async def test_a_pinned_invocation_runs_its_version_and_others_run_the_newest() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create()
    bench.executor.places = 0
    pinned, free = await bench.accept(function, pinned=1), await bench.accept(function)

    bench.change(function, code=_version(function.code, 2))
    bench.executor.places = 2
    await passed(1)
    bench.end(pinned, an_outcome(b"1"))
    bench.end(free, an_outcome(b"1"))
    await settled()

    assert (bench.ended(pinned).version, bench.ended(free).version) == (1, 2)


@in_fake_time
async def test_one_whose_version_is_gone_ends_as_not_loadable_and_is_a_dead_letter() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create()

    one = await bench.accept(function, b'"p"', pinned=7)
    await settled()

    record = bench.ended(one)
    assert (record.code, record.attempts) == ("function.load_failed", 0)
    assert record.error is not None
    assert "version 7" in record.error.error
    assert [letter.payload for letter in bench.store.dead.values()] == ['"p"']


# -- age, deletion, replays ------------------------------------------------------------------------


@in_fake_time
async def test_one_that_waited_too_long_has_expired_and_is_no_dead_letter() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create(retry={"max_age_ms": 10_000}, monitor_config=KEPT)
    bench.executor.places = 0
    one = await bench.accept(function, b'"kept"')

    await passed(9.9)
    assert bench.store.ends == []
    await passed(0.3)

    record = bench.ended(one)
    assert (record.status, record.code, record.attempts) == ("error", "invocation.expired", 0)
    assert record.payload == '"kept"'
    assert bench.store.letters() == []
    assert bench.executor.calls == []


@in_fake_time
async def test_one_that_is_too_old_for_another_attempt_ends_as_it_failed_and_is_a_dead_letter() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create(retry={"max_age_ms": 10_000, "attempts": 9})
    one = await bench.accept(function, age_ms=9_500)

    bench.end(one, a_failure())
    await settled()

    assert (bench.ended(one).code, bench.ended(one).attempts) == ("function.error", 1)
    assert bench.store.letters() == [one]


@in_fake_time
async def test_the_deletion_of_its_function_ends_what_waits_as_cancelled() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create(retry=RETRY)
    bench.executor.places = 1
    failed, runs, waits = [await bench.accept(function) for _ in range(3)]
    bench.end(failed, a_failure())
    await settled()

    await bench.delete(function)
    await passed(2)
    bench.end(runs, an_outcome(b"1"))
    await settled()

    assert [bench.ended(one).status for one in (failed, runs, waits)] == ["cancelled", "ok", "cancelled"]
    assert (bench.ended(failed).attempts, bench.ended(waits).attempts) == (1, 0)
    assert bench.ended(failed).started_ms is not None
    assert bench.store.letters() == []
    assert bench.submitted() == [failed, runs]


@in_fake_time
async def test_a_deleted_function_may_leave_a_backlog_of_any_length() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create()
    bench.executor.places = 0
    for _ in range(2_500):
        await bench.accept(function)
    bench.store.held = asyncio.Event()

    await bench.delete(function)
    await passed(1)
    under_way = len(bench.queue._tasks)
    bench.store.held.set()
    await passed(5)

    assert under_way <= 1_000
    assert len(bench.store.ends) == 2_500


@in_fake_time
async def test_a_replay_whose_payload_does_not_fit_any_more_ends_as_that() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create(schema={"input": {"type": "object"}})

    one = await bench.accept(function, b"[1]", replay_of="an earlier one")
    await settled()

    record = bench.ended(one)
    assert (record.status, record.code, record.attempts) == ("input_schema", "schema.input", 0)
    assert record.replay_of == "an earlier one"
    assert bench.store.letters() == [one]
    assert bench.executor.calls == []


@in_fake_time
async def test_a_payload_that_was_accepted_once_is_within_the_limit_for_good() -> None:
    # It used to be held against the limit of RequestResponse, and what that raised stopped the queue.
    bench = InvocationBench(limits=_small_payloads())
    function = await bench.catalog.create(schema={"input": {"type": "string"}})

    one = await bench.accept(function, b'"longer than ten"', replay_of="an earlier one")

    assert bench.submitted() == [one]


# -- payloads in memory ----------------------------------------------------------------------------


@in_fake_time
async def test_payloads_past_the_bound_are_loaded_when_their_turn_comes_in_their_order() -> None:
    bench = InvocationBench()
    bench.queue._payloads._bytes_max = 25
    function = await bench.catalog.create()
    bench.executor.places = 0
    ids = [await bench.accept(function, b'"payload %d"' % number) for number in range(8)]
    kept = [bench.one(one).payload is not None for one in ids]

    bench.executor.places = 1
    await passed(1)
    for one in ids:
        bench.end(one, an_outcome(b"1"))
        await settled()

    assert kept == [True, True] + [False] * 6
    assert bench.submitted() == ids
    assert [call.payload for call in bench.executor.calls] == [b'"payload %d"' % n for n in range(8)]
    assert bench.store.loads == 6
    assert bench.queue._payloads.kept_bytes == 0


@in_fake_time
async def test_no_more_payloads_are_loaded_than_there_is_room_for() -> None:
    # What was loaded stood behind the others, so that a whole backlog was loaded before its first call.
    bench = InvocationBench()
    bench.queue._payloads._bytes_max = 0
    function = await bench.catalog.create()
    bench.executor.places = 3
    for _ in range(50):
        await bench.accept(function)

    await passed(5)

    assert bench.store.loads == 3
    assert len(bench.executor.open) == 3


@in_fake_time
async def test_what_waits_to_be_tried_again_holds_no_payload_past_the_bound() -> None:
    bench = InvocationBench()
    bench.queue._payloads._bytes_max = 0
    function = await bench.catalog.create(retry=RETRY)
    one = await bench.accept(function, b'"a payload"')
    await settled()

    bench.end(one, a_failure())
    await settled()
    waiting = bench.one(one)
    held = (waiting.payload, waiting.accepted.work.payload, bench.queue._payloads.kept_bytes)
    for _ in range(2):
        await passed(3)
        bench.end(one, a_failure())
    await settled()

    assert held == (None, None, 0)
    assert [letter.payload for letter in bench.store.dead.values()] == ['"a payload"']


@in_fake_time
async def test_large_payloads_stay_where_they_are_stored() -> None:
    bench = InvocationBench()
    bench.store.apart_bytes = 5
    bench.queue._payloads._bytes_max = 0
    function = await bench.catalog.create(retry={**RETRY, "attempts": 2})
    one = await bench.accept(function, b'"a large one"')

    for _ in range(2):
        await passed(2)
        bench.end(one, a_failure())
    await settled()

    assert [call.payload for call in bench.executor.calls] == [b'"a large one"'] * 2
    assert [letter.payload for letter in bench.store.dead.values()] == ['"a large one"']


@in_fake_time
async def test_a_record_keeps_its_payload_also_where_that_was_not_in_memory() -> None:
    bench = InvocationBench()
    bench.queue._payloads._bytes_max = 0
    function = await bench.catalog.create(monitor_config=KEPT)
    bench.executor.places = 0
    one = await bench.accept(function, b'"kept"')

    await bench.queue.cancel(bench.one(one))

    assert (bench.ended(one).status, bench.ended(one).payload) == ("cancelled", '"kept"')


# -- a store that is away, or changed by somebody else ---------------------------------------------


@pytest.mark.parametrize("error", [Unavailable("away"), StorageFull("full")], ids=["away", "full"])
@in_fake_time
async def test_a_store_that_fails_delays_the_end_and_loses_nothing(error: StokerError) -> None:
    bench = InvocationBench()
    function = await bench.catalog.create(retry=RETRY)
    good, bad = await bench.accept(function), await bench.accept(function)

    bench.store.fails_with = error
    bench.end(good, an_outcome(b"1"))
    bench.end(bad, a_failure())
    await passed(60)
    meanwhile = (len(bench.store.ends), bench.queue.depth, len(bench.executor.calls))
    bench.store.fails_with = None
    await passed(2)
    bench.end(bad, an_outcome(b"1"))
    await settled()

    assert meanwhile == (0, 2, 2)
    assert (bench.ended(good).status, bench.ended(good).attempts) == ("ok", 1)
    assert (bench.ended(bad).status, bench.ended(bad).attempts) == ("ok", 2)
    assert bench.notes.events


@in_fake_time
async def test_a_payload_that_cannot_be_loaded_just_now_is_loaded_later() -> None:
    bench = InvocationBench()
    bench.queue._payloads._bytes_max = 0
    function = await bench.catalog.create()
    bench.executor.places = 0
    first, second = await bench.accept(function), await bench.accept(function)
    bench.store.fails_with = Unavailable("away")
    bench.executor.places = 1
    await passed(5)
    assert bench.executor.calls == []

    bench.store.fails_with = None
    await passed(1)
    bench.end(first, an_outcome(b"1"))
    await settled()

    assert bench.submitted() == [first, second]


@in_fake_time
async def test_an_end_that_somebody_else_stored_first_is_the_only_one() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create()
    one = await bench.accept(function)

    bench.store.end_elsewhere(ACCOUNT, one)
    bench.end(one, a_failure("function.load_failed"))
    await settled()

    assert bench.ended(one).status == "ok"
    assert bench.queue.depth == 0
    assert bench.store.letters() == []
    assert bench.notes.events == []


@in_fake_time
async def test_one_that_somebody_else_ended_is_not_tried_again_nor_loaded() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create(retry=RETRY)
    bench.executor.places = 1
    failed = await bench.accept(function)
    bench.queue._payloads._bytes_max = 0
    waits = await bench.accept(function)
    bench.store.end_elsewhere(ACCOUNT, failed)
    bench.store.end_elsewhere(ACCOUNT, waits)

    bench.end(failed, a_failure())
    await passed(10)

    assert bench.submitted() == [failed]
    assert bench.queue.depth == 0
    assert bench.queue._payloads.kept_bytes == 0


# -- the end of a server, and the next one ---------------------------------------------------------


@in_fake_time
async def test_a_drain_lets_what_runs_end_and_begins_nothing() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create(retry=RETRY)
    bench.executor.places = 2
    failing, runs, waits = [await bench.accept(function) for _ in range(3)]

    drained = asyncio.ensure_future(bench.queue.drain())
    await passed(5)
    assert not drained.done()
    bench.end(failing, a_failure())
    bench.end(runs, an_outcome(b"1"))
    await drained
    await passed(10)

    assert bench.submitted() == [failing, runs]
    assert bench.ended(runs).status == "ok"
    assert {one.record.invocation_id: one.record.attempts for one in bench.store.pending()} == {
        failing: 1,
        waits: 0,
    }


@in_fake_time
async def test_a_drain_waits_for_ends_that_are_being_stored() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create()
    one = await bench.accept(function)
    bench.store.held = asyncio.Event()
    bench.end(one, an_outcome(b"1"))

    drained = asyncio.ensure_future(bench.queue.drain())
    await passed(1)
    assert not drained.done()
    bench.store.held.set()
    await drained

    assert bench.ended(one).status == "ok"


@in_fake_time
async def test_a_drain_of_nothing_ends_at_once() -> None:
    await InvocationBench().queue.drain()


@in_fake_time
async def test_a_call_that_the_end_of_the_server_cut_off_is_run_by_the_next_one() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create(retry={**RETRY, "attempts": 1})
    one = await bench.accept(function, b'"again"')
    bench.executor.begin(bench.call(one))

    bench.queue.closed = True
    bench.executor.calls[0].end(a_failure("platform.lost"))
    await settled()
    after = await bench.restarted()
    after.end(one, an_outcome(b"1"))
    await settled()

    assert after.executor.calls[0].payload == b'"again"'
    assert (after.ended(one).status, after.ended(one).attempts) == ("ok", 1)


@in_fake_time
async def test_after_a_close_nothing_is_begun_or_stored_and_the_next_server_has_it_all() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create(retry=RETRY)
    bench.executor.places = 2
    ends, runs, waits = [await bench.accept(function) for _ in range(3)]
    bench.executor.places = 1
    bench.store.fails_with = Unavailable("away")
    bench.end(ends, an_outcome(b"1"))
    await settled()

    await bench.queue.close()
    bench.store.fails_with = None
    bench.end(runs, an_outcome(b"1"))  # nobody would wait for its end to be stored
    bench.executor.places = 10
    await passed(10)
    assert bench.store.ends == []
    assert not bench.queue._tasks
    assert bench.submitted() == [ends, runs]

    after = await bench.restarted()
    assert after.submitted() == [ends, runs, waits]


@in_fake_time
async def test_what_is_due_later_is_taken_up_and_run_when_it_is_due() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create(retry={**RETRY, "backoff_ms": 60_000})
    one = await bench.accept(function)
    bench.end(one, a_failure())
    await settled()

    after = await bench.restarted()
    await passed(59)
    assert after.submitted() == []
    await passed(1.1)
    call = after.call(one)
    after.end(one, an_outcome(b"1"))
    await settled()

    assert (after.ended(one).status, after.ended(one).attempts) == ("ok", 2)
    assert asyncio.get_running_loop().time() - call.queued_at < 1, "it waited since it was due"


@in_fake_time
async def test_what_was_found_in_the_store_before_its_acceptance_was_told_is_run_once() -> None:
    # The feeder reads what is stored; a slow acknowledgement may come after it.
    bench = InvocationBench()
    function = await bench.catalog.create()
    one = await bench.accept(function, take=False)
    (accepted,) = bench.store.pending()

    bench.queue.recover([accepted])
    bench.queue.take(accepted, b"{}")
    bench.queue.recover([accepted])

    assert bench.submitted() == [one]
    assert bench.queue.depth == 1


@in_fake_time
async def test_a_failure_that_holds_no_utf_8_is_stored_all_the_same() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create()
    one = await bench.accept(function)

    bench.end(one, an_outcome(failure=Failure("function.load_failed", "half \ud83d", "\ud83d", "\ud83d")))
    await settled()

    error = bench.ended(one).error
    assert error is not None
    assert (error.error, error.error_type, error.stack) == ("half ?", "?", "?")


def _version(code: CodeVersion, version: int) -> CodeVersion:
    return replace(code, version=version)


def _small_payloads() -> Limits:
    return Limits(payload_bytes_max=10)
