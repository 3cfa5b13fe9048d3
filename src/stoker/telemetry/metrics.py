"""Metrics: where the time of calls goes, counted while they pass.

Does not know what a call is, only how long its phases took: this is on the path of every call.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

from stoker.telemetry.exposition import Family, Kind, Sample, number

PHASE_MS = (
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1_000.0,
    2_500.0,
    5_000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    900_000.0,
)
"""Upper bounds: from a warm call, a tenth of a millisecond, to the longest timeout, a quarter of an hour."""


class Histogram:
    """Milliseconds, counted by upper bound."""

    __slots__ = ("counts", "total_ms")

    def __init__(self) -> None:
        self.counts = [0] * (len(PHASE_MS) + 1)
        self.total_ms = 0.0

    def observe(self, ms: float) -> None:
        """Count one."""
        self.counts[bisect_left(PHASE_MS, ms)] += 1
        self.total_ms += ms

    def samples(self, labels: Mapping[str, str]) -> list[Sample]:
        """Return what Prometheus calls a histogram, in seconds."""
        found: list[Sample] = []
        reached = 0
        for bound, count in zip((*PHASE_MS, None), self.counts, strict=True):
            reached += count
            le = "+Inf" if bound is None else number(bound / 1000)
            found.append(Sample(reached, {**labels, "le": le}, "_bucket"))
        found.append(Sample(self.total_ms / 1000, labels, "_sum"))
        found.append(Sample(reached, labels, "_count"))
        return found


class Phases:
    """Where the time of calls goes."""

    __slots__ = ("init", "queue", "run")

    def __init__(self) -> None:
        self.queue = Histogram()
        """From the admission to an instance, of every call."""
        self.init = Histogram()
        """Giving an instance to a function, of the calls that had to wait for that."""
        self.run = Histogram()
        """In the user's code, of the calls that came so far."""

    def ended(self, queue_ms: float, init_ms: float, run_ms: float) -> None:
        """Count a call that has ended; on the path of every call."""
        self.queue.observe(queue_ms)
        if init_ms:
            self.init.observe(init_ms)
        if run_ms:
            self.run.observe(run_ms)

    def family(self, name: str, help: str) -> Family:
        """Return them as one metric with the label `phase`."""
        phases = {"queue": self.queue, "init": self.init, "run": self.run}
        samples = [one for phase, found in phases.items() for one in found.samples({"phase": phase})]
        return Family(name, help, Kind.HISTOGRAM, tuple(samples))
