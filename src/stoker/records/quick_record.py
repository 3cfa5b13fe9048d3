"""Quick records: the record of a plain call that ended well and printed nothing, as the JSON that is stored.

Nearly every record is one of these, and making it is work that every call pays for: a value that is then
encoded takes four times as long. What it says is what `model.ended` says. Does not know where it goes.
"""

from __future__ import annotations

import msgspec

from stoker.model.call import Call
from stoker.model.function import Function
from stoker.model.outcome import Outcome

_encode = msgspec.json.Encoder().encode
_BARE = (
    b'%b"invocation_id":"%b","created_ms":%d,"started_ms":%d,"ended_ms":%d,'
    b'"queue_ms":%.3f,"init_ms":%.3f,"run_ms":%.3f,"memory_bytes":%d}'
)
_FULL = _BARE[:-1] + b',"payload":%b,"result":%b}'


def is_quick(call: Call, outcome: Outcome) -> bool:
    """Tell whether a call's record can be made here."""
    plain = call.replay_of is None and call.parent is None and not outcome.network
    return plain and outcome.failure is None and not outcome.log_bytes


def head_of(function: Function, caller: str) -> bytes:
    """Return what the records of all such calls begin with."""
    head = {
        "function": function.subject,
        "version": function.code.version,
        "status": "ok",
        "attempts": 1,
        "caller": caller,
    }
    return _encode(head)[:-1] + b","


def quick_record(head: bytes, call: Call, outcome: Outcome, ended_ms: int, *, store_payload: bool) -> bytes:
    """Return a record as JSON."""
    timings = outcome.timings
    run_ms = timings.run_ms
    figures = (
        head,
        call.text.encode(),
        call.created_ms,
        ended_ms - int(run_ms),
        ended_ms,
        timings.queue_ms,
        timings.init_ms,
        run_ms,
        outcome.memory_bytes,
    )
    if not store_payload:
        return _BARE % figures
    result = outcome.result or b"null"
    return _FULL % (
        *figures,
        _encode(call.payload.decode(errors="replace")),
        _encode(result.decode(errors="replace")),
    )
