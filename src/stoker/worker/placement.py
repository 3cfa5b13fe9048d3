"""Placement: how many instances a function should have, decided by numbers alone.

Pure functions of what is waiting and what is known. Does not know instances nor clocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf


@dataclass(frozen=True, slots=True)
class Load:
    """What a function has to do just now."""

    waiting: int
    """Calls that no instance has taken."""
    serving: int
    """Instances that serve or could serve."""
    starting: int
    """Instances on their way."""
    per_instance: int
    """Calls at once in one instance."""
    run_ms: float | None
    """How long its calls run if undisturbed, or the age of the oldest running one if that is unusual; None
    while none has ended."""
    spares: int
    """Booted instances of its runtime that stand ready and that nobody has claimed."""
    boot_ms: float
    """What it takes to boot one where no spare stands ready."""
    cores: int


SPARE_MS = 10.0
"""What taking a spare has to win: it costs some milliseconds now, and the boot of its successor."""


def instances_to_start(load: Load, room: int) -> int:
    """Return how many instances to start now, at most `room`.

    The first one starts at once. While nothing is known of how long its calls run, a function gets a
    spare for each call that waits. Later one is started only if what waits would wait longer without it
    than it costs: some milliseconds for a spare, and a hundred times a short call's CPU for a boot. So a
    herd of callers of a quick function meets a handful of instances.
    """
    uncovered = load.waiting - load.starting * load.per_instance
    if uncovered <= 0 or room <= 0:
        return 0
    wanted = min(room, -(-uncovered // load.per_instance))
    lanes = (load.serving + load.starting) * load.per_instance
    if lanes == 0:
        return max(1, min(wanted, load.spares))
    if load.run_ms is None:
        return min(wanted, load.spares)
    if lanes >= load.cores * _lanes_a_core(load.run_ms):
        return 0
    wait_ms = load.waiting * load.run_ms / lanes
    if wait_ms > load.boot_ms:
        return min(wanted, max(load.spares, load.cores))
    return min(wanted, load.spares) if wait_ms > SPARE_MS else 0


def _lanes_a_core(run_ms: float) -> float:
    """Return how many calls at once are of use for each core: quick ones compute, long ones wait."""
    return 2 if run_ms < 1 else 8 if run_ms < 5 else inf
