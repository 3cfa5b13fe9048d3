"""History: invocations as the doors see them, whether they are under way or have ended.

Joins what is live with what is recorded. Does not know who may see what.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from stoker.invocation.live import LiveInvocations
from stoker.model.record import QUEUED, RUNNING, Record
from stoker.records.formats import record_of
from stoker.records.records import Records
from stoker.records.view import Filter

PAGE = 500


@dataclass(frozen=True, slots=True)
class Listed:
    """A part of a list, newest first."""

    records: list[Record]
    """Without payload, result and log."""
    next: str | None
    """The id after which the list goes on; None at its end."""


class History:
    """One for a server; an account's invocations at a time."""

    def __init__(self, live: LiveInvocations, records: Records) -> None:
        self._live = live
        self._records = records

    async def find(self, account: str, invocation_id: str) -> Record:
        """Return what is known of an invocation. Raises NotFound, Unavailable."""
        invocation_id = invocation_id.lower()
        one = self._live.find(account, invocation_id)
        return one.record() if one is not None else await self._records.find(account, invocation_id)

    async def wait(self, account: str, invocation_id: str, wait_ms: int) -> Record:
        """Return it as soon as it has ended, or as it is after so long. Raises as `find`."""
        record = await self._live.wait(account, invocation_id.lower(), wait_ms)
        return record if record is not None else await self._records.find(account, invocation_id.lower())

    async def page(self, account: str, wanted: Filter, *, limit: int, before: str | None = None) -> Listed:
        """Return up to `limit` records of a list. Raises NoCapacity while the list is being built anew."""
        if wanted.statuses == (RUNNING,):
            return self._running_page(account, wanted, limit, before)
        records: list[Record] = []
        stored = _as_stored(wanted)
        while True:
            page = await self._records.page(account, stored, limit=limit - len(records), before=before)
            for row in page.records:
                record = self._now(account, record_of(row))
                if not wanted.statuses or record.status in wanted.statuses:
                    records.append(record)
            before = page.next
            if before is None or len(records) >= limit:
                return Listed(records, before)

    async def all(self, account: str, wanted: Filter) -> AsyncIterator[list[Record]]:
        """Yield a whole list, some records at a time."""
        before: str | None = None
        while True:
            page = await self.page(account, wanted, limit=PAGE, before=before)
            yield page.records
            before = page.next
            if before is None:
                return

    async def count(self, account: str, wanted: Filter) -> int:
        """Return how many records a whole list has."""
        running = len(self._running(account, wanted))
        if wanted.statuses == (RUNNING,):
            return running
        counted = await self._records.count(account, _as_stored(wanted))
        if not wanted.statuses or (QUEUED in wanted.statuses and RUNNING in wanted.statuses):
            return counted
        if QUEUED in wanted.statuses:
            return counted - running
        if RUNNING in wanted.statuses:
            queued = await self._records.count(account, replace(wanted, statuses=(QUEUED,)))
            return counted - queued + running
        return counted

    def _now(self, account: str, record: Record) -> Record:
        one = None if record.ended else self._live.find(account, record.invocation_id)
        return record if one is None else one.record()

    def _running(self, account: str, wanted: Filter) -> list[Record]:
        found = [one.record() for one in self._live if one.accepted.account == account]
        return sorted(
            (record for record in found if record.status == RUNNING and _fits(record, wanted)),
            key=lambda record: record.invocation_id,
            reverse=True,
        )

    def _running_page(self, account: str, wanted: Filter, limit: int, before: str | None) -> Listed:
        found = [
            record
            for record in self._running(account, wanted)
            if before is None or record.invocation_id < before
        ]
        return Listed(found[:limit], found[limit - 1].invocation_id if len(found) > limit else None)


def _as_stored(wanted: Filter) -> Filter:
    """Return the filter for what is stored, where one that runs is still a queued one."""
    if RUNNING in wanted.statuses and QUEUED not in wanted.statuses:
        return replace(wanted, statuses=(*wanted.statuses, QUEUED))
    return wanted


def _fits(record: Record, wanted: Filter) -> bool:
    return (
        wanted.function in (None, record.function)
        and (wanted.since_ms is None or record.created_ms >= wanted.since_ms)
        and (wanted.until_ms is None or record.created_ms < wanted.until_ms)
    )
