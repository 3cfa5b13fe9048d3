"""A call inside an instance: since when, until when, what has been heard of it, and telling who waits.

Does not know the instance.
"""

from __future__ import annotations

import asyncio
from math import inf

from stoker.model.call import Call
from stoker.model.limits import Limits
from stoker.model.outcome import Failure, Outcome, Timings
from stoker.worker.tail import Tail


def patience_end(call: Call, limits: Limits) -> float:
    """Return until when a call waits for its turn, on the clock of its `queued_at`."""
    if call.patient:
        return inf
    return call.queued_at + min(limits.wait_ms_max, call.function.code.timeout_ms) / 1000


def cancelled_before_it_began(call: Call, told: str, now: float) -> Outcome:
    """Return how a call ends whose caller left before anything of it ran."""
    waited_ms = max(0.0, (now - call.queued_at) * 1000)
    return Outcome(None, Failure("invocation.cancelled", told), b"", 0, Timings(waited_ms, 0.0, 0.0))


def tell_began(call: Call, loop: asyncio.AbstractEventLoop) -> None:
    """Tell that a call has begun, once; who is told must not cost it its instance."""
    began, call.began = call.began, None
    try:
        if began is not None:
            began()
    except Exception as error:
        loop.call_exception_handler(
            {"message": "the beginning of a call could not be told", "exception": error}
        )


def tell_end(call: Call, outcome: Outcome, loop: asyncio.AbstractEventLoop) -> None:
    """Tell how a call ended; who is told must not cost the calls after it their instance."""
    try:
        call.end(outcome)
    except Exception as error:
        loop.call_exception_handler({"message": "the end of a call could not be told", "exception": error})


class Running:
    """One call in an instance."""

    __slots__ = (
        "call",
        "deadline",
        "init_ms",
        "log",
        "mark",
        "own_log",
        "own_log_bytes",
        "revoked",
        "said",
        "started",
        "tail",
    )

    def __init__(self, call: Call, started: float, deadline: float, init_ms: float) -> None:
        self.call = call
        self.started = started
        self.deadline = deadline
        self.init_ms = init_ms
        self.own_log: bytearray | None = None
        """What frames said it printed; used where several calls share the output."""
        self.own_log_bytes = 0
        self.mark: bytes | None = None
        """What stands in the output before its own, if it was sent ahead of its turn."""
        self.revoked = False
        """Whether it was asked back."""
        self.log: tuple[bytes, int] | None = None
        """Its whole output, where that was taken before its end."""
        self.tail: Tail | None = None
        """Tells its output to who follows the function."""
        self.said: Failure | None = None
        """What the function answered, while it is looked up whether a limit was behind it."""
