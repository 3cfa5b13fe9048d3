"""Calls and their ids."""

from __future__ import annotations

import time
import uuid

from stoker.model.call import Call, CallIds, text_of
from stoker.model.errors import NoCapacity, StokerError
from stoker.model.outcome import Outcome
from stoker.testing.functions import a_function


def test_an_id_is_a_uuid_of_version_7_of_now() -> None:
    before_ms = time.time_ns() // 1_000_000

    identity = uuid.UUID(text_of(CallIds().next()))

    assert (identity.version, identity.variant) == (7, uuid.RFC_4122)
    assert before_ms <= identity.int >> 80 <= time.time_ns() // 1_000_000


def test_ids_do_not_repeat_across_the_blocks_they_are_drawn_in() -> None:
    ids = CallIds()

    drawn = {ids.next() for _ in range(5_000)}

    assert len(drawn) == 5_000
    assert {len(one) for one in drawn} == {16}


def _call(ends: list[Outcome | StokerError]) -> Call:
    return Call(b"1" * 16, a_function(), b"{}", queued_at=0.0, ended=lambda call, how: ends.append(how))


def test_only_the_first_end_is_told() -> None:
    ends: list[Outcome | StokerError] = []
    call = _call(ends)
    first = NoCapacity("first")

    call.end(first)
    call.end(NoCapacity("second"))

    assert ends == [first]
    assert call.has_ended


def test_a_call_that_was_dropped_has_no_end() -> None:
    ends: list[Outcome | StokerError] = []
    call = _call(ends)

    dropped = call.drop()
    call.end(NoCapacity("too late"))

    assert dropped
    assert ends == []
    assert not call.drop()


def test_cancelling_does_what_the_place_it_is_at_says_and_nothing_after_the_end() -> None:
    cancelled: list[str] = []
    call = _call([])
    call.cancel_now()  # nobody has it yet

    call.cancel = lambda: cancelled.append("queued")
    call.cancel_now()
    call.end(NoCapacity("over"))
    call.cancel_now()

    assert cancelled == ["queued"]
