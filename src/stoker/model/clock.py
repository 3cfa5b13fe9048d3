"""The wall clock, as everything that is stored or answered counts it. Whoever needs it has it given."""

from __future__ import annotations

import time


def wall_ms() -> int:
    """Return the milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
