"""A quick record says what the record of its call says."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.model.call import Call
from stoker.model.ended import ended_record
from stoker.model.outcome import Failure, Outcome, Timings
from stoker.model.record import Keeping
from stoker.records import formats
from stoker.records.quick_record import head_of, is_quick, quick_record
from stoker.testing.functions import a_function

texts = st.text().map(lambda text: msgspec.json.encode(text))
times = st.integers(0, 10**9).map(lambda micros: micros / 1000)


def a_call(payload: bytes = b"{}", caller: str = "administrator", replay_of: str | None = None) -> Call:
    call = Call(
        bytes(range(16)),
        replace(a_function(), monitor_config={"store_payload": True}),
        payload,
        queued_at=0.0,
        ended=lambda _call, _outcome: None,
        caller=caller,
        created_ms=1_795_661_787_148,
    )
    call.replay_of = replay_of
    return call


@given(
    payload=texts,
    result=texts,
    caller=st.text(),
    timings=st.builds(Timings, times, times, times.map(lambda run_ms: run_ms + 0.01)),
    memory_bytes=st.integers(0, 2**40),
    kept=st.booleans(),
)
def test_it_is_the_record_that_would_be_made_step_by_step(
    payload: bytes, result: bytes, caller: str, timings: Timings, memory_bytes: int, *, kept: bool
) -> None:
    call = a_call(payload, caller)
    outcome = Outcome(result, None, b"", 0, timings, memory_bytes)
    made = ended_record(call, outcome, Keeping(1000, kept), ended_ms=1_795_661_788_000)

    text = quick_record(head_of(call.function, caller), call, outcome, 1_795_661_788_000, store_payload=kept)

    found = formats.record_of(text)
    for name in ("queue_ms", "init_ms", "run_ms"):
        assert getattr(found, name) == pytest.approx(getattr(made, name), abs=0.0011)
    same = {name: getattr(made, name) for name in ("queue_ms", "init_ms", "run_ms")}
    assert msgspec.structs.replace(found, **same) == made


@pytest.mark.parametrize(
    ("call", "outcome"),
    [
        (a_call(), Outcome(None, Failure("function.error", "no"), b"", 0, Timings(0, 0, 0))),
        (a_call(), Outcome(b"1", None, b"said", 4, Timings(0, 0, 0))),
        (a_call(replay_of="another"), Outcome(b"1", None, b"", 0, Timings(0, 0, 0))),
    ],
)
def test_what_has_more_to_tell_is_none(call: Call, outcome: Outcome) -> None:
    assert not is_quick(call, outcome)
    assert is_quick(a_call(), Outcome(b"1", None, b"", 0, Timings(0, 0, 0)))
