"""Cancelling an Async invocation, wherever it is: it ends once, as cancelled unless another end came first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from stoker.model.errors import NoCapacity, Unavailable
from stoker.model.outcome import Outcome
from stoker.testing.catalog import ACCOUNT
from stoker.testing.clock import in_fake_time, passed, settled
from stoker.testing.invocation import a_failure, an_outcome
from stoker.testing.invocation_bench import InvocationBench

RETRY: dict[str, Any] = {"attempts": 3, "backoff_ms": 1000, "max_age_ms": 3_600_000}
CANCELLED = a_failure("invocation.cancelled")


def cancelling(bench: InvocationBench, invocation_id: str) -> asyncio.Future[None]:
    """Begin to cancel it."""
    return asyncio.ensure_future(bench.queue.cancel(bench.one(invocation_id)))


async def is_cancelled(bench: InvocationBench, invocation_id: str, *, attempts: int = 0) -> None:
    """Fail unless it ended as cancelled, and stays so."""
    await passed(30)
    record = bench.ended(invocation_id)
    assert (record.status, record.code, record.attempts) == ("cancelled", "invocation.cancelled", attempts)
    assert bench.store.letters() == []
    assert bench.queue.depth == 0


@in_fake_time
async def test_one_that_is_ready_never_runs() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create()
    bench.executor.places = 0
    one, other = await bench.accept(function), await bench.accept(function)

    await bench.queue.cancel(bench.one(one))
    bench.executor.places = 1
    await passed(1)

    assert bench.submitted() == [other]
    assert bench.ended(one).status == "cancelled"


@in_fake_time
async def test_one_that_waits_to_be_tried_again_is_not_tried_again() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create(retry=RETRY)
    one = await bench.accept(function)
    bench.end(one, a_failure())
    await settled()

    await bench.queue.cancel(bench.one(one))

    await is_cancelled(bench, one, attempts=1)
    assert bench.submitted() == [one]
    assert bench.ended(one).started_ms is not None


@in_fake_time
async def test_one_that_the_executor_has_is_cancelled_there() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create(retry=RETRY)
    one = await bench.accept(function)

    asked = cancelling(bench, one)
    await settled()
    assert bench.executor.cancelled == [bench.call(one)]
    assert not asked.done(), "it has not ended before the executor says so"
    bench.call(one).end(CANCELLED)  # it never began
    await asked

    await is_cancelled(bench, one)
    assert bench.ended(one).started_ms is None


@in_fake_time
async def test_one_whose_second_attempt_never_began_tells_when_the_first_did() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create(retry=RETRY)
    one = await bench.accept(function)
    began_ms = bench.now_ms()
    bench.end(one, a_failure())
    await passed(1)

    asked = cancelling(bench, one)
    await settled()
    bench.executor.cancelled[0].end(CANCELLED)
    await asked

    await is_cancelled(bench, one, attempts=1)
    assert bench.ended(one).started_ms == began_ms


@in_fake_time
async def test_one_that_runs_has_been_attempted() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create(retry=RETRY)
    one = await bench.accept(function)
    bench.executor.begin(bench.call(one))

    asked = cancelling(bench, one)
    await settled()
    bench.executor.cancelled[0].end(CANCELLED)
    await asked

    await is_cancelled(bench, one, attempts=1)


@in_fake_time
async def test_one_whose_payload_is_being_loaded_never_runs() -> None:
    # It is neither in the backlog nor with the executor: there was nothing that could be cancelled.
    bench = InvocationBench()
    bench.queue._payloads._bytes_max = 0
    function = await bench.catalog.create()
    bench.executor.places = 0
    one = await bench.accept(function)
    bench.store.held = asyncio.Event()
    bench.executor.places = 1
    await passed(1)

    asked = cancelling(bench, one)
    await settled()
    bench.store.held.set()
    await asked

    await is_cancelled(bench, one)
    assert bench.executor.calls == []


@in_fake_time
async def test_one_whose_next_attempt_is_being_stored_has_none() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create(retry=RETRY)
    one = await bench.accept(function)
    bench.store.held = asyncio.Event()
    bench.end(one, a_failure())
    await settled()

    asked = cancelling(bench, one)
    await settled()
    bench.store.held.set()
    await asked

    await is_cancelled(bench, one, attempts=1)
    assert bench.submitted() == [one]


@in_fake_time
async def test_one_that_no_instance_took_just_now_is_not_submitted_again() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create()
    one = await bench.accept(function)
    bench.call(one).end(NoCapacity("no instance"))

    asked = cancelling(bench, one)
    await asked

    await is_cancelled(bench, one)
    assert bench.submitted() == [one]


@pytest.mark.parametrize(
    ("outcome", "status"), [(an_outcome(b"1"), "ok"), (a_failure("function.load_failed"), "error")]
)
@in_fake_time
async def test_an_end_that_came_first_stays(outcome: Outcome, status: str) -> None:
    bench = InvocationBench()
    function = await bench.catalog.create()
    one = await bench.accept(function)
    bench.store.held = asyncio.Event()
    bench.end(one, outcome)
    await settled()

    asked = cancelling(bench, one)
    await settled()
    assert not asked.done()
    bench.store.held.set()
    await asked

    assert bench.ended(one).status == status


@in_fake_time
async def test_a_failure_that_races_with_the_cancellation_is_not_tried_again() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create(retry=RETRY)
    one = await bench.accept(function)
    bench.executor.begin(bench.call(one))

    asked = cancelling(bench, one)
    await settled()
    bench.executor.cancelled[0].end(a_failure())  # its last word was on its way already
    await asked

    await is_cancelled(bench, one, attempts=1)
    assert bench.submitted() == [one]


def never(bench: InvocationBench, one: str) -> None:
    """Leave it alone."""


def begun(bench: InvocationBench, one: str) -> None:
    """Let it begin."""
    bench.executor.begin(bench.call(one))


@pytest.mark.parametrize("before", [never, begun])
@in_fake_time
async def test_whoever_asks_twice_is_told_of_the_same_end(
    before: Callable[[InvocationBench, str], None],
) -> None:
    bench = InvocationBench()
    function = await bench.catalog.create()
    one = await bench.accept(function)
    before(bench, one)

    asked = [cancelling(bench, one), cancelling(bench, one)]
    await settled()
    bench.executor.cancelled[0].end(CANCELLED)
    await asyncio.gather(*asked)

    assert bench.ended(one).status == "cancelled"


@in_fake_time
async def test_a_cancellation_waits_for_a_store_that_is_away() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create()
    bench.executor.places = 0
    one = await bench.accept(function)
    bench.store.fails_with = Unavailable("away")

    asked = cancelling(bench, one)
    await passed(5)
    assert not asked.done()
    bench.store.fails_with = None
    await asked

    await is_cancelled(bench, one)


@in_fake_time
async def test_one_that_somebody_else_ended_is_let_go() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create()
    bench.executor.places = 0
    one = await bench.accept(function)
    bench.store.end_elsewhere(ACCOUNT, one)

    await bench.queue.cancel(bench.one(one))

    assert bench.ended(one).status == "ok"
    assert bench.queue.depth == 0


@in_fake_time
async def test_one_is_cancelled_while_the_server_drains() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create()
    bench.executor.places = 1
    runs, waits = await bench.accept(function), await bench.accept(function)
    bench.executor.begin(bench.call(runs))
    drained = asyncio.ensure_future(bench.queue.drain())
    await settled()

    asked = [cancelling(bench, runs), cancelling(bench, waits)]
    await settled()
    bench.executor.cancelled[0].end(CANCELLED)
    await asyncio.gather(drained, *asked)

    assert [bench.ended(one).status for one in (runs, waits)] == ["cancelled", "cancelled"]


@in_fake_time
async def test_one_that_has_ended_meanwhile_is_not_waited_for() -> None:
    bench = InvocationBench()
    function = await bench.catalog.create()
    one = await bench.accept(function)
    live = bench.one(one)
    bench.end(one, an_outcome(b"1"))
    await settled()

    await bench.queue.cancel(live)

    assert bench.ended(one).status == "ok"
