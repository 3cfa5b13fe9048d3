"""An instance: its calls, deadlines, log and death; every call that it took comes to one end."""

from __future__ import annotations

from contextlib import suppress

import pytest

from stoker.model.errors import PlatformError
from stoker.model.launch import Exit
from stoker.model.limits import Limits
from stoker.testing.clock import in_fake_time, passed, settled
from stoker.testing.functions import a_function
from stoker.testing.sandbox import FakeSandbox, Received, echo, hold
from stoker.testing.worker import PoolBench
from stoker.worker.output import REST_S


@in_fake_time
async def test_a_call_over_its_timeout_is_told_and_its_instance_killed() -> None:
    async with PoolBench(hold) as bench:
        call = bench.submit(a_function(timeout_ms=100))

        await passed(0.099)
        early = call.has_ended
        await passed(0.01)

        assert not early
        assert bench.code(call) == "function.timeout"
        assert bench.outcome(call).timings.run_ms == pytest.approx(100, abs=1)
        assert bench.serving == []


@in_fake_time
async def test_the_deadline_of_a_later_call_does_not_hide_behind_that_of_an_earlier_one() -> None:
    async with PoolBench(echo) as bench:
        function = a_function(timeout_ms=100)
        await bench.run(function)  # leaves a timer behind
        await passed(0.05)
        bench.serving[0].script = hold

        call = bench.submit(function)
        await passed(0.099)
        early = call.has_ended
        await passed(0.01)

        assert not early
        assert bench.code(call) == "function.timeout"


@pytest.mark.parametrize(
    ("how", "code", "says"),
    [
        (Exit(code=3), "function.exited", "code 3"),
        (Exit(code=0), "function.exited", "code 0"),
        (Exit(signal=11), "function.exited", "SIGSEGV"),
        (Exit(signal=63), "function.exited", "signal 63"),
        (Exit(signal=9, out_of_memory=True), "function.out_of_memory", "memory"),
        (
            Exit(signal=9, killed_from_outside=True, out_of_memory=True),
            "function.out_of_memory",
            "memory",
        ),
        (Exit(code=1, processes_limit_hit=True), "function.too_many_processes", "limit of 64"),
        (Exit(signal=9, killed_from_outside=True), "platform.lost", "died"),
        (Exit(), "platform.lost", "died"),
    ],
)
@in_fake_time
async def test_the_death_of_an_instance_ends_its_call_with_the_reason(
    how: Exit, code: str, says: str
) -> None:
    async with PoolBench(hold) as bench:
        call = bench.submit(a_function())
        await settled()

        bench.serving[0].end(how)
        await settled()

        failure = bench.outcome(call).failure
        assert failure is not None
        assert failure.code == code
        assert says in failure.error


@in_fake_time
async def test_after_a_death_the_next_call_gets_another_instance() -> None:
    async with PoolBench(hold) as bench:
        function = a_function()
        bench.submit(function)
        await settled()
        bench.serving[0].end(Exit(code=1))
        await settled()
        bench.engine.script = echo
        for sandbox in bench.engine.living:
            sandbox.script = echo

        outcome = await bench.run(function, b"2")

        assert outcome.result == b"2"
        assert len(bench.started) == 2


@in_fake_time
async def test_what_was_printed_before_a_death_is_in_the_log() -> None:
    def crash(sandbox: FakeSandbox, call: Received) -> None:
        sandbox.print(b"about to fall\n")
        sandbox.end(Exit(code=1))

    async with PoolBench(crash) as bench:
        outcome = await bench.run(a_function())

        assert outcome.log == b"about to fall\n"
        assert outcome.log_bytes == 14


@in_fake_time
async def test_an_exit_is_waited_for_before_the_kill_that_would_hide_it() -> None:
    # The wire closes first; the kernel tells the exit some time later. A kill in between would make
    # "the machine lost it" of "the function exited".
    async with PoolBench(hold) as bench:
        call = bench.submit(a_function())
        await settled()
        (sandbox,) = bench.serving

        sandbox.hang_up()
        await passed(0.1)
        kills = sandbox.kills
        sandbox.end(Exit(code=7))
        await settled()

        assert kills == 0
        assert bench.code(call) == "function.exited"


@in_fake_time
async def test_a_function_that_closes_its_wire_and_stays_is_killed_and_told() -> None:
    async with PoolBench(hold) as bench:
        call = bench.submit(a_function())
        await settled()
        (sandbox,) = bench.serving

        sandbox.hang_up()
        await passed(1)

        assert bench.code(call) == "function.exited"
        assert not sandbox.alive


