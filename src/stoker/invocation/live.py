"""Live invocations: those that are stored and have not ended, as this server has them in hand.

Owns who waits for their ends. Does not know how they are stored or run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from enum import Enum

from msgspec.structs import replace

from stoker.model.call import Call
from stoker.model.record import QUEUED, RUNNING, Accepted, Record

Identity = tuple[str, str, str]
"""(account, collection topic, service)."""


class Stage(Enum):
    """Where a live invocation is.

    READY -> SUBMITTED -> BEGUN -> ENDING, and from there to an end, or to WAITING and READY again.
    """

    READY = "ready"
    WAITING = "waiting"
    SUBMITTED = "submitted"
    BEGUN = "begun"
    ENDING = "ending"


class Live:
    """One of them."""

    __slots__ = (
        "accepted",
        "call",
        "call_id",
        "cancelled",
        "due_at",
        "noting",
        "payload",
        "queued_at",
        "stage",
        "started_ms",
        "waiters",
    )

    def __init__(
        self, accepted: Accepted, call_id: bytes, payload: bytes | None, *, queued_at: float, stage: Stage
    ) -> None:
        self.accepted = accepted
        self.call_id = call_id
        self.payload = payload
        """JSON text; None while it lies in the store alone."""
        self.queued_at = queued_at
        """The executor's clock, in seconds, from which it has been waiting for its turn."""
        self.due_at = 0.0
        self.stage = stage
        self.call: Call | None = None
        """From its submission until it is stored what became of it."""
        self.started_ms: int | None = None
        """When `call` began to run; None before."""
        self.cancelled = False
        """Whether somebody wants it to end, at the next moment at which it can."""
        self.noting: asyncio.Task[None] | None = None
        """While it is being stored that an attempt has begun; whatever is stored next waits for that."""
        self.waiters: list[asyncio.Future[Record]] = []

    @property
    def identity(self) -> Identity:
        """The function it belongs to."""
        work = self.accepted.work
        return (self.accepted.account, work.topic, work.service)

    @property
    def attempts(self) -> int:
        """Attempts that have ended, as they are stored."""
        return self.accepted.record.attempts

    @property
    def runs(self) -> bool:
        """Whether an attempt has begun, and it is not stored yet what became of it."""
        return self.call is not None and self.started_ms is not None

    def record(self) -> Record:
        """Return what there is to tell of it just now."""
        stored = self.accepted.record
        call = self.call
        if call is None or self.started_ms is None:
            return replace(stored, status=QUEUED)
        return replace(
            stored,
            status=RUNNING,
            version=call.function.code.version,
            attempts=stored.attempts + 1,
            started_ms=self.started_ms,
        )


class LiveInvocations:
    """All of them, by account and id."""

    def __init__(self) -> None:
        self._live: dict[tuple[str, str], Live] = {}
        self._stops = False

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[Live]:
        return iter(list(self._live.values()))

    def add(self, live: Live) -> None:
        """Take one in hand."""
        self._live[live.accepted.account, live.accepted.record.invocation_id] = live

    def find(self, account: str, invocation_id: str) -> Live | None:
        """Return one that has not ended, or None."""
        return self._live.get((account, invocation_id))

    def ended(self, live: Live, record: Record) -> None:
        """Let one go: its end is stored, and told to all who wait for it."""
        self._live.pop((live.accepted.account, live.accepted.record.invocation_id), None)
        _tell(live, record)

    def forget(self, live: Live) -> None:
        """Let one go whose end is somebody else's: who waits is told what is known."""
        self.ended(live, live.record())

    def stop(self) -> None:
        """Note that nothing more begins: who waits for one that does not run is told what is known of it."""
        self._stops = True
        for live in self:
            self._tell_of_idle(live)

    def _tell_of_idle(self, live: Live) -> None:
        if self._stops and live.stage in (Stage.READY, Stage.WAITING):
            _tell(live, live.record())

    async def wait(self, account: str, invocation_id: str, wait_ms: int) -> Record | None:
        """Return a record as soon as it has ended, or as it is after so long; None if it is not live."""
        live = self.find(account, invocation_id)
        if live is None:
            return None
        waiter: asyncio.Future[Record] = asyncio.get_running_loop().create_future()
        live.waiters.append(waiter)
        self._tell_of_idle(live)
        try:
            async with asyncio.timeout(wait_ms / 1000):
                return await waiter
        except TimeoutError:  # the end may have come in the same turn of the loop
            return waiter.result() if waiter.done() and not waiter.cancelled() else live.record()
        finally:
            if waiter in live.waiters:
                live.waiters.remove(waiter)


def _tell(live: Live, record: Record) -> None:
    waiters, live.waiters = live.waiters, []
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(record)
