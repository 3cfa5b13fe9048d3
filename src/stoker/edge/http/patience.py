"""Patience: how long a connection is waited for, in each thing it may be slow at.

Owns the deadlines of one connection. Plain arithmetic on the time it is given: does not know clocks,
sockets or what is done about a deadline that has passed.
"""

from __future__ import annotations

from enum import Enum

from stoker.model.limits import Limits

LINGER_MS = 2_000
"""How long a connection is read (and what comes thrown away) after its last answer, counted from the
last byte. Closing with unread bytes sends a reset, which may overtake the answer and destroy it."""
LINGER_MS_MAX = 30_000
"""The same, in all."""
UNREAD_MS_MAX = 300_000
"""A client that takes not one byte of its answer for so long is cut off."""


class Verdict(Enum):
    """What a look at the deadlines finds."""

    PATIENT = "patient"
    IDLE = "idle"
    """Nothing was asked for `idle_connection_ms_max`, or it lingered for long enough."""
    LATE = "late"
    """A request was not complete after `request_wait_ms_max`."""
    UNREAD = "unread"
    """The client does not take its answer."""


class Patience:
    """The deadlines of one connection. All times are milliseconds of one clock."""

    __slots__ = (
        "_idle_at_ms",
        "_late_at_ms",
        "_limits",
        "_linger_end_ms",
        "_linger_until_ms",
        "_paused_at_ms",
        "_stuck_at_ms",
        "_unsent_bytes",
    )

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._idle_at_ms = 0.0
        self._late_at_ms: float | None = None
        self._linger_until_ms: float | None = None
        self._linger_end_ms = 0.0
        self._paused_at_ms: float | None = None
        self._stuck_at_ms = 0.0
        self._unsent_bytes = 0

    @property
    def reading(self) -> bool:
        """True in the middle of a request."""
        return self._late_at_ms is not None

    @property
    def paused(self) -> bool:
        """True while it is we who do not read."""
        return self._paused_at_ms is not None

    @property
    def lingering(self) -> bool:
        """True after the last answer."""
        return self._linger_until_ms is not None

    def idle(self, now_ms: float) -> None:
        """Nothing is in flight."""
        self._idle_at_ms = now_ms + self._limits.idle_connection_ms_max

    def request_begun(self, now_ms: float) -> None:
        """Some of a request is there. The time counts from the first such word."""
        if self._late_at_ms is None:
            self._late_at_ms = now_ms + self._limits.request_wait_ms_max

    def request_ended(self) -> None:
        """No request is half there."""
        self._late_at_ms = None

    def pause(self, now_ms: float) -> None:
        """We stop reading: the time until `resume` is not the client's."""
        self._paused_at_ms = now_ms

    def resume(self, now_ms: float) -> None:
        """We read again."""
        if self._late_at_ms is not None and self._paused_at_ms is not None:
            self._late_at_ms += now_ms - self._paused_at_ms
        self._paused_at_ms = None

    def linger(self, now_ms: float) -> None:
        """The last answer is written."""
        self._late_at_ms = None
        self._linger_until_ms = now_ms + LINGER_MS
        self._linger_end_ms = now_ms + LINGER_MS_MAX

    def heard(self, now_ms: float) -> None:
        """Something came in that does not count any more."""
        if self._linger_until_ms is not None:
            self._linger_until_ms = min(now_ms + LINGER_MS, self._linger_end_ms)

    def look(self, now_ms: float, *, in_flight: bool, unsent_bytes: int) -> Verdict:
        """Return which deadline has passed. To be called regularly, as it watches `unsent_bytes`."""
        if unsent_bytes == 0 or unsent_bytes != self._unsent_bytes:
            self._unsent_bytes = unsent_bytes
            self._stuck_at_ms = now_ms + UNREAD_MS_MAX
        elif now_ms >= self._stuck_at_ms:
            return Verdict.UNREAD
        if self._linger_until_ms is not None:
            return Verdict.IDLE if now_ms >= self._linger_until_ms else Verdict.PATIENT
        if self._late_at_ms is not None:
            late = now_ms >= self._late_at_ms and self._paused_at_ms is None
            return Verdict.LATE if late else Verdict.PATIENT
        idle = not in_flight and now_ms >= self._idle_at_ms
        return Verdict.IDLE if idle else Verdict.PATIENT
