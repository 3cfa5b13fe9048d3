"""The pool: which instance serves which call, and how every call comes to its one end."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from stoker.model.errors import FunctionBusy, NoCapacity, PlatformError, StokerError
from stoker.model.launch import Exit
from stoker.model.limits import Limits
from stoker.model.outcome import EndReason
from stoker.sandbox.engine import SandboxGone
from stoker.testing.clock import in_fake_time, passed, settled
from stoker.testing.functions import a_function
from stoker.testing.sandbox import FakeSandbox, Received, echo, hold
from stoker.testing.worker import PoolBench
from stoker.worker.eviction import Pressure

SCARCE = Pressure(available_bytes=50, total_bytes=1000)


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


# -- ends --------------------------------------------------------------------------------------------


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
def test_the_death_of_an_instance_ends_its_call_with_the_reason(how: Exit, code: str, says: str) -> None:
    @in_fake_time
    async def scenario() -> None:
        async with PoolBench(hold) as bench:
            call = bench.submit(a_function())
            await settled()

            bench.serving[0].end(how)
            await settled()

            failure = bench.outcome(call).failure
            assert failure is not None
            assert failure.code == code
            assert says in failure.error
            assert (await bench.run(a_function(), b"2")) is not None if bench.serving else True

    scenario()


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


# -- waiting -----------------------------------------------------------------------------------------


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
        bench.engine.held = held = _event()
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


# -- cancelling --------------------------------------------------------------------------------------


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

        (group,) = bench.pool._groups.values()
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


# -- several calls in one instance -------------------------------------------------------------------


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


# -- output ------------------------------------------------------------------------------------------


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
            await settled()
        sandbox.answer(sandbox.calls[0], b"1")
        await settled()
        sandbox.script = echo
        after = await bench.run(function, b"2")

        outcome = bench.outcome(call)
        assert (outcome.log, outcome.log_bytes) == (b"x" * 1000, 2_000_000)
        assert (after.result, after.log) == (b"2", b"")


# -- changes -----------------------------------------------------------------------------------------


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
        assert bench.serving == []
        assert bench.pool._retired == set()


@in_fake_time
async def test_an_instance_on_its_way_when_the_code_changes_is_not_left_over() -> None:
    async with PoolBench(hold) as bench:
        old = a_function()
        bench.submit(old).cancel_now()  # its instance is being started

        bench.pool.function_changed(old, replace(old, code=replace(old.code, version=2)))
        await settled()

        assert bench.serving == []
        assert bench.pool._retired == set()


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


# -- room --------------------------------------------------------------------------------------------


@in_fake_time
async def test_an_instance_that_idled_too_long_is_ended() -> None:
    async with PoolBench(limits=Limits(idle_ms_max=60_000)) as bench:
        await bench.run(a_function())

        await passed(59)
        before = len(bench.serving)
        await passed(3)

        assert (before, len(bench.serving)) == (1, 0)
        assert bench.pool._groups == {}


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


# -- spares and starts -------------------------------------------------------------------------------


@in_fake_time
async def test_a_spare_that_was_taken_is_replaced() -> None:
    async with PoolBench(spares=2) as bench:
        before = bench.pool.figures

        await bench.run(a_function())

        assert before == {"serving": 0, "spare_nodejs": 2}
        assert bench.pool.figures == {"serving": 1, "spare_nodejs": 2}


@in_fake_time
async def test_a_spare_that_dies_before_it_gets_its_code_is_replaced_by_another() -> None:
    async with PoolBench() as bench:
        for sandbox in bench.engine.sandboxes[:2]:
            sandbox.assign_fails_with = SandboxGone("it ended before")

        outcome = await bench.run(a_function())

        assert outcome.result == b"1"


@in_fake_time
async def test_a_spare_that_died_unnoticed_serves_nobody() -> None:
    # The sandbox has ended, but the loop has not yet read that its wire is closed.
    async with PoolBench() as bench:
        bench.engine.sandboxes[0].end(Exit(code=1))

        outcome = await bench.run(a_function())

        assert outcome.result == b"1"


@in_fake_time
async def test_code_that_cannot_be_given_is_told_to_one_caller_and_leaves_no_start_behind() -> None:
    async with PoolBench() as bench:
        function = a_function()
        for sandbox in bench.engine.sandboxes:
            sandbox.assign_fails_with = PlatformError("The sandbox could not be given to the function.")

        call = bench.submit(function)
        await settled()

        assert bench.code(call) == "platform.error"
        assert [event for event, _ in bench.notes.events] == ["instance_failed"]
        (group,) = bench.pool._groups.values()
        assert group.size == 0


@in_fake_time
async def test_a_spare_is_given_back_if_the_code_cannot_be_fetched() -> None:
    async with PoolBench(spares=2) as bench:
        bench.folders.error = PlatformError("the content cannot be read")

        call = bench.submit(a_function())
        await settled()

        assert bench.code(call) == "platform.error"
        assert bench.pool.figures == {"serving": 0, "spare_nodejs": 2}
        assert len(bench.engine.living) <= 3


# -- closing -----------------------------------------------------------------------------------------


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
async def test_closing_in_the_middle_of_boots_and_starts_leaves_nothing_alive_and_no_call_without_end() -> None:
    bench = PoolBench(hold, spares=3)
    async with bench:
        bench.engine.held = _event()
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


def _event() -> asyncio.Event:
    return asyncio.Event()
