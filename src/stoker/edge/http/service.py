"""What all connections of one server share: whom they call, what bounds them, and the time.

Owns no behaviour beyond the list of who is there. Does not know sockets or HTTP.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

from starlette.types import ASGIApp

from stoker.edge.errors import ErrorAnswers
from stoker.edge.http.head import ResponseHeads
from stoker.edge.http.holding import Holding
from stoker.edge.http.request import Admit, LeanHandler
from stoker.model.limits import Limits


class Member(Protocol):
    """A connection, as the server sees it."""

    @property
    def in_flight(self) -> bool:
        """True while a whole request, or one that is being read as it comes, is not answered."""

    def drain(self) -> None:
        """Close now if nothing is in flight, else after the answer."""

    def sweep(self) -> None:
        """Close if something has taken too long."""

    def abort(self) -> None:
        """Cut it."""


class Roll(Protocol):
    """Who keeps the list of connections."""

    def joined(self, member: Member) -> None:
        """A connection was made."""

    def parted(self, member: Member) -> None:
        """A connection is gone."""


@dataclass(slots=True, eq=False)
class Service:
    """One value for the life of a server; `now_ms` and `draining` are the server's to change."""

    loop: asyncio.AbstractEventLoop
    roll: Roll
    app: ASGIApp
    invoke: LeanHandler
    admit: Admit
    limits: Limits
    errors: ErrorAnswers
    holding: Holding
    heads: ResponseHeads = field(default_factory=ResponseHeads)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    """One for each request that the ASGI application has at hand."""
    now_ms: float = 0.0
    """The loop's time as of the server's last sweep."""
    draining: bool = False
