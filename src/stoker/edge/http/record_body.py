"""Records as the API answers them, and what a list of them may be filtered by.

Does not know where records are. Source: the compute API contract, *Invocations*.
"""

from __future__ import annotations

import base64
import binascii
from datetime import datetime

from starlette.requests import Request

from stoker.edge.http.answers import RecordAnswer
from stoker.edge.http.api import rfc3339
from stoker.model.call import text_of
from stoker.model.errors import InvalidRequest, NotFound
from stoker.model.record import STATUSES, Record, id_of_text


def invocation_of(request: Request) -> str:
    """Return the id in a path, as ids are written. Raises NotFound for what can be none."""
    call_id = id_of_text(request.path_params["invocation"])
    if call_id is None:
        raise NotFound("no such invocation")
    return text_of(call_id)


def record_answer(record: Record) -> RecordAnswer:
    """Return a record as it is shown; what few records have, such as `error`, only where it is there."""
    body: RecordAnswer = {
        "invocation_id": record.invocation_id,
        "function": record.function,
        "version": record.version,
        "invocation_type": record.invocation_type,
        "status": record.status,
        "code": record.code,
        "attempts": record.attempts,
        "created": rfc3339(record.created_ms),
        "started": _time(record.started_ms),
        "ended": _time(record.ended_ms),
        "timings": {
            "queue_ms": record.queue_ms,
            "init_ms": record.init_ms,
            "run_ms": record.run_ms,
        },
        "memory_bytes": record.memory_bytes,
        "log_bytes": record.log_bytes,
        "caller": record.caller,
    }
    if record.replay_of is not None:
        body["replay_of"] = record.replay_of
    if record.parent_invocation_id is not None:
        body["parent_invocation_id"] = record.parent_invocation_id
        body["depth"] = record.depth
    if record.network:
        body["network"] = [
            {
                "host": use.host,
                "connections": use.connections,
                "bytes_sent": use.bytes_sent,
                "bytes_received": use.bytes_received,
                "refused": use.refused,
            }
            for use in record.network
        ]
    if record.payload is not None:
        body["payload"] = record.payload
    if record.result is not None:
        body["result"] = record.result
    error = record.error
    if error is not None:
        body["error"] = {"error": error.error, "error_type": error.error_type, "stack": error.stack}
        if error.field is not None:
            body["error"]["field"] = error.field
    return body


def log_text(record: Record) -> bytes:
    """Return what a call printed, with a line that says what is missing where it was cut."""
    log = record.log.encode()
    if record.log_cut_bytes:
        log += f"\n[stoker: {record.log_cut_bytes} more bytes were cut]\n".encode()
    return log


def statuses_of(request: Request) -> tuple[str, ...]:
    """Return the statuses that `?status=` names, one or more with commas. Raises InvalidRequest."""
    text = request.query_params.get("status")
    if text is None:
        return ()
    statuses = tuple(dict.fromkeys(text.split(",")))
    for status in statuses:
        if status not in STATUSES:
            raise InvalidRequest(
                f"status: {status[:40]!r} is no status of an invocation", hint=", ".join(STATUSES)
            )
    return statuses


def parent_of(request: Request) -> str | None:
    """Return the invocation that `?parent=` names, as ids are written. Raises InvalidRequest."""
    text = request.query_params.get("parent")
    if text is None:
        return None
    call_id = id_of_text(text)
    if call_id is None:
        raise InvalidRequest("parent is the id of an invocation", hint="?parent=INVOCATION_ID")
    return text_of(call_id)


def time_of(request: Request, name: str) -> int | None:
    """Return a time of the query in milliseconds since the epoch. Raises InvalidRequest."""
    text = request.query_params.get(name)
    if text is None:
        return None
    wrong = InvalidRequest(f"{name} is a time as RFC 3339 writes it", hint=f"?{name}=2026-01-31T12:00:00Z")
    try:
        # RFC 3339 allows small letters as well; an unescaped + came as a blank
        found = datetime.fromisoformat(text.strip().upper().replace(" ", "+"))
    except ValueError:
        raise wrong from None
    if found.tzinfo is None or len(text) < len("2026-01-31T12:00Z"):
        raise wrong
    return round(found.timestamp() * 1000)


def id_cursor(invocation_id: str) -> str:
    """Return the cursor of a list that goes on after an id."""
    return base64.urlsafe_b64encode(invocation_id.encode()).decode().rstrip("=")


def id_of_cursor(request: Request) -> str | None:
    """Return the id after which a list goes on. Raises InvalidRequest."""
    text = request.query_params.get("cursor")
    if text is None:
        return None
    try:
        found = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
    except (binascii.Error, ValueError):
        found = ""
    if id_of_text(found) is None:
        raise InvalidRequest("the cursor is not one of ours", hint="use next_cursor of a list")
    return found


def _time(at_ms: int | None) -> str | None:
    return None if at_ms is None else rfc3339(at_ms)
