"""Ending: how what became of a stored invocation is stored in turn, once, for as long as it takes.

Used by whatever runs stored invocations. Does not know how they are run.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeVar

from stoker.invocation.live import Live, LiveInvocations, Stage
from stoker.invocation.store import Notes, Store
from stoker.model.errors import NotFound, StokerError, VersionConflict
from stoker.model.record import Keeping, Record, Work

AGAIN_S = 0.25

T = TypeVar("T")


class Ending:
    """One for a server."""

    def __init__(self, store: Store, live: LiveInvocations, notes: Notes) -> None:
        self._store = store
        self._live = live
        self._notes = notes
        self.ended: Counter[tuple[str, str]] = Counter()
        """How many ends were stored so far, by invocation type and end reason."""
        self.retries = 0
        """Attempts after which it was stored that there will be another."""
        self.dead_letters = 0
        """Ends that left a dead letter."""

    async def end(
        self,
        one: Live,
        record: Record,
        keeping: Keeping,
        *,
        dead_until_ms: int | None = None,
        answer: str | None = None,
    ) -> bool:
        """Return once the end is stored and told; False if it had another end already."""
        one.stage = Stage.ENDING

        async def store() -> None:
            await self._store.end(one.accepted, record, keeping, dead_until_ms=dead_until_ms, answer=answer)

        stored = await self._stored(one, store)
        one.call = None
        if stored is None:
            self._live.forget(one)
            return False
        self._live.ended(one, record)
        self.ended[record.invocation_type, record.status] += 1
        self.dead_letters += dead_until_ms is not None
        return True

    async def wait_again(self, one: Live, record: Record, work: Work) -> bool:
        """Return once it is stored that it is tried again; False if it had an end already."""
        one.stage = Stage.ENDING
        accepted = await self._stored(one, lambda: self._store.wait_again(one.accepted, record, work))
        one.call = None
        if accepted is None:
            self._live.forget(one)
            return False
        one.accepted = accepted[0]
        self.retries += 1
        return True

    async def note_begun(self, one: Live, work: Work) -> None:
        """Return once it is stored that an attempt runs, unless it has ended meanwhile."""
        record = one.accepted.record
        accepted = await self._stored(one, lambda: self._store.wait_again(one.accepted, record, work))
        if accepted is not None:
            one.accepted = accepted[0]

    async def release(self, one: Live) -> None:
        """Return once its acceptance is taken back: nothing ran, and its key is free again."""
        one.stage = Stage.ENDING
        one.call = None
        await self._stored(one, lambda: self._store.release(one.accepted))
        self._live.forget(one)

    async def payload_of(self, one: Live) -> str | None:
        """Return its payload, from the store where it is not in memory; None if it has ended already."""
        if one.payload is not None:
            return one.payload.decode()
        accepted = one.accepted
        loaded = await self._stored(one, lambda: self._store.load(accepted.account, accepted.sequence))
        return None if loaded is None or loaded[0] is None else loaded[0].work.payload

    async def _stored(self, one: Live, store: Callable[[], Awaitable[T]]) -> tuple[T] | None:
        """Do it until it is done; None if somebody else has ended the invocation."""
        while True:
            try:
                return (await store(),)
            except (VersionConflict, NotFound):
                return None
            except StokerError as error:
                self._notes.warning(
                    "store_away", invocation=one.accepted.record.invocation_id, reason=error.message
                )
                await asyncio.sleep(AGAIN_S)
