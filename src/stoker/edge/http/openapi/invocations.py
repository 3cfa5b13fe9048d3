"""What is said of the routes of calls: invoke, what became of it, dead letters, logs."""

from __future__ import annotations

from types import MappingProxyType

from stoker.edge.http.answers import RecordAnswer, Success
from stoker.edge.http.invocations import ReplayBody
from stoker.edge.http.invoke import Envelope
from stoker.edge.http.openapi.codes import CALLING, FAILURES, STORING
from stoker.edge.http.openapi.operation import Answer, Link, Operation, Parameter, Shape
from stoker.edge.http.openapi.parameters import (
    CURSOR,
    FOLLOW,
    IDEMPOTENCY_KEY,
    INVOCATION_ID,
    LIMIT,
    PAGED,
    STRICT,
    VERSION,
    WAIT,
)
from stoker.edge.http.scopes import DEAD_LETTERS, FUNCTION, INVOCATION, INVOKE
from stoker.model.record import STATUSES

TAG = "Calls"
RECORDS_TAG = "Invocations"
LETTERS_TAG = "Dead letters"

_RECORD = {
    "invocation_id": INVOCATION_ID,
    "function": "ms.compute.my-namespace.function.1335831723",
    "version": 1,
    "invocation_type": "RequestResponse",
    "status": "ok",
    "code": None,
    "attempts": 1,
    "created": "2026-01-01T00:00:00.007Z",
    "started": "2026-01-01T00:00:00.008Z",
    "ended": "2026-01-01T00:00:00.010Z",
    "timings": {"queue_ms": 0.1, "init_ms": 0, "run_ms": 1.9},
    "memory_bytes": 41943040,
    "log_bytes": 0,
    "caller": "administrator",
    "payload": '{"name":"Ada"}',
    "result": '{"message":"Hello, Ada!"}',
}
_DEAD = {
    **{key: value for key, value in _RECORD.items() if key != "result"},
    "invocation_type": "Async",
    "status": "error",
    "code": "function.error",
    "attempts": 3,
    "error": {
        "error": "no such city",
        "error_type": "Error",
        "stack": "Error: no such city\n    at handler (/code/index.js:3:9)",
    },
}
_SUCCESS = Answer(Success, example={"message": "success"})
_MAY_RUN = ("not_found", *CALLING, *STORING)
_OUTCOME = Answer(
    str,
    Shape.BODY,
    description="The result as JSON text; of an Async call that it is accepted: its id.",
    example='{"message":"Hello, Ada!"}',
    headers=("X-Invocation-Id",),
)
_ACCEPTED = Answer(
    str,
    Shape.BODY,
    description="It is accepted: its id, as JSON text.",
    example=f'{{"invocation_id":"{INVOCATION_ID}"}}',
    headers=("X-Invocation-Id",),
)
_ID = MappingProxyType({"invocation_id": "$response.header.X-Invocation-Id"})

