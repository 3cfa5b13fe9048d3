"""Versions in the pool: called side by side, replaced while calls flow, deleted together."""

from __future__ import annotations

from dataclasses import replace

from stoker.model.function import Function
from stoker.model.launch import Exit
from stoker.model.limits import Limits
from stoker.testing.clock import in_fake_time, passed, settled
from stoker.testing.functions import a_function
from stoker.testing.sandbox import echo, hold
from stoker.testing.worker import PoolBench


def at_version(function: Function, version: int) -> Function:
    return replace(function, code=replace(function.code, version=version))


def versions(bench: PoolBench) -> list[str]:
    return sorted(sandbox.loads[0]["function_version"] for sandbox in bench.serving)


@in_fake_time
async def test_two_versions_called_in_turn_keep_their_instances() -> None:
    async with PoolBench() as bench:
        one = a_function()
        two = at_version(one, 2)

        for _ in range(5):
            await bench.run(one)
            await bench.run(two)

        assert len(bench.started) == 2
        assert versions(bench) == ["1", "2"]


@in_fake_time
async def test_a_new_version_has_an_instance_before_the_next_call_if_the_old_one_had() -> None:
    async with PoolBench() as bench:
        old = a_function()
        new = at_version(old, 2)
        await bench.run(old)

        bench.pool.function_changed(old, new)
        await settled()
        ready = versions(bench)
        outcome = await bench.run(new)

        assert ready == ["2"]
        assert outcome.timings.init_ms == 0
        assert len(bench.started) == 2


@in_fake_time
async def test_a_new_version_gets_as_many_instances_as_were_busy_as_far_as_spares_stand_ready() -> None:
    async with PoolBench(hold, spares=4) as bench:
        old = a_function()
        for _ in range(3):
            bench.submit(old)
        await passed(1)  # the spares are there again
        busy = versions(bench)

        bench.pool.function_changed(old, at_version(old, 2))
        await settled()

        assert busy == ["1", "1", "1"]
        assert versions(bench) == ["1", "1", "1", "2", "2", "2"]


@in_fake_time
async def test_a_new_version_of_a_function_that_nobody_calls_starts_nothing() -> None:
    async with PoolBench() as bench:
        old = a_function()

        bench.pool.function_changed(old, at_version(old, 2))
        await settled()

        assert bench.started == []


@in_fake_time
async def test_no_call_fails_for_fifty_updates_while_calls_flow() -> None:
    async with PoolBench(hold, spares=2) as bench:
        current = a_function(max_instances=4)
        calls = []
        for version in range(2, 52):
            calls += [bench.submit(current) for _ in range(6)]
            await passed(0.02)
            before, current = current, at_version(current, version)
            bench.pool.function_changed(before, current)
            for sandbox in bench.serving:
                for call in sandbox.calls:
                    sandbox.answer(call, sandbox.loads[0]["function_version"].encode())
                sandbox.calls.clear()
        for sandbox in bench.engine.sandboxes:
            sandbox.script = echo
        bench.engine.script = echo
        for _ in range(20):
            await passed(0.2)
            for sandbox in bench.serving:
                for call in sandbox.calls:
                    sandbox.answer(call, b"1")
                sandbox.calls.clear()

        assert {bench.code(call) for call in calls} == {None}
        assert set(versions(bench)) <= {"51"}
        assert bench.pool._groups.retired == set()


@in_fake_time
async def test_min_instances_are_those_of_the_newest_version() -> None:
    async with PoolBench() as bench:
        old = a_function(min_instances=1)
        new = at_version(old, 2)
        bench.pool.function_changed(old, old)
        await settled()

        bench.pool.function_changed(old, new)
        await passed(2)
        newest = versions(bench)
        pinned = await bench.run(old)
        await passed(Limits().idle_ms_max / 1000 + 2)

        assert newest == ["2"]
        assert pinned.result == b"1"
        assert versions(bench) == ["2"]


@in_fake_time
async def test_an_old_version_can_be_called_again_after_it_was_replaced() -> None:
    async with PoolBench() as bench:
        old = a_function()
        new = at_version(old, 2)
        await bench.run(old)
        bench.pool.function_changed(old, new)
        await settled()

        outcome = await bench.run(old)

        assert outcome.result == b"1"
        assert versions(bench) == ["1", "2"]


@in_fake_time
async def test_a_deleted_function_loses_the_instances_of_all_its_versions_and_of_no_other() -> None:
    async with PoolBench() as bench:
        one, other = a_function(), a_function(name="other")
        two = at_version(one, 2)
        for function in (one, two, other):
            await bench.run(function)

        bench.pool.function_changed(two, None)
        await settled()

        assert [sandbox.loads[0]["function_name"] for sandbox in bench.serving] == ["other"]
        assert bench.pool._groups.retired == set()


@in_fake_time
async def test_a_change_of_memory_warms_the_new_instances_too() -> None:
    async with PoolBench() as bench:
        old = a_function()
        await bench.run(old)

        new = replace(old, memory_bytes=2 * old.memory_bytes)
        bench.pool.function_changed(old, new)
        await settled()

        assert [one.loads[0]["memory_mb"] for one in bench.serving] == [new.memory_bytes >> 20]


@in_fake_time
async def test_where_the_machine_is_full_a_new_version_takes_the_place_of_no_other_function() -> None:
    async with PoolBench(hold, limits=Limits(instances_max=2)) as bench:
        old, other = a_function(), a_function(name="other")
        bench.submit(old)
        idle = bench.submit(other)
        await settled()
        for sandbox in bench.serving:
            if sandbox.calls[0].call_id == idle.id:
                sandbox.answer(sandbox.calls[0], b"1")
        await settled()

        bench.pool.function_changed(old, at_version(old, 2))
        await settled()

        assert sorted(one.loads[0]["function_name"] for one in bench.serving) == ["my-function", "other"]


@in_fake_time
async def test_a_warmed_instance_that_dies_is_forgotten() -> None:
    async with PoolBench() as bench:
        old = a_function()
        await bench.run(old)
        bench.pool.function_changed(old, at_version(old, 2))
        await settled()

        bench.serving[0].end(Exit(code=1))
        await passed(2)

        assert bench.serving == []
        assert bench.pool._groups.living == {}
