"""Records: what is told of an invocation, from its id on, and what a function says of keeping it."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

import pytest

from stoker.model.call import Call, CallIds, text_of
from stoker.model.ended import clean, ended_record, error_of
from stoker.model.outcome import END_REASON_OF_CODE, EndReason, Failure, Timings
from stoker.model.record import (
    QUEUED,
    RUNNING,
    STATUSES,
    Accepted,
    Keeping,
    Record,
    RecordError,
    Work,
    created_ms_of,
    id_of_text,
    reason_of,
)
from stoker.testing.functions import a_function
from stoker.testing.invocation import a_failure, an_outcome

WEEK_MS = 7 * 24 * 3600 * 1000
KEPT = Keeping(WEEK_MS, store_payload=True)
LEAN = Keeping(WEEK_MS, store_payload=False)


def a_call(payload: bytes = b'{"a":1}') -> Call:
    """Return one that was made at 5 ms by a token."""
    call = Call(
        CallIds().next(),
        a_function(version=4),
        payload,
        queued_at=0.0,
        ended=lambda _call, _outcome: None,
        caller="token-1",
        created_ms=5,
    )
    call.replay_of = "an earlier one"
    return call


# -- ids and statuses ------------------------------------------------------------------------------


def test_an_id_is_read_back_and_tells_when_it_was_made() -> None:
    call_id = uuid.UUID("0190163d-8694-739b-aea5-966c26f8ad91").bytes

    assert id_of_text(text_of(call_id)) == call_id
    assert created_ms_of(call_id) == 0x0190163D8694


@pytest.mark.parametrize("text", ["0190163D-8694-739B-AEA5-966C26F8AD91", "0190163d8694739baea5966c26f8ad91"])
def test_an_id_is_read_in_capitals_and_without_its_hyphens(text: str) -> None:
    assert id_of_text(text) == uuid.UUID(text).bytes


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "0190163d-8694-739b-aea5-966c26f8ad9",
        "0190163d-8694-739b-aea5-966c26f8ad91a",
        "01-90163d8694-739b-aea5-966c26f8ad91",
        "0190163d-8694-739b-aea5-966c26f8ad9g",
        "0190163d 8694 739b aea5 966c26f8ad91",
        "\N{ARABIC-INDIC DIGIT ZERO}" * 32,
        "-" * 32,
    ],
)
def test_what_is_no_id_is_none(text: str) -> None:
    assert id_of_text(text) is None


def test_every_code_of_the_table_has_its_status_and_none_of_them_is_one_of_the_living() -> None:
    assert reason_of(None) == "ok"
    assert {reason_of(code) for code in END_REASON_OF_CODE} == {r.value for r in EndReason} - {"ok"}
    assert set(STATUSES) == {QUEUED, RUNNING, *(reason.value for reason in EndReason)}


@pytest.mark.parametrize("status", STATUSES)
def test_only_what_is_neither_queued_nor_running_has_ended(status: str) -> None:
    record = Record(invocation_id="", function="", version=1, status=status, created_ms=0)

    assert record.ended == (status not in ("queued", "running"))


# -- keeping ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "ttl_ms"),
    [
        ({}, WEEK_MS),
        ({"ttl": None}, WEEK_MS),
        ({"ttl": 0}, 0),
        ({"ttl": 1}, 1000),
        ({"ttl": 999}, 1000),
        ({"ttl": 1000}, 1000),
        ({"ttl": 86_400_000}, 86_400_000),
        ({"other": 1}, WEEK_MS),
    ],
)
def test_records_are_kept_as_long_as_the_function_says(given: dict[str, Any], ttl_ms: int) -> None:
    assert Keeping.of(given) == Keeping(ttl_ms, store_payload=False)


@pytest.mark.parametrize(("given", "kept"), [(True, True), (False, False), (None, False)])
def test_payloads_are_kept_only_if_the_function_says_so(given: object, kept: bool) -> None:
    assert Keeping.of({"store_payload": given}).store_payload is kept


def test_an_accepted_one_has_its_payload_or_not_and_is_else_the_same() -> None:
    record = Record(invocation_id="", function="", version=1, status=QUEUED, created_ms=0)
    accepted = Accepted("default", record, Work(topic="t", service="1", payload="{}", pinned=3, key="k"), 7)

    lean = accepted.with_payload(None)

    assert lean.work == Work(topic="t", service="1", pinned=3, key="k")
    assert lean.with_payload("{}") == accepted


# -- ends ------------------------------------------------------------------------------------------


def test_the_record_of_an_end_tells_all_that_is_known() -> None:
    call = a_call()

    record = ended_record(call, an_outcome(b'"x"', log=b"line\n"), KEPT, ended_ms=100, attempts=2)

    assert record == Record(
        invocation_id=text_of(call.id),
        function=call.function.subject,
        version=4,
        status="ok",
        attempts=2,
        created_ms=5,
        started_ms=97,
        ended_ms=100,
        queue_ms=1.0,
        init_ms=2.0,
        run_ms=3.0,
        caller="token-1",
        replay_of="an earlier one",
        log="line\n",
        log_bytes=5,
        payload='{"a":1}',
        result='"x"',
    )


def test_payload_and_result_are_left_out_unless_they_are_to_be_kept() -> None:
    record = ended_record(a_call(), an_outcome(b'"x"', log=b"line\n"), LEAN, ended_ms=100)

    assert (record.payload, record.result, record.log) == (None, None, "line\n")


@pytest.mark.parametrize("code", sorted(END_REASON_OF_CODE))
def test_a_failure_is_told_with_its_code_and_its_end_reason(code: str) -> None:
    record = ended_record(a_call(), a_failure(code), KEPT, ended_ms=100)

    assert (record.code, record.status) == (code, END_REASON_OF_CODE[code].value)
    assert record.error == RecordError(f"it ended with {code}")
    assert (record.result, record.payload) == (None, '{"a":1}')


def test_one_that_never_began_has_no_start() -> None:
    record = ended_record(a_call(), a_failure("invocation.cancelled"), LEAN, ended_ms=100, attempts=0)

    assert (record.attempts, record.started_ms) == (0, None)


def test_one_of_which_nothing_ran_was_not_attempted() -> None:
    outcome = replace(a_failure("schema.input"), timings=Timings(1.0, 0.0, 0.0))

    record = ended_record(a_call(), outcome, KEPT, ended_ms=100)

    assert (record.attempts, record.started_ms) == (0, None)


def test_an_error_keeps_its_type_stack_and_field() -> None:
    failure = Failure("function.error", "boom", "TypeError", "at a\nat b", "/n")

    assert error_of(failure) == RecordError("boom", "TypeError", "at a\nat b", "/n")


def test_bytes_and_texts_that_utf_8_cannot_carry_are_stored_all_the_same() -> None:
    outcome = an_outcome(failure=Failure("function.error", "half \ud83d", field="/\udc00"), log=b"\xff\n")

    record = ended_record(a_call(), outcome, KEPT, ended_ms=100)

    assert (record.error, record.log) == (RecordError("half ?", field="/?"), "\ufffd\n")
    assert clean("whole \U0001f600") == "whole \U0001f600"
