"""Record keeping, joined: the ledger, the view that it is searched by, and what brings one to the other.

Opened before anything can be called, closed after everything that is. Knows no logic of any part.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from stoker.backbone.event_log import Event
from stoker.backbone.guard import StoreGuard
from stoker.backbone.jetstream import JetStream
from stoker.backbone.ledger import Ledger
from stoker.catalog.tenants import Tenants
from stoker.model.errors import StokerError
from stoker.model.limits import Limits
from stoker.model.record import Accepted
from stoker.records.feeder import Feeder
from stoker.records.formats import SUBJECTS
from stoker.records.recorder import Recorder
from stoker.records.records import Records
from stoker.records.store import InvocationStore
from stoker.records.sweeper import Sweeper
from stoker.records.view import View
from stoker.telemetry.logging import get_logger

VIEW_WAIT_S = 1.0
"""How long a start waits for the view to catch up; it goes on behind the answers else."""
FLUSH_WAIT_S = 2.0
"""How long what has ended is waited for; while calls come without a pause there is always more of it."""
READ_AT_ONCE = 256
AGAIN_S = 0.25
STORED_LATE_MS = 60_000
"""A plain call's record is stored so long after its end at the latest, but for a store that is away."""


class RecordKeeping:
    """One for a server. Open it once, close it once."""

    def __init__(
        self,
        jetstream: JetStream,
        guard: StoreGuard,
        data: Path,
        limits: Limits,
        tenants: Tenants,
        *,
        now_ms: Callable[[], int],
    ) -> None:
        log = get_logger("stoker.records")
        self.ledger = Ledger(
            jetstream, guard, stream="INVOCATIONS", subjects=(SUBJECTS,), replicas=jetstream.replicas
        )
        self.view = View(data / "view.sqlite3", guard.store_id, now_ms=now_ms, notes=log)
        self.feeder = Feeder(
            self.ledger,
            self.view,
            log,
            busy=lambda: self.recorder.busy,
            on_position=self._searchable,
            on_found=self._found,
        )
        self.recorder = Recorder(
            self.ledger, self.feeder, limits, log, now_ms=now_ms, require_room=jetstream.require_room
        )
        self.store = InvocationStore(self.ledger, self.feeder, now_ms=now_ms)
        self.records = Records(
            self.ledger,
            self.view,
            self.feeder,
            self.recorder,
            self.store,
            calls_ms_max=limits.timeout_ms_max + limits.wait_ms_max + STORED_LATE_MS,
            now_ms=now_ms,
        )
        self.on_found: Callable[[Accepted], None] = lambda _accepted: None
        """Told of an invocation that was accepted although its acceptance could not be told."""
        self.on_over: Callable[[frozenset[str]], None] = lambda _accounts: None
        """Told which accounts have more than their share of records in what has not ended."""
        self._sweeper = Sweeper(
            self.ledger,
            self.view,
            self.feeder.ready,
            log,
            busy=lambda: self.recorder.busy or self.feeder.behind,
            bytes_max=limits.record_bytes_max,
            shares=lambda: _shares(tenants),
            gone=lambda: tenants.gone,
            on_over=lambda accounts: self.on_over(accounts),
        )
        self._sweeping: asyncio.Task[None] | None = None
        self._tellings: set[asyncio.Task[None]] = set()
        self._found_at_start = 0
        """Up to this sequence the stream is an earlier server's."""

    async def open(self) -> None:
        """Return once records can be kept and looked up by id. Raises StoreDamaged, Unavailable."""
        await self.ledger.open()
        self._found_at_start = self.ledger.last_sequence
        await self.feeder.start()
        try:
            async with asyncio.timeout(VIEW_WAIT_S):
                await self.feeder.ready.wait()
        except TimeoutError:
            get_logger("stoker.records").info("building_view", of=self.ledger.last_sequence)
        self._sweeping = asyncio.get_running_loop().create_task(self._sweeper.run(), name="sweep of records")

    async def pending(self) -> list[Accepted]:
        """Return, once the view has caught up, what an earlier server accepted and did not end, oldest first.

        Raises Unavailable, ViewDamaged.
        """
        await self.feeder.ready.wait()
        pending = await self.view.pending()
        wanted = {row.sequence for row in pending if row.sequence <= self._found_at_start}
        found: list[Accepted] = []

        def take(event: Event) -> None:
            if event.sequence in wanted:
                accepted = self.store.accepted_of(event.subject, event.data, event.sequence)
                if accepted is not None:
                    found.append(accepted)

        last = max(wanted, default=0)
        position = min(wanted, default=1) - 1
        while position < last:
            until = min(position + READ_AT_ONCE, last)
            await self.ledger.read(take, after=position, until=until)
            position = until
        return found

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Have nothing erased while it is entered; what has ended before is stored, if the store is quick."""
        async with self._sweeper.turn:
            with suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_WAIT_S):
                    await self.recorder.flush()
            yield

    async def close(self) -> None:
        """Store what is left, and stop. Harmless when repeated."""
        steps: list[Callable[[], Awaitable[object]]] = [
            self.recorder.close,
            self._stop_working,
            self.feeder.close,
            self.ledger.close,
        ]
        for step in steps:
            await step()

    async def _stop_working(self) -> None:
        tasks = [*self._tellings, *([self._sweeping] if self._sweeping else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _searchable(self, position: int) -> None:
        self.recorder.searchable(position)
        self.store.searchable(position)

    def _found(self, event: Event) -> None:
        found = self.store.accepted_of(event.subject, event.data, event.sequence)
        if found is not None:
            task = asyncio.get_running_loop().create_task(self._tell(found), name="a stored call is found")
            self._tellings.add(task)
            task.add_done_callback(self._tellings.discard)

    async def _tell(self, found: Accepted) -> None:
        """Tell of an invocation, unless it has ended since."""
        while True:
            try:
                current = await self.store.current(found.account, found.record.invocation_id)
            except StokerError:
                await asyncio.sleep(AGAIN_S)
            else:
                if current is not None:
                    self.on_found(current)
                return


def _shares(tenants: Tenants) -> dict[str, int]:
    return {
        account.id: account.quotas.record_bytes
        for account in tenants.accounts.values()
        if account.quotas.record_bytes is not None
    }
