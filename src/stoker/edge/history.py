"""History: invocations as the doors see them, whether they are under way or have ended.

Joins what is live with what is recorded. Does not know who may see what.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from stoker.invocation.live import LiveInvocations
from stoker.model.record import QUEUED, RUNNING, Record
from stoker.model.subjects import function_subject
from stoker.records.formats import record_of
from stoker.records.records import Records
from stoker.records.view import Filter

PAGE = 500
LOOK_S = 0.1
"""Between two looks at one that is stored and that nobody has in hand: a start will take it up."""
NOT_ENDED = (QUEUED, RUNNING)


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
        one = self._live.find(account, invocation_id)
        return one.record() if one is not None else await self._records.find(account, invocation_id)

    async def wait(self, account: str, invocation_id: str, wait_ms: int) -> Record:
        """Return it as soon as it has ended, or as it is after so long or when a server stops.

        Raises as `find`.
        """
        now = asyncio.get_running_loop().time
        until = now() + wait_ms / 1000
        while True:
            left_s = max(0.0, until - now())
            record = await self._live.wait(account, invocation_id, int(left_s * 1000))
            if record is not None and (record.ended or self._live.find(account, invocation_id)):
                return record
            record = await self.find(account, invocation_id)
            if record.ended or until <= now():
                return record
            await asyncio.sleep(min(LOOK_S, until - now()))

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
        asked = set(NOT_ENDED).intersection(wanted.statuses)
        if len(asked) != 1:
            return await self._records.count(account, wanted)
        # Which of those that have not ended run is known here alone.
        ended = tuple(status for status in wanted.statuses if status not in NOT_ENDED)
        counted = await self._records.count(account, replace(wanted, statuses=ended)) if ended else 0
        if RUNNING in asked:
            return counted + len(self._running(account, wanted))
        both = await self._records.count(account, replace(wanted, statuses=NOT_ENDED))
        return counted + max(0, both - len(self._running(account, wanted)))

    def _now(self, account: str, record: Record) -> Record:
        one = None if record.ended else self._live.find(account, record.invocation_id)
        return record if one is None else one.record()

    def _running(self, account: str, wanted: Filter) -> list[Record]:
        found = [one.record() for one in self._live if one.runs and one.accepted.account == account]
        return sorted(
            (record for record in found if _fits(record, wanted)),
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
    """Return the filter for what is stored, where one that runs may be a queued one, and the other way."""
    if set(NOT_ENDED).isdisjoint(wanted.statuses):
        return wanted
    return replace(wanted, statuses=tuple(dict.fromkeys((*wanted.statuses, *NOT_ENDED))))


def _fits(record: Record, wanted: Filter) -> bool:
    return (
        wanted.function in (None, record.function)
        and (wanted.collection is None or record.function.startswith(function_subject(wanted.collection, "")))
        and (wanted.since_ms is None or record.created_ms >= wanted.since_ms)
        and (wanted.until_ms is None or record.created_ms < wanted.until_ms)
    )
