"""The way out in the pool: each instance is told of it, is given its function's rules, and logs refusals."""

from __future__ import annotations

from typing import Any

import pytest

from stoker.model.limits import Limits
from stoker.testing.clock import in_fake_time, settled
from stoker.testing.functions import a_function
from stoker.testing.sandbox import FakeSandbox, Received, hold
from stoker.testing.worker import PoolBench


@pytest.mark.parametrize(
    ("network", "rules"),
    [
        (None, ("*:80", "*:443")),
        ({}, ("*:80", "*:443")),
        ({"egress": None}, ("*:80", "*:443")),
        ({"egress": []}, ()),
        ({"egress": ["API.example.com.:0443", "[::FFFF:1.2.3.4]:80"]}, ("api.example.com:443", "1.2.3.4:80")),
        ({"egress": ["127.1:80", "a.example:443"]}, ("a.example:443",)),
    ],
)
def test_an_instance_may_reach_what_its_version_lists(
    network: dict[str, Any] | None, rules: tuple[str, ...]
) -> None:
    @in_fake_time
    async def run() -> None:
        async with PoolBench() as bench:
            function = a_function(network=network)
            await bench.run(function)

            assert bench.serving[0].reaches == (function.account, rules)

    run()


@in_fake_time
async def test_a_spare_reaches_nothing() -> None:
    async with PoolBench() as bench:
        assert [sandbox.reaches for sandbox in bench.engine.sandboxes] == [None] * 4


@in_fake_time
async def test_a_function_may_set_what_it_is_told_of_its_way_out() -> None:
    FakeSandbox.environment = {"HTTP_PROXY": "http://here", "NO_PROXY": "localhost"}
    try:
        async with PoolBench() as bench:
            await bench.run(a_function(env_vars=("NO_PROXY=all",)))

            assert bench.serving[0].loads[0]["env"] == {"HTTP_PROXY": "http://here", "NO_PROXY": "all"}
    finally:
        FakeSandbox.environment = {}


@in_fake_time
async def test_a_refusal_stands_where_it_happened_in_the_log_of_its_call() -> None:
    def refused(sandbox: FakeSandbox, call: Received) -> None:
        sandbox.print(b"before\nunfinished")
        sandbox.refused("refused to connect")
        sandbox.print(b"after\n")
        sandbox.answer(call, call.payload)

    async with PoolBench(refused) as bench:
        function = a_function()
        first = await bench.run(function)
        bench.serving[0].script = lambda sandbox, call: sandbox.answer(call, call.payload)
        second = await bench.run(function)

        assert first.log == b"before\nunfinished\nstoker: refused to connect\nafter\n"
        assert first.log_bytes == len(first.log)
        assert second.log == b""


@in_fake_time
async def test_refusals_count_towards_the_bound_of_a_log() -> None:
    async with PoolBench(hold, limits=Limits(log_bytes_max=30)) as bench:
        call = bench.submit(a_function())
        await settled()
        (sandbox,) = bench.serving

        sandbox.refused("one")
        sandbox.refused("two, which is too much")
        sandbox.answer(sandbox.calls[0], b"1")
        await settled()

        outcome = bench.outcome(call)
        assert outcome.log == b"stoker: one\nstoker: two, which"
        assert outcome.log_bytes == 12 + 31