OPERATIONS = (
    Operation(
        "POST",
        INVOKE,
        "invokeFunction",
        TAG,
        "Call a function",
        _OUTCOME,
        description="`RequestResponse` waits for the result. `Async` answers once the invocation is stored "
        "for good; it is run at least once, and again where it fails. A caller that leaves cancels a "
        "RequestResponse call.",
        parameters=(VERSION, STRICT, IDEMPOTENCY_KEY),
        body=Envelope,
        body_examples={
            "wait": {"payload": '{"name":"Ada"}', "invocation_type": "RequestResponse"},
            "value": {"payload": {"name": "Grace"}, "invocation_type": "RequestResponse"},
            "later": {"payload": '{"name":"Ada"}', "invocation_type": "Async"},
        },
        codes=("idempotency.conflict", "idempotency.in_progress", *_MAY_RUN, *FAILURES),
        links=tuple(
            Link(name, _ID) for name in ("getInvocation", "getLog", "cancelInvocation", "replayInvocation")
        ),
    ),
    Operation(
        "GET",
        FUNCTION + "/log",
        "followLog",
        TAG,
        "Follow what a function prints",
        Answer(
            description="Server-sent events `log`, each with `invocation_id` and `line`, as they are "
            "printed, and `end` with a `reason` where the server ends it.",
            media="text/event-stream",
            example=": following\n\nevent: log\n"
            f'data: {{"invocation_id":"{INVOCATION_ID}","line":"hello"}}\n\n',
        ),
        parameters=(FOLLOW,),
        codes=("not_found", "no_capacity"),
    ),
    Operation(
        "GET",
        "/compute/invocations",
        "listInvocations",
        RECORDS_TAG,
        "List invocations",
        Answer(RecordAnswer, Shape.LIST, description="The newest first.", example=[_RECORD]),
        parameters=(
            Parameter(
                "function",
                "query",
                "Of this one: a subject, or `collection/name`.",
                {"type": "string"},
                "my-namespace/greet",
            ),
            Parameter(
                "status",
                "query",
                "Of these, with commas between.",
                {
                    "type": "array",
                    "items": {"type": "string", "enum": list(STATUSES)},
                    "minItems": 1,
                },
                ["ok", "error"],
            ),
            Parameter(
                "since",
                "query",
                "Accepted at this time or later.",
                {"type": "string", "format": "date-time"},
                "2026-01-01T00:00:00Z",
            ),
            Parameter(
                "until", "query", "Accepted before this time.", {"type": "string", "format": "date-time"}
            ),
            Parameter(
                "parent",
                "query",
                "Called by the function of this invocation.",
                {"type": "string", "format": "uuid"},
            ),
            LIMIT,
            CURSOR,
        ),
        codes=("not_found", "no_capacity"),
    ),
    Operation(
        "GET",
        INVOCATION,
        "getInvocation",
        RECORDS_TAG,
        "Show an invocation",
        Answer(RecordAnswer, Shape.BODY, description="Its record.", example=_RECORD),
        description="A token with `functions:invoke` may see the calls it made.",
        parameters=(WAIT,),
        codes=("not_found", "no_capacity"),
    ),
    Operation(
        "GET",
        INVOCATION + "/log",
        "getLog",
        RECORDS_TAG,
        "Show what a call printed",
        Answer(
            description="Its log, with a line that says so where it was cut.",
            media="text/plain",
            example="hello\n",
            headers=("X-Content-Type-Options",),
        ),
        codes=("not_found", "no_capacity"),
    ),
    Operation(
        "POST",
        INVOCATION + "/cancel",
        "cancelInvocation",
        RECORDS_TAG,
        "Cancel an Async invocation",
        _SUCCESS,
        codes=("not_found", "invocation.ended", *STORING),
    ),
    Operation(
        "POST",
        INVOCATION + "/replay",
        "replayInvocation",
        RECORDS_TAG,
        "Run an invocation once more",
        _OUTCOME,
        description="With the payload it had, which has to be stored (`store_payload`, or a dead letter). A "
        "RequestResponse call is waited for. The new record has `replay_of`.",
        parameters=(STRICT,),
        body=ReplayBody,
        body_required=False,
        body_examples={"latest": {}, "first": {"version": 1}},
        codes=(*_MAY_RUN, *FAILURES),
        links=(Link("getInvocation", _ID),),
    ),
    Operation(
        "GET",
        DEAD_LETTERS,
        "listDeadLetters",
        LETTERS_TAG,
        "List a function's dead letters",
        Answer(RecordAnswer, Shape.LIST, description="The latest first.", example=[_DEAD]),
        description="Async invocations that failed to the end, or became too old.",
        parameters=PAGED,
        codes=("not_found", "no_capacity"),
    ),
    Operation(
        "POST",
        DEAD_LETTERS + "/{invocation}/redrive",
        "redriveDeadLetter",
        LETTERS_TAG,
        "Run a dead letter anew",
        _ACCEPTED,
        description="As a new Async invocation with `replay_of`; the dead letter is gone.",
        codes=_MAY_RUN,
        links=(Link("getInvocation", _ID),),
    ),
    Operation(
        "DELETE",
        DEAD_LETTERS + "/{invocation}",
        "deleteDeadLetter",
        LETTERS_TAG,
        "Delete a dead letter",
        _SUCCESS,
        codes=("not_found", *STORING),
    ),
)