@in_fake_time
async def test_a_frame_that_breaks_the_wire_ends_the_instance() -> None:
    async with PoolBench(hold) as bench:
        call = bench.submit(a_function())
        await settled()
        (sandbox,) = bench.serving

        sandbox.send_bytes(b"\xff" * 64)
        await settled()

        assert bench.code(call) == "function.exited"
        assert not sandbox.alive


@in_fake_time
async def test_nothing_is_heard_of_an_instance_that_broke_its_wire() -> None:
    async with PoolBench(hold) as bench:
        call = bench.submit(a_function())
        await settled()
        (sandbox,) = bench.serving
        sandbox.kills_held = True

        sandbox.send_bytes(b"\xff" * 64)
        await settled()
        with suppress(BrokenPipeError):
            sandbox.answer(sandbox.calls[0], b"1")
        await settled()
        sandbox.end(Exit(signal=9, killed_from_outside=True))
        await settled()

        assert bench.code(call) == "function.exited"


@in_fake_time
async def test_of_two_failures_for_one_call_the_first_counts() -> None:
    async with PoolBench(hold) as bench:
        call = bench.submit(a_function())
        await settled()
        (sandbox,) = bench.serving
        sandbox.asked = bench.loop.create_future()
        sandbox.fail(sandbox.calls[0], "function.error", "first")
        await settled()

        sandbox.fail(sandbox.calls[0], "function.error", "second")
        await settled()
        sandbox.asked.set_result(None)
        await settled()

        failure = bench.outcome(call).failure
        assert failure is not None
        assert failure.error == "first"


@in_fake_time
async def test_late_doubled_and_foreign_answers_forge_nothing() -> None:
    async with PoolBench(hold) as bench:
        function = a_function()
        first = bench.submit(function)
        await settled()
        (sandbox,) = bench.serving
        sandbox.answer(sandbox.calls[0], b'"first"')
        await settled()
        second = bench.submit(function)
        await settled()

        sandbox.answer(sandbox.calls[0], b'"forged"')
        sandbox.answer(Received(b"x" * 16, 0, b""), b'"forged"')
        sandbox.answer(sandbox.calls[1], b'"second"')
        sandbox.answer(sandbox.calls[1], b'"forged"')
        await settled()

        assert bench.outcome(first).result == b'"first"'
        assert bench.outcome(second).result == b'"second"'


@in_fake_time
async def test_a_failing_handler_is_a_result_and_its_instance_serves_on() -> None:
    def fail(sandbox: FakeSandbox, call: Received) -> None:
        sandbox.fail(call, "function.error", "no luck")

    async with PoolBench(fail) as bench:
        function = a_function()

        outcome = await bench.run(function)
        again = await bench.run(function)

        assert outcome.failure is not None
        assert (outcome.failure.code, outcome.failure.error) == ("function.error", "no luck")
        assert (outcome.failure.error_type, outcome.failure.stack) == ("Error", "at handler")
        assert again.failure == outcome.failure
        assert len(bench.started) == 1


@in_fake_time
async def test_a_handler_that_failed_at_the_limit_of_processes_is_told_so_and_loses_its_instance() -> None:
    def fail(sandbox: FakeSandbox, call: Received) -> None:
        sandbox.usage_said = Exit(processes_limit_hit=True)
        sandbox.fail(call, "function.error", "spawn EAGAIN")

    async with PoolBench(fail) as bench:
        outcome = await bench.run(a_function())

        assert outcome.failure is not None
        assert outcome.failure.code == "function.too_many_processes"
        assert "spawn EAGAIN" in outcome.failure.error
        assert bench.serving == []


@in_fake_time
async def test_a_call_that_failed_ends_even_if_its_instance_dies_during_the_look_at_its_limits() -> None:
    # The handler throws, the look asks the supervisor, and meanwhile the function exits.
    async with PoolBench(hold) as bench:
        call = bench.submit(a_function())
        await settled()
        (sandbox,) = bench.serving
        sandbox.asked = bench.loop.create_future()
        sandbox.fail(sandbox.calls[0], "function.error", "no luck")
        await settled()
        early = call.has_ended

        sandbox.end(Exit(code=1))
        await settled()

        assert not early
        assert bench.code(call) == "function.error"


@in_fake_time
async def test_a_call_that_failed_ends_even_if_nobody_tells_its_limits() -> None:
    async with PoolBench(hold) as bench:
        call = bench.submit(a_function())
        await settled()
        (sandbox,) = bench.serving
        sandbox.asked = bench.loop.create_future()
        sandbox.asked.set_exception(PlatformError("the supervisor gave a wrong answer"))

        sandbox.fail(sandbox.calls[0], "function.error", "no luck")
        await settled()

        assert bench.code(call) == "function.error"
        assert sandbox.alive


