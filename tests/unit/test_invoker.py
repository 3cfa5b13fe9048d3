"""The invoker: nothing runs that does not fit, and every call that was taken has one end."""

from __future__ import annotations

from typing import Any

import pytest

from stoker.catalog.principal import Principal
from stoker.invocation.invoker import Invoker
from stoker.model.call import Call
from stoker.model.errors import (
    FunctionBusy,
    InputRejected,
    InvalidRequest,
    NoCapacity,
    StokerError,
    TooLarge,
)
from stoker.model.limits import Limits
from stoker.model.outcome import EndReason, Failure, Outcome
from stoker.testing.catalog import ACCOUNT, CatalogBench
from stoker.testing.invocation import FakeExecutor, Recorded, an_outcome

PRINCIPAL = Principal(ACCOUNT, "administrator", frozenset({"*"}))


class Desk:
    """An invoker with one function."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.bench = CatalogBench()
        self.executor = FakeExecutor()
        self.recorded = Recorded()
        self.ends: list[Outcome | StokerError] = []
        self.invoker = Invoker(
            self.bench.catalog, self.executor, self.recorded, limits or Limits(), clock=lambda: 7.0
        )

    async def with_schema(self, **schema: Any) -> Desk:
        await self.bench.create(schema=schema or None)
        return self

    def invoke(self, payload: bytes = b"{}") -> Call:
        return self.invoker.invoke(
            PRINCIPAL, self.bench.entry(), payload, lambda call, outcome: self.ends.append(outcome)
        )

    def end(self, outcome: Outcome | StokerError) -> Outcome | StokerError:
        self.executor.calls[-1].end(outcome)
        return self.ends[-1]

    def failure(self, result: bytes) -> Failure:
        outcome = self.end(an_outcome(result))
        assert isinstance(outcome, Outcome)
        assert outcome.result is None
        assert outcome.failure is not None
        return outcome.failure


async def test_a_call_goes_to_the_executor_with_its_payload_as_it_was_written() -> None:
    desk = await Desk().with_schema()

    call = desk.invoke(b' {"a" : 1.0} ')

    assert desk.executor.calls == [call]
    assert call.payload == b' {"a" : 1.0} '
    assert (call.queued_at, call.caller) == (7.0, "administrator")
    assert call.function is desk.bench.entry().function
    assert desk.invoker.running == 1


async def test_its_end_is_told_and_recorded() -> None:
    desk = await Desk().with_schema()
    call = desk.invoke()
    outcome = an_outcome(b'"done"')

    told = desk.end(outcome)

    assert told is outcome
    assert desk.recorded.ends == [(call, outcome)]
    assert desk.invoker.running == 0


@pytest.mark.parametrize(
    "payload", [b"", b"{", b"nope", b"NaN", b"[1,]", b'"\xff"', b"[" * 5000 + b"]" * 5000]
)
async def test_a_payload_that_is_no_json_runs_nothing(payload: bytes) -> None:
    desk = await Desk().with_schema()

    with pytest.raises(InvalidRequest) as refused:
        desk.invoke(payload)

    assert refused.value.field == "/payload"
    assert (desk.executor.calls, desk.invoker.running) == ([], 0)


async def test_a_payload_past_its_limit_runs_nothing() -> None:
    desk = await Desk(Limits(payload_bytes_max=10)).with_schema()

    desk.invoke(b'"' + b"x" * 8 + b'"')
    with pytest.raises(TooLarge):
        desk.invoke(b'"' + b"x" * 9 + b'"')

    assert len(desk.executor.calls) == 1


async def test_a_payload_that_does_not_fit_its_schema_runs_nothing_and_points_at_the_place() -> None:
    desk = await Desk().with_schema(input={"type": "object", "properties": {"n": {"type": "integer"}}})

    with pytest.raises(InputRejected) as refused:
        desk.invoke(b'{"n":"three"}')

    assert refused.value.field == "/n"
    assert "schema.input" in refused.value.message
    assert (desk.executor.calls, desk.recorded.ends) == ([], [])


async def test_a_result_that_does_not_fit_its_schema_is_an_outcome_of_its_own() -> None:
    desk = await Desk().with_schema(output={"type": "object", "required": ["message"]})
    desk.invoke()

    failure = desk.failure(b"{}")

    assert failure.code == "schema.output"
    assert "message" in failure.error
    assert desk.recorded.ends[0][1].reason is EndReason.OUTPUT_SCHEMA


async def test_a_result_that_fits_its_schema_is_answered_as_it_was_written() -> None:
    desk = await Desk().with_schema(output={"type": "object"})
    desk.invoke()

    told = desk.end(an_outcome(b'{"a" : 1}'))

    assert isinstance(told, Outcome)
    assert told.result == b'{"a" : 1}'


@pytest.mark.parametrize("schema", [{}, {"output": {}}, {"output": True}], ids=["none", "any", "true"])
@pytest.mark.parametrize(
    "result",
    [b"", b"{", b"undefined", b"NaN", b"[Infinity]", b"1 2", b"[1,]", b"\x00", b"[" * 9999 + b"]" * 9999],
)
async def test_a_result_that_is_no_json_is_told_so(schema: dict[str, Any], result: bytes) -> None:
    # The shim shares its process with the function: what it sends as a result only claims to be JSON.
    desk = await Desk().with_schema(**schema)
    desk.invoke()

    failure = desk.failure(result)

    assert failure.code == "function.result_invalid"
    assert desk.invoker.running == 0


@pytest.mark.parametrize(
    "result", [b'"cut within an emoji: \\ud83d"', b'"\\ud83d\\ude00"', b" null ", b"1e400"]
)
async def test_what_javascript_calls_json_is_a_result(result: bytes) -> None:
    desk = await Desk().with_schema()
    desk.invoke()

    told = desk.end(an_outcome(result))

    assert isinstance(told, Outcome)
    assert (told.result, told.failure) == (result, None)


async def test_a_failure_is_not_held_against_the_schema() -> None:
    desk = await Desk().with_schema(output={"type": "object"})
    desk.invoke()
    outcome = an_outcome(failure=Failure("function.error", "no luck"))

    assert desk.end(outcome) is outcome


async def test_a_call_that_never_ran_is_told_and_leaves_no_record() -> None:
    desk = await Desk().with_schema()
    desk.invoke()
    refusal = NoCapacity("no instance became free")

    assert desk.end(refusal) is refusal
    assert desk.recorded.ends == []
    assert desk.invoker.running == 0


@pytest.mark.parametrize("error", [FunctionBusy("busy"), RuntimeError("a bug")])
async def test_a_call_that_was_not_taken_is_not_counted_and_never_ends(error: Exception) -> None:
    desk = await Desk().with_schema()
    desk.executor.refuses_with = error

    with pytest.raises(type(error)):
        desk.invoke()

    assert desk.invoker.running == 0
    assert desk.ends == []


async def test_a_call_that_ended_before_it_was_refused_is_counted_once() -> None:
    desk = await Desk().with_schema()

    def submit(call: Call) -> None:
        call.end(an_outcome(b"1"))
        raise RuntimeError("a bug")

    desk.executor.submit = submit  # type: ignore[method-assign]

    with pytest.raises(RuntimeError, match="a bug"):
        desk.invoke()

    assert desk.invoker.running == 0


async def test_a_call_may_end_before_it_is_handed_back() -> None:
    desk = await Desk().with_schema()
    desk.executor.ends_at_once = an_outcome(b"1")

    call = desk.invoke()

    assert call.has_ended
    assert (len(desk.ends), desk.invoker.running) == (1, 0)


async def test_a_second_end_changes_nothing() -> None:
    desk = await Desk().with_schema()
    call = desk.invoke()

    call.end(an_outcome(b"1"))
    call.end(an_outcome(b"2"))

    assert len(desk.ends) == len(desk.recorded.ends) == 1
    assert desk.invoker.running == 0


async def test_what_happened_is_recorded_even_if_nobody_could_be_told() -> None:
    desk = await Desk().with_schema()

    def broken(call: Call, outcome: Outcome | StokerError) -> None:
        raise RuntimeError("the edge has a bug")

    call = desk.invoker.invoke(PRINCIPAL, desk.bench.entry(), b"{}", broken)
    with pytest.raises(RuntimeError, match="the edge has a bug"):
        call.end(an_outcome(b"1"))

    assert len(desk.recorded.ends) == 1
    assert desk.invoker.running == 0


async def test_a_contract_that_changes_while_a_call_runs_does_not_judge_its_result() -> None:
    desk = await Desk().with_schema(output={"type": "object"})
    desk.invoke()
    await desk.bench.catalog.patch_function(
        ACCOUNT, desk.bench.entry(), {"schema": {"output": {"type": "string"}}}
    )

    told = desk.end(an_outcome(b"{}"))

    assert isinstance(told, Outcome)
    assert told.failure is None
