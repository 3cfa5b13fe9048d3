"""Counts: what a sandbox has used of the network since that was last asked for, by host.

Pure. Does not know who asks, nor connections. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass, field

HOSTS_MAX = 50
OTHER = "other"


@dataclass(slots=True)
class Count:
    """Of one host and port."""

    connections: int = 0
    sent: int = 0
    received: int = 0
    refused: int = 0


@dataclass(slots=True)
class Counts:
    """Of one sandbox."""

    by_host: dict[str, Count] = field(default_factory=dict)
    passed_bytes: int = 0
    """Since it was last taken, both ways together."""
    told: bool = False
    """Whether the gateway knows that there is something to take."""
    over: bool = False
    """Whether the budget is used up, and that was said."""

    def of(self, host: str) -> Count:
        """Return the count of a host, or that of all that are too many."""
        found = self.by_host.get(host)
        if found is None:
            name = host if len(self.by_host) < HOSTS_MAX else OTHER
            found = self.by_host.setdefault(name, Count())
        return found

    def take(self) -> tuple[tuple[str, int, int, int, int], ...]:
        """Return (host, connections, sent, received, refused) of each, and begin anew."""
        rows = tuple(
            (host, one.connections, one.sent, one.received, one.refused) for host, one in self.by_host.items()
        )
        self.by_host = {}
        self.passed_bytes, self.told, self.over = 0, False, False
        return rows
