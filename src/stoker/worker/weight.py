"""Weight: the most memory that an instance has used, looked up seldom, as it costs a read of a file.

Knows times. Does not know calls.
"""

from __future__ import annotations

from math import inf

from stoker.sandbox.engine import Sandbox

LONG_MS = 5
WEIGH_AGAIN_S = 0.1
"""The memory of an instance is looked up at the end of every long call, else no more often than this."""


class Weight:
    """What is known of one instance. Who uses it looks at `due_at` first."""

    __slots__ = ("_sandbox", "due_at", "peak_bytes")

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self.peak_bytes = 0
        """The most so far."""
        self.due_at = -inf
        """From when on what is known is old."""

    def look(self, now: float) -> None:
        """Look it up."""
        self.due_at = now + WEIGH_AGAIN_S
        self.peak_bytes = max(self.peak_bytes, self._sandbox.memory_peak())
