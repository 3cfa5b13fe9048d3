"""Restraint: how much an instance is listened to; and what a function at its own wire can do to a server."""

from __future__ import annotations

import pytest

from stoker.model.limits import Limits
from stoker.runtimes import wire
from stoker.testing.clock import in_fake_time, settled
from stoker.testing.functions import a_function
from stoker.testing.sandbox import FakeSandbox, Received, echo, hold
from stoker.testing.worker import PoolBench
from stoker.worker.restraint import LINES_MAX, REST_S_MAX, VAIN_MAX, rest_s


@pytest.mark.parametrize(
    ("lines", "took_s", "rest"),
    [
        (1, 0.5, 0.0),
        (LINES_MAX, 0.5, 0.0),
        (LINES_MAX + 1, 0.001, 0.009),
        (LINES_MAX + 1, 5.0, REST_S_MAX),
    ],
)
def test_only_a_flood_of_lines_earns_a_rest(lines: int, took_s: float, rest: float) -> None:
    assert rest_s(lines, took_s) == pytest.approx(rest)


@pytest.mark.parametrize(
    "kind", [wire.HELLO, wire.LOADED, wire.RESULT, wire.ERROR, wire.LOG, wire.REVOKED, 0x99]
)
@in_fake_time
async def test_frames_without_end_that_nobody_waits_for_end_the_instance(kind: int) -> None:
    async with PoolBench(hold) as bench:
        call = bench.submit(a_function())
        await settled()
        (sandbox,) = bench.serving

        frame = wire.encode_frame(kind, b"f" * 16, b"{}")

        sandbox.send_bytes(frame * (VAIN_MAX - 10))
        await settled()
        early = call.has_ended
        sandbox.send_bytes(frame * 20)
        await settled()

        assert not early
        assert bench.code(call) == "function.exited"
        assert bench.serving == []


@in_fake_time
async def test_many_calls_and_their_late_answers_are_no_flood() -> None:
    def answers_twice(sandbox: FakeSandbox, call: Received) -> None:
        sandbox.answer(call, b"1")
        sandbox.send(wire.RESULT, call.call_id, b"2")

    async with PoolBench(answers_twice) as bench:
        function = a_function()

        outcomes = [await bench.run(function) for _ in range(VAIN_MAX + 50)]

        assert {outcome.result for outcome in outcomes} == {b"1"}
        assert len(bench.started) == 1


@in_fake_time
async def test_a_result_that_no_shim_would_send_is_too_large_all_the_same() -> None:
    def answers_past_the_shim(sandbox: FakeSandbox, call: Received) -> None:
        sandbox.send(wire.RESULT, call.call_id, b'"' + b"x" * 100 + b'"')

    async with PoolBench(answers_past_the_shim, limits=Limits(result_bytes_max=100)) as bench:
        function = a_function()
        call = bench.submit(function)
        await settled()
        bench.serving[0].script = echo

        assert bench.code(call) == "function.result_too_large"
        assert (await bench.run(function, b"2")).result == b"2"
