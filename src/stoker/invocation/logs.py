"""Logs of attempts: what an invocation printed in all of them, one behind the other.

Pure. Does not know when an attempt is made.
"""

from __future__ import annotations

from msgspec.structs import replace

from stoker.model.limits import KIB
from stoker.model.outcome import Outcome
from stoker.model.record import Record

EARLIER_LOG_BYTES_MAX = 64 * KIB
"""Of attempts that are followed by another: it is stored once more with each."""


def with_earlier(record: Record, stored: Record, outcome: Outcome, attempts: int, bytes_max: int) -> Record:
    """Return the record of attempt number `attempts` with what it printed behind what those before it did.

    Past `bytes_max` the end of the earlier ones is left out, and then its own.
    """
    own = outcome.log[:bytes_max]
    head = f"[stoker: attempt {attempts}]\n".encode() if attempts > 1 else b""
    before = stored.log.encode()
    earlier = before[: max(0, bytes_max - len(own) - len(head) - 1)]
    apart = b"\n" if earlier and not earlier.endswith(b"\n") else b""
    return replace(
        record,
        log=(earlier + apart + head + own).decode(errors="replace"),
        log_bytes=stored.log_bytes + outcome.log_bytes,
        log_cut_bytes=stored.log_cut_bytes + len(before) - len(earlier) + outcome.log_bytes - len(own),
    )
