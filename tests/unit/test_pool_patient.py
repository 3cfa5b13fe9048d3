"""Patient calls: how many are worth submitting, how they wait, and that nobody waits behind them."""

from __future__ import annotations

import asyncio

import pytest

from stoker.model.call import Call
from stoker.model.errors import NoCapacity
from stoker.model.launch import Exit
from stoker.model.limits import Limits
from stoker.model.outcome import EndReason
from stoker.testing.clock import in_fake_time, passed, settled
from stoker.testing.functions import a_function
from stoker.testing.sandbox import FakeSandbox, hold
from stoker.testing.worker import PoolBench
from stoker.worker.eviction import Pressure
from stoker.worker.group import AHEAD_BYTES_MAX, BEYOND, STEADY_CALLS


def answer_all(bench: PoolBench) -> None:
    for sandbox in bench.serving:
        answer_one(sandbox)


def answer_one(sandbox: FakeSandbox) -> None:
    for call in list(sandbox.calls):
        sandbox.calls.remove(call)
        sandbox.answer(call, b"1")


# -- waiting ----------------------------------------------------------------------------------------


@in_fake_time
async def test_a_patient_call_waits_longer_than_any_caller_would() -> None:
    async with PoolBench(hold) as bench:
        function = a_function(max_instances=1, timeout_ms=900_000)
        bench.submit(function)
        call = bench.submit(function, patient=True)

        await passed(800)
        waited = not call.has_ended
        answer_all(bench)
        await settled()
        answer_all(bench)
        await settled()

        assert waited
        assert bench.outcome(call).result == b"1"
        assert bench.outcome(call).timings.queue_ms == pytest.approx(800_000)


@in_fake_time
async def test_who_is_impatient_goes_first_whoever_came_first() -> None:
    async with PoolBench(hold, spares=0) as bench:
        function = a_function(max_instances=1)
        bench.submit(function)
        patient = [bench.submit(function, patient=True) for _ in range(2)]
        impatient = [bench.submit(function) for _ in range(2)]
        await passed(1)

        for _ in range(5):
            answer_all(bench)
            await settled()

        assert [call for call, _ in bench.ends][1:] == [*impatient, *patient]


@in_fake_time
async def test_a_caller_goes_ahead_of_a_patient_call_that_cannot() -> None:
    async with PoolBench() as bench:
        function = a_function(max_instances=1)
        for _ in range(STEADY_CALLS + 1):
            await bench.run(function)
        (sandbox,) = bench.serving
        sandbox.script = hold
        bench.submit(function)
        bench.submit(function, b'"' + b"x" * AHEAD_BYTES_MAX + b'"', patient=True)

        bench.submit(function)
        await settled()

        assert len(sandbox.ahead) == 1


@in_fake_time
async def test_no_number_of_waiting_calls_refuses_a_patient_one_nor_do_these_count() -> None:
    async with PoolBench(hold, limits=Limits(waiting_calls_max=1)) as bench:
        function = a_function(max_instances=1)
        bench.submit(function)
        await settled()

        waiting = [bench.submit(function, patient=True) for _ in range(5)]
        waiting.append(bench.submit(function))
        waiting.append(bench.submit(function, patient=True))

        assert not any(call.has_ended for call in waiting)


@in_fake_time
async def test_a_patient_call_that_waits_can_be_cancelled() -> None:
    async with PoolBench(hold) as bench:
        function = a_function(max_instances=1)
        bench.submit(function)
        call = bench.submit(function, patient=True)
        await settled()

        call.cancel_now()
        answer_all(bench)
        await settled()

        assert bench.outcome(call).reason is EndReason.CANCELLED
        assert bench.serving[0].calls == []


@in_fake_time
async def test_closing_tells_patient_calls_that_wait_to_come_again() -> None:
    async with PoolBench(hold) as bench:
        function = a_function(max_instances=1)
        bench.submit(function)
        call = bench.submit(function, patient=True)
        await settled()

        await bench.pool.close()

        assert isinstance(bench.end(call), NoCapacity)
        assert bench.pool.room(function) == 0


@pytest.mark.parametrize("deaf", [False, True])
@in_fake_time
async def test_a_patient_call_sent_ahead_waits_on_whether_it_is_given_back_or_not(deaf: bool) -> None:
    async with PoolBench() as bench:
        function = a_function(max_instances=1, timeout_ms=60_000)
        for _ in range(STEADY_CALLS + 1):
            await bench.run(function)
        (sandbox,) = bench.serving
        sandbox.script = hold
        sandbox.calls.clear()
        sandbox.deaf_to_revoke = deaf
        began: list[bool] = []

        bench.submit(function)
        call = bench.submit(function, patient=True, began=lambda: began.append(True))
        await settled()
        ahead = len(sandbox.ahead)
        await passed(30)  # the call before it turned out to be a long one
        waited = (call.has_ended, list(began))
        answer_one(sandbox)
        await settled()
        answer_one(sandbox)
        await settled()

        assert ahead == 1
        assert waited == (False, [])
        assert began == [True]
        assert bench.outcome(call).result == b"1"


