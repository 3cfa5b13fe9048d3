"""Ports: what the broker knows of each sandbox's way out, and what all of an account share.

Values that change; who changes them decides. Does not know sockets' events.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, field

from stoker.egress.counts import Counts
from stoker.egress.head import Head
from stoker.egress.tunnel import Tunnel
from stoker.model.egress import Rule

ACCOUNT_LOOKUPS_MAX = 8
"""Look-ups at once of one account: names that take long to fail must not keep those of others waiting."""


@dataclass(slots=True)
class Account:
    """What all sandboxes of an account share."""

    lookups: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(ACCOUNT_LOOKUPS_MAX))
    tunnels: int = 0
    sandboxes: int = 0
    minute: int = 0
    """Of the loop's clock, in which `minute_bytes` have passed."""
    minute_bytes: int = 0


@dataclass(slots=True)
class Listener:
    """One listening socket inside a sandbox."""

    socket: socket.socket
    target: Head | None
    """Where all that connects there wants to go; None where that is told."""
    served: bool = False
    """True from when a server is being made for it."""
    server: asyncio.Server | None = None

    def close(self) -> None:
        """Let go of the socket; while a server is being made, who makes it does that.

        The loop would go on watching a descriptor that was closed beneath it, and take the next one of that
        number for it.
        """
        if self.server is not None:
            self.server.close()
        elif not self.served:
            self.socket.close()


@dataclass(slots=True)
class Port:
    """One sandbox's ways out: the proxy's, and those of its tunnels."""

    listeners: list[Listener] = field(default_factory=list)
    rules: tuple[Rule, ...] = ()
    injects: bool = False
    counts: Counts = field(default_factory=Counts)
    account: str | None = None
    """None until the gateway has said whose it is."""
    tunnels: set[Tunnel] = field(default_factory=set)
    refusals: int = 0
    refusing: asyncio.Lock = field(default_factory=asyncio.Lock)
