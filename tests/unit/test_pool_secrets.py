"""Secrets in the pool: handed over with the code, and anew once there is another value."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stoker.model.errors import NotFound
from stoker.testing.clock import in_fake_time, settled
from stoker.testing.functions import a_function
from stoker.testing.sandbox import hold
from stoker.testing.worker import PoolBench

ACCOUNT = a_function().account


def values(bench: PoolBench) -> list[Any]:
    """Return what each instance that serves has as KEY."""
    return [sandbox.loads[0]["env"].get("KEY") for sandbox in bench.serving]


@in_fake_time
async def test_an_instance_gets_what_its_function_lists_and_that_goes_before_variables() -> None:
    async with PoolBench() as bench:
        bench.secrets.values = {"KEY": "value", "OTHER": "not listed"}

        await bench.run(a_function(secrets=("KEY",), env_vars=("KEY=plain", "A=1")))

        assert bench.serving[0].loads[0]["env"] == {"KEY": "value", "A": "1"}


@in_fake_time
async def test_without_a_list_nothing_is_asked_for() -> None:
    async with PoolBench() as bench:
        bench.secrets.error = AssertionError("nobody lists any")

        await bench.run(a_function(env_vars=("A=1",)))

        assert bench.serving[0].loads[0]["env"] == {"A": "1"}


@in_fake_time
async def test_a_secret_that_is_not_to_be_had_is_the_calls_end_and_costs_no_spare() -> None:
    async with PoolBench(spares=1) as bench:
        bench.secrets.error = NotFound("the secret KEY is not there any more")

        call = bench.submit(a_function(secrets=("KEY",)))
        await settled()

        assert bench.code(call) == "not_found"
        assert bench.serving == []
        assert bench.pool.figures["spare_nodejs"] == 1


@in_fake_time
async def test_the_next_call_has_the_new_value() -> None:
    async with PoolBench() as bench:
        bench.secrets.values = {"KEY": "old"}
        function = a_function(secrets=("KEY",))
        await bench.run(function)

        bench.secrets.values = {"KEY": "new"}
        bench.pool.secret_changed(ACCOUNT, "KEY")
        await settled()
        warm = values(bench)
        outcome = await bench.run(function)

        assert warm == values(bench) == ["new"]
        assert outcome.timings.init_ms == 0


@in_fake_time
async def test_a_call_that_runs_ends_in_the_instance_that_it_is_in() -> None:
    async with PoolBench(hold) as bench:
        bench.secrets.values = {"KEY": "old"}
        function = a_function(secrets=("KEY",))
        running = bench.submit(function)
        await settled()

        bench.secrets.values = {"KEY": "new"}
        bench.pool.secret_changed(ACCOUNT, "KEY")
        await settled()
        before = values(bench)
        old = bench.serving[0]
        old.answer(old.calls[0], b"1")
        await settled()

        assert before == ["old", "new"]
        assert bench.code(running) is None
        assert values(bench) == ["new"]


@in_fake_time
async def test_instances_of_others_stay() -> None:
    async with PoolBench() as bench:
        bench.secrets.values = {"KEY": "old", "OTHER": "x"}
        lists = a_function(secrets=("KEY",))
        others = [
            a_function(name="none"),
            a_function(name="other", secrets=("OTHER",)),
            replace(lists, account="another"),
        ]
        for function in (lists, *others):
            await bench.run(function)
        before = set(bench.serving)

        bench.pool.secret_changed(ACCOUNT, "KEY")
        await settled()

        assert len(before & set(bench.serving)) == 3