# -- room -------------------------------------------------------------------------------------------


@in_fake_time
async def test_a_function_without_instances_has_room_for_a_few() -> None:
    async with PoolBench() as bench:
        assert bench.pool.room(a_function()) == BEYOND
        assert bench.pool.room(a_function(max_instances=1)) == 1
        assert bench.pool.room(a_function(max_instances=1, per_instance=2)) == 2


@in_fake_time
async def test_a_function_has_room_for_its_places_and_a_few_that_let_it_grow() -> None:
    async with PoolBench(hold) as bench:
        function = a_function()
        bench.submit(function)
        bench.submit(function)
        await settled()
        answer_one(bench.serving[0])
        await settled()

        rooms = [bench.pool.room(function)]
        for _ in range(2):
            bench.submit(function, patient=True)
            await passed(1)
            rooms.append(bench.pool.room(function))

        # one free and one busy; one more runs; one more runs in a new instance
        assert rooms == [1 + BEYOND, BEYOND, BEYOND]
        assert len(bench.serving) == 3


@in_fake_time
async def test_calls_that_wait_take_up_the_room() -> None:
    async with PoolBench(hold, spares=0) as bench:
        bench.engine.held = asyncio.Event()
        bench.engine.sandboxes[0].end(Exit(code=0))  # the spare of the start
        await settled()
        function = a_function()
        rooms = []
        for _ in range(5):
            rooms.append(bench.pool.room(function))
            bench.submit(function, patient=True)
        bench.engine.held.set()

        assert rooms == [BEYOND, BEYOND, BEYOND - 1, BEYOND - 2, 0]  # one instance is on its way


@in_fake_time
async def test_a_function_at_its_limit_has_room_for_what_may_run_at_once_and_no_more() -> None:
    async with PoolBench(hold) as bench:
        function = a_function(max_instances=2, per_instance=2)
        rooms = []
        for _ in range(5):
            rooms.append(bench.pool.room(function))
            bench.submit(function, patient=True)
            await settled()

        assert rooms == [3, 3, 2, 1, 0]


@in_fake_time
async def test_a_backlog_fed_by_room_grows_to_the_limit_and_leaves_a_caller_the_next_turn() -> None:
    async with PoolBench(hold, spares=1) as bench:
        function = a_function(max_instances=4)
        left = 200
        most = 0
        caller: Call | None = None
        for turn in range(100):
            fed = min(left, bench.pool.room(function))
            left -= fed
            for _ in range(fed):
                bench.submit(function, patient=True)
            if turn == 50:
                caller = bench.submit(function)
            await passed(0.5)
            most = max(most, len(bench.serving))
            if turn == 51:
                assert caller is not None
                assert caller.has_ended
            answer_all(bench)
            await settled()

        assert left == 0
        assert most == 4
        assert len(bench.ends) == 201


# -- others -----------------------------------------------------------------------------------------


@in_fake_time
async def test_a_backlog_leaves_a_part_of_the_machine_to_others() -> None:
    async with PoolBench(hold, limits=Limits(instances_max=8)) as bench:
        backlog, other = a_function(), a_function(name="other")
        for _ in range(40):
            for _ in range(bench.pool.room(backlog)):
                bench.submit(backlog, patient=True)
            await passed(0.3)
        taken = len(bench.serving)

        call = bench.submit(other)
        await settled()
        answer_one(next(one for one in bench.serving if one.loads[0]["function_name"] == "other"))
        await settled()

        assert taken == 6
        assert bench.outcome(call).result == b"1"


@in_fake_time
async def test_a_backlog_ends_no_idle_instance_of_another_function() -> None:
    async with PoolBench(hold, limits=Limits(instances_max=4)) as bench:
        idle, backlog = a_function(name="idle"), a_function()
        call = bench.submit(idle)
        await settled()
        answer_all(bench)
        await settled()
        for _ in range(20):
            for _ in range(bench.pool.room(backlog)):
                bench.submit(backlog, patient=True)
            await passed(0.3)

        names = sorted(one.loads[0]["function_name"] for one in bench.serving)

        assert call.has_ended
        assert names == ["idle", "my-function", "my-function"]


