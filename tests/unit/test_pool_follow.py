"""Following a function: what its calls print is told line by line, each line once and to its own call."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stoker.model.call import Call
from stoker.model.function import Function
from stoker.model.launch import Exit
from stoker.model.limits import Limits
from stoker.runtimes import wire
from stoker.testing.clock import in_fake_time, passed, settled
from stoker.testing.functions import a_function
from stoker.testing.sandbox import FakeSandbox, Received, echo, hold
from stoker.testing.worker import PoolBench
from stoker.worker.group import STEADY_CALLS
from stoker.worker.groups import identity_of
from stoker.worker.output import REST_S
from stoker.worker.tail import cut_notice


class Listener:
    """What was told, in order, as (call id, text)."""

    def __init__(self) -> None:
        self.told: list[tuple[bytes, bytes]] = []

    def __call__(self, call_id: bytes, text: bytes) -> None:
        self.told.append((call_id, text))

    @property
    def text(self) -> bytes:
        return b"".join(text for _, text in self.told)

    def of(self, call: Call) -> bytes:
        return b"".join(text for call_id, text in self.told if call_id == call.id)


def talk(sandbox: FakeSandbox, call: Received) -> None:
    sandbox.print(b"got " + call.payload + b"\nlast words")
    sandbox.answer(call, call.payload)


async def running(bench: PoolBench, function: Function) -> tuple[Call, FakeSandbox]:
    call = bench.submit(function)
    await settled()
    return call, bench.serving[-1]


@in_fake_time
async def test_lines_are_told_while_the_call_runs_and_what_is_no_whole_line_at_its_end() -> None:
    async with PoolBench(hold) as bench:
        function, heard = a_function(), Listener()
        bench.pool.follow(identity_of(function), heard)
        call, sandbox = await running(bench, function)

        sandbox.print(b"one\ntw")
        await settled()
        first = list(heard.told)
        sandbox.print(b"o\nthree")
        await settled()
        second = heard.told[len(first) :]
        sandbox.print(b", and the last moment")
        sandbox.answer(sandbox.calls[0], b"1")
        await settled()

        assert first == [(call.id, b"one\n")]
        assert second == [(call.id, b"two\n")]
        assert heard.told[2:] == [(call.id, b"three, and the last moment")]
        assert bench.outcome(call).log == heard.of(call)


@in_fake_time
async def test_each_call_has_its_own_lines_though_the_answer_is_seen_before_the_output() -> None:
    async with PoolBench(talk) as bench:
        function, heard = a_function(max_instances=1), Listener()
        bench.pool.follow(identity_of(function), heard)

        calls = [bench.submit(function, str(number).encode()) for number in range(20)]
        await settled()

        for number, call in enumerate(calls):
            assert heard.of(call) == b"got %d\nlast words" % number == bench.outcome(call).log


@in_fake_time
async def test_what_is_printed_between_two_calls_is_told_with_the_next_one_as_its_log_has_it() -> None:
    async with PoolBench(hold) as bench:
        function, heard = a_function(), Listener()
        bench.pool.follow(identity_of(function), heard)
        first, sandbox = await running(bench, function)
        sandbox.answer(sandbox.calls.pop(), b"1")
        await settled()

        sandbox.print(b"from a timer\n")
        await settled()
        in_between = list(heard.told)
        second, _ = await running(bench, function)
        sandbox.print(b"own\n")
        await settled()
        sandbox.answer(sandbox.calls.pop(), b"2")
        await settled()

        assert in_between == []
        assert heard.of(first) == b""
        assert heard.of(second) == b"from a timer\nown\n" == bench.outcome(second).log


@in_fake_time
async def test_who_begins_to_follow_in_the_middle_of_a_call_hears_what_comes_from_then_on() -> None:
    async with PoolBench(hold) as bench:
        function, heard = a_function(), Listener()
        call, sandbox = await running(bench, function)
        sandbox.print(b"before\nhalf a ")
        await settled()

        bench.pool.follow(identity_of(function), heard)
        sandbox.print(b"line\nafter\n")
        await settled()
        sandbox.answer(sandbox.calls[0], b"1")
        await settled()

        assert heard.of(call) == b"half a line\nafter\n"


@in_fake_time
async def test_nothing_is_told_once_nobody_follows_and_two_are_told_the_same() -> None:
    async with PoolBench(hold) as bench:
        function, one, other = a_function(), Listener(), Listener()
        stop_one = bench.pool.follow(identity_of(function), one)
        stop_other = bench.pool.follow(identity_of(function), other)
        call, sandbox = await running(bench, function)
        sandbox.print(b"1\n")
        await settled()

        stop_one()
        stop_one()
        sandbox.print(b"2\n")
        await settled()
        stop_other()
        sandbox.print(b"3\n")
        await settled()
        sandbox.answer(sandbox.calls[0], b"1")
        await settled()

        assert (one.of(call), other.of(call)) == (b"1\n", b"1\n2\n")
        assert bench.outcome(call).log == b"1\n2\n3\n"
        assert bench.pool._following.of(identity_of(function)) is None


@in_fake_time
async def test_who_stops_and_follows_again_hears_no_line_twice() -> None:
    async with PoolBench(hold) as bench:
        function, heard = a_function(), Listener()
        stop = bench.pool.follow(identity_of(function), heard)
        call, sandbox = await running(bench, function)
        sandbox.print(b"1\n")
        await settled()
        stop()
        sandbox.print(b"2\n")
        await settled()

        bench.pool.follow(identity_of(function), heard)
        sandbox.print(b"3\n")
        sandbox.answer(sandbox.calls[0], b"1")
        await settled()

        assert heard.of(call) == b"1\n3\n"


@in_fake_time
async def test_only_the_function_that_is_followed_is_heard() -> None:
    async with PoolBench(talk) as bench:
        followed, other, heard = a_function(), a_function(name="other"), Listener()
        bench.pool.follow(identity_of(followed), heard)

        await bench.run(other)
        elsewhere = replace(followed, account="another")
        await bench.run(elsewhere)

        assert heard.told == []


@in_fake_time
async def test_a_new_version_and_a_new_instance_are_heard_too() -> None:
    async with PoolBench(talk) as bench:
        function, heard = a_function(), Listener()
        await bench.run(function)
        bench.pool.follow(identity_of(function), heard)
        new = replace(function, code=replace(function.code, version=2))

        bench.pool.function_changed(function, new)
        await settled()
        await bench.run(new, b"new")
        bench.serving[0].end(Exit(code=1))
        await settled()
        await bench.run(new, b"newer")

        assert heard.text == b"got new\nlast wordsgot newer\nlast words"


@in_fake_time
async def test_past_the_bound_one_line_says_so_and_nothing_more_is_told_of_that_call() -> None:
    async with PoolBench(hold, limits=Limits(log_bytes_max=10)) as bench:
        function, heard = a_function(max_instances=1), Listener()
        bench.pool.follow(identity_of(function), heard)
        call, sandbox = await running(bench, function)

        for _ in range(5):
            sandbox.print(b"12345\n789")
            await passed(REST_S)
        early = heard.of(call)
        sandbox.answer(sandbox.calls.pop(), b"1")
        await settled()
        following, _ = await running(bench, function)
        sandbox.print(b"short\n")
        sandbox.answer(sandbox.calls.pop(), b"1")
        await settled()

        assert early == b"12345\n7891\n" + cut_notice(10)
        assert heard.of(call) == early
        assert heard.of(following) == b"short\n"
        assert bench.outcome(call).log == b"12345\n7891"


@in_fake_time
async def test_a_flood_in_the_last_moment_is_cut_with_its_notice() -> None:
    async with PoolBench(hold, limits=Limits(log_bytes_max=10)) as bench:
        function, heard = a_function(), Listener()
        bench.pool.follow(identity_of(function), heard)
        call, sandbox = await running(bench, function)

        sandbox.print(b"x" * 50_000)
        sandbox.answer(sandbox.calls.pop(), b"1")
        await settled()

        assert heard.of(call) == b"x" * 10 + b"\n" + cut_notice(10)


@pytest.mark.parametrize("how", ["exit", "timeout", "cancel", "throw"])
@in_fake_time
async def test_the_last_words_of_a_call_that_ends_badly_are_told(how: str) -> None:
    async with PoolBench(hold) as bench:
        function, heard = a_function(timeout_ms=1000), Listener()
        bench.pool.follow(identity_of(function), heard)
        call, sandbox = await running(bench, function)

        sandbox.print(b"line\nlast words")
        if how == "exit":
            sandbox.end(Exit(code=1))
        elif how == "timeout":
            await passed(1.1)
        elif how == "cancel":
            call.cancel_now()
        else:
            sandbox.fail(sandbox.calls[0], "function.error", "no luck")
        await settled()

        assert heard.of(call) == b"line\nlast words" == bench.outcome(call).log


@in_fake_time
async def test_calls_of_a_followed_function_are_not_sent_ahead() -> None:
    async with PoolBench() as bench:
        function, heard = a_function(max_instances=1), Listener()
        for _ in range(STEADY_CALLS + 1):
            await bench.run(function)
        (sandbox,) = bench.serving
        sandbox.script = hold
        stop = bench.pool.follow(identity_of(function), heard)

        bench.submit(function)
        bench.submit(function)
        await settled()
        followed = len(sandbox.ahead)
        stop()
        bench.submit(function)
        sandbox.answer(sandbox.calls[-1], b"1")
        await settled()

        assert followed == 0
        assert len(sandbox.ahead) == 1


@in_fake_time
async def test_calls_that_lie_ahead_when_somebody_begins_to_follow_keep_their_lines_apart() -> None:
    async with PoolBench() as bench:
        function, heard = a_function(max_instances=1), Listener()
        for _ in range(STEADY_CALLS + 1):
            await bench.run(function)
        (sandbox,) = bench.serving
        sandbox.script = hold
        sandbox.calls.clear()
        calls = [bench.submit(function, str(number).encode()) for number in range(3)]
        await settled()
        ahead = len(sandbox.ahead)

        bench.pool.follow(identity_of(function), heard)
        sandbox.print(b"of 0\n")
        await settled()
        sandbox.script = talk
        sandbox.answer(sandbox.calls[0], b"0")
        await settled()
        after = await bench.run(function, b"after")

        assert ahead == 2
        assert [heard.of(call) for call in calls] == [b"of 0\n", b"got 1\nlast words", b"got 2\nlast words"]
        assert after.log == b"got after\nlast words"
        assert heard.text == b"".join(heard.of(call) for call in calls) + after.log


@in_fake_time
async def test_output_of_a_call_that_lay_ahead_is_its_own_though_seen_before_the_answer_to_the_last() -> None:
    async with PoolBench() as bench:
        function, heard = a_function(max_instances=1), Listener()
        for _ in range(STEADY_CALLS + 1):
            await bench.run(function)
        (sandbox,) = bench.serving
        sandbox.script = hold
        sandbox.calls.clear()
        first, second = bench.submit(function), bench.submit(function)
        await settled()
        bench.pool.follow(identity_of(function), heard)

        sandbox.print(b"of 1\n" + second.id + b"of 2\n")
        await settled()
        sandbox.send(wire.RESULT, first.id, b"1")
        await settled()
        sandbox.print(b"more of 2\n")
        await settled()
        sandbox.send(wire.RESULT, second.id, b"2")
        await settled()

        assert heard.of(first) == b"of 1\n" == bench.outcome(first).log
        assert heard.of(second) == b"of 2\nmore of 2\n" == bench.outcome(second).log


@in_fake_time
async def test_calls_that_share_an_instance_have_their_lines_told_apart() -> None:
    async with PoolBench(hold, limits=Limits(log_bytes_max=12)) as bench:
        function, heard = a_function(per_instance=2, max_instances=1), Listener()
        first, second = bench.submit(function), bench.submit(function)
        await settled()
        (sandbox,) = bench.serving
        one, two = sandbox.calls
        sandbox.log(one, b"before\n")
        await settled()

        bench.pool.follow(identity_of(function), heard)
        sandbox.log(one, b"a\nb")
        sandbox.log(two, b"x\n")
        sandbox.log(two, b"y and too long")
        await settled()
        live = list(heard.told)
        sandbox.answer(two, b"2")
        sandbox.print(b"cd\n")
        sandbox.answer(one, b"1")
        await settled()

        assert live == [
            (first.id, b"a\n"),
            (second.id, b"x\n"),
            (second.id, b"y and too \n" + cut_notice(12)),
        ]
        assert heard.told[3:] == [(first.id, b"bcd\n" + cut_notice(12))]
        assert bench.outcome(first).log == b"before\na\nbcd"


@in_fake_time
async def test_whoever_fails_at_hearing_a_line_does_not_cost_the_call_its_end_nor_others_the_line() -> None:
    def broken(call_id: bytes, text: bytes) -> None:
        raise RuntimeError("the tail has a bug")

    async with PoolBench(talk) as bench:
        function, heard = a_function(), Listener()
        bench.pool.follow(identity_of(function), broken)
        bench.pool.follow(identity_of(function), heard)

        outcome = await bench.run(function)

        assert outcome.result == b"1"
        assert heard.text == outcome.log
        assert {str(problem["exception"]) for problem in bench.problems} == {"the tail has a bug"}
        bench.problems.clear()


@in_fake_time
async def test_quiet_calls_tell_nothing() -> None:
    async with PoolBench(echo) as bench:
        function, heard = a_function(), Listener()
        bench.pool.follow(identity_of(function), heard)

        await bench.run(function)

        assert heard.told == []
