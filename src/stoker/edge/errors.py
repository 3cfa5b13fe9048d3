"""Error answers: the one place where a `StokerError` or a `Failure` becomes a status and a JSON body.

Owns the table from code to status, the headers that belong to some of them, and what an outsider may
see of a fault of ours. Does not know connections, routes or who asked. Source: the compute API
contract, *Conventions* and *What can end a call*.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol
from uuid import uuid4

import orjson

from stoker.model.errors import Fault, MethodNotAllowed, StokerError
from stoker.model.outcome import Failure

STATUS_OF_CODE = {
    "request.invalid": 400,
    "schema.input": 400,
    "auth.missing": 401,
    "auth.invalid": 401,
    "auth.forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "request.timeout": 408,
    "name_taken": 409,
    "not_empty": 409,
    "version_conflict": 409,
    "idempotency.conflict": 409,
    "idempotency.in_progress": 409,
    "invocation.ended": 409,
    "secret.in_use": 409,
    "too_large": 413,
    "function.busy": 429,
    "function.error": 500,
    "function.load_failed": 500,
    "function.exited": 500,
    "function.out_of_memory": 500,
    "function.too_many_processes": 500,
    "function.result_invalid": 500,
    "function.result_too_large": 500,
    "schema.output": 500,
    "invocation.cancelled": 500,
    "invocation.expired": 500,
    "platform.lost": 500,
    "platform.error": 500,
    "no_capacity": 503,
    "function.timeout": 504,
    "storage.full": 507,
}

RETRY_AFTER_S_DEFAULT = 1
"""Where an error that asks for a later attempt does not say when: a warm call takes milliseconds."""

_ASKS_FOR_RETRY = (429, 503)
_HIDDEN = "an internal error; the server's log has it under this id"


class RequestTimeout(StokerError):
    """The request did not arrive whole within `request_wait_ms_max`."""

    code, fault = "request.timeout", Fault.CALLER


class Log(Protocol):
    """What this room asks of a logger: an event with fields, as structlog takes it."""

    def warning(self, event: str, **fields: object) -> object: ...

    def error(self, event: str, **fields: object) -> object: ...


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """One error, ready to be sent."""

    status: int
    body: bytes
    """JSON."""
    headers: tuple[tuple[str, str], ...] = ()
    """What goes beside Content-Type and Content-Length."""

    @property
    def header_lines(self) -> bytes:
        """The same headers as lines of HTTP."""
        return b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in self.headers)


class ErrorAnswers:
    """Makes the answer for whatever was raised, and logs what the caller must not see."""

    def __init__(self, log: Log, *, new_id: Callable[[], str] = lambda: uuid4().hex) -> None:
        self._log = log
        self._new_id = new_id

    def answer(self, error: BaseException) -> ErrorAnswer:
        """Return the answer for `error`.

        A fault of the platform carries an `id` under which the log has it; of an exception that is no
        StokerError nothing else is told.
        """
        if not isinstance(error, StokerError):
            error_id = self._new_id()
            self._log.error("request failed", id=error_id, exc_info=error)
            return _answer(500, {"error": _HIDDEN, "code": "platform.error", "id": error_id}, None)
        members: dict[str, object] = {"error": error.message, "code": error.code}
        if error.field is not None:
            members["field"] = error.field
        if error.hint is not None:
            members["hint"] = error.hint
        if error.fault is Fault.PLATFORM:
            members["id"] = error_id = self._new_id()
            self._log.warning("request refused", id=error_id, code=error.code, exc_info=error)
        return _answer(status_of(error.code), members, error)


def status_of(code: str) -> int:
    """Return the status of a synchronous answer with `code`; 500 for one that nobody declared."""
    if code.startswith("quota."):
        return 429
    return STATUS_OF_CODE.get(code, 500)


def failure_body(failure: Failure, invocation_id: str) -> bytes:
    """Return the JSON body for a call whose function failed; its status is `status_of(failure.code)`.

    Members: `error`, `code`, `invocation_id`; `error_type`, `stack` and `field` where there are any, and of
    what a handler threw always the first two, though a thrown text has no frames.
    """
    members: dict[str, object] = {"error": failure.error, "code": failure.code}
    thrown = failure.code == "function.error"
    if failure.error_type is not None or thrown:
        members["error_type"] = failure.error_type or "Error"
    if failure.stack is not None or thrown:
        members["stack"] = failure.stack or ""
    if failure.field is not None:
        members["field"] = failure.field
    members["invocation_id"] = invocation_id
    return _json(members)


def _answer(status: int, members: dict[str, object], error: StokerError | None) -> ErrorAnswer:
    headers: list[tuple[str, str]] = []
    if status == 401:
        headers.append(("WWW-Authenticate", "Bearer"))
    if isinstance(error, MethodNotAllowed):
        headers.append(("Allow", ", ".join(error.allow)))
    retry_after_s = error.retry_after_s if error is not None else None
    if retry_after_s is None and status in _ASKS_FOR_RETRY:
        retry_after_s = RETRY_AFTER_S_DEFAULT
    if retry_after_s is not None:
        headers.append(("Retry-After", str(retry_after_s)))
        members["retry_after"] = retry_after_s
    return ErrorAnswer(status, _json(members), tuple(headers))


def _json(members: dict[str, object]) -> bytes:
    try:
        return orjson.dumps(members)
    except orjson.JSONEncodeError:
        # A function's message may hold half a surrogate pair, which UTF-8 cannot carry. Losing that
        # character is better than losing the answer.
        return orjson.dumps(
            {
                name: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
                for name, value in members.items()
            }
        )
