"""A group: who waits for an instance, for how long, and who leaves."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from stoker.model.errors import FunctionBusy, NoCapacity, PlatformError
from stoker.model.launch import Exit
from stoker.model.limits import Limits
from stoker.model.outcome import EndReason
from stoker.testing.clock import in_fake_time, passed, settled
from stoker.testing.functions import a_function
from stoker.testing.sandbox import echo, hold
from stoker.testing.worker import PoolBench


@in_fake_time
async def test_a_function_whose_own_instances_stay_busy_is_busy() -> None:
    async with PoolBench(hold) as bench:
        function = a_function(max_instances=1)
        bench.submit(function)

        waiting = bench.submit(function)
        await passed(4.9)
        early = waiting.has_ended
        await passed(0.2)

        assert not early
        end = bench.end(waiting)
        assert isinstance(end, FunctionBusy)
        assert end.retry_after_s == 1


@in_fake_time
async def test_a_call_waits_no_longer_than_its_timeout() -> None:
    async with PoolBench(hold) as bench:
        bench.submit(a_function(max_instances=1, timeout_ms=60_000))

        other = a_function(max_instances=1, timeout_ms=60_000)
        waiting = bench.submit(replace(other, code=replace(other.code, timeout_ms=60_000)))
        await passed(6)

        assert bench.code(waiting) == "function.busy"


@in_fake_time
async def test_a_short_timeout_bounds_the_wait_for_an_instance() -> None:
    async with PoolBench(hold, spares=0) as bench:
        bench.engine.held = held = asyncio.Event()
        bench.engine.sandboxes[0].end(Exit(code=0))  # the spare of the start
        call = bench.submit(a_function(timeout_ms=200))

        await passed(0.25)
        held.set()

        assert bench.code(call) == "no_capacity"


@in_fake_time
async def test_a_machine_that_is_full_has_no_capacity() -> None:
    async with PoolBench(hold, limits=Limits(instances_max=1)) as bench:
        bench.submit(a_function(name="one"))

        other = bench.submit(a_function(name="other"))
        same = bench.submit(a_function(name="one"))
        await passed(5.1)

        assert isinstance(bench.end(other), NoCapacity)
        assert isinstance(bench.end(same), NoCapacity)  # it is the machine's limit, not the function's


@in_fake_time
async def test_too_many_waiting_calls_are_refused_at_once() -> None:
    async with PoolBench(hold, limits=Limits(waiting_calls_max=2)) as bench:
        function = a_function(max_instances=1)
        for _ in range(2):
            bench.submit(function)
        await settled()
        bench.submit(function)

        with pytest.raises(FunctionBusy, match="wait for an instance already"):
            bench.submit(function)


@in_fake_time
async def test_waiting_calls_are_served_in_the_order_they_came() -> None:
    async with PoolBench(hold, spares=0) as bench:
        function = a_function(max_instances=1)
        calls = [bench.submit(function) for _ in range(3)]
        await passed(1)
        (sandbox,) = bench.serving
        sandbox.script = echo

        sandbox.answer(sandbox.calls[0], b"1")
        await settled()

        assert [call for call, _ in bench.ends] == calls


@in_fake_time
async def test_a_runtime_that_is_not_here_is_refused_and_nothing_waits() -> None:
    async with PoolBench() as bench:
        with pytest.raises(PlatformError, match="python does not run here"):
            bench.submit(a_function(runtime="python"))

        await passed(10)
        assert bench.ends == []


# -- cancelling -------------------------------------------------------------------------------------


@in_fake_time
async def test_a_call_cancelled_while_it_waits_ends_as_cancelled_and_never_runs() -> None:
    async with PoolBench(hold, spares=0) as bench:
        function = a_function(max_instances=1)
        bench.submit(function)
        waiting = bench.submit(function)
        await passed(1)

        waiting.cancel_now()
        (sandbox,) = bench.serving
        sandbox.answer(sandbox.calls[0], b"1")
        await passed(10)

        assert bench.outcome(waiting).reason is EndReason.CANCELLED
        assert len(sandbox.calls) == 1


@in_fake_time
async def test_callers_that_come_and_go_do_not_pile_up_in_the_queue() -> None:
    async with PoolBench(hold, limits=Limits(waiting_calls_max=10)) as bench:
        function = a_function(max_instances=1)
        bench.submit(function)
        await settled()

        for _ in range(1000):
            bench.submit(function).cancel_now()

        (group,) = bench.pool._groups.living.values()
        assert len(group._waiting) == 0


@in_fake_time
async def test_a_running_call_that_is_cancelled_loses_its_instance_and_frees_the_place() -> None:
    async with PoolBench(hold) as bench:
        function = a_function(max_instances=1)
        call = bench.submit(function)
        waiting = bench.submit(function)
        await settled()
        (sandbox,) = bench.serving

        call.cancel_now()
        await settled()

        assert bench.outcome(call).reason is EndReason.CANCELLED
        assert not sandbox.alive
        (other,) = bench.serving
        assert [one.call_id for one in other.calls] == [waiting.id]


@in_fake_time
async def test_a_call_that_has_ended_cannot_be_cancelled() -> None:
    async with PoolBench() as bench:
        call = bench.submit(a_function())
        await settled()

        call.cancel_now()
        await settled()

        assert bench.outcome(call).reason is EndReason.OK
        assert len(bench.serving) == 1
