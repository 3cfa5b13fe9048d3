"""Replay: a RequestResponse call is run once more at once, as a new one that names the old."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from stoker.invocation.invoker import Invoker
from stoker.invocation.replay import payload_of, replayed
from stoker.model.call import text_of
from stoker.model.errors import InvalidRequest, NoCapacity, NotFound
from stoker.model.limits import Limits
from stoker.model.outcome import Outcome
from stoker.model.record import Record
from stoker.testing.catalog import CatalogBench
from stoker.testing.clock import in_fake_time, settled
from stoker.testing.invocation import FakeExecutor, Recorded, a_failure, an_outcome
from stoker.testing.invocation_bench import PRINCIPAL

OLD = Record(
    invocation_id="0190163d-8694-739b-aea5-966c26f8ad91",
    function="ms.compute.tools.function.1",
    version=1,
    status="error",
    created_ms=5,
    ended_ms=9,
    payload='{"n":1}',
)


class Desk:
    """An invoker with one function."""

    def __init__(self) -> None:
        self.bench = CatalogBench()
        self.executor = FakeExecutor()
        self.recorded = Recorded()
        self.invoker = Invoker(self.bench.catalog, self.executor, self.recorded, Limits(), clock=lambda: 7.0)

    def replay(self, record: Record = OLD, version: int | None = None) -> asyncio.Task[tuple[str, Outcome]]:
        """Begin it."""
        entry = self.bench.entry()
        return asyncio.ensure_future(replayed(self.invoker, PRINCIPAL, entry, record, version=version))


@pytest.mark.parametrize("outcome", [an_outcome(b"1"), a_failure()], ids=["ok", "error"])
@in_fake_time
async def test_the_old_payload_runs_as_a_new_call_whose_outcome_is_answered(outcome: Outcome) -> None:
    desk = Desk()
    await desk.bench.create()

    replaying = desk.replay()
    await settled()
    call = desk.executor.calls[0]
    call.end(outcome)

    assert await replaying == (text_of(call.id), outcome)
    assert text_of(call.id) != OLD.invocation_id
    assert (call.payload, call.replay_of) == (b'{"n":1}', OLD.invocation_id)
    assert desk.recorded.ends == [(call, outcome)]


@in_fake_time
async def test_a_version_that_was_asked_for_is_the_one_that_runs() -> None:
    desk = Desk()
    await desk.bench.create()

    replaying = desk.replay(version=1)
    await settled()
    desk.executor.calls[0].end(an_outcome(b"1"))
    await replaying
    with pytest.raises(NotFound):
        await desk.replay(version=2)

    assert [call.function.code.version for call in desk.executor.calls] == [1]


@in_fake_time
async def test_a_payload_that_was_not_kept_cannot_be_run_again() -> None:
    desk = Desk()
    await desk.bench.create()

    with pytest.raises(InvalidRequest) as refused:
        await desk.replay(replace(OLD, payload=None))

    assert "store_payload" in str(refused.value.hint)
    assert desk.executor.calls == []


@in_fake_time
async def test_a_payload_that_does_not_fit_any_more_runs_nothing_and_is_recorded() -> None:
    desk = Desk()
    await desk.bench.create(schema={"input": {"type": "array"}})

    invocation_id, outcome = await desk.replay()

    ((call, recorded),) = desk.recorded.ends
    assert recorded == outcome
    assert (text_of(call.id), call.replay_of) == (invocation_id, OLD.invocation_id)
    assert outcome.failure is not None
    assert outcome.failure.code == "schema.input"
    assert desk.executor.calls == []


@in_fake_time
async def test_a_call_that_no_instance_took_is_an_error() -> None:
    desk = Desk()
    await desk.bench.create()

    replaying = desk.replay()
    await settled()
    desk.executor.calls[0].end(NoCapacity("full"))

    with pytest.raises(NoCapacity):
        await replaying


@in_fake_time
async def test_a_caller_who_leaves_cancels_the_call_whose_end_then_disturbs_nobody() -> None:
    desk = Desk()
    await desk.bench.create()
    replaying = desk.replay()
    await settled()

    replaying.cancel()
    await settled()
    assert desk.executor.cancelled == desk.executor.calls
    desk.executor.calls[0].end(a_failure("invocation.cancelled"))

    assert replaying.cancelled()
    assert len(desk.recorded.ends) == 1


def test_a_kept_payload_is_given_back_as_it_was_written() -> None:
    assert payload_of(replace(OLD, payload=' {"a" : "ä"} ')) == ' {"a" : "ä"} '.encode()
