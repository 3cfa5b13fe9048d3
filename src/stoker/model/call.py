"""A call on its way: what the invocation room hands to an executor, and gets back ended.

Does not know how it came in (HTTP, NATS) nor where it runs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from stoker.model.errors import StokerError
from stoker.model.function import Function
from stoker.model.outcome import Outcome

DEPTH_MAX = 16
"""How deep calls may be within each other: one from outside is at 0, what its function calls at 1."""


@dataclass(frozen=True, slots=True)
class Parent:
    """The invocation whose function makes a call."""

    invocation_id: str
    depth: int
    """Of the call that it makes."""


Ended = Callable[["Call", Outcome | StokerError], None]


class CallIds:
    """Makes invocation ids: UUIDs of version 7, so that they sort by time, 74 bits of them random.

    The random bits are drawn from the kernel in blocks: one system call for many ids.
    """

    __slots__ = ("_offset", "_pool")
    _BLOCK = 4096

    def __init__(self) -> None:
        self._pool = b""
        self._offset = self._BLOCK

    def next(self) -> bytes:
        """Return 16 bytes; `text_of` gives the usual form."""
        offset = self._offset
        if offset + 10 > len(self._pool):
            self._pool = os.urandom(self._BLOCK)
            offset = 0
        self._offset = offset + 10
        drawn = self._pool[offset : offset + 10]
        head = (time.time_ns() // 1_000_000).to_bytes(6, "big")
        return b"".join(
            (head, bytes((0x70 | drawn[0] & 0x0F, drawn[1], 0x80 | drawn[2] & 0x3F)), drawn[3:10])
        )


def text_of(call_id: bytes) -> str:
    """Return the id as users see it, for instance `0190…-….-7…-…`."""
    digits = call_id.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


class Call:
    """One invocation from its admission to its end.

    `ended` is called exactly once: with an Outcome if it ran (well or not), with a StokerError if it
    never got to run (no instance in time).
    """

    __slots__ = (
        "_ended",
        "_text",
        "began",
        "caller",
        "cancel",
        "created_ms",
        "function",
        "id",
        "parent",
        "patient",
        "payload",
        "queued_at",
        "replay_of",
    )

    def __init__(
        self,
        call_id: bytes,
        function: Function,
        payload: bytes,
        *,
        queued_at: float,
        ended: Ended,
        caller: str = "",
        created_ms: int = 0,
        patient: bool = False,
        began: Callable[[], None] | None = None,
    ) -> None:
        self.id = call_id
        self.function = function
        self.payload = payload
        """JSON text in UTF-8, as the caller wrote it."""
        self.queued_at = queued_at
        """The event loop's clock, in seconds, when it was admitted."""
        self.created_ms = created_ms
        """Wall clock, milliseconds since the epoch."""
        self.caller = caller
        self.patient = patient
        """Whether it waits for an instance without end, behind all that do not."""
        self.began = began
        """Told once, when it begins to run in an instance; not at all if it ends before."""
        self.replay_of: str | None = None
        """The id of the invocation that it runs again."""
        self.parent: Parent | None = None
        """The invocation that it was made by, if one did."""
        self.cancel: Callable[[], None] | None = None
        """Set by the executor while it can be cancelled."""
        self._ended: Ended | None = ended
        self._text: str | None = None

    @property
    def text(self) -> str:
        """The id as users see it."""
        text = self._text
        if text is None:
            text = self._text = text_of(self.id)
        return text

    def end(self, outcome: Outcome | StokerError) -> None:
        """Tell the end; every later one is ignored, as the first end is the only one."""
        ended, self._ended, self.cancel = self._ended, None, None
        if ended is not None:
            ended(self, outcome)

    def drop(self) -> bool:
        """Forget who waits for the end, of a call that nobody has taken; False if the end was told before."""
        ended, self._ended, self.cancel = self._ended, None, None
        return ended is not None

    def cancel_now(self) -> None:
        """Cancel it, wherever it is by now: the executor set `cancel` for the place it is at."""
        if self.cancel is not None:
            self.cancel()

    @property
    def has_ended(self) -> bool:
        """Whether the end was told."""
        return self._ended is None
