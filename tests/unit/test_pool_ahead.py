"""Calls sent ahead of their turn: one at a time runs all the same, and each comes to its own one end."""

from __future__ import annotations

from stoker.model.call import Call
from stoker.model.errors import StokerError
from stoker.model.function import Function
from stoker.model.launch import Exit
from stoker.model.outcome import EndReason, Outcome
from stoker.testing.clock import in_fake_time, passed, settled
from stoker.testing.functions import a_function
from stoker.testing.sandbox import FakeSandbox, Received, echo, hold
from stoker.testing.worker import PoolBench
from stoker.worker.group import AHEAD_MAX, STEADY_CALLS
from stoker.worker.turns import STUCK_MS


async def known_as_quick(bench: PoolBench, function: Function) -> FakeSandbox:
    """Have the function called until its calls are known to be quick and silent; hold what comes next."""
    for _ in range(STEADY_CALLS + 1):
        await bench.run(function)
    (sandbox,) = bench.serving
    sandbox.script = hold
    sandbox.calls.clear()
    return sandbox


def print_and_answer(sandbox: FakeSandbox, call: Received) -> None:
    sandbox.print(b"of " + call.payload + b"\n")
    sandbox.answer(call, b"1")


def submitted(bench: PoolBench, function: Function, count: int) -> list[Call]:
    return [bench.submit(function, str(number).encode()) for number in range(count)]


def ended(bench: PoolBench, call: Call) -> list[Outcome | StokerError]:
    return [outcome for one, outcome in bench.ends if one is call]


@in_fake_time
async def test_calls_of_a_quick_function_wait_inside_and_run_in_order() -> None:
    async with PoolBench() as bench:
        function = a_function(max_instances=1)
        sandbox = await known_as_quick(bench, function)

        calls = submitted(bench, function, 4)
        await settled()
        began_first = [call.payload for call in sandbox.calls]
        sandbox.script = echo
        sandbox.answer(sandbox.calls[0], b'"first"')
        await settled()

        assert began_first == [b"0"]
        assert [call.payload for call in sandbox.calls] == [b"0", b"1", b"2", b"3"]
        assert [bench.outcome(call).result for call in calls] == [b'"first"', b"1", b"2", b"3"]


@in_fake_time
async def test_no_call_is_sent_ahead_where_calls_print() -> None:
    async with PoolBench() as bench:
        function = a_function(max_instances=1)
        sandbox = await known_as_quick(bench, function)
        sandbox.script = print_and_answer
        await bench.run(function)
        sandbox.script = hold

        calls = submitted(bench, function, 3)
        await settled()

        assert len(sandbox.ahead) == 0
        sandbox.script = echo
        sandbox.answer(sandbox.calls[-1], b"0")
        await settled()
        assert [bench.outcome(call).reason for call in calls] == [EndReason.OK] * 3


@in_fake_time
async def test_what_is_printed_goes_to_the_call_that_printed_it() -> None:
    async with PoolBench() as bench:
        function = a_function(max_instances=1)
        sandbox = await known_as_quick(bench, function)

        calls = submitted(bench, function, 4)
        await settled()

        sandbox.script = print_and_answer
        print_and_answer(sandbox, sandbox.calls[0])
        await settled()

        assert [bench.outcome(call).log for call in calls] == [b"of 0\n", b"of 1\n", b"of 2\n", b"of 3\n"]
        assert [bench.outcome(call).log_bytes for call in calls] == [5] * 4


@in_fake_time
async def test_calls_behind_a_long_one_are_taken_back_and_run_elsewhere() -> None:
    async with PoolBench(hold) as bench:
        function = a_function(max_instances=2)
        for box in bench.engine.sandboxes:
            box.script = echo
        sandbox = await known_as_quick(bench, function)
        for box in bench.engine.sandboxes:
            if box is not sandbox:
                box.script = echo

        calls = submitted(bench, function, 3)
        await passed(STUCK_MS / 1000 + 0.3)

        assert [bench.outcome(call).result for call in calls[1:]] == [b"1", b"2"]
        assert ended(bench, calls[0]) == []
        sandbox.answer(sandbox.calls[0], b'"late"')
        await settled()
        assert bench.outcome(calls[0]).result == b'"late"'


@in_fake_time
async def test_a_call_asked_back_in_the_moment_of_its_turn_is_run_once() -> None:
    # The word arrives after the answer before it and before its own beginning: the host believes that the
    # call runs, and hears that it never will.
    async with PoolBench() as bench:
        function = a_function(max_instances=1)
        sandbox = await known_as_quick(bench, function)
        sandbox.deaf_to_revoke = True
        first, second = submitted(bench, function, 2)
        await passed(3 * STUCK_MS / 1000)
        (waiting,) = sandbox.ahead
        sandbox.ahead.clear()

        sandbox.answer(sandbox.calls[0], b"0")
        sandbox.script = echo
        sandbox.send(0x16, waiting.call_id, b"")
        await settled()

        assert bench.outcome(first).result == b"0"
        assert bench.outcome(second).result == b"1"
        assert [call.payload for call in sandbox.calls].count(b"1") == 1


@in_fake_time
async def test_a_death_ends_the_call_that_ran_and_the_others_run_elsewhere() -> None:
    async with PoolBench() as bench:
        function = a_function(max_instances=1)
        sandbox = await known_as_quick(bench, function)
        calls = submitted(bench, function, 4)
        await settled()

        sandbox.end(Exit(code=9))
        await passed(1)

        failure = bench.outcome(calls[0]).failure
        assert failure is not None
        assert failure.code == "function.exited"
        assert [bench.outcome(call).result for call in calls[1:]] == [b"1", b"2", b"3"]


@in_fake_time
async def test_a_timeout_counts_from_the_turn_and_ends_only_the_call_whose_turn_it_was() -> None:
    async with PoolBench() as bench:
        function = a_function(max_instances=1, timeout_ms=1000)
        sandbox = await known_as_quick(bench, function)
        sandbox.deaf_to_revoke = True
        calls = submitted(bench, function, 2)
        await passed(0.9)
        sandbox.answer(sandbox.calls[0], b"0")
        await passed(0.9)
        still_running = ended(bench, calls[1])

        await passed(0.2)

        assert still_running == []
        assert bench.outcome(calls[1]).reason is EndReason.TIMEOUT


@in_fake_time
async def test_a_caller_who_leaves_before_the_turn_costs_nobody_the_instance() -> None:
    async with PoolBench() as bench:
        function = a_function(max_instances=1)
        sandbox = await known_as_quick(bench, function)
        calls = submitted(bench, function, 3)
        await settled()

        calls[1].cancel_now()
        await settled()
        sandbox.script = echo
        sandbox.answer(sandbox.calls[0], b"0")
        await settled()

        assert bench.outcome(calls[1]).reason is EndReason.CANCELLED
        assert [call.payload for call in sandbox.calls] == [b"0", b"2"]
        assert bench.outcome(calls[2]).result == b"2"
        assert sandbox.alive


@in_fake_time
async def test_only_so_many_wait_inside_and_the_rest_in_the_queue() -> None:
    async with PoolBench() as bench:
        function = a_function(max_instances=1)
        sandbox = await known_as_quick(bench, function)

        calls = submitted(bench, function, AHEAD_MAX + 20)
        await settled()
        inside = len(sandbox.ahead)
        sandbox.script = echo
        sandbox.answer(sandbox.calls[0], b"0")
        await settled()

        assert inside == AHEAD_MAX
        assert [bench.outcome(call).result for call in calls] == [
            str(number).encode() for number in range(len(calls))
        ]
