"""An instance with several calls at a time: what one does to the others, and whose log is whose."""

from __future__ import annotations

from stoker.model.limits import Limits
from stoker.model.outcome import EndReason
from stoker.testing.clock import in_fake_time, passed, settled
from stoker.testing.functions import a_function
from stoker.testing.sandbox import hold
from stoker.testing.worker import PoolBench


@in_fake_time
async def test_calls_share_an_instance_up_to_its_number_of_places() -> None:
    async with PoolBench(hold, spares=0) as bench:
        function = a_function(per_instance=3, max_instances=1)

        calls = [bench.submit(function) for _ in range(5)]
        await passed(1)
        (sandbox,) = bench.serving
        together = len(sandbox.calls)
        sandbox.answer(sandbox.calls[1], b'"b"')
        await settled()

        assert together == 3
        assert bench.outcome(calls[1]).result == b'"b"'
        assert [one.call_id for one in sandbox.calls] == [call.id for call in calls[:4]]


@in_fake_time
async def test_a_timeout_among_shared_calls_ends_the_others_as_lost() -> None:
    async with PoolBench(hold) as bench:
        function = a_function(per_instance=2, timeout_ms=1000, max_instances=1)
        first = bench.submit(function)
        await passed(0.5)
        second = bench.submit(function)
        await settled()
        together = len(bench.serving[0].calls)

        await passed(0.6)

        assert together == 2
        assert bench.code(first) == "function.timeout"
        assert bench.code(second) == "platform.lost"


@in_fake_time
async def test_a_caller_who_leaves_a_shared_instance_does_not_cost_the_others_their_calls() -> None:
    async with PoolBench(hold) as bench:
        function = a_function(per_instance=2, max_instances=1)
        first, second = bench.submit(function), bench.submit(function)
        await settled()
        (sandbox,) = bench.serving

        first.cancel_now()
        third = bench.submit(function)
        await settled()
        sandbox.answer(sandbox.calls[1], b"2")
        await settled()

        assert bench.outcome(first).reason is EndReason.CANCELLED
        assert bench.outcome(second).result == b"2"
        assert not sandbox.alive  # the handler of the first may still run in it
        (other,) = bench.serving
        assert [one.call_id for one in other.calls] == [third.id]


@in_fake_time
async def test_a_shared_instance_that_could_not_load_takes_no_more_calls() -> None:
    async with PoolBench(hold) as bench:
        function = a_function(per_instance=2, max_instances=1)
        calls = [bench.submit(function), bench.submit(function)]
        await settled()
        (sandbox,) = bench.serving

        sandbox.fail(sandbox.calls[0], "function.load_failed", "no export handler")
        await settled()
        third = bench.submit(function)
        sandbox.fail(sandbox.calls[1], "function.load_failed", "no export handler")
        await settled()

        assert [bench.code(call) for call in calls] == ["function.load_failed"] * 2
        assert [one.call_id for one in bench.serving[0].calls] == [third.id]


@in_fake_time
async def test_shared_calls_have_their_logs_apart_and_what_nobody_claims_goes_to_the_last() -> None:
    async with PoolBench(hold, limits=Limits(log_bytes_max=8)) as bench:
        function = a_function(per_instance=2, max_instances=1)
        first, second = bench.submit(function), bench.submit(function)
        await settled()
        (sandbox,) = bench.serving

        sandbox.log(sandbox.calls[0], b"one")
        sandbox.log(sandbox.calls[1], b"two, and too long")
        sandbox.print(b"child\n")
        sandbox.answer(sandbox.calls[1], b"2")
        sandbox.answer(sandbox.calls[0], b"1")
        await settled()

        assert (bench.outcome(first).log, bench.outcome(first).log_bytes) == (b"onechild", 9)
        assert (bench.outcome(second).log, bench.outcome(second).log_bytes) == (b"two, and", 17)


@in_fake_time
async def test_a_line_of_the_platforms_is_in_the_log_of_every_call_that_runs() -> None:
    async with PoolBench(hold) as bench:
        function = a_function(per_instance=2, max_instances=1)
        first, second = bench.submit(function), bench.submit(function)
        await settled()
        (sandbox,) = bench.serving

        sandbox.refused("refused to connect")
        for call in list(sandbox.calls):
            sandbox.answer(call, b"1")
        await settled()
        third = bench.submit(function)
        await settled()
        sandbox.answer(sandbox.calls[-1], b"1")
        await settled()

        assert bench.outcome(first).log == b"stoker: refused to connect\n"
        assert bench.outcome(second).log == b"stoker: refused to connect\n"
        assert bench.outcome(third).log == b""