@pytest.mark.parametrize("patient", [False, True])
@in_fake_time
async def test_where_nothing_is_left_a_backlog_gives_way_as_soon_as_one_of_its_calls_ends(
    patient: bool,
) -> None:
    async with PoolBench(hold, limits=Limits(instances_max=1)) as bench:
        backlog, other = a_function(), a_function(name="other")
        for _ in range(3):
            bench.submit(backlog, patient=True)
        await settled()
        call = bench.submit(other, patient=patient)
        await settled()
        before = [one.loads[0]["function_name"] for one in bench.serving]

        answer_all(bench)  # one call of the backlog ends
        await settled()
        after = [one.loads[0]["function_name"] for one in bench.serving]
        answer_all(bench)
        await settled()

        assert (before, after) == (["my-function"], ["other"])
        assert bench.outcome(call).result == b"1"


@in_fake_time
async def test_a_backlog_goes_on_after_it_gave_way() -> None:
    async with PoolBench(hold, limits=Limits(instances_max=1)) as bench:
        backlog = a_function()
        calls = [bench.submit(backlog, patient=True) for _ in range(3)]
        await settled()
        bench.submit(a_function(name="other"))

        for _ in range(20):
            await passed(0.1)
            answer_all(bench)
            await settled()

        assert [bench.outcome(call).result for call in calls] == [b"1"] * 3


@in_fake_time
async def test_where_memory_is_scarce_a_backlog_gives_way_too() -> None:
    async with PoolBench(hold) as bench:
        backlog, other = a_function(), a_function(name="other")
        for _ in range(6):
            bench.submit(backlog, patient=True)
        await settled()
        bench.pressure = Pressure(available_bytes=50, total_bytes=1000)
        call = bench.submit(other)
        await settled()
        early = [one.loads[0]["function_name"] for one in bench.serving]

        answer_one(bench.serving[0])
        await settled()
        answer_one(next(one for one in bench.serving if one.loads[0]["function_name"] == "other"))
        await settled()

        assert "other" not in early
        assert bench.outcome(call).result == b"1"


# -- beginnings -------------------------------------------------------------------------------------


@in_fake_time
async def test_a_beginning_is_told_once_when_the_call_begins_and_not_while_it_waits() -> None:
    async with PoolBench(hold) as bench:
        function = a_function(max_instances=1)
        began: list[str] = []
        bench.submit(function, began=lambda: began.append("first"))
        bench.submit(function, patient=True, began=lambda: began.append("second"))
        at_once = list(began)
        await settled()
        first = list(began)
        answer_all(bench)
        await settled()
        second = list(began)
        answer_all(bench)
        await settled()

        assert (at_once, first, second, began) == ([], ["first"], ["first", "second"], second)


@in_fake_time
async def test_a_call_sent_ahead_begins_when_its_turn_comes() -> None:
    async with PoolBench() as bench:
        function = a_function(max_instances=1)
        for _ in range(STEADY_CALLS + 1):
            await bench.run(function)
        (sandbox,) = bench.serving
        sandbox.script = hold
        sandbox.calls.clear()
        began: list[str] = []
        bench.submit(function, began=lambda: began.append("first"))
        bench.submit(function, began=lambda: began.append("second"))
        await settled()
        before = (list(began), len(sandbox.ahead))

        sandbox.answer(sandbox.calls[0], b"1")
        await settled()

        assert before == (["first"], 1)
        assert began == ["first", "second"]


@in_fake_time
async def test_a_call_that_was_asked_back_has_begun_for_certain_only_once_it_answers() -> None:
    async with PoolBench() as bench:
        function = a_function(max_instances=1)
        for _ in range(STEADY_CALLS + 1):
            await bench.run(function)
        (sandbox,) = bench.serving
        sandbox.script = hold
        sandbox.calls.clear()
        sandbox.deaf_to_revoke = True
        told: list[str] = []
        bench.submit(function)
        call = bench.submit(function, began=lambda: told.append("began"))
        await passed(0.05)  # the call before it turned out to be a long one
        asked_back = list(sandbox.revokes)

        answer_one(sandbox)
        await settled()
        before = list(told)
        answer_one(sandbox)
        await settled()

        assert asked_back == [call.id]
        assert before == []
        assert told == ["began"]
        assert bench.outcome(call).result == b"1"


@in_fake_time
async def test_a_call_that_never_begins_is_not_told_to_have_begun() -> None:
    async with PoolBench(hold) as bench:
        function = a_function(max_instances=1)
        began: list[bool] = []
        bench.submit(function)
        call = bench.submit(function, began=lambda: began.append(True))

        await passed(6)

        assert bench.code(call) == "function.busy"
        assert began == []


@in_fake_time
async def test_whoever_fails_at_hearing_a_beginning_does_not_cost_the_call_its_end() -> None:
    def broken() -> None:
        raise RuntimeError("the ledger has a bug")

    async with PoolBench() as bench:
        call = bench.submit(a_function(), began=broken)
        await settled()

        assert bench.outcome(call).result == b"1"
        assert [str(problem["exception"]) for problem in bench.problems] == ["the ledger has a bug"]
        bench.problems.clear()