@in_fake_time
async def test_a_call_that_failed_in_time_does_not_time_out_while_its_limits_are_looked_up() -> None:
    async with PoolBench(hold) as bench:
        call = bench.submit(a_function(timeout_ms=100))
        await settled()
        (sandbox,) = bench.serving
        sandbox.asked = bench.loop.create_future()
        sandbox.fail(sandbox.calls[0], "function.error", "no luck")

        await passed(1)

        assert bench.code(call) == "function.error"
        assert sandbox.alive


@in_fake_time
async def test_an_instance_is_not_given_away_during_the_look_at_its_limits() -> None:
    async with PoolBench(hold, spares=0) as bench:
        function = a_function(max_instances=1)
        first = bench.submit(function)
        second = bench.submit(function)
        await passed(1)
        (sandbox,) = bench.serving
        sandbox.asked = bench.loop.create_future()

        sandbox.fail(sandbox.calls[0], "function.error", "no luck")
        await settled()
        seen_during_the_look = len(sandbox.calls)
        sandbox.asked.set_result(None)
        await settled()

        assert seen_during_the_look == 1
        assert bench.code(first) == "function.error"
        assert [call.call_id for call in sandbox.calls] == [first.id, second.id]


@in_fake_time
async def test_an_instance_that_could_not_load_is_not_kept() -> None:
    def fail(sandbox: FakeSandbox, call: Received) -> None:
        sandbox.fail(call, "function.load_failed", "no export handler")

    async with PoolBench(fail) as bench:
        function = a_function()

        outcome = await bench.run(function)
        again = await bench.run(function)

        assert outcome.failure is not None
        assert outcome.failure.code == "function.load_failed"
        assert again.failure == outcome.failure
        assert bench.serving == []
        assert len(bench.started) == 2


@in_fake_time
async def test_an_error_without_sense_still_ends_the_call() -> None:
    async with PoolBench(hold) as bench:
        call = bench.submit(a_function())
        await settled()
        (sandbox,) = bench.serving

        sandbox.send(0x14, sandbox.calls[0].call_id, b'{"code":"platform.lost","error":"forged"}')
        await settled()

        assert bench.code(call) == "function.error"


@in_fake_time
async def test_whoever_fails_at_hearing_an_end_does_not_cost_the_calls_after_it_their_instance() -> None:
    async with PoolBench(hold, spares=0) as bench:
        function = a_function(max_instances=1)
        first, second = bench.submit(function), bench.submit(function)
        await passed(1)
        (sandbox,) = bench.serving

        def broken(call: object, outcome: object) -> None:
            raise RuntimeError("the edge has a bug")

        first._ended = broken
        sandbox.answer(sandbox.calls[0], b"1")
        await settled()
        sandbox.answer(sandbox.calls[1], b"2")
        await settled()

        assert bench.outcome(second).result == b"2"
        assert [str(problem["exception"]) for problem in bench.problems] == ["the edge has a bug"]
        bench.problems.clear()


# -- output -----------------------------------------------------------------------------------------


@in_fake_time
async def test_what_a_call_printed_is_its_log_and_not_the_next_ones() -> None:
    def talk(sandbox: FakeSandbox, call: Received) -> None:
        sandbox.print(b"got " + call.payload + b"\n")
        sandbox.answer(call, call.payload)

    async with PoolBench(talk) as bench:
        function = a_function()

        logs = [(await bench.run(function, text)).log for text in (b"1", b"2")]

        assert logs == [b"got 1\n", b"got 2\n"]


@in_fake_time
async def test_what_the_runtime_printed_at_its_boot_is_no_calls_log() -> None:
    async with PoolBench() as bench:
        for sandbox in bench.engine.sandboxes:
            sandbox.print(b"(node:1) Warning: experimental\n")
        await settled()

        outcome = await bench.run(a_function())

        assert (outcome.log, outcome.log_bytes) == (b"", 0)


@in_fake_time
async def test_a_flood_is_cut_counted_and_drained() -> None:
    async with PoolBench(hold, limits=Limits(log_bytes_max=1000)) as bench:
        function = a_function()
        call = bench.submit(function)
        await settled()
        (sandbox,) = bench.serving

        for _ in range(40):
            sandbox.print(b"x" * 50_000)
            await passed(REST_S)
        sandbox.answer(sandbox.calls[0], b"1")
        await settled()
        sandbox.script = echo
        after = await bench.run(function, b"2")

        outcome = bench.outcome(call)
        assert (outcome.log, outcome.log_bytes) == (b"x" * 1000, 2_000_000)
        assert (after.result, after.log) == (b"2", b"")
