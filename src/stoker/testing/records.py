"""Record keeping over a ledger in memory and a view in a file, in real time: all of it but the sweeper."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from msgspec.structs import replace

from stoker.backbone.ledger import Ledger
from stoker.model.call import CallIds, text_of
from stoker.model.clock import wall_ms
from stoker.model.errors import NoCapacity
from stoker.model.limits import Limits
from stoker.model.record import Accepted, Keeping, Record, Work, created_ms_of
from stoker.records.feeder import Feeder
from stoker.records.recorder import Recorder
from stoker.records.records import Records
from stoker.records.store import InvocationStore
from stoker.records.view import View
from stoker.testing.backbone import MemoryLedger
from stoker.testing.catalog import ACCOUNT
from stoker.testing.worker import Notes

KEPT = Keeping(ttl_ms=60_000, store_payload=True)


class RecordsBench:
    """A server's part of it. `ahead_ms` is how far its clock is ahead of the wall's."""

    def __init__(self, folder: Path, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.ahead_ms = 0
        self.notes = Notes()
        self.ledger = MemoryLedger(self.now_ms)
        self.view = View(folder / "view.sqlite3", "a store", now_ms=self.now_ms, notes=self.notes)
        ledger = cast(Ledger, self.ledger)
        self.feeder = Feeder(
            ledger,
            self.view,
            self.notes,
            busy=lambda: False,
            on_position=self._searchable,
            on_found=lambda _event: None,
        )
        self.recorder = Recorder(
            ledger, self.feeder, self.limits, self.notes, require_room=lambda: None, now_ms=self.now_ms
        )
        self.store = InvocationStore(ledger, self.feeder, now_ms=self.now_ms)
        self.records = Records(
            ledger,
            self.view,
            self.feeder,
            self.recorder,
            self.store,
            calls_ms_max=self.limits.timeout_ms_max,
            now_ms=self.now_ms,
        )
        self.on_found: Callable[[Accepted], None] = lambda _accepted: None
        """What a server's record keeping tells of what it finds; here it finds nothing."""
        self._ids = CallIds()

    def now_ms(self) -> int:
        """Return the wall clock, as it is set."""
        return wall_ms() + self.ahead_ms

    def _searchable(self, position: int) -> None:
        self.recorder.searchable(position)
        self.store.searchable(position)

    async def open(self) -> None:
        """Return when all is ready."""
        await self.feeder.start()
        await self.feeder.ready.wait()

    async def close(self) -> None:
        """Close what has threads."""
        await self.recorder.close()
        await self.feeder.close()

    async def searched(self) -> None:
        """Return once all that is known is to be found by search, and by it alone."""
        await self.recorder.flush()
        if not await self.feeder.caught_up():
            raise NoCapacity("the view does not catch up")

    # -- invocations -------------------------------------------------------------------------------

    async def accept(
        self, function: str, *, account: str = ACCOUNT, payload: str = "{}", **record: Any
    ) -> Accepted:
        """Store an Async invocation of a function, given by its subject, that waits for its turn."""
        call_id = self._ids.next()
        topic, service = function.split(".")[2], function.split(".")[4]
        accepted = Record(
            invocation_id=text_of(call_id),
            function=function,
            version=1,
            invocation_type="Async",
            status="queued",
            created_ms=created_ms_of(call_id),
            caller="token-1",
        )
        accepted = replace(accepted, **record)
        found = await self.store.accept(
            account, accepted, Work(topic=topic, service=service, payload=payload)
        )
        assert isinstance(found, Accepted)
        return found

    async def end(
        self, accepted: Accepted, *, keeping: Keeping = KEPT, dead: bool = False, **record: Any
    ) -> Record:
        """Store the end of one, as `ok` unless it is said otherwise."""
        payload = accepted.work.payload if keeping.store_payload else None
        ended = replace(accepted.record, status="ok", attempts=1, ended_ms=self.now_ms(), payload=payload)
        ended = replace(ended, **record)
        dead_until_ms = self.now_ms() + 60_000 if dead else None
        await self.store.end(accepted, ended, keeping, dead_until_ms=dead_until_ms)
        return ended

    async def ended(self, function: str, *, dead: bool = False, **record: Any) -> Record:
        """Store an invocation and its end."""
        names = {"account", "payload", "invocation_type", "caller", "version", "replay_of"}
        accepted = await self.accept(function, **{name: record.pop(name) for name in names & record.keys()})
        return await self.end(accepted, dead=dead, **record)
