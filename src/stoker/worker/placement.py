"""Placement: how many instances a function should have, decided by numbers alone.

Pure functions of what is waiting and what is known. Does not know instances nor clocks.
"""

from __future__ import annotations

from dataclasses import dataclass


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
    run_ms: float
    """How long its calls run: a moving mean, or the age of the oldest running one if that is more; 0 if
    nothing is known yet."""
    spares: int
    """Booted instances of its runtime that stand ready."""
    boot_ms: float
    """What it takes to boot one where no spare stands ready."""
    cores: int


def instances_to_start(load: Load, room: int) -> int:
    """Return how many instances to start now, at most `room`.

    A spare costs two or three milliseconds, so one is taken for each call that waits. A boot costs a
    hundred times as much CPU as a short call: it is worth it only where what waits would take longer
    than the boot, so that a herd of callers of a quick function meets a handful of instances.
    """
    coming = load.starting * load.per_instance
    uncovered = load.waiting - coming
    if uncovered <= 0 or room <= 0:
        return 0
    wanted = -(-uncovered // load.per_instance)
    from_spares = min(wanted, load.spares, room)
    if from_spares < wanted and _worth_a_boot(load, from_spares):
        return min(wanted, room, max(from_spares, load.cores))
    if from_spares == 0 and load.serving + load.starting == 0:
        return 1  # nothing serves it and nothing is coming
    return from_spares


def _worth_a_boot(load: Load, from_spares: int) -> bool:
    lanes = (load.serving + load.starting + from_spares) * load.per_instance
    if lanes == 0:
        return True
    return load.waiting * load.run_ms / lanes > load.boot_ms
