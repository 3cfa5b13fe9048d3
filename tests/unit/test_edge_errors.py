"""Errors and failures as statuses and JSON."""

from __future__ import annotations

import json

import pytest

from stoker.edge.errors import STATUS_OF_CODE, ErrorAnswers, failure_body, status_of
from stoker.model import errors as model
from stoker.model.outcome import END_REASON_OF_CODE, Failure


class Log:
    def __init__(self) -> None:
        self.events: list[dict[str, object]] = []

    def warning(self, event: str, **fields: object) -> None:
        self.events.append(fields)

    error = warning


def answers(log: Log | None = None) -> ErrorAnswers:
    return ErrorAnswers(log or Log(), new_id=lambda: "id-1")


@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        (model.InvalidRequest("no", field="/name", hint="try"), 400, {}),
        (model.InputRejected("no"), 400, {}),
        (model.Unauthenticated("no"), 401, {"WWW-Authenticate": "Bearer"}),
        (model.Unauthenticated("no", missing=True), 401, {"WWW-Authenticate": "Bearer"}),
        (model.Forbidden("no"), 403, {}),
        (model.NotFound("no"), 404, {}),
        (model.MethodNotAllowed("no", allow=("GET", "POST")), 405, {"Allow": "GET, POST"}),
        (model.NameTaken("no"), 409, {}),
        (model.VersionConflict("no"), 409, {}),
        (model.TooLarge("no"), 413, {}),
        (model.FunctionBusy("no", retry_after_s=7), 429, {"Retry-After": "7"}),
        (model.NoCapacity("no"), 503, {"Retry-After": "1"}),
        (model.Unavailable("no"), 503, {"Retry-After": "1"}),
        (model.StorageFull("no"), 507, {}),
        (model.PlatformError("no"), 500, {}),
    ],
)
def test_every_error_has_its_status_and_headers(
    error: model.StokerError, status: int, headers: dict[str, str]
) -> None:
    answer = answers().answer(error)
    body = json.loads(answer.body)

    assert (answer.status, dict(answer.headers)) == (status, headers)
    assert (body["error"], body["code"]) == ("no", error.code)
    assert body.get("field") == error.field
    assert body.get("hint") == error.hint
    assert body.get("retry_after") == (int(headers["Retry-After"]) if "Retry-After" in headers else None)


def test_headers_come_as_lines_too() -> None:
    answer = answers().answer(model.FunctionBusy("no", retry_after_s=2))

    assert answer.header_lines == b"Retry-After: 2\r\n"


def test_an_unexpected_exception_tells_an_id_and_no_more() -> None:
    log = Log()
    mistake = ValueError("/etc/secret")

    answer = answers(log).answer(mistake)
    body = json.loads(answer.body)

    assert answer.status == 500
    assert (body["code"], body["id"]) == ("platform.error", "id-1")
    assert b"secret" not in answer.body
    assert log.events == [{"id": "id-1", "exc_info": mistake}]


def test_a_fault_of_the_platform_has_an_id_in_the_log_and_the_callers_has_none() -> None:
    log = Log()

    platform = json.loads(answers(log).answer(model.StorageFull("full")).body)
    caller = json.loads(answers(log).answer(model.NotFound("none")).body)

    assert platform["id"] == "id-1"
    assert "id" not in caller
    assert [event["id"] for event in log.events] == ["id-1"]


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("function.timeout", 504),
        ("function.error", 500),
        ("schema.input", 400),
        ("schema.output", 500),
        ("platform.lost", 500),
        ("quota.functions", 429),
        ("idempotency.conflict", 409),
        ("unheard.of", 500),
    ],
)
def test_codes_have_statuses(code: str, status: int) -> None:
    assert status_of(code) == status


def test_no_failure_of_the_model_was_forgotten() -> None:
    assert END_REASON_OF_CODE.keys() <= STATUS_OF_CODE.keys()


def test_a_failure_is_told_with_what_it_has() -> None:
    failure = Failure("function.error", "boom", "TypeError", "at f (index.js:1:2)")

    body = json.loads(failure_body(failure, "inv-1"))
    bare = json.loads(failure_body(Failure("schema.output", "no", field="/a"), "inv-2"))

    assert body == {
        "error": "boom",
        "code": "function.error",
        "error_type": "TypeError",
        "stack": "at f (index.js:1:2)",
        "invocation_id": "inv-1",
    }
    assert bare == {"error": "no", "code": "schema.output", "field": "/a", "invocation_id": "inv-2"}


def test_half_a_surrogate_pair_in_a_message_does_not_cost_the_answer() -> None:
    body = json.loads(failure_body(Failure("function.error", "bad \ud800 text"), "inv-1"))

    assert body["error"] == "bad ? text"
