"""The memory of an instance: what outcomes say of it, and how seldom it is looked up."""

from __future__ import annotations

from stoker.model.launch import Exit
from stoker.testing.clock import in_fake_time, passed, settled
from stoker.testing.functions import a_function
from stoker.testing.sandbox import hold
from stoker.testing.worker import PoolBench


@in_fake_time
async def test_the_first_call_says_what_its_instance_has_used() -> None:
    async with PoolBench() as bench:
        for sandbox in bench.engine.sandboxes:
            sandbox.memory_said = 40 << 20

        outcome = await bench.run(a_function())

        assert outcome.memory_bytes == 40 << 20


@in_fake_time
async def test_quick_calls_look_it_up_ten_times_a_second_at_most() -> None:
    async with PoolBench() as bench:
        function = a_function()
        await bench.run(function)
        (sandbox,) = bench.serving
        sandbox.memory_said = 50 << 20

        quick = [(await bench.run(function)).memory_bytes for _ in range(100)]
        looked_up = sandbox.weighed
        await passed(0.11)
        later = (await bench.run(function)).memory_bytes

        assert looked_up == 1
        assert set(quick) == {0}  # what the first call found
        assert later == 50 << 20
        assert sandbox.weighed == 2


@in_fake_time
async def test_a_long_call_always_looks_it_up() -> None:
    async with PoolBench(hold) as bench:
        function = a_function(max_instances=1)
        seen = []
        for mebibytes in (10, 20, 30):
            call = bench.submit(function)
            await passed(0.006)
            (sandbox,) = bench.serving
            sandbox.memory_said = mebibytes << 20
            sandbox.answer(sandbox.calls.pop(), b"1")
            await settled()
            seen.append(bench.outcome(call).memory_bytes)

        assert seen == [10 << 20, 20 << 20, 30 << 20]


@in_fake_time
async def test_it_never_falls() -> None:
    async with PoolBench() as bench:
        function = a_function()
        for sandbox in bench.engine.sandboxes:
            sandbox.memory_said = 40 << 20
        await bench.run(function)
        (sandbox,) = bench.serving
        sandbox.memory_said = 30 << 20  # where the kernel tells only what is used now
        await passed(1)

        assert (await bench.run(function)).memory_bytes == 40 << 20


@in_fake_time
async def test_a_death_soon_after_another_call_is_looked_up_all_the_same() -> None:
    async with PoolBench() as bench:
        function = a_function()
        await bench.run(function)
        (sandbox,) = bench.serving
        sandbox.script = hold

        call = bench.submit(function)
        await settled()
        sandbox.end(Exit(signal=9, out_of_memory=True, memory_peak_bytes=511 << 20))
        await settled()

        assert bench.outcome(call).memory_bytes == 511 << 20


@in_fake_time
async def test_an_end_for_want_of_memory_says_the_peak_that_it_ended_with() -> None:
    async with PoolBench(hold) as bench:
        call = bench.submit(a_function())
        await settled()

        bench.serving[0].end(Exit(signal=9, out_of_memory=True, memory_peak_bytes=511 << 20))
        await settled()

        assert bench.code(call) == "function.out_of_memory"
        assert bench.outcome(call).memory_bytes == 511 << 20
