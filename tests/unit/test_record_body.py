"""Records as they are answered, and what a list may be filtered by: the query, taken to the letter."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest
from starlette.requests import Request

from stoker.edge.http.record_body import (
    id_cursor,
    id_of_cursor,
    invocation_of,
    log_text,
    record_answer,
    statuses_of,
    time_of,
)
from stoker.model.errors import InvalidRequest, NotFound
from stoker.model.record import STATUSES, Record, RecordError

ID = "0190163d-8694-739b-aea5-966c26f8ad91"
QUEUED = Record(
    invocation_id=ID,
    function="ms.compute.tools.function.1",
    version=3,
    invocation_type="Async",
    status="queued",
    created_ms=1_767_225_600_007,
    caller="token-1",
)
ENDED: dict[str, Any] = {
    "code": "function.error",
    "attempts": 2,
    "started_ms": 1_767_225_601_000,
    "ended_ms": 1_767_225_601_250,
    "queue_ms": 1.5,
    "init_ms": 0.0,
    "run_ms": 250.25,
    "memory_bytes": 4096,
}


def asked(query: str = "", **path: str) -> Request:
    return Request({"type": "http", "query_string": query.encode(), "path_params": path, "headers": []})


def a_record(**changes: Any) -> Record:
    return Record(**{name: getattr(QUEUED, name) for name in QUEUED.__struct_fields__} | changes)


# -- a record ------------------------------------------------------------------------------------------


def test_one_that_waits_has_every_member_that_there_is_something_to_say_of() -> None:
    assert record_answer(QUEUED) == {
        "invocation_id": ID,
        "function": "ms.compute.tools.function.1",
        "version": 3,
        "invocation_type": "Async",
        "status": "queued",
        "code": None,
        "attempts": 0,
        "created": "2026-01-01T00:00:00.007Z",
        "started": None,
        "ended": None,
        "timings": {"queue_ms": None, "init_ms": None, "run_ms": None},
        "memory_bytes": 0,
        "log_bytes": 0,
        "caller": "token-1",
    }


def test_one_that_failed_says_why_and_what_it_replayed() -> None:
    error = RecordError("no such name", "TypeError", "at handler (index.js:3:9)")
    record = a_record(status="error", error=error, replay_of="another", payload="{}", **ENDED)

    body = record_answer(record)

    assert (body["status"], body["code"], body["attempts"]) == ("error", "function.error", 2)
    assert (body["started"], body["ended"]) == ("2026-01-01T00:00:01.000Z", "2026-01-01T00:00:01.250Z")
    assert body["timings"] == {"queue_ms": 1.5, "init_ms": 0.0, "run_ms": 250.25}
    assert body["error"] == {
        "error": "no such name",
        "error_type": "TypeError",
        "stack": "at handler (index.js:3:9)",
    }
    assert (body["replay_of"], body["payload"], "result" in body) == ("another", "{}", False)


def test_a_violation_of_a_schema_points_at_its_place() -> None:
    body = record_answer(a_record(status="output_schema", error=RecordError("is no integer", field="/n")))

    assert body["error"] == {"error": "is no integer", "error_type": None, "stack": None, "field": "/n"}


def test_a_result_of_null_is_a_result() -> None:
    assert record_answer(a_record(status="ok", result="null"))["result"] == "null"


# -- a log ---------------------------------------------------------------------------------------------


def test_a_whole_log_is_what_was_printed() -> None:
    assert log_text(a_record(log="grüß\nGott", log_bytes=11)) == "grüß\nGott".encode()


def test_a_log_that_was_cut_says_by_how_much_whatever_its_bytes_became() -> None:
    record = a_record(log="\ufffd" * 10, log_bytes=15, log_cut_bytes=5)  # longer than what was printed

    assert log_text(record).decode() == "\ufffd" * 10 + "\n[stoker: 5 more bytes were cut]\n"


def test_half_a_character_does_not_make_a_log_a_cut_one() -> None:
    assert log_text(a_record(log="a\ufffd", log_bytes=2)) == "a\ufffd".encode()


# -- the path ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [ID, ID.upper(), ID.replace("-", "")])
def test_an_id_is_found_however_it_is_written(text: str) -> None:
    assert invocation_of(asked(invocation=text)) == ID


@pytest.mark.parametrize(
    "text", ["", "*", ">", "x", ID[:-1], ID + "0", ID.replace("-", "_"), "%2a", ID[1:] + "-"]
)
def test_what_can_be_no_id_is_found_nowhere(text: str) -> None:
    with pytest.raises(NotFound):
        invocation_of(asked(invocation=text))


# -- the query -----------------------------------------------------------------------------------------


def test_without_a_filter_everything_is_meant() -> None:
    assert (statuses_of(asked()), time_of(asked(), "since"), id_of_cursor(asked())) == ((), None, None)


@pytest.mark.parametrize("status", STATUSES)
def test_each_status_can_be_asked_for(status: str) -> None:
    assert statuses_of(asked(f"status={status}")) == (status,)


def test_statuses_are_separated_by_commas_and_each_counts_once() -> None:
    assert statuses_of(asked("status=ok,error,ok")) == ("ok", "error")


@pytest.mark.parametrize("text", ["", "OK", "done", "ok,", "ok, error", "*"])
def test_a_status_that_is_none_is_refused_with_those_that_are(text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        statuses_of(asked(urlencode({"status": text})))

    assert refused.value.hint == ", ".join(STATUSES)


@pytest.mark.parametrize(
    ("text", "time_ms"),
    [
        ("2026-01-01T00:00:00Z", 1_767_225_600_000),
        ("2026-01-01T00:00:00.007Z", 1_767_225_600_007),
        ("2026-01-01T00:00:00.0079Z", 1_767_225_600_008),
        ("2026-01-01t00:00:00z", 1_767_225_600_000),
        ("2026-01-01 00:00:00Z", 1_767_225_600_000),
        ("2026-01-01T01:00:00+01:00", 1_767_225_600_000),
        ("2025-12-31T23:00:00-01:00", 1_767_225_600_000),
        ("1969-12-31T23:59:59Z", -1000),
        ("9999-12-31T23:59:59Z", 253_402_300_799_000),
    ],
)
def test_a_time_is_what_rfc_3339_says(text: str, time_ms: int) -> None:
    assert time_of(asked(urlencode({"since": text})), "since") == time_ms


def test_a_plus_that_was_not_escaped_is_understood() -> None:
    assert time_of(asked("until=2026-01-01T01:00:00+01:00"), "until") == 1_767_225_600_000


@pytest.mark.parametrize(
    "text",
    ["", "now", "1767225600", "2026-01-01", "2026-01-01T00:00:00", "2026-13-01T00:00:00Z", "2026-01-01Z"],
)
def test_a_time_without_a_zone_or_without_sense_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidRequest, match="until") as refused:
        time_of(asked(urlencode({"until": text})), "until")

    assert "until=" in str(refused.value.hint)


def test_a_cursor_leads_back_to_its_id() -> None:
    assert id_of_cursor(asked(urlencode({"cursor": id_cursor(ID)}))) == ID


@pytest.mark.parametrize("text", ["", "zz", ID, "%ff", "MQ", "é", id_cursor("0190")])
def test_a_cursor_that_is_not_ours_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="cursor"):
        id_of_cursor(asked(urlencode({"cursor": text})))
