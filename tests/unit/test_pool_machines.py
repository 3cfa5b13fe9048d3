"""Machines: the instances that serve a function, as others may see them."""

from __future__ import annotations

from stoker.testing.clock import in_fake_time, passed, settled
from stoker.testing.functions import a_function
from stoker.testing.sandbox import hold
from stoker.testing.worker import PoolBench


@in_fake_time
async def test_spares_are_no_machines() -> None:
    async with PoolBench(spares=3) as bench:
        assert bench.pool.machines() == []


@in_fake_time
async def test_an_instance_is_a_machine_of_its_function_with_its_limits() -> None:
    async with PoolBench() as bench:
        function = a_function()
        now_ms = int(bench.loop.time() * 1000)
        await bench.run(function)

        (machine,) = bench.pool.machines()

        (sandbox,) = bench.serving
        assert (machine.id, machine.pid) == (sandbox.id, sandbox.pid)
        assert machine.function is function
        assert (machine.runtime_version, machine.isolation) == ("24", "fake")
        assert now_ms <= machine.created_ms <= now_ms + 1000
        assert machine.memory_bytes == 512 << 20


@in_fake_time
async def test_machines_come_in_the_order_in_which_they_began_to_serve_and_go_when_they_end() -> None:
    async with PoolBench(hold) as bench:
        for name in ("c", "a", "b"):
            bench.submit(a_function(name=name))
            await passed(1)
        before = [machine.function.name for machine in bench.pool.machines()]
        numbers = [machine.number for machine in bench.pool.machines()]

        bench.serving[1].kill()
        await settled()

        assert before == ["c", "a", "b"]
        assert numbers == sorted(set(numbers))
        assert [machine.function.name for machine in bench.pool.machines()] == ["c", "b"]


@in_fake_time
async def test_an_instance_that_is_being_ended_is_no_machine_any_more() -> None:
    async with PoolBench(hold) as bench:
        call = bench.submit(a_function())
        await settled()
        (sandbox,) = bench.serving
        sandbox.kills_held = True

        call.cancel_now()
        await settled()
        listed = bench.pool.machines()
        sandbox.kills_held = False
        sandbox.kill()
        await settled()

        assert listed == []


@in_fake_time
async def test_the_figures_of_a_machine_are_its_own_and_gone_with_it() -> None:
    async with PoolBench() as bench:
        await bench.run(a_function(name="a"))
        await bench.run(a_function(name="b"))
        first, second = bench.pool.machines()

        stats = [await bench.pool.machine_stats(one.id) for one in (first, second)]
        bench.serving[0].kill()
        await settled()

        assert stats == [{"pids": {"current": int(one.id, 16), "limit": 64}} for one in (first, second)]
        assert await bench.pool.machine_stats(first.id) is None
        assert await bench.pool.machine_stats("no such one") is None
        spare = next(one for one in bench.engine.living if one.assigned is None)
        assert await bench.pool.machine_stats(spare.id) is None
