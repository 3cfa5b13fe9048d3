"""Ended: the record of an invocation that has ended, made from its call and its outcome."""

from __future__ import annotations

from stoker.model.call import Call, text_of
from stoker.model.outcome import Failure, Outcome
from stoker.model.record import Keeping, Record, RecordError


def ended_record(
    call: Call,
    outcome: Outcome,
    keeping: Keeping,
    *,
    ended_ms: int,
    invocation_type: str = "RequestResponse",
    attempts: int | None = None,
) -> Record:
    """Return what is kept of an invocation whose last attempt was `call`, the only one unless it is said."""
    failure = outcome.failure
    timings = outcome.timings
    if attempts is None:
        attempts = int(timings.run_ms > 0)
    parent = call.parent
    kept = keeping.store_payload
    result = outcome.result if kept else None
    return Record(
        invocation_id=text_of(call.id),
        function=call.function.subject,
        version=call.function.code.version,
        invocation_type=invocation_type,
        status=outcome.reason.value,
        code=None if failure is None else failure.code,
        attempts=attempts,
        created_ms=call.created_ms,
        started_ms=ended_ms - int(timings.run_ms) if attempts else None,
        ended_ms=ended_ms,
        queue_ms=int(timings.queue_ms * 1000) / 1000,  # three times as quick as round()
        init_ms=int(timings.init_ms * 1000) / 1000,
        run_ms=int(timings.run_ms * 1000) / 1000,
        memory_bytes=outcome.memory_bytes,
        caller=call.caller,
        replay_of=call.replay_of,
        parent_invocation_id=None if parent is None else parent.invocation_id,
        depth=0 if parent is None else parent.depth,
        network=outcome.network,
        error=None if failure is None else error_of(failure),
        log=outcome.log.decode(errors="replace") if outcome.log else "",
        log_bytes=outcome.log_bytes,
        log_cut_bytes=outcome.log_bytes - len(outcome.log),
        payload=call.payload.decode(errors="replace") if kept else None,
        result=None if result is None else result.decode(errors="replace"),
    )


def error_of(failure: Failure) -> RecordError:
    """Return a failure as a record holds it."""
    return RecordError(
        error=clean(failure.error),
        error_type=None if failure.error_type is None else clean(failure.error_type),
        stack=None if failure.stack is None else clean(failure.stack),
        field=None if failure.field is None else clean(failure.field),
    )


def clean(text: str) -> str:
    """Return a text that UTF-8 can carry: a function's message may hold half a surrogate pair."""
    return text.encode(errors="replace").decode()
