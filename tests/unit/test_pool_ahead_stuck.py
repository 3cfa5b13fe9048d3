"""Calls sent ahead into an instance that then does not come to them: they do not wait for ever, nor run twice."""

from __future__ import annotations

from stoker.model.call import Call
from stoker.model.errors import FunctionBusy, StokerError
from stoker.model.function import Function
from stoker.model.outcome import EndReason
from stoker.testing.clock import in_fake_time, passed, settled
from stoker.testing.functions import a_function
from stoker.testing.sandbox import FakeSandbox, hold
from stoker.testing.worker import PoolBench
from stoker.worker.group import AHEAD_BYTES_MAX, STEADY_CALLS

REVOKED = 0x16


async def known_as_quick(bench: PoolBench, function: Function) -> FakeSandbox:
    """Have the function called until its calls are known to be quick and silent; hold what comes next."""
    for _ in range(STEADY_CALLS + 1):
        await bench.run(function)
    (sandbox,) = bench.serving
    sandbox.script = hold
    sandbox.calls.clear()
    return sandbox


def submitted(bench: PoolBench, function: Function, count: int) -> list[Call]:
    return [bench.submit(function, str(number).encode()) for number in range(count)]


@in_fake_time
async def test_a_call_behind_one_that_blocks_the_whole_instance_waits_no_longer_than_any_other() -> None:
    # A handler that computes or sleeps without a word hears no revocation before it has done.
    async with PoolBench() as bench:
        function = a_function(max_instances=1, timeout_ms=600_000)
        sandbox = await known_as_quick(bench, function)
        sandbox.deaf_to_revoke = True
        first, second, third = submitted(bench, function, 3)

        await passed(4.9)
        early = second.has_ended
        await passed(0.2)

        assert not early
        assert isinstance(bench.end(second), FunctionBusy)
        assert isinstance(bench.end(third), FunctionBusy)
        assert not first.has_ended


@in_fake_time
async def test_a_call_behind_one_that_times_out_runs_in_the_next_instance() -> None:
    async with PoolBench() as bench:
        function = a_function(max_instances=1, timeout_ms=1000)
        sandbox = await known_as_quick(bench, function)
        sandbox.deaf_to_revoke = True
        first = bench.submit(function)
        await passed(0.005)
        second = bench.submit(function)

        await passed(1.1)

        assert bench.outcome(first).reason is EndReason.TIMEOUT
        assert bench.outcome(second).result == b"1"
        assert len(bench.started) == 2


@in_fake_time
async def test_a_call_that_gave_up_inside_an_instance_has_one_end_though_it_runs_in_the_end() -> None:
    async with PoolBench() as bench:
        function = a_function(max_instances=1, timeout_ms=600_000)
        sandbox = await known_as_quick(bench, function)
        sandbox.deaf_to_revoke = True
        first, second = submitted(bench, function, 2)
        await passed(6)

        sandbox.answer(sandbox.calls[0], b"0")
        await settled()
        sandbox.answer(sandbox.calls[1], b"1")
        third = bench.submit(function, b"2")
        await settled()
        sandbox.answer(sandbox.calls[-1], b"2")
        await settled()

        assert bench.outcome(first).result == b"0"
        assert isinstance(bench.end(second), StokerError)
        assert bench.outcome(third).result == b"2"


@in_fake_time
async def test_a_call_that_is_taken_back_goes_on_waiting_from_when_it_came() -> None:
    async with PoolBench(hold) as bench:
        function = a_function(max_instances=1, timeout_ms=600_000)
        for box in bench.engine.sandboxes:
            box.script = lambda sandbox, call: sandbox.answer(call, b"1")
        await known_as_quick(bench, function)
        _, second = submitted(bench, function, 2)

        await passed(5.01)

        assert isinstance(bench.end(second), FunctionBusy)


@in_fake_time
async def test_a_stuck_call_is_asked_back_once_and_not_over_and_over() -> None:
    # The words lie in the buffers of the wire for as long as the instance does not read.
    async with PoolBench() as bench:
        function = a_function(max_instances=1, timeout_ms=600_000)
        sandbox = await known_as_quick(bench, function)
        sandbox.deaf_to_revoke = True
        submitted(bench, function, 4)

        await passed(30)

        assert len(sandbox.revokes) == 3


@in_fake_time
async def test_nothing_is_sent_ahead_into_an_instance_whose_call_has_run_long() -> None:
    async with PoolBench() as bench:
        function = a_function(max_instances=2, timeout_ms=600_000)
        sandbox = await known_as_quick(bench, function)
        bench.submit(function)
        await passed(0.05)

        call = bench.submit(function)
        await passed(1)

        assert len(sandbox.ahead) == 0
        assert bench.outcome(call).result == b"1"


@in_fake_time
async def test_a_large_payload_is_not_sent_ahead() -> None:
    # It would fill the wire of an instance that does not read, and part a revocation from its call.
    async with PoolBench() as bench:
        function = a_function(max_instances=1)
        sandbox = await known_as_quick(bench, function)
        bench.submit(function)

        large = bench.submit(function, b'"' + b"x" * AHEAD_BYTES_MAX + b'"')
        small = bench.submit(function, b"2")
        await settled()
        inside = len(sandbox.ahead)
        for _ in range(3):
            sandbox.answer(sandbox.calls[-1], b"1")
            await settled()

        assert inside == 0
        assert bench.outcome(large).result == b"1"
        assert bench.outcome(small).result == b"1"  # in its order


@in_fake_time
async def test_an_instance_cannot_give_back_a_call_that_was_not_sent_ahead() -> None:
    # It would be run again elsewhere, and again, by a function that gives back whatever it gets.
    async with PoolBench(hold) as bench:
        call = bench.submit(a_function())
        await settled()
        (sandbox,) = bench.serving

        sandbox.send(REVOKED, sandbox.calls[0].call_id, b"")
        await settled()
        again = len(bench.started)
        sandbox.answer(sandbox.calls[0], b"1")
        await settled()

        assert again == 1
        assert bench.outcome(call).result == b"1"


@in_fake_time
async def test_an_instance_that_gives_back_every_call_sent_ahead_is_not_tried_for_ever() -> None:
    async with PoolBench() as bench:
        function = a_function(max_instances=1)
        sandbox = await known_as_quick(bench, function)
        sandbox.deaf_to_revoke = True
        _, second = submitted(bench, function, 2)
        await settled()

        for _ in range(100):
            for call in list(sandbox.ahead):
                sandbox.ahead.remove(call)
                sandbox.send(REVOKED, call.call_id, b"")
            await passed(0.1)

        assert isinstance(bench.end(second), StokerError)


@in_fake_time
async def test_the_log_of_a_failed_call_is_its_own_though_the_next_has_run_before_its_limits_are_known() -> (
    None
):
    async with PoolBench() as bench:
        function = a_function(max_instances=1)
        sandbox = await known_as_quick(bench, function)
        sandbox.asked = bench.loop.create_future()
        first, second = submitted(bench, function, 2)
        await settled()

        sandbox.print(b"of the first\n")
        sandbox.fail(sandbox.calls[0], "function.error", "no luck")
        await settled()
        sandbox.print(b"of the second\n")
        sandbox.answer(sandbox.calls[1], b"1")
        await settled()
        sandbox.asked.set_result(None)
        await settled()

        assert (bench.outcome(first).log, bench.outcome(second).log) == (
            b"of the first\n",
            b"of the second\n",
        )
