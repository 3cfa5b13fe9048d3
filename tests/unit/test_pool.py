"""The pool: which instance serves which call, what a change does, and how many there may be."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from stoker.model.errors import NoCapacity, PlatformError, StokerError
from stoker.model.launch import Exit
from stoker.model.limits import Limits
from stoker.model.outcome import EndReason
from stoker.testing.clock import in_fake_time, passed, settled
from stoker.testing.functions import a_function
from stoker.testing.sandbox import echo, hold
from stoker.testing.worker import PoolBench
from stoker.worker.eviction import Pressure

SCARCE = Pressure(available_bytes=50, total_bytes=1000)


def versions(bench: PoolBench) -> list[str]:
    """Return the version of the code in each instance that serves."""
    return [sandbox.loads[0]["function_version"] for sandbox in bench.serving]


@in_fake_time
async def test_a_call_runs_in_a_spare_that_was_given_the_code_and_the_limits() -> None:
    async with PoolBench() as bench:
        function = a_function(env_vars=("A=1", "B=x=y"))

        outcome = await bench.run(function, b'{"n":1}')

        assert outcome.result == b'{"n":1}'
        assert outcome.reason is EndReason.OK
        (sandbox,) = bench.serving
        assert sandbox.assigned is not None
        code, limits = sandbox.assigned
        assert code is not None
        assert (code.path.name, code.writable) == ("0" * 64, False)
        assert (limits.memory_bytes, limits.cpu_millis, limits.processes) == (512 * 2**20, 200, 64)
        assert sandbox.loads == [
            {
                "handler": "index.handler",
                "root": "/code",
                "env": {"A": "1", "B": "x=y"},
                "function_name": "my-function",
                "function_version": "1",
                "memory_mb": 512,
                "per_instance": 1,
                "result_bytes_max": 6 * 2**20,
            }
        ]


@in_fake_time
async def test_the_next_call_finds_the_instance_warm() -> None:
    async with PoolBench() as bench:
        function = a_function()
        await bench.run(function)

        outcome = await bench.run(function, b"2")

        assert outcome.result == b"2"
        assert outcome.timings.init_ms == 0
        assert len(bench.started) == 1


@in_fake_time
async def test_200_calls_at_once_start_as_many_instances_as_the_function_may_have() -> None:
    async with PoolBench(hold) as bench:
        function = a_function(max_instances=4)

        calls = [bench.submit(function, str(number).encode()) for number in range(200)]
        await settled()
        for sandbox in bench.started:
            sandbox.script = echo
            sandbox.answer(sandbox.calls[0], sandbox.calls[0].payload)
        await settled()

        assert len(bench.started) == 4
        assert [bench.outcome(call).result for call in calls] == [str(n).encode() for n in range(200)]


@in_fake_time
async def test_a_herd_for_a_quick_function_meets_the_spares_and_boots_nothing_for_itself() -> None:
    async with PoolBench(echo, spares=4) as bench:
        function = a_function()

        calls = [bench.submit(function) for _ in range(200)]
        await settled()

        assert all(bench.outcome(call).result == b"1" for call in calls)
        assert len(bench.started) <= 4
        assert len(bench.engine.sandboxes) <= 8


@in_fake_time
async def test_calls_that_run_long_get_more_instances_by_and_by() -> None:
    async with PoolBench(hold, spares=1) as bench:
        function = a_function(max_instances=6)

        for _ in range(6):
            bench.submit(function)
        await passed(2)

        assert len(bench.serving) == 6


# -- changes ----------------------------------------------------------------------------------------


@in_fake_time
async def test_new_code_serves_the_next_call_while_a_running_one_finishes_on_the_old() -> None:
    async with PoolBench(hold) as bench:
        old = a_function()
        new = replace(old, code=replace(old.code, version=2))
        running = bench.submit(old)
        await settled()
        (before,) = bench.serving

        bench.pool.function_changed(old, new)
        following = bench.submit(new)
        await settled()
        before.answer(before.calls[0], b'"old"')
        await settled()
        (after,) = bench.serving
        after.answer(after.calls[0], b'"new"')
        await settled()

        assert bench.outcome(running).result == b'"old"'
        assert bench.outcome(following).result == b'"new"'
        assert after.loads[0]["function_version"] == "2"
        assert not before.alive


@in_fake_time
async def test_a_change_that_does_not_touch_what_runs_keeps_the_instances() -> None:
    async with PoolBench() as bench:
        old = a_function()
        await bench.run(old)

        new = replace(old, description="said better", revision=9)
        bench.pool.function_changed(old, new)
        await bench.run(new)

        assert len(bench.started) == 1


@in_fake_time
async def test_calls_that_wait_when_the_code_changes_still_run_on_the_old() -> None:
    async with PoolBench(hold, spares=0) as bench:
        old = a_function(max_instances=1)
        calls = [bench.submit(old), bench.submit(old)]
        await passed(1)
        (sandbox,) = bench.serving
        sandbox.script = echo

        bench.pool.function_changed(old, replace(old, code=replace(old.code, version=2)))
        sandbox.answer(sandbox.calls[0], b"1")
        await settled()

        assert [bench.outcome(call).result for call in calls] == [b"1", b"1"]
        assert versions(bench) == ["2"]
        assert bench.pool._groups.retired == set()


@in_fake_time
async def test_an_old_version_whose_last_waiting_call_gives_up_is_forgotten() -> None:
    async with PoolBench(hold, limits=Limits(instances_max=1)) as bench:
        old = a_function(name="old")
        bench.submit(a_function(name="other"))
        waiting = bench.submit(old)
        await settled()

        bench.pool.function_changed(old, replace(old, code=replace(old.code, version=2)))
        await passed(6.1)

        assert waiting.has_ended
        assert bench.pool._groups.retired == set()


@in_fake_time
async def test_an_instance_on_its_way_when_the_code_changes_is_not_left_over() -> None:
    async with PoolBench(hold) as bench:
        old = a_function()
        bench.submit(old).cancel_now()  # its instance is being started

        bench.pool.function_changed(old, replace(old, code=replace(old.code, version=2)))
        await settled()

        assert versions(bench) == ["2"]
        assert bench.pool._groups.retired == set()


@in_fake_time
async def test_the_instances_of_a_deleted_function_end_the_busy_ones_after_their_call() -> None:
    async with PoolBench(hold) as bench:
        function = a_function()
        calls = [bench.submit(function), bench.submit(function)]
        await settled()
        idle, busy = bench.serving
        idle.answer(idle.calls[0], b"1")
        await settled()

        bench.pool.function_changed(function, None)
        await settled()
        gone_at_once = not idle.alive
        busy.answer(busy.calls[0], b"2")
        await settled()

        assert gone_at_once
        assert [bench.outcome(call).result for call in calls] == [b"1", b"2"]
        assert not busy.alive


@in_fake_time
async def test_min_instances_are_started_and_kept() -> None:
    async with PoolBench() as bench:
        function = a_function(min_instances=2)

        bench.pool.function_changed(function, function)
        await settled()
        at_once = len(bench.serving)
        bench.serving[0].end(Exit(code=1))
        await passed(3600)

        assert at_once == 2
        assert len(bench.serving) == 2


@in_fake_time
async def test_a_function_that_dies_when_it_is_loaded_is_not_started_as_fast_as_it_dies() -> None:
    async with PoolBench() as bench:
        function = a_function(min_instances=1)
        bench.pool.function_changed(function, function)
        await settled()

        for _ in range(20):
            for sandbox in bench.serving:
                sandbox.end(Exit(code=1))
            await passed(0.1)

        assert len(bench.started) <= 4


# -- room -------------------------------------------------------------------------------------------


@in_fake_time
async def test_an_instance_that_idled_too_long_is_ended() -> None:
    async with PoolBench(limits=Limits(idle_ms_max=60_000)) as bench:
        await bench.run(a_function())

        await passed(59)
        before = len(bench.serving)
        await passed(3)

        assert (before, len(bench.serving)) == (1, 0)
        assert bench.pool._groups.living == {}


@in_fake_time
async def test_a_full_machine_gives_the_place_of_the_longest_idle_instance_to_who_waits() -> None:
    async with PoolBench(limits=Limits(instances_max=2)) as bench:
        first, second, third = (a_function(name=name) for name in ("a", "b", "c"))
        await bench.run(first)
        await passed(0.1)
        await bench.run(second)
        await passed(0.1)

        outcome = await bench.run(third)

        assert outcome.result == b"1"
        assert [sandbox.loads[0]["function_name"] for sandbox in bench.serving] == ["b", "c"]


@in_fake_time
async def test_a_busy_instance_is_never_evicted() -> None:
    async with PoolBench(hold, limits=Limits(instances_max=1, idle_ms_max=1)) as bench:
        call = bench.submit(a_function(name="a"))
        await settled()

        bench.submit(a_function(name="b"))
        await passed(6)

        assert not call.has_ended
        assert bench.serving[0].loads[0]["function_name"] == "a"


@in_fake_time
async def test_where_memory_is_scarce_a_function_that_is_served_gets_no_second_instance() -> None:
    async with PoolBench(hold) as bench:
        idle, function = a_function(name="idle"), a_function(name="f")
        call = bench.submit(idle)
        bench.submit(function)
        await settled()
        bench.serving[0].answer(bench.serving[0].calls[0], b"1")
        await settled()

        bench.pressure = SCARCE
        bench.submit(function)
        await settled()

        assert call.has_ended
        assert [sandbox.loads[0]["function_name"] for sandbox in bench.serving] == ["f"]


@in_fake_time
async def test_min_instances_do_not_push_each_other_out_of_a_full_machine() -> None:
    async with PoolBench(limits=Limits(instances_max=1)) as bench:
        function = a_function(min_instances=2)

        bench.pool.function_changed(function, function)
        await passed(5)

        assert len(bench.started) == 1
        assert len(bench.serving) == 1


@in_fake_time
async def test_where_memory_is_scarce_nothing_idle_stays_and_nothing_new_starts() -> None:
    async with PoolBench() as bench:
        await bench.run(a_function(name="a"))
        bench.pressure = SCARCE

        await passed(2)
        left = len(bench.serving)
        call = bench.submit(a_function(name="b"))
        await passed(5.1)

        assert left == 0
        assert isinstance(bench.end(call), NoCapacity)


# -- closing ----------------------------------------------------------------------------------------


@in_fake_time
async def test_closing_ends_running_calls_as_lost_and_tells_waiting_ones_to_come_again() -> None:
    bench = PoolBench(hold, spares=0)
    async with bench:
        function = a_function(max_instances=1)
        running, waiting = bench.submit(function), bench.submit(function)
        await passed(1)

        await bench.pool.close()

        assert bench.code(running) == "platform.lost"
        assert isinstance(bench.end(waiting), NoCapacity)
        assert bench.engine.living == []


@in_fake_time
async def test_closing_in_the_middle_of_boots_and_starts_leaves_nothing_alive_and_no_call_without_end() -> (
    None
):
    bench = PoolBench(hold, spares=3)
    async with bench:
        bench.engine.held = asyncio.Event()
        calls = [bench.submit(a_function(name=str(number))) for number in range(8)]

        await bench.pool.close()

        assert bench.engine.living == []
        assert all(isinstance(bench.end(call), StokerError) for call in calls)


@in_fake_time
async def test_a_closed_pool_takes_nothing() -> None:
    async with PoolBench() as bench:
        await bench.pool.close()

        with pytest.raises(NoCapacity, match="stopping"):
            bench.submit(a_function())


@in_fake_time
async def test_a_pool_whose_runtime_does_not_boot_does_not_open() -> None:
    bench = PoolBench(spares=1)
    bench.engine.boots_failing = 1

    with pytest.raises(PlatformError, match="could not be started"):
        await bench.pool.open()

    assert bench.engine.living == []
    assert [event for event, _ in bench.notes.events] == ["boot_failed"]
