"""Eviction: which idle instances to end, decided by age, memory pressure and use.

Pure. An instance that serves a call is never a candidate. Does not know how an instance is ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Idle:
    """An instance that waits for its next call."""

    key: str
    idle_ms: float
    calls: int
    """How many it has served."""
    kept: bool
    """One of its function's `min_instances`."""


@dataclass(frozen=True, slots=True)
class Pressure:
    """How much memory the machine has left."""

    available_bytes: int
    total_bytes: int

    @property
    def share_free(self) -> float:
        """From 0, nothing left, to 1."""
        return self.available_bytes / self.total_bytes if self.total_bytes else 1.0


AMPLE_SHARE = 0.20
"""From here on up instances may be as old as the setting says."""
SCARCE_SHARE = 0.08
"""From here on down nothing idle stays but what is kept, and no new instance starts."""


def idle_ms_allowed(pressure: Pressure, idle_ms_max: int) -> float:
    """Return how long an instance may idle: the setting while memory is ample, 0 where it is scarce."""
    share = (pressure.share_free - SCARCE_SHARE) / (AMPLE_SHARE - SCARCE_SHARE)
    return idle_ms_max * min(1.0, max(0.0, share))


def to_evict(idle: Sequence[Idle], pressure: Pressure, idle_ms_max: int) -> list[str]:
    """Return the keys of the instances to end now, the longest idle first."""
    allowed = idle_ms_allowed(pressure, idle_ms_max)
    old = [one for one in idle if not one.kept and one.idle_ms > allowed]
    return [one.key for one in sorted(old, key=lambda one: (-one.idle_ms, one.calls))]


def first_to_go(idle: Sequence[Idle]) -> str | None:
    """Return whose place a new instance may take when the machine is full: the longest idle one.

    Of two that idled equally long the one that served fewer calls goes. None if all are kept.
    """
    free = [one for one in idle if not one.kept]
    return max(free, key=lambda one: (one.idle_ms, -one.calls)).key if free else None
