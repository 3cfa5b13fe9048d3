"""Async calls: each is answered once it is stored, and what is stored is in the queue."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from stoker.invocation.acceptance import KeyRequest
from stoker.model.errors import InvalidRequest, NotFound, Unavailable
from stoker.model.function import CodeVersion
from stoker.testing.clock import in_fake_time, passed, settled
from stoker.testing.invocation import a_failure, an_outcome
from stoker.testing.invocation_bench import PRINCIPAL, InvocationBench

KEPT = {"store_payload": True}
KEY = KeyRequest("order-7", b"{}")


@in_fake_time
async def test_an_invocation_is_answered_with_its_id_once_it_is_stored_and_runs() -> None:
    bench = InvocationBench()
    await bench.catalog.create()
    bench.store.held = asyncio.Event()
    asked = asyncio.ensure_future(bench.asynchronous.invoke(PRINCIPAL, bench.catalog.entry(), b'"p"'))
    await passed(1)
    assert not asked.done()
    assert bench.executor.calls == []

    bench.store.held.set()
    one = await asked
    bench.end(one, an_outcome(b"1"))
    await settled()

    assert bench.executor.calls[0].payload == b'"p"'
    assert bench.ended(one).status == "ok"


@in_fake_time
async def test_fifty_with_one_key_run_once_and_are_answered_with_one_id() -> None:
    bench = InvocationBench()
    await bench.catalog.create()
    entry = bench.catalog.entry()

    ids = await asyncio.gather(
        *(bench.asynchronous.invoke(PRINCIPAL, entry, b"{}", key=KEY) for _ in range(50))
    )
    bench.end(ids[0], an_outcome(b"1"))
    await settled()
    later = await bench.asynchronous.invoke(PRINCIPAL, entry, b"{}", key=KEY)

    assert set(ids) == {later}
    assert bench.submitted() == [later]


@in_fake_time
async def test_one_that_is_not_stored_is_not_run() -> None:
    bench = InvocationBench()
    await bench.catalog.create()
    bench.store.fails_next.append(Unavailable("away"))

    with pytest.raises(Unavailable):
        await bench.asynchronous.invoke(PRINCIPAL, bench.catalog.entry(), b"{}")

    assert bench.executor.calls == []
    assert bench.queue.depth == 0


@in_fake_time
async def test_one_that_is_stored_though_that_could_not_be_told_is_found_and_run() -> None:
    bench = InvocationBench()
    await bench.catalog.create()
    bench.store.answers_lost = 1
    with pytest.raises(Unavailable):
        await bench.asynchronous.invoke(PRINCIPAL, bench.catalog.entry(), b"{}")

    bench.queue.recover(bench.store.pending())

    assert bench.submitted() == [one.record.invocation_id for one in bench.store.pending()]


@in_fake_time
async def test_a_replay_runs_the_payload_of_the_old_one_as_a_new_one_that_names_it() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create(monitor_config=KEPT)
    old = await bench.accept(function, b'"payload"')
    bench.end(old, an_outcome(b"1"))
    await settled()

    new = await bench.asynchronous.replay(PRINCIPAL, bench.catalog.entry(), bench.ended(old), version=1)
    call = bench.call(new)
    bench.end(new, an_outcome(b"2"))
    await settled()

    assert new != old
    assert (call.payload, call.replay_of) == (b'"payload"', old)
    assert (bench.ended(new).replay_of, bench.ended(new).status) == (old, "ok")


@in_fake_time
async def test_one_whose_payload_was_not_kept_cannot_be_replayed() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create()
    old = await bench.accept(function)
    bench.end(old, an_outcome(b"1"))
    await settled()

    with pytest.raises(InvalidRequest) as refused:
        await bench.asynchronous.replay(PRINCIPAL, bench.catalog.entry(), bench.ended(old))

    assert "store_payload" in str(refused.value.hint)
    assert len(bench.store.calls) == 1


@in_fake_time
async def test_a_dead_letter_is_redriven_once_as_it_was_asked_for() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create()
    old = await bench.accept(function, b'"payload"', pinned=1)
    bench.end(old, a_failure("function.load_failed"))
    await settled()
    (letter,) = bench.store.dead.values()
    bench.change(function, code=_second(function.code))
    entry = bench.catalog.entry()

    found = await asyncio.gather(
        *(bench.asynchronous.redrive(PRINCIPAL, entry, letter) for _ in range(2)), return_exceptions=True
    )

    (new,) = [one for one in found if isinstance(one, str)]
    assert sum(isinstance(one, NotFound) for one in found) == 1
    assert (bench.call(new).payload, bench.call(new).replay_of) == (b'"payload"', old)
    assert bench.call(new).function.code.version == 1
    assert bench.store.letters() == []


@in_fake_time
async def test_a_redriven_one_that_fails_again_is_a_dead_letter_of_its_own() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create()
    old = await bench.accept(function, b'"payload"')
    bench.end(old, a_failure("function.load_failed"))
    await settled()

    (letter,) = bench.store.dead.values()
    new = await bench.asynchronous.redrive(PRINCIPAL, bench.catalog.entry(), letter)
    bench.end(new, a_failure("function.load_failed"))
    await settled()

    (after,) = bench.store.dead.values()
    assert (after.record.invocation_id, after.record.replay_of, after.payload) == (new, old, '"payload"')


def _second(code: CodeVersion) -> CodeVersion:
    return replace(code, version=2)
