"""Counting calls: every way in is bounded by quotas and rates, and what has ended makes room."""

from __future__ import annotations

import asyncio

import pytest

from stoker.catalog.principal import Principal, Rate
from stoker.catalog.quotas import Quotas
from stoker.invocation.acceptance import KeyRequest
from stoker.invocation.invoker import Invoker
from stoker.model.call import Call
from stoker.model.errors import FunctionBusy, InputRejected, NoCapacity, QuotaExceeded, Unavailable
from stoker.testing.catalog import ACCOUNT
from stoker.testing.clock import in_fake_time, passed, settled
from stoker.testing.invocation import Recorded, an_outcome
from stoker.testing.invocation_bench import PRINCIPAL, InvocationBench

KEY = KeyRequest("k", b"{}")
LIMITED = Principal(ACCOUNT, "t", frozenset({"*"}), rates=(Rate("t", 1),))


class Bench(InvocationBench):
    """With one function, and an invoker beside the queue."""

    async def start(self, **quotas: int) -> Bench:
        await self.catalog.create(schema={"input": {"type": "object"}})
        await self.catalog.catalog.accounts.limit(ACCOUNT, Quotas(**quotas))
        self.invoker = Invoker(
            self.catalog.catalog, self.executor, Recorded(), self.limits, clock=lambda: 0.0
        )
        return self

    def plain(self, payload: bytes = b"{}", principal: Principal = PRINCIPAL) -> Call:
        return self.invoker.invoke(principal, self.catalog.entry(), payload, lambda call, outcome: None)

    async def later(self, principal: Principal = PRINCIPAL, key: KeyRequest | None = None) -> str:
        return await self.asynchronous.invoke(principal, self.catalog.entry(), b"{}", key=key)

    def keyed_call(self, key: KeyRequest = KEY) -> asyncio.Task[object]:
        return asyncio.ensure_future(self.keyed.invoke(PRINCIPAL, self.catalog.entry(), b"{}", key))

    @property
    def running(self) -> int:
        return self.catalog.catalog.usage.meter(ACCOUNT).running

    @property
    def called(self) -> int:
        return self.catalog.catalog.usage.calls_of(ACCOUNT)


# -- at once -----------------------------------------------------------------------------------------


@in_fake_time
async def test_a_plain_call_is_under_way_until_its_end() -> None:
    bench = await Bench().start(concurrent_invocations=1)
    call = bench.plain()

    with pytest.raises(QuotaExceeded) as refused:
        bench.plain()
    assert (refused.value.code, bench.running, bench.called) == ("quota.concurrent_invocations", 1, 1)
    call.end(an_outcome(b"1"))
    bench.plain().end(NoCapacity("no instance became free"))
    bench.plain()

    assert bench.running == 1


@in_fake_time
async def test_a_call_that_nobody_takes_is_not_counted() -> None:
    bench = await Bench().start(concurrent_invocations=1, invocations_per_minute=1)
    bench.executor.refuses_with = FunctionBusy("all wait")

    for _ in range(3):
        with pytest.raises(FunctionBusy):
            bench.plain()
    with pytest.raises(InputRejected):
        bench.plain(b"1")

    assert (bench.running, bench.called) == (0, 0)


@in_fake_time
async def test_async_invocations_wait_for_their_turn_where_plain_ones_are_refused() -> None:
    bench = await Bench().start(concurrent_invocations=1)
    first, second = await bench.later(), await bench.later()

    assert bench.submitted() == [first]
    with pytest.raises(QuotaExceeded):
        bench.plain()
    bench.end(first, an_outcome(b"1"))
    await passed(1)
    assert bench.submitted() == [first, second]
    bench.end(second, an_outcome(b"1"))
    await settled()

    assert [bench.ended(one).status for one in (first, second)] == ["ok", "ok"]
    assert bench.running == 0


@in_fake_time
async def test_an_invocation_that_the_executor_does_not_take_is_not_under_way() -> None:
    bench = await Bench().start(concurrent_invocations=1)
    bench.executor.refuses_with = NoCapacity("full")

    await bench.later()

    assert bench.running == 0


@in_fake_time
async def test_a_keyed_call_that_is_refused_leaves_its_key_free() -> None:
    bench = await Bench().start(concurrent_invocations=1)
    call = bench.plain()

    with pytest.raises(QuotaExceeded):
        await bench.keyed_call()
    call.end(an_outcome(b"1"))
    again = bench.keyed_call()
    await settled()
    assert bench.running == 1
    bench.executor.end(bench.executor.calls[-1], an_outcome(b"2"))

    await again
    assert bench.running == 0


# -- a minute ----------------------------------------------------------------------------------------


@in_fake_time
async def test_all_ways_in_count_together() -> None:
    bench = await Bench().start(invocations_per_minute=3)
    bench.plain()
    await bench.later()
    keyed = bench.keyed_call()
    await settled()

    for refused in (bench.later, bench.keyed_call):
        with pytest.raises(QuotaExceeded) as error:
            await refused(key=KeyRequest("new", b"{}"))
        assert error.value.code == "quota.invocations_per_minute"
    with pytest.raises(QuotaExceeded):
        bench.plain()
    assert bench.called == 3
    keyed.cancel()


@in_fake_time
async def test_what_is_not_stored_and_what_is_known_by_its_key_do_not_count() -> None:
    bench = await Bench().start(invocations_per_minute=2)
    bench.store.fails_next.append(Unavailable("away"))
    with pytest.raises(Unavailable):
        await bench.later()
    assert bench.called == 0

    first = await bench.later(key=KEY)
    assert await bench.later(key=KEY) == first

    assert bench.called == 1


@in_fake_time
async def test_a_tokens_rate_holds_for_async_ones_too() -> None:
    bench = await Bench().start()
    await bench.later(LIMITED)

    with pytest.raises(QuotaExceeded) as refused:
        await bench.later(LIMITED)
    with pytest.raises(QuotaExceeded):
        bench.plain(principal=LIMITED)

    assert refused.value.code == "quota.calls_per_minute"
    bench.plain()


@in_fake_time
async def test_an_account_full_of_queued_ones_gets_no_more_of_them_but_plain_ones() -> None:
    bench = await Bench().start(record_bytes=10)
    bench.catalog.catalog.usage.records_over(frozenset({ACCOUNT}))

    with pytest.raises(QuotaExceeded) as refused:
        await bench.later()

    assert refused.value.code == "quota.record_bytes"
    bench.plain()
